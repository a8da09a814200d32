"""Claims and outcomes in the bucket: who may start an attempt, and the one end of a task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from shared.contracts.base import decode, encode
from shared.contracts.outcome import Claim, Lease, Outcome
from shared.domain.errors import AlreadyExistsError, ObjectNotFoundError
from shared.domain.settle import Claimant, judge_claimant

if TYPE_CHECKING:
    from concurrent.futures import Executor
    from datetime import datetime

    from shared.storage.ports import ObjectStore

JSON: Final = "application/json"
TASKS: Final = "tasks/"


def task_prefix(task_id: str) -> str:
    """Everything of one task lies below this."""
    return f"{TASKS}{task_id}/"


def task_of(key: str) -> str:
    """The id of the task below whose prefix a key lies; empty for a key of anything else."""
    return key.removeprefix(TASKS).partition("/")[0] if key.startswith(TASKS) else ""


def claim_key(task_id: str, attempt: int) -> str:
    """Where an attempt's claim lies."""
    return f"{task_prefix(task_id)}claim-{attempt}.json"


def outcome_key(task_id: str) -> str:
    """Where a task's outcome lies."""
    return f"{task_prefix(task_id)}outcome.json"


def artifact_prefix(task_id: str, attempt: int, execution: str) -> str:
    """Where the artifacts of one execution lie; no two executions share it."""
    return f"{task_prefix(task_id)}{attempt}-{execution}/"


def lease_key(worker: str) -> str:
    """Where a worker's lease lies."""
    return f"workers/{worker}.json"


class TaskRecords:
    """Reads and conditionally writes claims and outcomes. Methods raise StorageError when the store cannot be used.

    ``beside`` runs a read while a write is under way.
    """

    def __init__(self, store: ObjectStore, beside: Executor | None = None) -> None:
        self.store = store
        self._beside = beside

    def outcome(self, task_id: str) -> Outcome | None:
        """The task's outcome, or None while it has none."""
        try:
            return decode(Outcome, self.store.get(outcome_key(task_id)))
        except ObjectNotFoundError:
            return None

    def commit(self, outcome: Outcome) -> Outcome:
        """Try to end the task. Returns the outcome that stands: this one, or the winner's if one was there before."""
        task_id = outcome.task.task_id
        try:
            self.store.create(outcome_key(task_id), encode(outcome), media_type=JSON)
        except AlreadyExistsError:
            return decode(Outcome, self.store.get(outcome_key(task_id)))
        return outcome

    def claim(self, claim: Claim) -> Claim:
        """Try to claim an attempt. Returns the claim that stands: this one, or the earlier one's."""
        key = claim_key(claim.task_id, claim.attempt)
        try:
            self.store.create(key, encode(claim), media_type=JSON)
        except AlreadyExistsError:
            return decode(Claim, self.store.get(key))
        return claim

    def begin(self, claim: Claim) -> tuple[Outcome | None, Claim]:
        """Look for an outcome and try to claim, at the same time where that can be.

        A claim on a task that has ended harms nobody, and waiting for the one answer before asking for the other would
        cost every start a round trip.
        """
        if self._beside is None:
            outcome = self.outcome(claim.task_id)
            return outcome, claim if outcome is not None else self.claim(claim)
        ended = self._beside.submit(self.outcome, claim.task_id)
        standing = self.claim(claim)
        return ended.result(), standing

    def renew(self, lease: Lease) -> None:
        """Write a worker's lease over its last one."""
        self.store.put(lease_key(lease.worker), encode(lease), media_type=JSON)

    def claimant(self, claim: Claim, now: datetime) -> Claimant:
        """What became of a claim's owner, by its lease."""
        try:
            lease = decode(Lease, self.store.get(lease_key(claim.worker)))
        except ObjectNotFoundError:
            return judge_claimant(now, claim.at, None, listed=False)
        return judge_claimant(now, claim.at, lease.at, listed=claim.execution in lease.executions)

    def find_claim(self, task_id: str, attempt: int) -> Claim | None:
        """An attempt's claim, or None."""
        try:
            return decode(Claim, self.store.get(claim_key(task_id, attempt)))
        except ObjectNotFoundError:
            return None
