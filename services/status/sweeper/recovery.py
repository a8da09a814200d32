"""Looks at tasks of which nothing was heard for a while, and makes up for what was lost.

Lost news: the start or the end is told again. A worker that is gone: the broker delivers its message again, and only if
that is lost too the next attempt is published here. A message that is lost: it is published again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from services.status.sweeper.comparison import RUNNING, STARTED
from services.status.sweeper.evidence import Margins, QueueLooks, Suspicions, is_missed
from services.status.work import WorkState
from shared.contracts.base import decode
from shared.contracts.task import TaskMessage
from shared.domain.errors import BrokerError, DecodeError, StorageError
from shared.logging import bound, get_logger
from shared.messaging.topology import work_queue

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from services.status.store.ports import WorkStore
    from services.status.sweeper.comparison import Comparison
    from services.status.sweeper.metrics import SweeperMetrics
    from services.status.work import Front, Work
    from shared.clock import Clock

log = get_logger(__name__)

# A worker has the task: that its message is in no queue is as it should be.
_AT_WORK: Final = frozenset({RUNNING, STARTED})


class RecoveryDuty:
    """A Duty. ``ready``: how many messages lie in a queue; raises BrokerError."""

    name = "recovery"

    def __init__(
        self,
        *,
        work: WorkStore,
        comparison: Comparison,
        ready: Callable[[str], int],
        metrics: SweeperMetrics,
        clock: Clock,
        margins: Margins,
    ) -> None:
        self._work = work
        self._comparison = comparison
        self._ready = ready
        self._metrics = metrics
        self._clock = clock
        self._margins = margins
        self.begin()

    def begin(self) -> None:
        """See Duty."""
        self._after = ""
        self._looks = QueueLooks()
        self._suspicions = Suspicions(self._margins)
        self._compared: dict[str, datetime] = {}
        self._models: set[str] = set()
        self._models_before: set[str] = set()

    def run(self, limit: int, go_on: Callable[[], bool]) -> None:
        """See Duty. A pass goes on behind where the last one stopped."""
        # In this order: what waits after this had not started by then.
        self._looks.confirm(self._work.seen_until())
        now = self._clock()
        rows = self._work.silent(now, self._margins.silent, limit, after=self._after)
        fronts = self._work.fronts() if rows else ()
        for work in rows:
            if not go_on():
                return
            self._after = work.task_id
            try:
                self._look(work, fronts, now)
            except (BrokerError, StorageError, DecodeError) as exc:
                self._metrics.failed.labels(duty=self.name).inc()
                log.warning("recovery_failed", task_id=work.task_id, error_code=exc.code, error_message=exc.message)
        # A look counts in the next pass alone, whichever models that comes upon.
        self._models |= {work.model for work in rows}
        self._look_at_queues(self._models | self._models_before)
        if len(rows) < limit:
            self._end_round(now)

    def _end_round(self, now: datetime) -> None:
        self._after = ""
        self._models_before, self._models = self._models, set()
        self._suspicions.end_round()
        fresh = 2 * self._margins.silent
        self._compared = {task_id: at for task_id, at in self._compared.items() if now - at < fresh}

    def _look_at_queues(self, models: set[str]) -> None:
        """So that the next passes know which queues were empty."""
        for model in sorted(models):
            if self._looks.awaits(model):
                continue
            at = self._clock()
            try:
                if self._ready(work_queue(model)) == 0:
                    self._looks.saw_empty(model, at)
            except BrokerError as exc:
                self._metrics.failed.labels(duty=self.name).inc()
                log.warning("queue_unknown", model=model, error_code=exc.code, error_message=exc.message)

    def _look(self, work: Work, fronts: Sequence[Front], now: datetime) -> None:
        of_model = [front for front in fronts if front.model == work.model]
        missed = is_missed(work, self._looks.empty_at(work.model), of_model, self._margins.silent)
        lost = self._suspicions.is_certain(work, now, missed=missed)
        if work.state is WorkState.WAITING and not missed:
            return  # as far as anybody can see it lies in its queue
        compared_at = self._compared.get(work.task_id)
        if not lost and compared_at is not None and now - compared_at < self._margins.silent:
            return
        self._compared[work.task_id] = now
        task = decode(TaskMessage, work.document.encode()).model_copy(update={"priority": work.level})
        with bound(**task.log_context()):
            fate = self._comparison.settle(work, task, lost=lost)
            log.info("silent_task_compared", fate=fate, state=work.state, missed=missed)
        if fate in _AT_WORK:
            self._suspicions.clear(work)
        elif lost:
            self._suspicions.acted(work, now)
        self._metrics.compared.labels(fate=fate).inc()
