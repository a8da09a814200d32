"""What is kept of a submission, so that sending it again does not make a second task. Adapter: RedisRecords."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One request's wish to publish. Times are seconds.

    ``name`` is the record's and ``digest`` the body's. ``task_id`` is new: it becomes the task's unless the record has
    one already, and it tells this request from others. An unanswered request is given up after ``stale_seconds``; an
    answer is kept for ``kept_seconds``.
    """

    name: str
    digest: str
    task_id: str
    stale_seconds: float
    kept_seconds: float

    @property
    def open_seconds(self) -> float:
        """How long a record without an answer is kept: never less than until it is stale."""
        return max(self.kept_seconds, self.stale_seconds)


@dataclass(frozen=True, slots=True)
class Turn:
    """A task to publish. ``repeatable``: a later request that is this one again publishes again, under the same id."""

    task_id: str
    repeatable: bool


@dataclass(frozen=True, slots=True)
class Held:
    """The claimant publishes, under this id. ``again``: an earlier request may have published it already."""

    task_id: str
    again: bool = False


@dataclass(frozen=True, slots=True)
class InFlight:
    """Another request is publishing; in ``seconds_left`` it is given up."""

    task_id: str
    seconds_left: float


@dataclass(frozen=True, slots=True)
class Answered:
    """An earlier request was accepted, with this answer."""

    task_id: str
    answer: str


class End(StrEnum):
    """What became of a publish: taken, perhaps taken, certainly not taken."""

    ACCEPTED = "accepted"
    UNKNOWN = "unknown"
    REFUSED = "refused"


class SubmissionRecords(Protocol):
    """Shared by all replicas; each method is atomic and raises RecordsUnavailableError.

    A task id that may have been published stays in its record whatever later requests meet, until the record lapses.
    """

    def claim(self, claim: Claim) -> Held | InFlight | Answered:
        """Ask to publish. Raises IdempotencyKeyReusedError when the record is of another body."""
        ...

    def leave(self, claim: Claim) -> None:
        """Note a task id without asking, in place of any record: the next claim gets it, to publish again."""
        ...

    def settle(self, claim: Claim, task_id: str, end: End, answer: str = "") -> None:
        """Tell how the publish of ``task_id`` ended.

        ACCEPTED keeps the answer. UNKNOWN lets the next claim publish again at once under the same id. REFUSED removes
        the record, unless an earlier request may have published. The last two count only from who holds the record.
        """
        ...
