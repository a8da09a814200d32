"""A small parent of a child, to be killed by a test: ``python -m tests.worker_process.parent <folder> <prompt>``."""

from __future__ import annotations

import sys
from pathlib import Path

from services.worker.backends.base import GenerationRequest
from services.worker.child import LaunchPlan
from services.worker.config import child_environment
from services.worker.job import Job
from services.worker.supervisor import Supervisor
from shared.lifecycle import StopSignal
from shared.logging import configure
from tests.support.runner import unconfined


def main(folder: Path, prompt: str) -> int:
    """Start a child, give it a job, say its pid, and end it when told to stop."""
    configure("worker", level="error", stream=sys.stderr)
    stop = StopSignal()
    stop.install()
    plan = LaunchPlan(
        backend="tests.worker_process.backends.obedient:ObedientBackend",
        model_dir=folder,
        device="cpu",
        tier="resident",
        environment=child_environment(),
        confinement=unconfined(folder),
    )
    supervisor = Supervisor(plan, 0)
    supervisor.ensure_ready()
    request = GenerationRequest(
        task_id="t",
        prompt=prompt,
        negative_prompt="",
        prompt_format="text",
        width=8,
        height=8,
        steps=1,
        guidance=1.0,
        seeds=(1,),
        num_frames=1,
        out_dir=folder,
    )
    # The word comes when the model is at work.
    supervisor.begin(Job(job_id="j", context={}, on_progress=lambda _: (folder / "at-work").touch()), request)
    sys.stdout.write(f"{supervisor.pid}\n")
    sys.stdout.flush()
    while not stop.wait(3600):
        pass
    supervisor.stop(0.2)
    return int(stop.exit_code)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
