"""The worker's composition root: settings in, a wired process out."""

from __future__ import annotations

import ctypes
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from services.worker.companions import Companions
from services.worker.control import Control
from services.worker.drain import Drain
from services.worker.equipment import Equipment
from services.worker.errors import WorkFolderExceededError
from services.worker.faultpoints import FaultPoint, around
from services.worker.finisher import Finisher, Reporting
from services.worker.gate_metrics import register_gate
from services.worker.handler import TaskHandler, Workplace
from services.worker.loop import WorkerLoop
from services.worker.metrics import WorkerMetrics
from services.worker.relay import EventRelay
from services.worker.reporter import Reporter, ReporterFacts
from services.worker.settling import Settling
from services.worker.supervisor import RunnerState
from services.worker.twins import Twins
from services.worker.vigil import Vigil
from shared.clock import utc_now
from shared.health import Health, HealthServer
from shared.messaging.consumer import LateConsumer
from shared.messaging.publisher import ThreadedPublisher
from shared.messaging.subscription import Feed, Subscription
from shared.messaging.topology import CONTROL, work_queue
from shared.storage.records import TaskRecords
from shared.storage.s3 import S3Store
from shared.storage.work_index import WorkIndex

if TYPE_CHECKING:
    from collections.abc import Iterator

    from services.worker.config import WorkerSettings
    from shared.lifecycle import StopSignal
    from shared.storage.ports import ObjectStore

_PR_SET_DUMPABLE: Final = 4


@contextmanager
def worker(settings: WorkerSettings, stop: StopSignal) -> Iterator[WorkerLoop]:
    """Build everything, start what runs in the background, and end it in the reverse order.

    Raises ConfigurationError for a model folder, card or bucket that cannot be used, StorageError for a silent store,
    WorkFolderError, DeviceUnavailableError.
    """
    hide_memory()
    point = None if settings.fault_point is None else FaultPoint.parse(settings.fault_point)
    bucket = S3Store(settings)
    bucket.probe()
    with ExitStack() as stack:
        equipment = Equipment.build(settings, stop, stack)
        lines = _Lines.open(settings, equipment, stack)
        wiring = _Wiring(settings, stop, point, equipment, lines, around(bucket, point), WorkerMetrics())
        yield wiring.connect(stack)


@dataclass(frozen=True, slots=True)
class _Lines:
    """The connections to the broker: one consumes and acks, one publishes, so that no alarm holds an ack back."""

    publisher: ThreadedPublisher
    consumer: LateConsumer
    relay: EventRelay
    reporter: Reporter

    @classmethod
    def open(cls, settings: WorkerSettings, equipment: Equipment, stack: ExitStack) -> _Lines:
        url, name = _line(settings)
        publisher = ThreadedPublisher(url, f"{name}.publish", settings.queue_type)
        facts = ReporterFacts(
            worker=settings.worker_id,
            model=equipment.card.id,
            device=equipment.device.info.name,
            capacity_mb=int(equipment.memory_mb),
            revision=equipment.revision,
        )
        lines = cls(
            publisher,
            LateConsumer(url, f"{name}.consume", work_queue(equipment.card.id), equipment.gate.priority),
            EventRelay(publisher),
            Reporter(publisher=publisher, teacher=equipment.learner, facts=facts, clock=utc_now),
        )
        for part in (lines.publisher, lines.consumer, lines.relay, lines.reporter):
            part.start()
            stack.callback(part.stop)
        return lines


