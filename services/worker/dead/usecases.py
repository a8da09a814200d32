"""What operators do with parked messages: look, replay, drop. Every look leaves the others as they are."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from services.worker.dead.again import again
from services.worker.dead.parked import Form, read
from shared.contracts.event import queued_event
from shared.domain.errors import DecodeError, NewerSchemaError, UnroutableError
from shared.domain.task import TaskState
from shared.ids import retried_id, task_id_seconds
from shared.logging import get_logger
from shared.messaging import messages

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.worker.dead.parked import Filter, Parked
    from shared.clock import Clock
    from shared.contracts.task import TaskMessage
    from shared.messaging.ports import Publisher, QueueBrowser, QueueLook
    from shared.storage.records import TaskRecords

log = get_logger(__name__)

PAGE: Final = 50
PUBLISH_SECONDS: Final = 10.0


class Fate(StrEnum):
    """What became of a parked message. Refused ones stay where they are."""

    REPLAYED = "replayed"
    ALREADY_REPLAYED = "already_replayed"
    WOULD_REPLAY = "would_replay"
    DROPPED = "dropped"
    WOULD_DROP = "would_drop"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What became of one; ``why`` it was refused, or what its replay has come to."""

    parked: Parked
    fate: Fate
    retried_as: str | None = None
    why: str = ""


class _RefusedError(Exception):
    """This one cannot be replayed."""


class DeadLetters:
    """The use cases. Methods raise BrokerError or StorageError; what was done until then is done."""

    def __init__(
        self, *, browser: QueueBrowser, publisher: Publisher, records: TaskRecords, clock: Clock, actor: str
    ) -> None:
        self._browser = browser
        self._publisher = publisher
        self._records = records
        self._clock = clock
        self._actor = actor

    def each(self, wanted: Filter, limit: int | None, visit: Callable[[Parked], None]) -> int:
        """Show the messages that are meant, in the queue's order. Returns how many there were."""
        return self._walk(wanted, limit, lambda _, parked: visit(parked))

    def drop(self, wanted: Filter, limit: int | None, tell: Callable[[Result], None], *, dry_run: bool = False) -> int:
        """Remove the messages that are meant, for good. Returns how many there were."""

        def drop(look: QueueLook, parked: Parked) -> None:
            if dry_run:
                tell(Result(parked=parked, fate=Fate.WOULD_DROP))
                return
            self._audit("dead_letter_drop", parked, "begin")
            look.take_out(parked.delivery)
            self._audit("dead_letter_drop", parked, "done")
            tell(Result(parked=parked, fate=Fate.DROPPED))

        return self._walk(wanted, limit, drop)

    def replay(
        self, wanted: Filter, limit: int | None, tell: Callable[[Result], None], *, dry_run: bool = False
    ) -> int:
        """Make a new task of each one that is meant. Returns how many there were.

        Dying at any point is harmless: the next replay of the same task makes the same new one.
        """
        published: set[str] = set()

        def replay(look: QueueLook, parked: Parked) -> None:
            try:
                tell(self._replay(look, parked, published, dry_run=dry_run))
            except _RefusedError as exc:
                self._audit("dead_letter_replay", parked, "refused", why=str(exc))
                tell(Result(parked=parked, fate=Fate.REFUSED, why=str(exc)))

        return self._walk(wanted, limit, replay)

    def _walk(self, wanted: Filter, limit: int | None, visit: Callable[[QueueLook, Parked], None]) -> int:
        count = 0
        with self._browser.look() as look:
            while page := look.page(PAGE):
                for parked in map(read, page):
                    if wanted.matches(parked):
                        visit(look, parked)
                        count += 1
                        if count == limit:
                            return count
        return count

    def _replay(self, look: QueueLook, parked: Parked, published: set[str], *, dry_run: bool) -> Result:
        old = _task_of(parked)
        task = again(old, retried_id(old.task_id, self._ended_at(parked, old)), self._clock())
        known = self._known(task, published)
        if dry_run:
            return Result(parked=parked, fate=Fate.WOULD_REPLAY, retried_as=task.task_id, why=known)
        self._audit("dead_letter_replay", parked, "begin", retried_as=task.task_id, known=known)
        if not known:
            self._publish(task)
            published.add(task.task_id)
        look.take_out(parked.delivery)
        self._audit("dead_letter_replay", parked, "done", retried_as=task.task_id, known=known)
        fate = Fate.ALREADY_REPLAYED if known else Fate.REPLAYED
        return Result(parked=parked, fate=fate, retried_as=task.task_id, why=known)

    def _publish(self, task: TaskMessage) -> None:
        try:
            self._publisher.publish(
                messages.new_task(task, task.submitted_at),
                messages.event(queued_event(task)),
                timeout=PUBLISH_SECONDS,
            )
        except UnroutableError as exc:
            raise _RefusedError(exc.message) from exc

    def _known(self, task: TaskMessage, published: set[str]) -> str:
        """What the replay has come to, when it was made before; else an empty text."""
        if task.task_id in published:
            return "published a moment ago"
        try:
            outcome = self._records.outcome(task.task_id)
        except DecodeError:
            return "ended, and how cannot be read"
        return "" if outcome is None else str(outcome.state)

    def _ended_at(self, parked: Parked, task: TaskMessage) -> datetime:
        """When the old task ended: the one time that every copy of its letter, parked twice or not, agrees on."""
        unreadable = parked.reason == DecodeError.code
        try:
            outcome = self._records.outcome(task.task_id)
        except NewerSchemaError as exc:
            raise _RefusedError(exc.message) from exc
        except DecodeError:
            outcome, unreadable = None, True
        if outcome is None:
            if not unreadable:
                message = "the task has not ended yet: whoever gave it up may be about to do so again; try later"
                raise _RefusedError(message)
            # Nobody will end it any more, or nobody can read when it was.
            return parked.parked_at or datetime.fromtimestamp(task_id_seconds(task.task_id), UTC)
        if outcome.state in {TaskState.SUCCEEDED, TaskState.CANCELLED}:
            message = f"the task has {outcome.state} after all: drop this letter"
            raise _RefusedError(message)
        return outcome.ended_at

    def _audit(self, action: str, parked: Parked, phase: str, **more: str) -> None:
        task = parked.task
        log.info(
            "audit",
            action=action,
            phase=phase,
            actor=self._actor,
            task_id=parked.ident,
            tenant_id=task.tenant_id if task is not None else None,
            model=task.model if task is not None else None,
            reason=parked.reason,
            **more,
        )


def _task_of(parked: Parked) -> TaskMessage:
    if parked.task is not None:
        return parked.task
    if parked.form is Form.UNREADABLE:
        message = f"the letter cannot be read: {parked.detail}"
        raise _RefusedError(message)
    message = f"the parked message is no task that can be read: {parked.detail}"
    raise _RefusedError(message)
