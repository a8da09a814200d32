"""Where a reader of the news stands: ``<epoch>-<position>``, which is also the id of an event in a stream."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_PLACE: Final = re.compile(r"([0-9A-Za-z_]{1,64})-([0-9]{1,18})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Place:
    """A position in the log of one database."""

    epoch: str
    position: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.position}"


def read_place(text: str) -> Place | None:
    """The place that a client names, or None where it is none."""
    match = _PLACE.fullmatch(text)
    return None if match is None else Place(match[1], int(match[2]))
