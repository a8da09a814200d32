"""Checks prompts: XML in the form that NewBie-image was trained on, or plain text. The model gets the text as written.

An XML prompt has several roots and may hold bare ampersands, so it is not an XML document. For the check alone, bare
ampersands are escaped and the roots are wrapped in one. Everything that makes XML dangerous (DTD, entities, processing
instructions) is refused by its first characters, before a parser sees it; the parser is told to forbid it once more.
Comments and CDATA are refused, too: the model would read them as text.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from lxml import etree

from services.gateway.prompt.errors import (
    PromptCharacterError,
    PromptEmptyError,
    PromptEntityError,
    PromptFormatError,
    PromptMarkupError,
    PromptNotXmlError,
    PromptStructureError,
    PromptTooComplexError,
    PromptTooLongError,
)

PromptFormat = Literal["xml", "text"]

MAX_ELEMENTS: Final = 400
TOP_LEVEL: Final = ("character_1 to character_10", "general_tags", "caption", "image", "style", "danbooru_tags")
EXAMPLE: Final = "<character_1><n></n><gender>1girl</gender></character_1>"

_WRAPPER: Final = "prompt"
_SCHEMA: Final = Path(__file__).with_name("schema.rng")
# The characters of XML 1.0, https://www.w3.org/TR/xml/#charsets
_ILLEGAL: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_MARKUP: Final = re.compile(r"<[!?]")
_AMPERSAND: Final = re.compile(r"&(?:(#[0-9]{1,7}|#x[0-9A-Fa-f]{1,6}|[A-Za-z_][A-Za-z0-9_.-]*);)?")
_PREDEFINED: Final = frozenset({"amp", "lt", "gt", "quot", "apos"})
_MARKUP_NAMES: Final = (
    ("<!--", "a comment"),
    ("<![CDATA[", "a CDATA section"),
    ("<!DOCTYPE", "a document type declaration"),
    ("<!ENTITY", "an entity declaration"),
    ("<?xml", "an XML declaration"),
    ("<?", "a processing instruction"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSummary:
    """What a prompt that passed looks like."""

    format: PromptFormat
    characters: int
    elements: int


class PromptValidator:
    """Holds the compiled schema. Greenlets may share it."""

    def __init__(self) -> None:
        self._schema = etree.RelaxNG(etree.parse(str(_SCHEMA)))

    def validate(self, prompt: str, *, formats: tuple[str, ...], max_chars: int) -> PromptSummary:
        """Check a prompt for a model that takes these formats and so many characters. Raises a PromptError."""
        if len(prompt) > max_chars:
            message = f"the prompt has {len(prompt)} characters, this model takes {max_chars}"
            raise PromptTooLongError(message)
        if not prompt.strip():
            message = "the prompt is empty"
            raise PromptEmptyError(message)
        _refuse_illegal_characters(prompt)
        found = detect_format(prompt)
        if found not in formats:
            message = f"this model takes {' or '.join(formats)} prompts; for example: {EXAMPLE}"
            raise PromptFormatError(message)
        elements = self._check_xml(prompt) if found == "xml" else 0
        return PromptSummary(format=found, characters=len(prompt), elements=elements)

    def _check_xml(self, prompt: str) -> int:
        _refuse_markup(prompt)
        # Every element costs one or two of these, so the parser never meets a flood.
        if prompt.count("<") > 2 * MAX_ELEMENTS:
            message = f"the prompt has more than {MAX_ELEMENTS} elements"
            raise PromptTooComplexError(message)
        root = _parse(_escape_ampersands(prompt))
        if not self._schema.validate(root):
            raise _explain(root, self._schema)
        _refuse_repeated_characters(root)
        return sum(1 for _ in root.iter()) - 1


def detect_format(prompt: str) -> PromptFormat:
    """A text that begins with ``<`` is taken for XML."""
    return "xml" if prompt.lstrip().startswith("<") else "text"


def _refuse_illegal_characters(prompt: str) -> None:
    found = _ILLEGAL.search(prompt)
    if found is not None:
        line, column = _position(prompt, found.start())
        message = f"character U+{ord(found[0]):04X} at column {column} is not allowed"
        raise PromptCharacterError(message, line=line, column=column)


def _refuse_markup(prompt: str) -> None:
    found = _MARKUP.search(prompt)
    if found is None:
        return
    begin = prompt[found.start() : found.start() + 9]
    name = next((name for start, name in _MARKUP_NAMES if begin.startswith(start)), "a markup declaration")
    line, column = _position(prompt, found.start())
    message = f"{name} is not allowed in a prompt"
    raise PromptMarkupError(message, line=line, column=column)


def _escape_ampersands(prompt: str) -> str:
    if "&" not in prompt:
        return prompt

    def replace(found: re.Match[str]) -> str:
        name = found[1]
        if name is None:
            return "&amp;"
        if name in _PREDEFINED or (name[0] == "#" and _is_legal_reference(name)):
            return found[0]
        line, column = _position(prompt, found.start())
        message = f"{found[0]} is not allowed; XML's own five entities are, and a plain & is taken as written"
        raise PromptEntityError(message, line=line, column=column)

    return _AMPERSAND.sub(replace, prompt)


def _is_legal_reference(name: str) -> bool:
    code = int(f"0{name[1:]}", base=0) if name[1] == "x" else int(name[1:])
    return code <= sys.maxunicode and _ILLEGAL.match(chr(code)) is None


def _parse(escaped: str) -> etree._Element:
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, dtd_validation=False, huge_tree=False, recover=False
    )
    try:
        return etree.fromstring(f"<{_WRAPPER}>{escaped}</{_WRAPPER}>".encode(), parser)
    except etree.XMLSyntaxError as exc:
        line = min(exc.lineno or 1, escaped.count("\n") + 1)
        message = f"not well-formed: {_readable(exc.msg)}"
        raise PromptNotXmlError(message, line=line) from exc


def _readable(message: str | None) -> str:
    # libxml2 appends its own position, which counts the wrapper and the escapes.
    text = re.sub(r", line \d+, column \d+.*$", "", message or "syntax error")
    return text.replace(f" and {_WRAPPER}", " and the end of the prompt")


def _refuse_repeated_characters(root: etree._Element) -> None:
    seen: set[str] = set()
    for element in root.iter():
        tag = _name(element)
        if not tag.startswith("character_"):
            continue
        if tag in seen and _is_character(tag):
            message = f"<{tag}> appears twice"
            raise PromptStructureError(message, line=_line(element), element=_path(element))
        seen.add(tag)


def _explain(root: etree._Element, schema: etree.RelaxNG) -> PromptStructureError:
    """Say in a person's words what the schema refused: the first element that is out of place."""
    for element in root.iter():
        complaint = _complaint(element)
        if complaint is not None:
            return PromptStructureError(complaint, line=_line(element), element=_path(element))
    detail = schema.error_log[0].message if len(schema.error_log) else "not the structure of a prompt"
    return PromptStructureError(detail)


