"""A worker over fakes, with a clock that is moved by hand and a journal that can fail, or die, at any outside call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from services.worker.companions import Companions
from services.worker.fakes import FakeEventSink, FakePlanner, FakeRunner
from services.worker.finisher import Finisher, Reporting
from services.worker.handler import TaskHandler, Workplace
from services.worker.loop import WorkerLoop
from services.worker.metrics import WorkerMetrics
from services.worker.sandbox import Sandboxes
from services.worker.settling import Settling
from services.worker.twins import Twins
from services.worker.vigil import Vigil
from shared.contracts.base import decode
from shared.contracts.event import TaskEvent
from shared.domain.errors import BrokerUnavailableError, StorageError
from shared.domain.settle import RETRY_DELAYS_SECONDS
from shared.domain.task import FINAL_STATES, TaskState
from shared.lifecycle import StopSignal
from shared.messaging import messages
from shared.messaging.memory import MemoryBroker, MemoryConsumer
from shared.messaging.topology import STATUS_EVENTS, retry_queue, topology, work_queue
from shared.storage.memory import MemoryStore
from shared.storage.records import TaskRecords
from shared.storage.work_index import WorkIndex
from tests.support.builders import MODEL, NOW, REVISION, TASK_ID, WORKER, make_task

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path

    from services.worker.computing import Running
    from shared.contracts.outcome import Outcome
    from shared.contracts.task import TaskMessage
    from shared.messaging.ports import Delivery, OutboundMessage

T = TypeVar("T")
WORK: Final = work_queue(MODEL)
_MOST_ROUNDS: Final = 40


class Death(BaseException):
    """The process ends here, as with kill -9: no handler for errors of any kind may run."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong at the ``at``-th outside call (from 0), before its effect or after it."""

    at: int
    die: bool
    after: bool


class Journal:
    """Every call to the store and the broker, in order, and the faults that are to happen."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.faults: list[Fault] = []

    def step(self, name: str, action: Callable[[], T], error: Exception) -> T:
        """Do one outside call, or what is planned for it."""
        number = len(self.steps)
        self.steps.append(name)
        fault = next((fault for fault in self.faults if fault.at == number), None)
        if fault is None:
            return action()
        self.faults.remove(fault)
        if fault.after:
            action()
        raise Death if fault.die else error


class WatchedStore(MemoryStore):
    """A store that writes its journal, and can fail for the next so many calls of one kind."""

    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self._journal = journal
        self.failures: dict[str, int] = {}

    def put(self, key: str, body: bytes, *, media_type: str) -> None:
        self._step("put", key, lambda: super(WatchedStore, self).put(key, body, media_type=media_type))

    def create(self, key: str, body: bytes, *, media_type: str) -> None:
        self._step("create", key, lambda: super(WatchedStore, self).create(key, body, media_type=media_type))

    def get(self, key: str) -> bytes:
        return self._step("get", key, lambda: super(WatchedStore, self).get(key))

    def delete_prefix(self, prefix: str) -> None:
        self._step("delete", prefix, lambda: super(WatchedStore, self).delete_prefix(prefix))

    def _step(self, verb: str, key: str, action: Callable[[], T]) -> T:
        name = key.rsplit("/", 2)[-1] or "artifacts"
        if self.failures.get(verb, 0):
            self.failures[verb] -= 1

            def broken() -> T:
                message = "the store is broken"
                raise StorageError(message)

            return self._journal.step(f"{verb} {name}", broken, StorageError("no answer"))
        return self._journal.step(f"{verb} {name}", action, StorageError("no answer"))


class WatchedPublisher:
    """A publisher that writes its journal; messages are confirmed one after the other."""

    def __init__(self, journal: Journal, broker: MemoryBroker) -> None:
        self._journal = journal
        self._broker = broker

    def publish(self, *outbound: OutboundMessage, timeout: float) -> None:
        for message in outbound:
            self._journal.step(
                f"publish {message.exchange.removeprefix('atelier.')} {message.routing_key}",
                lambda message=message: self._broker.publish(message, timeout=timeout),  # type: ignore[misc] # mypy cannot infer a lambda with a default
                BrokerUnavailableError("no answer"),
            )


class WatchedConsumer(MemoryConsumer):
    """Never waits: an empty queue says stop. A fault while settling is a broken connection."""

    def __init__(self, journal: Journal, broker: MemoryBroker) -> None:
        super().__init__(broker, WORK)
        self._journal = journal
        self.stop = StopSignal()

    def take(self, timeout: float) -> Delivery | None:
        del timeout
        delivery = super().take(0) if self._broker.depth(WORK) else None
        if delivery is None:
            self.stop.request()
        return delivery

    def ack(self, delivery: Delivery, *, multiple: bool = False) -> bool:
        return self._settle("ack", lambda: super(WatchedConsumer, self).ack(delivery, multiple=multiple))

    def reject(self, delivery: Delivery) -> bool:
        return self._settle("reject", lambda: super(WatchedConsumer, self).reject(delivery))

    def requeue(self, delivery: Delivery) -> bool:
        return self._settle("requeue", lambda: super(WatchedConsumer, self).requeue(delivery))

    @property
    def unsettled(self) -> int:
        """How many deliveries wait to be settled."""
        return len(self._unsettled)

    def _settle(self, name: str, action: Callable[[], bool]) -> bool:
        try:
            return self._journal.step(name, action, BrokerUnavailableError("no answer"))
        except BrokerUnavailableError:
            self.disconnect()
            return False


class ScriptedClock:
    """Stands still until it is moved."""

    def __init__(self, now: datetime) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now


class QuickStop(StopSignal):
    """Notes how long it was asked to wait, and waits not at all."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float] = []

    def wait(self, seconds: float) -> bool:
        self.waits.append(seconds)
        return self.is_set()


