"""Checks prompts: XML in the form that NewBie-image was trained on, or plain text. The model gets the text as written.

What is decided here:

- A text whose first character after white space is ``<`` is XML; every other one is plain text, of which only length
  and characters are checked (tags such as ``>_<`` and sentences with a few tags among them are the model's business).
- An XML prompt has several roots and may hold bare ampersands (``R&B``), so it is not an XML document. For the check
  alone, bare ampersands are escaped and the roots are wrapped in one.
- White space alone may stand between elements; a sentence belongs into ``<caption>``.
- Top-level elements are those of schema.rng, each at most once. In a character and in general_tags a client may use
  tags of its own, which hold text only.
- Refused, since the model would read them as text: comments, CDATA sections, processing instructions, XML declarations
  (the text is decoded already, whatever encoding they claim), attributes, namespaces. Refused as attacks: document
  types, and entities other than XML's own five.

A prompt that holds only what ``lexis`` lists reaches lxml; the schema then decides. Only a refused prompt is read in
Python, to say what is wrong and where.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from importlib import resources
from typing import TYPE_CHECKING, Final, Literal

from lxml import etree

from services.gateway.prompt import lexis
from services.gateway.prompt.errors import (
    PromptCharacterError,
    PromptEmptyError,
    PromptError,
    PromptFormatError,
    PromptNotXmlError,
    PromptTooLongError,
)
from services.gateway.prompt.explain import element_at, explain
from services.gateway.prompt.vocabulary import EXAMPLE, KNOWN

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

PromptFormat = Literal["xml", "text"]

_WRAPPER: Final = "prompt"
_SPACE_BETWEEN_TAGS: Final = re.compile(f">[{lexis.XML_SPACE}]+<")


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSummary:
    """A prompt that passed: the text as written, its length, and of XML the number of its elements."""

    text: str = field(repr=False)
    format: PromptFormat
    characters: int
    elements: int = 0


class PromptValidator:
    """Holds the compiled schema. Threads and greenlets may share it."""

    def __init__(self) -> None:
        with resources.files(__package__).joinpath("schema.rng").open("rb") as schema:
            self._schema = etree.RelaxNG(etree.parse(schema))

    def validate(self, prompt: str, *, max_chars: int, formats: Collection[str] = ("xml", "text")) -> PromptSummary:
        """Check a prompt for a model that takes these formats and so many characters. Raises a PromptError."""
        if len(prompt) > max_chars:
            message = f"the prompt has {len(prompt)} characters, this model takes {max_chars}"
            raise PromptTooLongError(message)
        if not prompt.strip():
            message = "the prompt is empty"
            raise PromptEmptyError(message)
        found = detect_format(prompt)
        _refuse_forbidden_character(prompt, found)
        _refuse_format(found, formats)
        if found == "text":
            return PromptSummary(text=prompt, format=found, characters=len(prompt))
        return self._validate_xml(prompt)

    def _validate_xml(self, prompt: str) -> PromptSummary:
        tags: list[tuple[str, str, str]] = lexis.TAG.findall(prompt) if _is_bounded(prompt) else []
        if not _are_plain(tags, prompt) or lexis.illegal_reference(prompt) is not None:
            raise _fault(prompt)
        aliases = _aliases(tags)
        try:
            root = etree.fromstring(_document(prompt, aliases), _parser())
        except etree.XMLSyntaxError as exc:
            raise _fault(prompt) from exc
        if not self._schema.validate(root):
            raise _fault(prompt)
        return PromptSummary(
            text=prompt,
            format="xml",
            characters=len(prompt),
            elements=_opened(prompt),
        )


def detect_format(prompt: str) -> PromptFormat:
    """A text that begins with ``<``, white space apart, is taken for XML."""
    return "xml" if prompt.lstrip().startswith("<") else "text"


def _refuse_forbidden_character(prompt: str, found: PromptFormat) -> None:
    forbidden = lexis.FORBIDDEN.search(prompt)
    if forbidden is None:
        return
    line, column = lexis.position(prompt, forbidden.start())
    element = element_at(prompt, forbidden.start()) if found == "xml" else None
    message = f"the character U+{ord(forbidden[0]):04X} is not allowed"
    raise PromptCharacterError(message, line=line, column=column, element=element)


def _refuse_format(found: PromptFormat, formats: Collection[str]) -> None:
    if found in formats:
        return
    if found == "xml":
        message = "this model takes plain text, and this prompt begins like XML"
        raise PromptFormatError(message)
    message = f"this model takes XML prompts only, for example {EXAMPLE}"
    raise PromptNotXmlError(message)


def _opened(prompt: str) -> int:
    return prompt.count("<") - prompt.count("</")


def _is_bounded(prompt: str) -> bool:
    # By counting alone, so that a flood of start or of end tags is never listed.
    opened = _opened(prompt)
    return opened <= lexis.MAX_ELEMENTS and prompt.count("</") <= opened


def _are_plain(tags: list[tuple[str, str, str]], prompt: str) -> bool:
    """Whether every ``<`` begins a plain tag, and none is nested too deep."""
    if len(tags) != prompt.count("<"):
        return False
    depth = deepest = 0
    for closes, _, slash in tags:
        if closes:
            depth -= 1
        elif not slash:
            depth += 1
            deepest = max(deepest, depth)
    return deepest <= lexis.MAX_DEPTH


def _aliases(tags: list[tuple[str, str, str]]) -> dict[str, str]:
    """Names for the check in place of the client's own.

    lxml keeps every name that it has ever met in a dictionary of the thread that is never emptied. Measured with
    libxml2 2.14: after 5 million different ones it holds 460 MB and every prompt with another new name is refused, for
    everyone. The same goes for short runs of white space, which is why ``_document`` leaves them out.
    """
    names = {opens or closes for closes, opens, _ in tags} - KNOWN
    return {name: f"own_{number}" for number, name in enumerate(sorted(names))}


def _document(prompt: str, aliases: Mapping[str, str]) -> bytes:
    text = lexis.BARE_AMPERSAND.sub("&amp;", prompt)
    text = _SPACE_BETWEEN_TAGS.sub("><", text)
    if aliases:
        text = lexis.TAG.sub(lambda found: _renamed(found, aliases), text)
    return f"<{_WRAPPER}>{text.strip(lexis.XML_SPACE)}</{_WRAPPER}>".encode()


def _renamed(found: re.Match[str], aliases: Mapping[str, str]) -> str:
    closes, opens, slash = found.groups()
    if closes:
        return f"</{aliases.get(closes, closes)}>"
    return f"<{aliases.get(opens, opens)}{slash}>"


def _parser() -> etree.XMLParser:
    # One for each prompt (2 us): a shared one makes threads wait for each other.
    return etree.XMLParser(
        encoding="utf-8",
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        dtd_validation=False,
        huge_tree=False,
        recover=False,
        collect_ids=False,
    )


def _fault(prompt: str) -> PromptError:
    found = explain(prompt)
    if found is not None:
        return found
    # The parser and explain() read alike (a property test holds them to it); a client must get an answer regardless.
    message = "the prompt is not well-formed XML of the structure that this model knows"
    return PromptNotXmlError(message)
