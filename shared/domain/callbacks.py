"""What a client may be called back for. Pure."""

from __future__ import annotations

from typing import Final

from shared.domain.task import STATE_AFTER, EventType

# What it is called back for when it names nothing: every end.
USUAL_EVENTS: Final = frozenset(kind for kind in EventType if STATE_AFTER[kind].is_final)
CALLBACK_EVENTS: Final = frozenset({EventType.STARTED, EventType.RETRYING}) | USUAL_EVENTS


def callback_event(text: str) -> EventType | None:
    """The event of a name, ``succeeded`` or ``task.succeeded``; None where nobody is called back for it."""
    name = text.removeprefix("task.")
    return next((kind for kind in CALLBACK_EVENTS if kind == name), None)
