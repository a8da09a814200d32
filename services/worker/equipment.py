"""What a worker has before it works: its model, its folders, its device, its child, and what it knows of their cost."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

from services.worker.child import LaunchPlan
from services.worker.config import child_environment, visible_devices
from services.worker.confine import ConfinementPlan, child_folders
from services.worker.devices import child_device, find_device, open_probe
from services.worker.gate import ChildMemory, Gate, GatePolicy
from services.worker.host_memory import OomWatch
from services.worker.learning import Learner
from services.worker.model_check import check_model_folder
from services.worker.planner import Capacity, DevicePlanner
from services.worker.protocol import PreviewPace
from services.worker.recycling import Recycling
from services.worker.sandbox import Sandboxes
from services.worker.supervisor import Patience, Supervisor
from shared.contracts.model_card import load_model_card
from shared.logging import get_logger

if TYPE_CHECKING:
    from contextlib import ExitStack

    from services.worker.config import WorkerSettings
    from services.worker.gpu import Device
    from services.worker.model_check import ModelFolder
    from shared.contracts.model_card import ModelCard
    from shared.lifecycle import StopSignal

log = get_logger(__name__)

_CHILD_GRACE_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Equipment:
    """Built, and nothing of it started but the lock on the worker's folder. ``memory_mb`` is what a task may take."""

    card: ModelCard
    sandboxes: Sandboxes
    device: Device
    supervisor: Supervisor
    gate: Gate
    learner: Learner
    planner: DevicePlanner
    memory_mb: float

    def revision(self) -> str | None:
        """The revision of the model that is loaded, None before."""
        revision = self.supervisor.receipt.get("revision")
        return None if revision is None else str(revision)

    @classmethod
    def build(cls, settings: WorkerSettings, stop: StopSignal, stack: ExitStack) -> Equipment:
        """Check and build; ``stack`` ends it again.

        Raises ConfigurationError, WorkFolderError, DeviceUnavailableError.
        """
        folder = settings.models_dir / settings.worker_model
        found = check_model_folder(
            folder, require_readonly=settings.require_readonly_models, readable=settings.read_folders
        )
        log.info("model_folder_checked", **asdict(found))
        card = load_model_card(folder)
        sandboxes = _sandboxes(settings, stack)
        device = _device(settings, stack)
        memory_mb = max(0.0, device.sample().total_mb - settings.device_headroom_mb)
        supervisor = _supervisor(settings, card, device, sandboxes, found)
        stack.callback(supervisor.stop, _CHILD_GRACE_SECONDS)
        held = ChildMemory(device, lambda: supervisor.pid, lambda: supervisor.memory.reserved_mb)
        gate = Gate(device, held, GatePolicy(headroom_mb=settings.device_headroom_mb))
        learner = Learner(card, device.info.name, settings.work_dir / f"learnt-{settings.worker_id}.json")
        stack.callback(learner.close)
        capacity = Capacity(memory_mb=memory_mb, highest_tier=settings.memory_tier)
        return cls(
            card=card,
            sandboxes=sandboxes,
            device=device,
            supervisor=supervisor,
            gate=gate,
            learner=learner,
            planner=DevicePlanner(gate, learner, capacity, stop),
            memory_mb=memory_mb,
        )


def _sandboxes(settings: WorkerSettings, stack: ExitStack) -> Sandboxes:
    sandboxes = Sandboxes(settings.work_dir / settings.worker_id)
    stack.callback(sandboxes.release)
    sandboxes.claim()
    sandboxes.sweep()
    return sandboxes


def _device(settings: WorkerSettings, stack: ExitStack) -> Device:
    probe = open_probe(settings.device, settings.fake_device_file)
    stack.callback(probe.close)
    return find_device(probe, settings.device, visible_devices())


def _supervisor(
    settings: WorkerSettings, card: ModelCard, device: Device, sandboxes: Sandboxes, found: ModelFolder
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
        previews=PreviewPace(every_steps=card.previews.every_steps, every_seconds=card.previews.every_seconds),
    )
    recycling = Recycling(
        after_tasks=settings.recycle_after_tasks,
        leaked_mb=settings.recycle_leaked_mb,
        fragmented_mb=settings.recycle_fragmented_mb,
    )
    return Supervisor(plan, found.weight_bytes, Patience(recycling=recycling), OomWatch.of().count)