@dataclass(frozen=True, slots=True)
class _Wiring:
    """The use cases, connected; background parts start last and end first."""

    settings: WorkerSettings
    stop: StopSignal
    point: FaultPoint | None
    equipment: Equipment
    lines: _Lines
    store: ObjectStore
    metrics: WorkerMetrics

    def connect(self, stack: ExitStack) -> WorkerLoop:
        beside = stack.enter_context(ThreadPoolExecutor(max_workers=1, thread_name_prefix="look"))
        records = TaskRecords(self.store, beside)
        settling = Settling(
            records=records,
            publisher=around(self.lines.publisher, self.point),
            settler=around(self.lines.consumer, self.point),
            clock=utc_now,
            worker_id=self.settings.worker_id,
        )
        place = self._place(records, settling)
        runner = around(self.equipment.supervisor, self.point)
        handler = TaskHandler(records=records, settling=settling, runner=runner, events=self.lines.relay, place=place)
        drain = Drain(self.stop, self.settings.drain_seconds, handler, self.equipment.supervisor)
        finisher = Finisher(
            store=self.store,
            settling=settling,
            runner=runner,
            place=place,
            reporting=Reporting(self.metrics, drain.pause),
        )
        self._start(stack, place, handler, drain)
        return WorkerLoop(
            consumer=self.lines.consumer,
            runner=self.equipment.supervisor,
            handler=handler,
            finisher=finisher,
            metrics=self.metrics,
            tell=self.lines.reporter.state,
        )

    def _place(self, records: TaskRecords, settling: Settling) -> Workplace:
        most = min(self.settings.max_batch, self.equipment.card.limits.max_batch or self.settings.max_batch)
        return Workplace(
            worker_id=self.settings.worker_id,
            clock=utc_now,
            sandboxes=self.equipment.sandboxes,
            vigil=Vigil(records, self.settings.worker_id, utc_now),
            planner=self.equipment.planner,
            teacher=self.equipment.planner,
            twins=Twins(WorkIndex(records), self.equipment.revision, self.metrics.tasks_reused, utc_now),
            companions=Companions(self.lines.consumer, settling, most),
            max_run_seconds=self.settings.max_run_seconds,
            silence_floor_seconds=self.settings.silence_floor_seconds,
            min_free_mib=self.settings.min_free_mib,
        )

    def _start(self, stack: ExitStack, place: Workplace, handler: TaskHandler, drain: Drain) -> None:
        url, name = _line(self.settings)
        control = Control(self.settings.worker_id, handler, self.equipment.supervisor, self.stop)
        orders = Feed(exchange=CONTROL, prefix=f"{name}.control")
        listener = Subscription(url, f"{name}.control", orders, control.heard)
        listener.start()
        stack.callback(listener.stop)
        place.vigil.on_ended = handler.cancel
        bound_files = partial(_bound_files, self.equipment, self.settings.max_work_mib, handler)
        place.vigil.further = (bound_files,)
        place.vigil.start()
        stack.callback(place.vigil.stop)
        drain.start()
        stack.callback(drain.end)
        register_gate(self.metrics.registry, self.equipment.gate)
        if self.settings.metrics_port:
            server = HealthServer(
                self._health(), self.metrics.registry, self.settings.metrics_port, self.settings.metrics_host
            )
            server.start()
            stack.callback(server.stop)

    def _health(self) -> Health:
        lines, equipment = self.lines, self.equipment
        ready = RunnerState.READY
        return Health(
            {
                "consumer": lambda: None if lines.consumer.connected else "not connected",
                "publisher": lambda: None if lines.publisher.connected else "not connected",
                "device": lambda: equipment.gate.problem,
                "runner": lambda: None if equipment.supervisor.state is ready else equipment.supervisor.state,
            }
        )


def _line(settings: WorkerSettings) -> tuple[str, str]:
    return settings.amqp_url.get_secret_value(), f"worker.{settings.worker_id}"


def _bound_files(equipment: Equipment, most_mib: int, handler: TaskHandler) -> None:
    if equipment.sandboxes.exceeds(most_mib):
        handler.interrupt(WorkFolderExceededError(f"the task's files took more than {most_mib} MiB"))
        # What it left in its own folder would count against every further task; the next child's is empty.
        equipment.supervisor.recycle("files")


def hide_memory() -> None:
    """Make this process unreadable for others of the same user: the model's child must not find secrets here."""
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
