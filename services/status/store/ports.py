"""What the status service asks of its database. Adapters: those that end in sql, and memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime, timedelta

    from services.status.attempts import Attempt
    from services.status.news import LoggedNews
    from services.status.view import TaskView
    from services.status.work import Change, Front, Standing, Work, WorkQueue
    from shared.contracts.event import TaskEvent
    from shared.domain.task import TaskState


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedTask:
    """A task as an archive keeps it. ``view`` is its document as it was read."""

    task_id: str
    tenant_id: str
    view: str
    attempts: tuple[Attempt, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFilter:
    """Which tasks to list; None stands for any. ``since`` counts, ``until`` does not: both are times of the submit."""

    tenant_id: str | None = None
    states: frozenset[TaskState] | None = None
    model: str | None = None
    since: datetime | None = None
    until: datetime | None = None


class TaskViewStore(Protocol):
    """Views of tasks. Every method raises ViewStoreError when the database cannot be used."""

    def prepare(self) -> None:
        """Bring the database up to date. Several processes may do so at once.

        Raises ConfigurationError for one that a newer version made.
        """
        ...

    def apply_events(
        self, events: Sequence[TaskEvent], *, seen_until: datetime | None, tell_since: datetime | None = None
    ) -> None:
        """Apply events, all or none, and note that everything up to a time has been applied (it never goes back).

        None for that time says nothing of other events. In the same transaction: the news that they are is logged, and
        the callbacks that they call for are owed; with ``tell_since`` only of what happened since then. Raises
        UnstorableError when it is an event that the database cannot hold.
        """
        ...

    def get(self, task_id: str) -> TaskView | None:
        """One task, or None when no event of it was applied yet."""
        ...

    def attempts(self, task_id: str) -> Sequence[Attempt]:
        """The attempts of a task that are known, in their order."""
        ...

    def standing(self, task_id: str, now: datetime) -> Standing | None:
        """Where a task stands among those of its model, or None when it does not wait."""
        ...

    def listed(self, wanted: TaskFilter, before: str | None, limit: int) -> Sequence[TaskView]:
        """The newest tasks by id, of those whose id is below ``before`` where that is given."""
        ...

    def seen_until(self) -> datetime | None:
        """Every event made before this time has been applied, by all consumers; None before the first."""
        ...

    def check(self) -> None:
        """Prove that the database can be written."""
        ...


class NewsLog(Protocol):
    """The news of the last while, of all tasks. Whoever reads on from a position misses none that is still kept.

    Methods raise ViewStoreError as above.
    """

    def epoch(self) -> str:
        """A word that is another one in every database: positions of one mean nothing in another."""
        ...

    def latest(self) -> int:
        """The position of the newest news, or 0."""
        ...

    def oldest(self) -> int:
        """The position of the oldest news that is kept, or of the next one where none is."""
        ...

    def after(
        self, position: int, limit: int, *, tenant_id: str | None = None, task_id: str | None = None
    ) -> Sequence[LoggedNews]:
        """The next news behind a position, in order; of one tenant or one task where that is named.

        What this version cannot read is left out, so fewer than ``limit`` do not mean that there are no more.
        """
        ...


class WorkStore(Protocol):
    """Tasks as work, as the events that were applied to their views tell. Methods raise ViewStoreError as above."""

    def find(self, task_id: str) -> Work | None:
        """One task; None when no event has told it, or its end was forgotten."""
        ...

    def overdue(self, now: datetime, limit: int, *, after: str = "") -> Sequence[Work]:
        """Tasks that wait and are past ``due_at``, in the order of their ids, from the first behind ``after`` on."""
        ...

    def silent(self, now: datetime, silence: timedelta, limit: int, *, after: str = "") -> Sequence[Work]:
        """Tasks not heard of for a while, in the order of their ids, from the first behind ``after``.

        Those that wait have been ready for that long; those that run had no event, or are past their finish deadline.
        """
        ...

    def fronts(self) -> Sequence[Front]:
        """How far workers have come, by what they are at and what has ended and is not forgotten."""
        ...

    def seen_until(self) -> datetime | None:
        """See TaskViewStore."""
        ...

    def queues(self, now: datetime) -> Sequence[WorkQueue]:
        """The models for which tasks wait. Workers whose task is past its finish deadline do not count."""
        ...

    def heads(self, model: str, now: datetime, seconds: float) -> Sequence[Work]:
        """Each tenant's oldest tasks that lie in a work queue and are in time, until they are so much predicted work.

        A tenant's tasks are together, and in the order of their submits.
        """
        ...

    def raise_level(self, task_id: str, attempt: int, level: int, at: datetime) -> None:
        """Note that this attempt came to a level at a time, for its tenant to see as well; never goes down."""
        ...

    def changes(self, after: int, limit: int) -> Sequence[Change]:
        """What became of tasks behind a position, in order; of several changes of one task only the last."""
        ...

    def latest_change(self) -> int:
        """The position of the newest change, or 0."""
        ...

    def forget_ended(self, until: int) -> None:
        """Drop ended tasks up to a position. Their views stay."""
        ...

    def take_lease(self, name: str, holder: str, now: datetime, seconds: float) -> bool:
        """Whether this holder has the lease now: it was free, over, or the holder's own, which is renewed."""
        ...

    def give_lease_back(self, name: str, holder: str) -> None:
        """Let others have it at once, if it is this holder's."""
        ...

    def check(self) -> None:
        """Prove that the database can be written."""
        ...


class RetentionStore(Protocol):
    """Rows that are old enough to go. Each call is one transaction. Methods raise ViewStoreError as above."""

    def drop_news(self, before: datetime, limit: int) -> int:
        """Drop the news from before a time that are among the first so many. Returns how many these were."""
        ...

    def drop_deliveries(self, before: datetime, limit: int) -> int:
        """Drop so many callbacks that were last in hand before a time and are done with. Returns how many."""
        ...

    def ended_tasks(self, before: datetime, limit: int) -> Sequence[EndedTask]:
        """The first so many tasks by id that were submitted and have ended before a time."""
        ...

    def drop_tasks(self, tasks: Sequence[EndedTask]) -> int:
        """Drop tasks with their attempts, but for those that have changed since. Returns how many are gone."""
        ...
