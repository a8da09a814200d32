"""Valid messages in one call; a test names only what matters to it. Everything is validated."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from shared.contracts.dead import DeadAttempt, DeadLetter
from shared.contracts.event import (
    Progress,
    TaskEvent,
    ended_event,
    progress_event,
    queued_event,
    retrying_event,
    started_event,
)
from shared.contracts.outcome import Artifact, Claim, ErrorInfo, Outcome
from shared.contracts.task import InputImage, Params, TaskMessage
from shared.contracts.worker_report import WorkerReport
from shared.domain.task import EventType, Phase, TaskState
from shared.messaging.ports import OutboundMessage

if TYPE_CHECKING:
    from collections.abc import Callable

NOW: Final = datetime(2026, 1, 5, 12, 0, 0, tzinfo=UTC)
TASK_ID: Final = "019b8e1b-7800-7abc-8def-0123456789ab"
TENANT: Final = "acme"
MODEL: Final = "simulated"
EXECUTION: Final = "00112233aabbccdd"
WORKER: Final = "worker-1"
REVISION: Final = "sha256:0"
TRACEPARENT: Final = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
START_WITHIN: Final = timedelta(minutes=10)
FINISH_WITHIN: Final = timedelta(minutes=30)


def make_params(**changes: object) -> Params:
    """Parameters of one small picture."""
    fields: dict[str, object] = {
        "prompt": "a lighthouse at dusk",
        "prompt_format": "text",
        "width": 64,
        "height": 64,
        "steps": 4,
        "guidance": 4.5,
        "seed": 7,
    }
    return Params.model_validate(fields | changes)


def make_image(**changes: object) -> InputImage:
    """An image that the tenant has uploaded."""
    fields: dict[str, object] = {
        "key": f"inputs/{TENANT}/{'1' * 64}.png",
        "media_type": "image/png",
        "bytes": 1000,
        "sha256": "1" * 64,
    }
    return InputImage.model_validate(fields | changes)


def make_task(**changes: object) -> TaskMessage:
    """A task as the gateway publishes it. Deadlines follow ``submitted_at`` unless they are given."""
    submitted_at = changes.get("submitted_at", NOW)
    assert isinstance(submitted_at, datetime)
    fields: dict[str, object] = {
        "task_id": TASK_ID,
        "tenant_id": TENANT,
        "lane": "standard",
        "model": MODEL,
        "params": make_params(),
        "priority": 5,
        "submitted_at": submitted_at,
        "start_deadline": submitted_at + START_WITHIN,
        "finish_deadline": submitted_at + FINISH_WITHIN,
        "predicted": {"gpu_seconds": 0.5, "vram_mb": 64},
        "request_id": "request-0001",
        "traceparent": TRACEPARENT,
    }
    return TaskMessage.model_validate(fields | changes)


def make_claim(**changes: object) -> Claim:
    """The claim of a first attempt."""
    fields: dict[str, object] = {
        "task_id": TASK_ID,
        "attempt": 1,
        "execution": EXECUTION,
        "worker": WORKER,
        "at": NOW + timedelta(seconds=1),
        "run_budget_seconds": 60.0,
    }
    return Claim.model_validate(fields | changes)


def make_artifact(**changes: object) -> Artifact:
    """One picture of the first attempt."""
    fields: dict[str, object] = {
        "key": f"tasks/{TASK_ID}/1-{EXECUTION}/0.png",
        "media_type": "image/png",
        "bytes": 1234,
        "sha256": "0" * 64,
        "width": 64,
        "height": 64,
        "seed": 7,
    }
    return Artifact.model_validate(fields | changes)


def make_outcome(**changes: object) -> Outcome:
    """A success with one picture, or with ``state=`` another end (which then has an error and no picture)."""
    state = TaskState(str(changes.get("state", TaskState.SUCCEEDED)))
    succeeded = state is TaskState.SUCCEEDED
    task = changes.get("task") or make_task()
    assert isinstance(task, TaskMessage)
    fields: dict[str, object] = {
        "task": task,
        "state": state,
        "attempt": task.attempt,
        "execution": EXECUTION,
        "worker": WORKER,
        "started_at": task.submitted_at + timedelta(seconds=1),
        "ended_at": task.submitted_at + timedelta(seconds=3),
        "artifacts": (make_artifact(),) if succeeded else (),
        "error": None if succeeded else ErrorInfo(code="backend_error", message="the model raised"),
        "timings": {"queued": 1.0, "denoise": 1.5},
        "receipt": {"model": MODEL, "revision": REVISION},
    }
    return Outcome.model_validate(fields | changes)


def make_dead_letter(**changes: object) -> DeadLetter:
    """A task that was given up a minute after it was submitted, in its third attempt."""
    error = ErrorInfo(code="runner_crashed", message="the runner died")
    task = changes.get("task", make_task(attempt=3))
    assert task is None or isinstance(task, TaskMessage)
    parked_at = (task.submitted_at if task is not None else NOW) + timedelta(seconds=60)
    attempt = DeadAttempt(number=3, worker=WORKER, execution=EXECUTION, started_at=parked_at, error=error)
    fields: dict[str, object] = {
        "reason": error.code,
        "detail": error.message,
        "parked_at": parked_at,
        "parked_by": WORKER,
        "task": task,
        "attempts": (attempt,),
        "last_error": error,
        "stack": "Traceback (most recent call last):\n  ...\nRuntimeError: the runner died",
    }
    return DeadLetter.model_validate(fields | changes)


def make_report(**changes: object) -> WorkerReport:
    """A worker with one tier: a second for each megapixel and step, 1000 MiB and 4000 MiB for each megapixel."""
    fields: dict[str, object] = {
        "worker": WORKER,
        "model": MODEL,
        "device": "NVIDIA H200",
        "state": "ready",
        "at": NOW,
        "capacity_mb": 24000,
        "tiers": (
            {
                "name": "resident",
                "seconds": {"row_megapixel_step": 1.0},
                "memory": {"base": 1000.0, "megapixel": 4000.0},
                "observations": 20,
            },
        ),
    }
    return WorkerReport.model_validate(fields | changes)


_ENDED: Final = (EventType.SUCCEEDED, EventType.FAILED, EventType.CANCELLED, EventType.EXPIRED)


def make_event(event_type: EventType = EventType.QUEUED, task: TaskMessage | None = None) -> TaskEvent:
    """One event of each type, with everything that the type requires."""
    task = task or make_task()
    at = task.submitted_at + timedelta(seconds=1)
    builders: dict[EventType, Callable[[], TaskEvent]] = {
        EventType.QUEUED: lambda: queued_event(task),
        EventType.STARTED: lambda: started_event(task, worker=WORKER, execution=EXECUTION, at=at),
        EventType.PROGRESS: lambda: progress_event(
            task, Progress(phase=Phase.DENOISING, step=2, steps=4), sequence=2, at=at
        ),
        EventType.RETRYING: lambda: retrying_event(
            task.model_copy(update={"attempt": task.attempt + 1}),
            ErrorInfo(code="runner_crashed", message="the runner died"),
            delay_seconds=5.0,
            at=at,
        ),
    }
    if event_type in _ENDED:
        return ended_event(make_outcome(task=task, state=TaskState(str(event_type))))
    return builders[event_type]()


def outbound(exchange: str, routing_key: str, body: bytes = b"{}", **changes: Any) -> OutboundMessage:  # noqa: ANN401 - any field
    """A raw broker message; its id is its body unless one is given."""
    fields: dict[str, Any] = {"message_id": body.decode(errors="replace"), "type": "test", **changes}
    return OutboundMessage(exchange=exchange, routing_key=routing_key, body=body, **fields)
