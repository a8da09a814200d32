"""The worker's composition root: settings in, a wired process out."""

from __future__ import annotations

import ctypes
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from services.worker.child import LaunchPlan
from services.worker.config import child_environment, visible_devices
from services.worker.confine import ConfinementPlan, child_folders
from services.worker.control import Control
from services.worker.devices import child_device, find_device, open_probe
from services.worker.drain import Drain
from services.worker.errors import WorkFolderExceededError
from services.worker.faultpoints import FaultPoint, around
from services.worker.finisher import Finisher, Reporting
from services.worker.gate import ChildMemory, Gate, GatePolicy
from services.worker.gate_metrics import register_gate
from services.worker.handler import TaskHandler, Workplace
from services.worker.host_memory import OomWatch
from services.worker.loop import WorkerLoop
from services.worker.metrics import WorkerMetrics
from services.worker.model_check import check_model_folder
from services.worker.planner import DevicePlanner
from services.worker.recycling import Recycling
from services.worker.relay import EventRelay
from services.worker.sandbox import Sandboxes
from services.worker.settling import Settling
from services.worker.supervisor import Patience, RunnerState, Supervisor
from services.worker.vigil import Vigil
from shared.clock import utc_now
from shared.contracts.model_card import load_model_card
from shared.health import Health, HealthServer
from shared.logging import get_logger
from shared.messaging.broadcast import BroadcastListener
from shared.messaging.consumer import LateConsumer
from shared.messaging.publisher import ThreadedPublisher
from shared.messaging.topology import CONTROL, work_queue
from shared.storage.records import TaskRecords
from shared.storage.s3 import S3Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from services.worker.config import WorkerSettings
    from services.worker.gpu import Device
    from shared.contracts.model_card import ModelCard
    from shared.lifecycle import StopSignal

log = get_logger(__name__)

_PR_SET_DUMPABLE: Final = 4
_CHILD_GRACE_SECONDS: Final = 5.0


@contextmanager
def worker(settings: WorkerSettings, stop: StopSignal) -> Iterator[WorkerLoop]:
    """Build everything, start what runs in the background, and end it in the reverse order.

    Raises ConfigurationError for a model folder, card or bucket that cannot be used, StorageError for a silent store.
    """
    hide_memory()
    card, weight_bytes = _model(settings)
    point = None if settings.fault_point is None else FaultPoint.parse(settings.fault_point)
    bucket = S3Store(settings)
    bucket.probe()
    store = around(bucket, point)
    with ExitStack() as stack:
        sandboxes = _sandboxes(settings, stack)
        device = _device(settings, stack)
        supervisor, metrics = _supervisor(settings, card, device, sandboxes, weight_bytes), WorkerMetrics()
        stack.callback(supervisor.stop, _CHILD_GRACE_SECONDS)
        gate = _gate(settings, device, supervisor)
        register_gate(metrics.registry, gate)
        lines = _Lines.open(settings, card, gate.priority, stack)
        beside = stack.enter_context(ThreadPoolExecutor(max_workers=1, thread_name_prefix="look"))
        records = TaskRecords(store, beside)
        vigil = Vigil(records, settings.worker_id, utc_now)
        runner = around(supervisor, point)
        settling = Settling(
            records=records,
            publisher=around(lines.publisher, point),
            settler=around(lines.consumer, point),
            clock=utc_now,
            worker_id=settings.worker_id,
        )
        place = Workplace(
            worker_id=settings.worker_id,
            clock=utc_now,
            sandboxes=sandboxes,
            vigil=vigil,
            planner=DevicePlanner(gate, stop),
            longest_run_seconds=settings.longest_run_seconds,
            min_free_mib=settings.min_free_mib,
        )
        handler = TaskHandler(records=records, settling=settling, runner=runner, events=lines.relay, place=place)
        drain = Drain(stop, settings.drain_seconds, handler, supervisor)
        finisher = Finisher(
            store=store,
            settling=settling,
            vigil=vigil,
            runner=runner,
            sandboxes=sandboxes,
            reporting=Reporting(utc_now, metrics, drain.pause),
        )
        control = Control(settings.worker_id, handler, supervisor, stop)
        vigil.on_ended = handler.cancel
        vigil.further = (partial(_bound_work_folder, sandboxes, settings.max_work_mib, handler),)
        _start(settings, stack, vigil, drain, control)
        if settings.metrics_port:
            _serve_health(settings.metrics_port, _health(lines, supervisor, gate), metrics, stack)
        yield WorkerLoop(
            consumer=lines.consumer, runner=supervisor, handler=handler, finisher=finisher, metrics=metrics
        )