class Worker:
    """One life of a worker process."""

    def __init__(self, world: WorkerWorld, runner: FakeRunner, consumer: WatchedConsumer, name: str) -> None:
        self.sandboxes = Sandboxes(world.folder / name)
        self.sandboxes.sweep()
        self.events = FakeEventSink()
        # Its lease is not among the steps that the journal knows: it is written in the background.
        self.vigil = Vigil(world.quiet_records(), name, world.clock)
        self.metrics = WorkerMetrics()
        self.settling = Settling(
            records=world.records, publisher=world.publisher, settler=consumer, clock=world.clock, worker_id=name
        )
        place = Workplace(
            worker_id=name,
            clock=world.clock,
            sandboxes=self.sandboxes,
            vigil=self.vigil,
            planner=world.planner,
            teacher=world.planner,
            twins=Twins(WorkIndex(world.records), lambda: REVISION, self.metrics.tasks_reused, world.clock),
            companions=Companions(consumer, self.settling, world.most_together),
        )
        self.handler = TaskHandler(
            records=world.records,
            settling=self.settling,
            runner=runner,
            events=self.events,
            place=place,
        )
        self.finisher = Finisher(
            store=world.store,
            settling=self.settling,
            runner=runner,
            place=place,
            reporting=Reporting(self.metrics, world.sleep),
        )
        self.loop = WorkerLoop(
            consumer=consumer,
            runner=runner,
            handler=self.handler,
            finisher=self.finisher,
            metrics=self.metrics,
        )


