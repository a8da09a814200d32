"""Events as a busy day makes them: many tasks at once, each queued, started, eight steps on its way, and ended."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from shared.contracts.event import Progress, ended_event, progress_event, queued_event, started_event
from shared.contracts.outcome import Artifact, Outcome
from shared.contracts.task import Params, Predicted, TaskMessage
from shared.domain.task import Lane, Phase, TaskState
from shared.ids import new_execution_id, new_task_id, new_traceparent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shared.contracts.event import TaskEvent

STEPS: Final = 8
ACTIVE: Final = 200
TENANTS: Final = 50
MODELS: Final = ("newbie", "tiny-newbie", "simulated")
# As long as the prompts that people write for these models: about 700 characters.
PROMPT: Final = "<character_1><n>miku</n><appearance>" + "long hair, blue eyes, " * 30 + "</appearance></character_1>"


def stream(count: int, *, seed: int = 1) -> list[TaskEvent]:
    """So many events of tasks that go on side by side."""
    chance = random.Random(seed)  # noqa: S311 - not a secret
    lives: list[Iterator[TaskEvent]] = []
    events: list[TaskEvent] = []
    while len(events) < count:
        lives += [iter(life(make_task(chance))) for _ in range(ACTIVE - len(lives))]
        chosen = chance.choice(lives)
        event = next(chosen, None)
        if event is None:
            lives.remove(chosen)
        else:
            events.append(event)
    return events


def make_task(chance: random.Random) -> TaskMessage:
    """A task of one of the tenants, submitted now."""
    now = datetime.now(UTC)
    params = Params(
        prompt=PROMPT,
        prompt_format="xml",
        width=1024,
        height=1024,
        steps=STEPS,
        guidance=4.5,
        seed=chance.randrange(2**32),
    )
    return TaskMessage(
        task_id=new_task_id(),
        tenant_id=f"tenant-{chance.randrange(TENANTS):02}",
        lane=Lane.STANDARD,
        model=chance.choice(MODELS),
        params=params,
        submitted_at=now,
        start_deadline=now + timedelta(hours=1),
        finish_deadline=now + timedelta(hours=2),
        predicted=Predicted(gpu_seconds=4.0, vram_mb=12_000),
        request_id=new_execution_id(),
        traceparent=new_traceparent(),
    )


def life(task: TaskMessage) -> list[TaskEvent]:
    """Every event of one task."""
    execution, at = new_execution_id(), task.submitted_at
    steps = [
        progress_event(
            task,
            Progress(phase=Phase.DENOISING, step=step, steps=STEPS),
            sequence=1 + step,
            at=at + timedelta(seconds=step),
        )
        for step in range(1, STEPS + 1)
    ]
    started = started_event(task, worker="worker-1", execution=execution, at=at + timedelta(milliseconds=20))
    return [queued_event(task), started, *steps, ended_event(_outcome(task, execution))]


def _outcome(task: TaskMessage, execution: str) -> Outcome:
    artifact = Artifact(
        key=f"tasks/{task.task_id}/1-{execution}/0.png",
        media_type="image/png",
        bytes=1_400_000,
        sha256="0" * 64,
        width=1024,
        height=1024,
        seed=task.params.seed,
    )
    return Outcome(
        task=task,
        state=TaskState.SUCCEEDED,
        attempt=1,
        execution=execution,
        worker="worker-1",
        started_at=task.submitted_at + timedelta(milliseconds=20),
        ended_at=task.submitted_at + timedelta(seconds=STEPS + 1),
        artifacts=(artifact,),
        timings={"queued": 0.02, "load": 0.0, "encode": 0.3, "denoise": 8.0, "decode": 0.4, "store": 0.1},
        receipt={"model": task.model, "revision": "sha256:" + "0" * 64, "dtype": "bfloat16", "tier": "resident"},
    )