def _complaint(element: etree._Element) -> str | None:
    parent, tag = _parent(element), _name(element)
    if parent is None:
        return _loose_text(element)
    if element.attrib:
        return f"<{tag}> has an attribute; prompts have none"
    if tag.startswith("{") or element.prefix is not None:
        return "namespaces are not allowed in a prompt"
    if parent.tag == "image" or _parent(parent) is None:
        return _top_level_complaint(element, tag)
    if parent.tag == "general_tags" or _is_character(_name(parent)):
        return f"<{tag}> may hold text only" if len(element) else _tail_complaint(element)
    return f"<{_name(parent)}> may hold text only"


def _top_level_complaint(element: etree._Element, tag: str) -> str | None:
    if not (_is_character(tag) or tag in TOP_LEVEL):
        return f"<{tag}> is not known here; known are {', '.join(TOP_LEVEL)}"
    if tag in {"general_tags", "image"} or _is_character(tag):
        return _loose_text(element) or _tail_complaint(element)
    return _tail_complaint(element)


def _loose_text(element: etree._Element) -> str | None:
    if element.text and element.text.strip():
        name = "the prompt" if _parent(element) is None else f"<{_name(element)}>"
        return f"text stands directly in {name}; put it into an element, such as <caption>"
    needs_elements = element.tag == "image" or _parent(element) is None
    return "no elements are in it" if needs_elements and not len(element) else None


def _tail_complaint(element: etree._Element) -> str | None:
    if element.tail and element.tail.strip():
        return f"text stands between elements after <{_name(element)}>; put it into an element, such as <caption>"
    return None


def _is_character(tag: str) -> bool:
    number = tag.removeprefix("character_")
    return number != tag and number.isascii() and number.isdecimal() and number[0] != "0" and int(number) <= 10  # noqa: PLR2004 - the schema's own bound


def _name(element: etree._Element) -> str:
    return str(element.tag)


def _parent(element: etree._Element) -> etree._Element | None:
    return element.getparent()


def _line(element: etree._Element) -> int:
    line = element.sourceline
    return line if isinstance(line, int) else 1


def _path(element: etree._Element) -> str:
    names: list[str] = []
    at: etree._Element | None = element
    while at is not None and (above := _parent(at)) is not None:
        names.append(_name(at))
        at = above
    return "/" + "/".join(reversed(names))


def _position(prompt: str, index: int) -> tuple[int, int]:
    """Line and column, both from 1, in the client's text."""
    before = prompt[:index]
    return before.count("\n") + 1, index - (before.rfind("\n") + 1) + 1
