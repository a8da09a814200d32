"""Ends tasks that wait past their deadline, whatever level of whatever queue their messages lie at.

The broker drops an expired message only at the head of its queue, so a low level would keep it for as long as others
come. The claim decides the race with a worker that takes the task in this moment: one of the two writes it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.status.ending import PUBLISH_SECONDS, Ending
from services.status.sweeper.loop import AUTHOR
from shared.contracts.base import decode
from shared.contracts.event import started_event
from shared.contracts.task import TaskMessage
from shared.domain.errors import BrokerError, DecodeError, StorageError
from shared.domain.settle import ClaimMark, Start, decide_start
from shared.logging import bound, get_logger
from shared.messaging import messages

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.status.store.ports import WorkStore
    from services.status.sweeper.metrics import SweeperMetrics
    from services.status.work import Work
    from shared.clock import Clock
    from shared.messaging.ports import Publisher
    from shared.storage.records import TaskRecords

log = get_logger(__name__)


class ExpiryDuty:
    """A Duty."""

    name = "expiry"

    def __init__(
        self, *, work: WorkStore, records: TaskRecords, publisher: Publisher, metrics: SweeperMetrics, clock: Clock
    ) -> None:
        self._work = work
        self._records = records
        self._publisher = publisher
        self._metrics = metrics
        self._clock = clock
        self._ending = Ending(records=records, publisher=publisher, clock=clock, author=AUTHOR)
        self._after = ""

    def begin(self) -> None:
        """See Duty."""
        self._after = ""

    def run(self, limit: int, go_on: Callable[[], bool]) -> None:
        """See Duty. A pass goes on behind where the last one stopped, so that none is held up by those before it."""
        late = self._work.overdue(self._clock(), limit, after=self._after)
        for work in late:
            if not go_on():
                return
            self._after = work.task_id
            try:
                self._metrics.late.labels(fate=self._settle(work)).inc()
            except (BrokerError, StorageError, DecodeError) as exc:
                self._metrics.failed.labels(duty=self.name).inc()
                log.warning("expiry_failed", task_id=work.task_id, error_code=exc.code, error_message=exc.message)
        if len(late) < limit:
            self._after = ""

    def _settle(self, work: Work) -> str:
        task = decode(TaskMessage, work.document.encode())
        with bound(**task.log_context()):
            fate = self._fate(task)
            log.info("late_task_settled", fate=fate, level=work.level)
        return fate

    def _fate(self, task: TaskMessage) -> str:
        if decide_start(self._clock(), task.start_deadline, task.finish_deadline, task.attempt) is Start.CLAIM:
            return "in_time"
        outcome, standing = self._records.begin(self._ending.expiry_mark(task))
        if outcome is not None:
            self._ending.tell(outcome)  # it has ended, and the view has not heard of it
            return "repeated"
        if standing.mark is ClaimMark.RUN:
            # A worker was first. The news of that may be lost; without it we would look again in each pass.
            news = started_event(task, worker=standing.worker, execution=standing.execution, at=standing.at)
            self._publisher.publish(messages.event(news), timeout=PUBLISH_SECONDS)
            return "started"
        return self._ending.expire(task).state
