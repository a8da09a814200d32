"""Finds what is wrong with an XML prompt that was refused, and where, for a client to read.

As XML has it, the letters come first (tags and references), then the structure. Each reading ends at its first fault
in the order of the text, so a flood is never read to its end.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from services.gateway.prompt import lexis
from services.gateway.prompt.errors import PromptCharacterError, PromptEntityError, PromptError
from services.gateway.prompt.structure import StructureCheck
from services.gateway.prompt.tags import TagReader

_SHOWN: Final = 40


def explain(text: str) -> PromptError | None:
    """The first fault of an XML prompt; None where the text has none that is known here."""
    fault = _illegal_reference(text)
    try:
        tags = list(TagReader(text).read())
        if fault is None:
            StructureCheck(text).run(tags)
    except PromptError as error:
        return error if fault is None else min(error, fault, key=_place)
    return fault


def element_at(text: str, offset: int) -> str | None:
    """The path of the element that an offset stands in, as far as the tags before it can be read."""
    reader = TagReader(text)
    with suppress(PromptError):  # of the tags before the offset; another fault is being told about
        for _ in reader.read(offset):
            continue
    return reader.path


def _place(error: PromptError) -> tuple[int, int]:
    return error.line or 0, error.column or 0


def _illegal_reference(text: str) -> PromptError | None:
    found = lexis.illegal_reference(text)
    if found is None:
        return None
    reference, offset = found
    line, column = lexis.position(text, offset)
    element = element_at(text, offset)
    shown = reference if len(reference) <= _SHOWN else f"{reference[:_SHOWN]}..."
    if reference.startswith("&#"):
        message = f"{shown} refers to a character that is not allowed"
        return PromptCharacterError(message, line=line, column=column, element=element)
    message = f"{shown} is not allowed; for the ampersand itself write &amp;"
    return PromptEntityError(message, line=line, column=column, element=element)
