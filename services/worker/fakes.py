"""A Runner and an EventSink in memory that obey the contracts of the real ones; for unit tests and nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from services.worker.backends.base import ArtifactFile, Encoded, Memory
from services.worker.errors import DrainedError, ReportedError, TaskCancelledError
from services.worker.ports import Plan
from services.worker.protocol import Computed, Progress
from shared.domain.errors import RunnerCrashedError, RunnerHungError

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.worker.backends.base import GenerationRequest
    from services.worker.job import Job, Limits
    from shared.contracts.event import TaskEvent
    from shared.contracts.task import TaskMessage
    from shared.domain.errors import TaskError
    from shared.domain.task import EventType


def _nothing() -> None:
    pass


@dataclass(slots=True, kw_only=True)
class Part:
    """What the fake does with one job: what happens meanwhile, and how each half ends (well, unless it says)."""

    during: Callable[[], None] = _nothing
    computing: TaskError | None = None
    encoding: TaskError | None = None
    encodes: Callable[[GenerationRequest], Encoded] | None = None
    peak_mb: int = 0


class FakeRunner:
    """Plays its parts in order, one for each job, and the good part once they are used up."""

    def __init__(self, *parts: Part) -> None:
        self.parts = list(parts)
        self.receipt: dict[str, str | int | float] = {"model": "fake"}
        self.load_seconds = 0.25
        self.ready = False
        self.starts = 0
        self.requests: list[GenerationRequest] = []
        self.batches: list[tuple[GenerationRequest, ...]] = []
        self.limits: list[Limits] = []
        self.tiers: list[str] = []
        self.interrupted: list[tuple[str, TaskError]] = []
        self.broken: Exception | None = None
        self._current = Part()

    def ensure_ready(self) -> None:
        """See Runner. ``broken`` is raised while it is set."""
        if self.broken is not None:
            raise self.broken
        self.starts += not self.ready
        self.ready = True

    def begin(self, job: Job, *requests: GenerationRequest, tier: str = "") -> None:
        """See Runner."""
        request, job.rows = requests[0], len(requests)
        self.tiers.append(tier)
        if not self.ready:
            job.fail(RunnerCrashedError("the child process is not running"))
            return
        self._current = self.parts.pop(0) if self.parts else Part()
        self.requests += requests
        self.batches.append(requests)
        job.on_progress(Progress(job=job.job_id, phase="encoding", step=0, steps=0))
        for step in range(1, request.steps + 1):
            job.on_progress(Progress(job=job.job_id, phase="denoising", step=step, steps=request.steps))

    def wait_computed(self, job: Job, limits: Limits) -> Computed:
        """See Runner."""
        self.limits.append(limits)
        if job.computed.done():
            return job.computed.result()
        part, requests = self._current, self.requests[-job.rows :]
        part.during()
        if part.computing is not None:
            # An error that the child reports leaves it alive, any other one is its death.
            self.ready = isinstance(part.computing, ReportedError | TaskCancelledError | DrainedError)
            job.fail(part.computing)
            raise part.computing
        computed = Computed(job=job.job_id, tier=self.tiers[-1], memory=Memory(peak_mb=part.peak_mb))
        job.computed.set_result(computed)
        if part.encoding is not None:
            job.encoded.set_exception(part.encoding)
        else:
            job.encoded.set_result(tuple(map(part.encodes or write_pictures, requests)))
        return computed

    def interrupt(self, job: Job, error: TaskError) -> None:
        """See Runner. The job ends at once."""
        self.interrupted.append((job.job_id, error))
        self._current.computing = error

    def wait_encoded(self, job: Job, row: int = 0) -> Encoded:
        """See Runner."""
        try:
            return job.encoded.result(timeout=0)[row]
        except RunnerHungError:
            self.ready = False
            raise


def write_pictures(request: GenerationRequest) -> Encoded:
    """Write a file for each seed, as a backend does."""
    artifacts = []
    for number, seed in enumerate(request.seeds):
        name = f"{number}.png"
        (request.out_dir / name).write_bytes(f"picture {seed} of {request.task_id}".encode())
        artifacts.append(
            ArtifactFile(name=name, media_type="image/png", width=request.width, height=request.height, seed=seed)
        )
    return Encoded(artifacts=tuple(artifacts), timings={"denoise": 0.5}, receipt={"backend": "fake"})


@dataclass(slots=True)
class FakePlanner:
    """Has the room that it is told to have; ``plan`` is what every task gets."""

    room: bool = True
    broken: bool = False
    together: int = 100
    pause_seconds: float = 0.5
    given: Plan | None = field(default_factory=Plan)
    asked: list[TaskMessage] = field(default_factory=list)
    taught: list[tuple[str, str, str, bool]] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    ran_out_of: list[tuple[str, str, str]] = field(default_factory=list)

    def succeeded(self, task: TaskMessage, plan: Plan, computed: Computed, seconds: float) -> None:
        """See Teacher."""
        self.taught.append((task.task_id, plan.tier, computed.tier, seconds >= 0))
        self.counts.append(task.params.count)

    def ran_out(self, task: TaskMessage, plan: Plan, tier: str) -> None:
        """See Teacher."""
        self.ran_out_of.append((task.task_id, plan.tier, tier))

    def has_room(self) -> bool:
        """See Planner."""
        return self.room

    def plan(self, task: TaskMessage) -> Plan | None:
        """See Planner."""
        self.asked.append(task)
        return self.given

    def plan_together(self, task: TaskMessage, plan: Plan) -> Plan | None:
        """See Planner: there is room for ``together`` pictures."""
        return replace(plan, seconds=task.predicted.gpu_seconds) if task.params.count <= self.together else None


@dataclass(slots=True)
class FakeEventSink:
    """Keeps what it was offered."""

    events: list[TaskEvent] = field(default_factory=list)

    def offer(self, event: TaskEvent) -> None:
        """See EventSink."""
        self.events.append(event)

    def types(self) -> list[EventType]:
        """The types of what was offered, in order."""
        return [event.type for event in self.events]
