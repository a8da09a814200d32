"""One sweeper with a broker, a bucket and a database in memory, and a clock that is set by hand."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from services.status.store.memory import MemoryTaskViewStore
from services.status.sweeper.comparison import Comparison
from services.status.sweeper.evidence import Margins
from services.status.sweeper.expiry import ExpiryDuty
from services.status.sweeper.lifting import LiftingDuty
from services.status.sweeper.loop import AUTHOR, Pace, Sweeper
from services.status.sweeper.metrics import SweeperMetrics
from services.status.sweeper.recovery import RecoveryDuty
from shared.contracts.base import decode
from shared.contracts.event import TaskEvent
from shared.contracts.task import TaskMessage
from shared.domain.errors import BrokerUnavailableError
from shared.domain.task import EventType, TaskState
from shared.ids import new_task_id
from shared.lifecycle import StopSignal
from shared.messaging import messages
from shared.messaging.memory import MemoryBroker
from shared.messaging.topology import REQUEUE, STATUS_EVENTS, topology, work_queue
from shared.storage.memory import MemoryStore
from shared.storage.records import TaskRecords
from tests.support.builders import (
    MODEL,
    NOW,
    make_event,
    make_task,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from shared.contracts.outcome import Outcome

WORK = work_queue(MODEL)
SILENT: Final = timedelta(seconds=60)


class World:
    """One sweeper, and whatever a test wants to happen around it."""

    def __init__(self, store: MemoryTaskViewStore | None = None) -> None:
        self.store = store or MemoryTaskViewStore()
        self.broker = MemoryBroker(topology([MODEL]))
        self.objects = MemoryStore()
        self.records = TaskRecords(self.objects)
        self.metrics = SweeperMetrics()
        self.now = NOW + timedelta(seconds=1)
        self.stop = StopSignal()
        self.weights: dict[str, float] = {}
        self.sweeper = self.another()

    def another(self, tasks: int = 100, prove_store: Callable[[], None] = lambda: None) -> Sweeper:
        """A further replica."""
        parts = {"work": self.store, "publisher": self.broker, "metrics": self.metrics, "clock": lambda: self.now}
        return Sweeper(
            work=self.store,
            duties=(
                ExpiryDuty(records=self.records, **parts),  # type: ignore[arg-type] # one set of parts for both
                RecoveryDuty(
                    work=self.store,
                    comparison=Comparison(
                        records=self.records, publisher=self.broker, clock=lambda: self.now, author=AUTHOR
                    ),
                    ready=self.depth,
                    metrics=self.metrics,
                    clock=lambda: self.now,
                    margins=Margins(silent=SILENT),
                ),
                LiftingDuty(interval_seconds=5.0, weight_of=self.weights.get, **parts),  # type: ignore[arg-type] # as above
            ),
            prove_store=prove_store,
            metrics=self.metrics,
            clock=lambda: self.now,
            pace=Pace(seconds=5.0, tasks=tasks),
        )

    def depth(self, queue: str) -> int:
        """How many messages are ready in a queue."""
        if not self.broker.available:
            message = "the broker is switched off"
            raise BrokerUnavailableError(message)
        return self.broker.depth(queue)

    def submit(self, tenant: str = "acme", **changes: object) -> TaskMessage:
        task = make_task(**{"task_id": new_task_id(), "tenant_id": tenant, **changes})
        self.broker.publish(messages.new_task(task, self.now), timeout=1)
        self.tell(make_event(EventType.QUEUED, task))
        return task

    def tell(self, *events: TaskEvent) -> None:
        self.store.apply_events(events, seen_until=self.now)

    def sweep(self, seconds: float = 5.0) -> bool:
        """A pass so long after the last one, and the consumer after it."""
        self.now += timedelta(seconds=seconds)
        led = self.sweeper.sweep(self.stop)
        self.tell(*self.events())
        return led

    def events(self) -> list[TaskEvent]:
        return [decode(TaskEvent, message.body) for message in self.broker.messages(STATUS_EVENTS)]

    def outcome(self, task: TaskMessage) -> Outcome:
        outcome = self.records.outcome(task.task_id)
        assert outcome is not None
        return outcome

    def state(self, task: TaskMessage) -> TaskState:
        view = self.store.get(task.task_id)
        assert view is not None
        return view.state

    def lifted(self) -> list[tuple[str, int]]:
        """What was published again: task and level."""
        copies = [message for message in self.broker.messages(WORK) if message.exchange == REQUEUE]
        assert all(decode(TaskMessage, copy.body).priority == copy.priority for copy in copies)
        return [(copy.message_id, copy.priority or 0) for copy in copies]

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0
