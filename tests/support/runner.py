"""A supervisor with a real child process, and jobs for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import psutil

from services.worker.child import LaunchPlan
from services.worker.config import child_environment
from services.worker.confine import ConfinementPlan
from services.worker.job import Job, Limits
from services.worker.protocol import PreviewPace
from services.worker.supervisor import Patience, Supervisor
from tests.support.generation import generation_request
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from services.worker.backends.base import Encoded
    from services.worker.protocol import Progress

BACKENDS: Final = "tests.worker_process.backends"
OBEDIENT: Final = f"{BACKENDS}.obedient:ObedientBackend"
UNLIMITED: Final = Limits(silence_seconds=60, total_seconds=60)
CONTEXT: Final[dict[str, str | int | None]] = {"task_id": "the-task", "tenant_id": "acme"}


def unconfined(folder: Path) -> ConfinementPlan:
    """A child that may do what its user may."""
    return ConfinementPlan(mode="off", work=folder, model_dir=folder, device="cpu", backend=OBEDIENT)


class RealRunner:
    """Starts what a test asks for, with a patience that fits tests; everything is gone after ``close``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = folder / "model"
        self.model.mkdir()
        self.progress: list[Progress] = []
        self.reap_seconds = 20.0
        self.pace = PreviewPace()
        self.confined: ConfinementPlan | None = None
        self.environment: dict[str, str] = {}
        self.supervisor = self.supervise()
        self._jobs = 0

    def supervise(
        self,
        backend: str = OBEDIENT,
        oom_kills: Callable[[], int] = lambda: 0,
        **patience: Any,  # noqa: ANN401 - any field
    ) -> Supervisor:
        """Make (and remember) a supervisor; nothing runs before ``ensure_ready``."""
        plan = LaunchPlan(
            backend=backend,
            model_dir=self.model,
            device="cpu",
            tier="resident",
            environment={**child_environment(), **self.environment},
            confinement=unconfined(self.folder) if self.confined is None else self.confined,
            terminate_seconds=0.2,
            reap_seconds=self.reap_seconds,
            previews=self.pace,
        )
        defaults = {"load_base": 30.0, "cancel_grace": 0.2, "first_backoff": 0.01, "restarts": 2}
        self.supervisor = Supervisor(plan, 0, Patience(**{**defaults, **patience}), oom_kills)
        return self.supervisor

    def begin(self, prompt: str = "paint", **changes: Any) -> tuple[Job, Path]:  # noqa: ANN401 - any field
        """Hand over a job; returns it with its folder."""
        self._jobs += 1
        name = f"job-{self._jobs}"
        folder = self.folder / name
        folder.mkdir()
        job = Job(job_id=name, context=CONTEXT, on_progress=self.progress.append)
        self.supervisor.begin(job, generation_request(folder, prompt=prompt, **changes))
        return job, folder

    def run(self, prompt: str = "paint", limits: Limits = UNLIMITED) -> Encoded:
        """One whole job on a ready child."""
        self.supervisor.ensure_ready()
        job, _ = self.begin(prompt)
        self.supervisor.wait_computed(job, limits)
        return self.supervisor.wait_encoded(job)

    def child(self) -> psutil.Process:
        """The child as the system sees it."""
        pid = self.supervisor.pid
        assert pid is not None
        return psutil.Process(pid)

    def close(self) -> None:
        """End the child."""
        self.supervisor.stop(0.2)


def gone(process: psutil.Process) -> bool:
    """Whether a process has ended; a zombie that nobody reaps has."""
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def wait_gone(process: psutil.Process) -> None:
    """Wait for a process to end."""
    until(lambda: gone(process), 10, f"the end of process {process.pid}")