class WorkerWorld:
    """Broker, store and clock, and workers that come and go."""

    def __init__(self, folder: Path, *, most_together: int = 1) -> None:
        self.folder = folder
        self.most_together = most_together
        self.journal = Journal()
        self.broker = MemoryBroker(topology([MODEL]))
        self.store = WatchedStore(self.journal)
        self.records = TaskRecords(self.store)
        self.publisher = WatchedPublisher(self.journal, self.broker)
        self.consumer = WatchedConsumer(self.journal, self.broker)
        self.clock = ScriptedClock(NOW)
        self.runner = FakeRunner()
        self.planner = FakePlanner()
        self.stop = QuickStop()
        self.slept: list[float] = []
        self.out_of_time = False
        self.worker = self.new_worker()

    def new_worker(self, name: str = WORKER) -> Worker:
        """A worker process that has just started."""
        return Worker(self, self.runner, self.consumer, name)

    def sleep(self, seconds: float) -> bool:
        """Note how long the finisher waits, and say whether there is no time to."""
        self.slept.append(seconds)
        return self.out_of_time

    def submit(self, task: TaskMessage | None = None) -> TaskMessage:
        """Put a task into the work queue, as the gateway does."""
        task = task or make_task()
        self.broker.publish(messages.new_task(task, self.clock()), timeout=1)
        return task

    def run(self) -> None:
        """Work until the work queue is empty; a dead worker's deliveries come again, and a new worker takes over."""
        for _ in range(_MOST_ROUNDS):
            self.stop = self.consumer.stop = QuickStop()
            try:
                self.worker.loop.run(self.stop)
            except Death:
                self.consumer.disconnect()
                self.worker = self.new_worker()
            else:
                # The loop ends with its finisher, which must not be used again.
                self.worker = self.new_worker()
                if not self.broker.depth(WORK):
                    return
        message = f"still at work after {_MOST_ROUNDS} rounds: {self.journal.steps}"
        raise AssertionError(message)

    def settle(self) -> None:
        """Run, and let the retry queues come back, until no message of the task is left anywhere."""
        for _ in range(_MOST_ROUNDS):
            self.run()
            waiting = [seconds for seconds in RETRY_DELAYS_SECONDS if self.broker.depth(retry_queue(seconds))]
            if not waiting:
                return
            self.pass_time(waiting[0])
            self.broker.expire(retry_queue(waiting[0]))
        message = f"the task never came to rest: {self.journal.steps}"
        raise AssertionError(message)

    def pass_time(self, seconds: float) -> None:
        """Move the clock."""
        self.clock.now = self.clock.now.fromtimestamp(self.clock.now.timestamp() + seconds, self.clock.now.tzinfo)

    def take(self) -> Delivery:
        """The next delivery, by hand."""
        delivery = self.consumer.take(0)
        assert delivery is not None
        return delivery

    def handle(self) -> Running | None:
        """The next delivery through the handler, and no further."""
        self.runner.ensure_ready()
        return self.worker.handler.handle(self.take())

    def outcome(self, task_id: str = TASK_ID) -> Outcome:
        """The task's outcome."""
        outcome = self.quiet_records().outcome(task_id)
        assert outcome is not None
        return outcome

    def keys(self) -> list[str]:
        """Every key of the bucket."""
        return list(self.store.keys(""))

    def artifact_keys(self) -> list[str]:
        """The keys of artifacts."""
        return [key for key in self.keys() if not key.endswith(".json")]

    def events(self) -> list[TaskEvent]:
        """Every event that was published by a settling step."""
        return [decode(TaskEvent, message.body) for message in self.broker.messages(STATUS_EVENTS)]

    def ended_events(self) -> list[TaskEvent]:
        """The events that told an end."""
        return [event for event in self.events() if event.type.value in {state.value for state in FINAL_STATES}]

    def waiting(self, seconds: int) -> list[OutboundMessage]:
        """What waits in a retry queue."""
        return self.broker.messages(retry_queue(seconds))

    def quiet_records(self) -> TaskRecords:
        """The same bucket without journal and faults."""
        quiet = MemoryStore()
        quiet._objects = self.store._objects
        return TaskRecords(quiet)

    def assert_at_rest(self, *states: TaskState) -> Outcome:
        """One outcome, told at least once and the same each time, artifacts there, no message and no file left."""
        assert [key for key in self.keys() if key.endswith("outcome.json")] == [f"tasks/{TASK_ID}/outcome.json"]
        outcome = self.outcome()
        assert outcome.state in states
        assert self.consumer.unsettled == 0
        assert [q for q in (WORK, *map(retry_queue, RETRY_DELAYS_SECONDS)) if self.broker.depth(q)] == []
        told = self.ended_events()
        assert told
        assert {event.data.outcome == outcome for event in told} == {True}
        assert {artifact.key for artifact in outcome.artifacts} <= set(self.keys())
        assert not [path for path in self.folder.rglob("*") if path.is_file()]
        return outcome
