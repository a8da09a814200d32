"""A submission that is sent again is not a second task."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import orjson

from services.gateway.errors import SubmitUnknownError
from services.gateway.idempotency.errors import (
    IdempotencyInFlightError,
    IdempotencyUnavailableError,
    RecordsUnavailableError,
)
from services.gateway.idempotency.ports import Answered, Claim, End, Held, InFlight, Turn
from shared.domain.errors import BrokerError, RequestError, StorageError
from shared.ids import new_task_id
from shared.logging import bind, get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from prometheus_client import Counter

    from services.gateway.admission.ports import Window
    from services.gateway.idempotency.ports import SubmissionRecords
    from services.gateway.idempotency.wanted import Wanted

log = get_logger(__name__)

KEPT_SECONDS: Final = 86400.0
_FIRST_PAUSE_SECONDS: Final = 0.02
_LONGEST_PAUSE_SECONDS: Final = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """How an accepted submission is answered. ``body`` is JSON; ``replayed``: the task is an earlier request's.

    ``found`` is what the look-up of earlier results came to: with a hit the task has ended.
    """

    task_id: str
    body: str
    found: str
    windows: tuple[Window, ...] = ()
    replayed: bool = False

    def record(self) -> str:
        """What is kept of it for a replay."""
        return orjson.dumps({"found": self.found, "body": self.body}).decode()

    @classmethod
    def replay(cls, task_id: str, record: str) -> Answer:
        """The answer again."""
        kept = orjson.loads(record)
        return cls(task_id=task_id, body=kept["body"], found=kept["found"], replayed=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class RepeatPolicy:
    """Times are seconds.

    A request without a key is compared with those of the last ``repeat_window`` (0: with none) and waits up to
    ``publish_timeout`` for an equal one. After ``stale_after`` an unanswered request is given up, and one with an image
    after ``image_seconds`` more.
    """

    repeat_window: float
    publish_timeout: float
    stale_after: float
    image_seconds: float = 0.0


class Once:
    """Between a view and its use case. Without records, requests with a key are refused and others are new."""

    def __init__(
        self,
        records: SubmissionRecords | None,
        policy: RepeatPolicy,
        replays: Counter,
        *,
        pause: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._records = records
        self._policy = policy
        self._replays = replays
        self._pause = pause
        self._clock = clock

    def submit(self, wanted: Wanted, publish: Callable[[Turn], Answer]) -> Answer:
        """The answer to an earlier, equal request, or that of ``publish``.

        Raises what ``publish`` raises; for a key IdempotencyKeyReusedError, IdempotencyInFlightError and
        IdempotencyUnavailableError; without one SubmitUnknownError when an equal request stays unanswered.
        """
        if wanted.key is None and wanted.task_id is not None:
            return publish(Turn(wanted.task_id, repeatable=True))
        if self._records is None:
            if wanted.key is not None:
                message = "Idempotency-Key cannot be honoured: the operator of this service has not set up Redis"
                raise IdempotencyUnavailableError(message)
            return publish(Turn(new_task_id(), repeatable=False))
        if wanted.key is None and (self._policy.repeat_window == 0 or not (wanted.repeatable or wanted.counted)):
            # No later request could say that it is this one again.
            return publish(Turn(new_task_id(), repeatable=False))
        if wanted.key is None and not wanted.repeatable:
            return self._first(self._records, self._claim(wanted), publish)
        claim = self._claim(wanted)
        found = self._keyed(self._records, claim) if wanted.key is not None else self._unkeyed(self._records, claim)
        if isinstance(found, Answered):
            bind(task_id=found.task_id)
            log.info("submit_replayed", keyed=wanted.key is not None)
            self._replays.labels(kind="retry" if wanted.key is None else "key").inc()
            return Answer.replay(found.task_id, found.answer)
        return self._publish(self._records, claim, found, publish)

    def _claim(self, wanted: Wanted) -> Claim:
        return Claim(
            name=wanted.name,
            digest=wanted.digest,
            task_id=wanted.task_id or new_task_id(),
            stale_seconds=self._policy.stale_after + (self._policy.image_seconds if wanted.with_image else 0.0),
            kept_seconds=self._policy.repeat_window if wanted.key is None else KEPT_SECONDS,
        )

    def _keyed(self, records: SubmissionRecords, claim: Claim) -> Held | Answered:
        try:
            found = records.claim(claim)
        except RecordsUnavailableError as exc:
            message = "nobody can tell now whether this Idempotency-Key was sent before; nothing was accepted"
            raise IdempotencyUnavailableError(message) from exc
        if isinstance(found, InFlight):
            raise IdempotencyInFlightError(found.seconds_left)
        return found

    def _unkeyed(self, records: SubmissionRecords, claim: Claim) -> Held | Answered:
        deadline, pause = self._clock() + self._policy.publish_timeout, _FIRST_PAUSE_SECONDS
        last = Held(claim.task_id)
        while True:
            try:
                found = records.claim(claim)
            except RecordsUnavailableError:
                return last  # a doubled task is better than none; one that was met in flight is not even doubled
            if not isinstance(found, InFlight):
                return found
            if self._clock() >= deadline:
                raise SubmitUnknownError(found.task_id)
            last = Held(found.task_id, again=True)
            self._pause(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def _first(self, records: SubmissionRecords, claim: Claim, publish: Callable[[Turn], Answer]) -> Answer:
        # One write before the publish and none after it: a retry then publishes again under the same id, which makes no
        # second task. A write after it would miss the retry of a client that does not wait as long as we do.
        try:
            records.leave(claim)
        except RecordsUnavailableError:
            return publish(Turn(claim.task_id, repeatable=False))
        try:
            return publish(Turn(claim.task_id, repeatable=True))
        except SubmitUnknownError:
            raise
        except (RequestError, BrokerError, StorageError):
            _settle(records, claim, claim.task_id, End.REFUSED)
            raise

    def _publish(
        self, records: SubmissionRecords, claim: Claim, held: Held, publish: Callable[[Turn], Answer]
    ) -> Answer:
        try:
            answer = publish(Turn(held.task_id, repeatable=True))
        except SubmitUnknownError:
            _settle(records, claim, held.task_id, End.UNKNOWN)
            raise
        except (RequestError, BrokerError, StorageError):
            _settle(records, claim, held.task_id, End.REFUSED)
            raise
        _settle(records, claim, held.task_id, End.ACCEPTED, answer.record())
        return replace(answer, replayed=held.again)


def _settle(records: SubmissionRecords, claim: Claim, task_id: str, end: End, answer: str = "") -> None:
    # The client's answer does not depend on it: a record that stays in flight is taken over when it is stale.
    try:
        records.settle(claim, task_id, end, answer)
    except RecordsUnavailableError as exc:
        log.warning("submission_not_settled", end=end, error_code=exc.code, error_message=exc.message)