def _model(settings: WorkerSettings) -> tuple[ModelCard, int]:
    folder = settings.models_dir / settings.worker_model
    found = check_model_folder(
        folder, require_readonly=settings.require_readonly_models, readable=settings.read_folders
    )
    log.info("model_folder_checked", **asdict(found))
    return load_model_card(folder), found.weight_bytes


def _sandboxes(settings: WorkerSettings, stack: ExitStack) -> Sandboxes:
    sandboxes = Sandboxes(settings.work_dir / settings.worker_id)
    stack.callback(sandboxes.release)
    sandboxes.claim()
    sandboxes.sweep()
    return sandboxes


@dataclass(frozen=True, slots=True)
class _Lines:
    """The connections to the broker: one consumes and acks, one publishes, so that no alarm holds an ack back."""

    publisher: ThreadedPublisher
    consumer: LateConsumer
    relay: EventRelay

    @classmethod
    def open(cls, settings: WorkerSettings, card: ModelCard, priority: Callable[[], int], stack: ExitStack) -> _Lines:
        url, name = settings.amqp_url.get_secret_value(), f"worker.{settings.worker_id}"
        publisher = ThreadedPublisher(url, f"{name}.publish")
        consumer = LateConsumer(url, f"{name}.consume", work_queue(card.id), priority)
        lines = cls(publisher, consumer, EventRelay(publisher))
        for part in (lines.publisher, lines.consumer, lines.relay):
            part.start()
            stack.callback(part.stop)
        return lines


def _bound_work_folder(sandboxes: Sandboxes, most_mib: int, handler: TaskHandler) -> None:
    if sandboxes.exceeds(most_mib):
        handler.interrupt(WorkFolderExceededError(f"the task's files took more than {most_mib} MiB"))


def _device(settings: WorkerSettings, stack: ExitStack) -> Device:
    probe = open_probe(settings.device, settings.fake_device_file)
    stack.callback(probe.close)
    return find_device(probe, settings.device, visible_devices())


def _gate(settings: WorkerSettings, device: Device, supervisor: Supervisor) -> Gate:
    held = ChildMemory(device, lambda: supervisor.pid, lambda: supervisor.memory.reserved_mb)
    return Gate(device, held, GatePolicy(headroom_mb=settings.device_headroom_mb))


def _start(settings: WorkerSettings, stack: ExitStack, vigil: Vigil, drain: Drain, control: Control) -> None:
    url, name = settings.amqp_url.get_secret_value(), f"worker.{settings.worker_id}"
    listener = BroadcastListener(url, f"{name}.control", CONTROL, control.heard)
    listener.start()
    stack.callback(listener.stop)
    vigil.start()
    stack.callback(vigil.stop)
    drain.start()
    stack.callback(drain.end)


def _serve_health(port: int, health: Health, metrics: WorkerMetrics, stack: ExitStack) -> None:
    server = HealthServer(health, metrics.registry, port)
    server.start()
    stack.callback(server.stop)


def _supervisor(
    settings: WorkerSettings, card: ModelCard, device: Device, sandboxes: Sandboxes, weight_bytes: int
) -> Supervisor:
    model_dir = settings.models_dir / settings.worker_model
    name, pinned = child_device(settings.device, device)
    plan = LaunchPlan(
        backend=card.model.backend,
        model_dir=model_dir,
        device=name,
        tier=settings.memory_tier,
        environment={**child_environment(), **child_folders(sandboxes.root / ".child"), **pinned},
        confinement=ConfinementPlan(
            mode=settings.confinement,
            work=sandboxes.root,
            model_dir=model_dir.resolve(),
            device=settings.device,
            backend=card.model.backend,
            read=settings.read_folders,
            most_file_mib=settings.max_file_mib,
        ),
        prepare=sandboxes.fresh_home,
    )
    recycling = Recycling(
        after_tasks=settings.recycle_after_tasks,
        leaked_mb=settings.recycle_leaked_mb,
        fragmented_mb=settings.recycle_fragmented_mb,
    )
    return Supervisor(plan, weight_bytes, Patience(recycling=recycling), OomWatch.of().count)


def _health(lines: _Lines, supervisor: Supervisor, gate: Gate) -> Health:
    return Health(
        {
            "consumer": lambda: None if lines.consumer.connected else "not connected",
            "publisher": lambda: None if lines.publisher.connected else "not connected",
            "device": lambda: gate.problem,
            "runner": lambda: None if supervisor.state is RunnerState.READY else supervisor.state,
        }
    )


def hide_memory() -> None:
    """Make this process unreadable for others of the same user: the model's child must not find secrets here."""
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
