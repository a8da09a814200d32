"""Publishes waiting tasks again at a higher level, as ``shared.domain.lifting`` decides.

The copy that stays behind is dropped by whichever worker meets it: the claim or the outcome says that it is one.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, Final

from services.status.ending import PUBLISH_SECONDS
from services.status.work import WorkState
from shared.contracts.base import decode
from shared.contracts.task import TaskMessage
from shared.domain.errors import BrokerError, DecodeError
from shared.domain.lifting import FairClock, Line, WaitingTask, horizon_seconds
from shared.domain.priority import FairSharePolicy
from shared.logging import bound, get_logger
from shared.messaging import messages

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from services.status.store.ports import WorkStore
    from services.status.sweeper.metrics import SweeperMetrics
    from services.status.work import Work, WorkQueue
    from shared.clock import Clock
    from shared.domain.priority import Share
    from shared.messaging.ports import Publisher

log = get_logger(__name__)

CHANGES: Final = 1000
# Predictions of no seconds at all would make no steps.
_SHORTEST_QUANTUM_SECONDS: Final = 0.1


class LiftingDuty:
    """A Duty. ``weight_of``: a tenant's weight by its plan, or None for that of its lane."""

    name = "lifting"

    def __init__(
        self,
        *,
        work: WorkStore,
        publisher: Publisher,
        metrics: SweeperMetrics,
        clock: Clock,
        interval_seconds: float,
        weight_of: Callable[[str], float | None],
    ) -> None:
        self._work = work
        self._publisher = publisher
        self._metrics = metrics
        self._now = clock
        self._interval_seconds = interval_seconds
        self._weight_of = weight_of
        self._policy = FairSharePolicy()
        self._clocks: dict[str, FairClock] = defaultdict(lambda: FairClock(self._policy))
        self._charged: dict[str, float] = {}
        self._seen = 0

    def begin(self) -> None:
        """See Duty. What was served before we acted is nobody's advantage."""
        self._clocks.clear()
        self._charged.clear()
        self._seen = self._work.latest_change()

    def run(self, limit: int, go_on: Callable[[], bool]) -> None:
        """See Duty."""
        self._charge()
        now, queues = self._now(), self._work.queues(self._now())
        for idle in set(self._clocks) - {queue.model for queue in queues}:
            del self._clocks[idle]  # where nobody waits, nobody is ahead
        for queue in queues:
            limit -= self._serve(queue, now, limit, go_on)

    def _charge(self) -> None:
        """Charge each tenant for what was started and ended since the last pass."""
        while changes := self._work.changes(self._seen, CHANGES):
            for change in changes:
                self._charge_one(change.work)
            self._seen = changes[-1].position
        self._work.forget_ended(self._seen)

    def _charge_one(self, work: Work) -> None:
        known = self._charged.get(work.task_id)
        if work.state is WorkState.WAITING or (work.state is WorkState.RUNNING and known is not None):
            return
        if work.state is WorkState.RUNNING:
            seconds = self._charged[work.task_id] = work.predicted_seconds
        else:
            self._charged.pop(work.task_id, None)
            seconds = work.spent_seconds - (known or 0.0)
        if seconds:
            self._clocks[work.model].charge(work.tenant_id, self._share(work), seconds)

    def _serve(self, queue: WorkQueue, now: datetime, limit: int, go_on: Callable[[], bool]) -> int:
        """Lift what is to be lifted in one work queue. Returns how many were tried."""
        workers = max(queue.workers, 1)
        usual = max(queue.usual_seconds, _SHORTEST_QUANTUM_SECONDS)
        policy = replace(self._policy, quantum_seconds=usual).on_workers(workers)
        horizon = horizon_seconds(policy, workers, self._interval_seconds)
        heads = self._work.heads(queue.model, now, horizon)
        by_id = {work.task_id: work for work in heads}
        clock = self._clocks[queue.model]
        clock.adopt(policy)
        tried = 0
        for lift in clock.lifts(self._lines(heads, now), horizon)[: max(limit, 0)]:
            if not go_on():
                break
            self._lift(by_id[lift.task_id], lift.level)
            tried += 1
        return tried

    def _lines(self, heads: Sequence[Work], now: datetime) -> dict[str, Line]:
        lines = {}
        for tenant_id, tasks in groupby(heads, key=lambda work: work.tenant_id):
            line = list(tasks)
            lines[tenant_id] = Line(self._share(line[0]), [_waiting(work, now) for work in line])
        return lines

    def _share(self, work: Work) -> Share:
        return self._policy.share(work.lane, self._weight_of(work.tenant_id))

    def _lift(self, work: Work, level: int) -> None:
        try:
            task = decode(TaskMessage, work.document.encode()).model_copy(update={"priority": level})
            self._publisher.publish(messages.next_attempt(task, self._now()), timeout=PUBLISH_SECONDS)
        except (BrokerError, DecodeError) as exc:
            self._metrics.failed.labels(duty=self.name).inc()
            log.warning("lift_failed", task_id=work.task_id, error_code=exc.code, error_message=exc.message)
            return
        # Not noted, it is published once more in the next pass: one more copy.
        self._work.raise_level(work.task_id, work.attempt, level, self._now())
        self._metrics.lifted.labels(model=work.model).inc()
        with bound(**task.log_context()):
            log.info("task_lifted", level_before=work.level, level=level)


def _waiting(work: Work, now: datetime) -> WaitingTask:
    within = (work.start_deadline - work.submitted_at).total_seconds()
    waited = (now - work.submitted_at).total_seconds()
    return WaitingTask(work.task_id, work.predicted_seconds, work.level, waited / within if within > 0 else 1.0)
