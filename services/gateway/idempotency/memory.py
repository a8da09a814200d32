"""Submission records in memory that obey the same contract tests as those in Redis; for unit tests and nothing else."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from services.gateway.idempotency.errors import IdempotencyKeyReusedError, RecordsUnavailableError
from services.gateway.idempotency.ports import Answered, End, Held, InFlight

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.gateway.idempotency.ports import Claim


@dataclass(frozen=True, slots=True, kw_only=True)
class _Record:
    task_id: str
    owner: str
    digest: str
    state: str
    at: float
    lapses: float
    again: bool = False
    answer: str = ""


class MemoryRecords:
    """SubmissionRecords of one process and one thread, under a clock of the test's own (seconds)."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._records: dict[str, _Record] = {}
        self.available = True
        self.calls: list[str] = []

    def claim(self, claim: Claim) -> Held | InFlight | Answered:
        """See SubmissionRecords."""
        record, now = self._read("claim", claim), self._clock()
        if record is not None:
            if record.digest != claim.digest:
                raise IdempotencyKeyReusedError
            if record.state == "accepted":
                return Answered(record.task_id, record.answer)
            left = record.at + claim.stale_seconds - now
            if record.state == "in_flight" and 0 < left <= claim.stale_seconds:
                return InFlight(record.task_id, left)
        task_id = claim.task_id if record is None else record.task_id
        self._write(claim, "in_flight", task_id, again=record is not None)
        return Held(task_id, again=record is not None)

    def leave(self, claim: Claim) -> None:
        """See SubmissionRecords."""
        self._read("leave", claim)
        self._write(claim, "open", claim.task_id)

    def settle(self, claim: Claim, task_id: str, end: End, answer: str = "") -> None:
        """See SubmissionRecords."""
        record = self._read("settle", claim)
        if end is End.ACCEPTED:
            if record is None or record.task_id == task_id:
                self._write(claim, "accepted", task_id, answer=answer)
        elif record is not None and record.state != "accepted" and record.owner == claim.task_id:
            if end is End.REFUSED and not record.again:
                del self._records[claim.name]
            else:
                lapses = self._clock() + claim.open_seconds
                self._records[claim.name] = replace(record, state="open", lapses=lapses)

    def names(self) -> set[str]:
        """Which records there are."""
        return {name for name, record in self._records.items() if record.lapses > self._clock()}

    def _read(self, call: str, claim: Claim) -> _Record | None:
        self.calls.append(call)
        if not self.available:
            message = "switched off"
            raise RecordsUnavailableError(message)
        record = self._records.get(claim.name)
        return None if record is None or record.lapses <= self._clock() else record

    def _write(self, claim: Claim, state: str, task_id: str, *, again: bool = False, answer: str = "") -> None:
        now = self._clock()
        self._records[claim.name] = _Record(
            task_id=task_id,
            owner=claim.task_id,
            digest=claim.digest,
            state=state,
            at=now,
            lapses=now + (claim.kept_seconds if state == "accepted" else claim.open_seconds),
            again=again,
            answer=answer,
        )
