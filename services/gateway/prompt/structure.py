"""Says in a person's words where the tags of a prompt leave the structure that schema.rng describes."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING

from services.gateway.prompt import lexis
from services.gateway.prompt.errors import PromptStructureError
from services.gateway.prompt.tags import path_of
from services.gateway.prompt.vocabulary import STRUCTURAL, TOP_LEVEL, TOP_LEVEL_TEXTS, unknown_top_level

if TYPE_CHECKING:
    from collections.abc import Iterable

    from services.gateway.prompt.tags import Tag


class _Holds(Enum):
    """What may stand in an element."""

    SCENE_OR_IMAGE = auto()
    SCENE = auto()
    TEXT_ELEMENTS = auto()
    TEXT = auto()


@dataclass(slots=True)
class _Frame:
    """An element that is open, and what stood in it so far."""

    name: str
    holds: _Holds
    seen: set[str] = field(default_factory=set)


class StructureCheck:
    """Walks the tags of one well-formed prompt."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._frames = [_Frame("", _Holds.SCENE_OR_IMAGE)]

    def run(self, tags: Iterable[Tag]) -> None:
        """Raise PromptStructureError at the first fault in the order of the text."""
        end = 0
        for tag in tags:
            self._refuse_loose_text(end, tag.start)
            if tag.opens is not None:
                self._open(tag.opens, tag.start)
            if tag.closes is not None:
                self._frames.pop()
            end = tag.end
        self._refuse_loose_text(end, len(self._text))

    def _open(self, name: str, start: int) -> None:
        frame = self._frames[-1]
        if frame.holds is _Holds.TEXT:
            message = f"<{frame.name}> holds text only, no <{name}>"
            raise self._error(message, start)
        self._frames.append(_Frame(name, _holds(name, frame)))
        complaint = _complaint(frame, name)
        if complaint is not None:
            raise self._error(complaint, start)
        frame.seen.add(name)

    def _refuse_loose_text(self, begin: int, end: int) -> None:
        frame = self._frames[-1]
        loose = self._text[begin:end].lstrip(lexis.XML_SPACE)
        if not loose or frame.holds is _Holds.TEXT:
            return
        what = "text" if loose[0].isprintable() else f"the character U+{ord(loose[0]):04X}"
        where = f"directly in <{frame.name}>" if frame.name else "outside the elements"
        hint = "into an element of its own" if frame.holds is _Holds.TEXT_ELEMENTS else "into <caption>"
        message = f"{what} stands {where}; put it {hint}"
        raise self._error(message, end - len(loose))

    def _error(self, message: str, offset: int) -> PromptStructureError:
        line, column = lexis.position(self._text, offset)
        element = path_of(frame.name for frame in self._frames[1:])
        return PromptStructureError(message, line=line, column=column, element=element)


def _holds(name: str, frame: _Frame) -> _Holds:
    if frame.holds is _Holds.TEXT_ELEMENTS or name in TOP_LEVEL_TEXTS:
        return _Holds.TEXT
    return _Holds.SCENE if name == "image" else _Holds.TEXT_ELEMENTS


def _complaint(frame: _Frame, name: str) -> str | None:
    """Why an element may not stand here; None where it may."""
    if frame.holds is _Holds.TEXT_ELEMENTS:
        misplaced = name in STRUCTURAL
        return (
            f"<{name}> does not belong in <{frame.name}>; is </{frame.name}> missing before it?" if misplaced else None
        )
    if name not in TOP_LEVEL:
        return unknown_top_level(name)
    if name in frame.seen:
        return f"<{name}> appears twice"
    return _image_complaint(frame, name)


def _image_complaint(frame: _Frame, name: str) -> str | None:
    if name == "image" and frame.holds is _Holds.SCENE:
        return "<image> does not belong in <image>"
    if name == "image" and frame.seen - {"style"}:
        return "<image> holds the whole prompt; only <style> may stand before it"
    if "image" in frame.seen:
        return f"<image> holds the whole prompt; <{name}> may not follow it"
    return None
