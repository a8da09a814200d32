"""The operator's use cases over fakes."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from services.worker.dead.parked import Filter
from services.worker.dead.usecases import DeadLetters, Fate, Result
from shared.contracts.base import decode, encode
from shared.contracts.dead import Origin, letter_of_body
from shared.contracts.event import TaskEvent
from shared.contracts.outcome import ErrorInfo
from shared.contracts.task import TaskMessage
from shared.ids import new_task_id
from shared.messaging import messages
from shared.messaging.memory import MemoryBroker, MemoryBrowser
from shared.messaging.topology import DEAD, STATUS_EVENTS, TASKS_DEAD, topology, work_queue
from shared.storage.memory import MemoryStore
from shared.storage.records import TaskRecords
from tests.support.builders import MODEL, NOW, make_dead_letter, make_outcome, make_task, outbound

if TYPE_CHECKING:
    from services.worker.dead.parked import Parked
    from shared.contracts.dead import DeadLetter

OTHER_MODEL = "tiny-newbie"
LATER = NOW + timedelta(days=1)


class DeadWorld:
    """A broker and a bucket in memory, a day after the first tasks were parked."""

    def __init__(self) -> None:
        self.broker = MemoryBroker(topology([MODEL, OTHER_MODEL]))
        self.store = MemoryStore()
        self.records = TaskRecords(self.store)
        self.now = LATER
        self.letters = DeadLetters(
            browser=MemoryBrowser(self.broker, TASKS_DEAD),
            publisher=self.broker,
            records=self.records,
            clock=lambda: self.now,
            actor="olga",
        )

    def park(self, letter: DeadLetter | None = None, *, state: str | None = "failed") -> DeadLetter:
        """Put a letter into the queue and, as whoever parks does, end its task right after."""
        letter = letter or make_dead_letter()
        self.broker.publish(messages.dead(letter), timeout=1)
        if letter.task is not None and state is not None:
            ended_at = letter.parked_at + timedelta(milliseconds=7)
            self.records.commit(make_outcome(task=letter.task, state=state, ended_at=ended_at))
        return letter

    def park_new(self, **changes: object) -> DeadLetter:
        """Park a task of its own; ``changes`` are those of the task, and ``parked_at`` and ``reason`` the letter's."""
        own = {name: changes.pop(name) for name in ("parked_at", "reason") if name in changes}
        return self.park(make_dead_letter(task=make_task(task_id=new_task_id(), attempt=3, **changes), **own))

    def park_body(self, body: bytes = b"not a task", message_id: str = "") -> DeadLetter:
        """Park a message that cannot be read."""
        origin = Origin(exchange="atelier.returned", routing_key=MODEL, message_id=message_id or None)
        error = ErrorInfo(code="undecodable", message="TaskMessage is not JSON")
        return self.park(letter_of_body(body, error, origin=origin, parked=("status-consumer", NOW)))

    def park_as_before(self, body: bytes, *, reason: str = "runner_crashed", message_id: str = "m-1") -> None:
        """Park a message as the first version did: the bare body, with headers."""
        headers: dict[str, str | int] = {messages.HEADER_REASON: reason, messages.HEADER_DETAIL: "it died"}
        self.broker.publish(
            outbound(DEAD, reason, body, message_id=message_id, type="dead", headers=headers), timeout=1
        )

    def seen(self, wanted: Filter | None = None, limit: int | None = None) -> list[Parked]:
        found: list[Parked] = []
        assert self.letters.each(wanted or Filter(), limit, found.append) == len(found)
        return found

    def replay(self, wanted: Filter | None = None, limit: int | None = None, *, dry_run: bool = False) -> list[Result]:
        results: list[Result] = []
        count = self.letters.replay(wanted or Filter(), limit, results.append, dry_run=dry_run)
        assert count == len(results)
        return results

    def replayed(self, wanted: Filter | None = None) -> str:
        """Replay the one that is meant, and return the new task's id."""
        (done,) = self.replay(wanted)
        assert done.fate is Fate.REPLAYED, done.why
        assert done.retried_as is not None
        return done.retried_as

    def drop(self, wanted: Filter | None = None, limit: int | None = None, *, dry_run: bool = False) -> list[Result]:
        results: list[Result] = []
        self.letters.drop(wanted or Filter(), limit, results.append, dry_run=dry_run)
        return results

    def tasks(self, model: str = MODEL) -> list[TaskMessage]:
        return [decode(TaskMessage, message.body) for message in self.broker.messages(work_queue(model))]

    def events(self) -> list[TaskEvent]:
        return [decode(TaskEvent, message.body) for message in self.broker.messages(STATUS_EVENTS)]

    def left(self) -> int:
        return self.broker.depth(TASKS_DEAD)

    def bodies(self) -> list[bytes]:
        return [message.body for message in self.broker.messages(TASKS_DEAD)]


def as_newer(letter: DeadLetter) -> bytes:
    """The letter as a newer version of the software might write it."""
    return encode(letter).replace(b'"schema":1', b'"schema":2', 1)
