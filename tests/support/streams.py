"""Events of streams, read back from their bytes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Sent:
    """One event."""

    id: str
    name: str
    data: dict[str, Any]


def sent(data: bytes) -> list[Sent]:
    """The events of a stream, read as the standard has it; comments and retry times are left out."""
    events = []
    place = name = text = ""
    for line in data.decode().split("\n"):
        key, _, value = line.partition(": ")
        if line == "":
            if text:
                events.append(Sent(place, name, json.loads(text)))
            name = text = ""
        elif key == "id":
            place = value
        elif key == "event":
            name = value
        elif key == "data":
            text += value
        else:
            assert key in {"", "retry"}, line
    return events


def names(data: bytes) -> list[str]:
    """The names of the events of a stream."""
    return [event.name for event in sent(data)]
