"""Reads the tags of a refused prompt, in order, up to the first fault. Offsets are those of the client's text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from services.gateway.prompt import lexis
from services.gateway.prompt.errors import (
    PromptAttributeError,
    PromptCdataError,
    PromptCommentError,
    PromptDeclarationError,
    PromptDtdError,
    PromptError,
    PromptNamespaceError,
    PromptNotXmlError,
    PromptProcessingInstructionError,
    PromptStructureError,
    PromptTooDeepError,
    PromptTooManyElementsError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

_SHOWN: Final = 40
_MARKUP: Final[tuple[tuple[re.Pattern[str], type[PromptError], str], ...]] = (
    (re.compile("<!--"), PromptCommentError, "comments are not allowed: the model would read them as text"),
    (
        re.compile(r"<!\[CDATA\["),
        PromptCdataError,
        "CDATA sections are not allowed: the model would read their brackets as text",
    ),
    (re.compile("<!"), PromptDtdError, "document types and other declarations are not allowed"),
    (
        re.compile(r"<\?xml[ \t\r\n?]", re.IGNORECASE),
        PromptDeclarationError,
        "an XML declaration is not allowed: a prompt is text that is decoded already",
    ),
    (re.compile(r"<\?"), PromptProcessingInstructionError, "processing instructions are not allowed"),
)


@dataclass(frozen=True, slots=True)
class Tag:
    """One tag, ``text[start:end]``, by the name of the element it opens or closes; an empty element's does both."""

    start: int
    end: int
    opens: str | None
    closes: str | None


class TagReader:
    """Reads one text once. After a fault, ``path`` tells where it happened."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._opened: list[Tag] = []

    @property
    def path(self) -> str | None:
        """The path of the element that reading has got to; None outside every element."""
        return path_of(str(tag.opens) for tag in self._opened)

    def read(self, stop: int | None = None) -> Iterator[Tag]:
        """Yield the tags that begin before an offset, or all. Raises a PromptError at the first fault."""
        elements, end = 0, 0
        while (start := self._text.find("<", end, stop)) >= 0:
            self._refuse_cdata_end(end, start)
            tag = self._tag_at(start)
            if tag.opens is not None:
                elements += 1
                self._refuse_flood(elements, start)
                self._opened.append(tag)
            if tag.closes is not None:
                self._close(tag.closes, start)
            yield tag
            end = tag.end
        if stop is None:
            self._refuse_cdata_end(end, len(self._text))
            self._refuse_unclosed()

    def _tag_at(self, start: int) -> Tag:
        found = lexis.TAG.match(self._text, start)
        if found is None:
            raise self._broken_tag(start)
        closes, opens, slash = found.groups()
        return Tag(start=start, end=found.end(), opens=opens, closes=opens if slash else closes)

    def _close(self, name: str, start: int) -> None:
        if not self._opened:
            message = f"</{name}> has no start tag"
            raise self._error(PromptNotXmlError, message, start)
        due = self._opened[-1]
        if due.opens != name:
            line, _ = lexis.position(self._text, due.start)
            message = f"</{name}> stands where </{due.opens}> is due; <{due.opens}> began in line {line}"
            raise self._error(PromptNotXmlError, message, start)
        self._opened.pop()

    def _refuse_unclosed(self) -> None:
        if self._opened:
            tag = self._opened[-1]
            message = f"<{tag.opens}> has no end tag"
            raise self._error(PromptNotXmlError, message, tag.start)

    def _refuse_flood(self, elements: int, start: int) -> None:
        if elements > lexis.MAX_ELEMENTS:
            message = f"the prompt has more than {lexis.MAX_ELEMENTS} elements"
            raise self._error(PromptTooManyElementsError, message, start)
        if len(self._opened) >= lexis.MAX_DEPTH:
            message = f"elements are nested more than {lexis.MAX_DEPTH} deep"
            raise self._error(PromptTooDeepError, message, start)

    def _refuse_cdata_end(self, begin: int, end: int) -> None:
        found = self._text.find("]]>", begin, end)
        if found >= 0:
            raise self._error(PromptNotXmlError, "']]>' is not allowed in text; write ]]&gt;", found)

    def _broken_tag(self, start: int) -> PromptError:
        for pattern, kind, message in _MARKUP:
            if pattern.match(self._text, start):
                return self._error(kind, message, start)
        found = lexis.BROKEN_TAG.match(self._text, start)
        if found is None:
            return self._error(PromptNotXmlError, "'<' begins no tag; write &lt; for the character itself", start)
        slash, name, space, end_slash = found.groups()
        if ":" in name:
            message = f"<{slash}{_shown(name)}> has a namespace prefix; namespaces are not allowed"
            return self._error(PromptNamespaceError, message, start)
        if len(name) > lexis.MAX_NAME:
            message = f"a tag's name has at most {lexis.MAX_NAME} characters, this one has {len(name)}"
            return self._error(PromptStructureError, message, start)
        attribute = lexis.ATTRIBUTE.match(self._text, found.end()) if space and not end_slash else None
        if attribute is not None:
            if not slash:
                self._opened.append(Tag(start=start, end=found.end(), opens=name, closes=None))
            return self._attribute_error(f"{slash}{name}", attribute)
        return self._error(PromptNotXmlError, f"'>' of <{slash}{name}> is missing", found.end())

    def _attribute_error(self, name: str, attribute: re.Match[str]) -> PromptError:
        if attribute[0].partition(":")[0] == "xmlns":
            message = f"<{name}> declares a namespace; namespaces are not allowed"
            return self._error(PromptNamespaceError, message, attribute.start())
        message = f"<{name}> holds more than its name ({_shown(attribute[0])}); tags have no attributes"
        return self._error(PromptAttributeError, message, attribute.start())

    def _error(self, kind: type[PromptError], message: str, offset: int) -> PromptError:
        line, column = lexis.position(self._text, offset)
        return kind(message, line=line, column=column, element=self.path)


def path_of(names: Iterator[str]) -> str | None:
    """The path of an element, from the names of those that hold it to its own."""
    return "".join(f"/{name}" for name in names) or None


def _shown(name: str) -> str:
    return name if len(name) <= _SHOWN else f"{name[:_SHOWN]}..."
