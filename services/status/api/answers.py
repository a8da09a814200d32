"""What clients are told of a task: the short form of ``/status/<id>`` and the whole of ``/api/v1/tasks/<id>``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from pydantic import BaseModel, ConfigDict

from shared.contracts.base import Timestamp
from shared.contracts.outcome import ErrorInfo
from shared.contracts.task import Params
from shared.domain.task import Lane, Phase, TaskState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.status.view import TaskView
    from services.status.work import Standing
    from shared.contracts.event import Progress

ClientState = Literal["queued", "generating", "done", "failed", "cancelled", "expired"]

CLIENT_STATES: Final[dict[TaskState, ClientState]] = {
    TaskState.QUEUED: "queued",
    TaskState.RUNNING: "generating",
    TaskState.RETRYING: "queued",  # it waits for its next attempt
    TaskState.SUCCEEDED: "done",
    TaskState.FAILED: "failed",
    TaskState.CANCELLED: "cancelled",
    TaskState.EXPIRED: "expired",
}
# Where each phase lies between 0 and 1; the steps of a phase fill its span.
_SPANS: Final[dict[Phase, tuple[float, float]]] = {
    Phase.LOADING: (0.0, 0.0),
    Phase.ENCODING: (0.02, 0.05),
    Phase.DENOISING: (0.05, 0.9),
    Phase.DECODING: (0.9, 0.96),
    Phase.STORING: (0.96, 1.0),
}


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


class ShortAnswer(_Answer):
    """``GET /status/<id>``. ``progress`` runs from 0 to 1.

    While the task waits, ``ahead`` is how many are served before it and ``eta_seconds`` the time to its end; else null.
    """

    task_id: str
    status: ClientState
    state: TaskState
    phase: Phase | None
    step: int
    steps: int
    progress: float
    ahead: int | None
    eta_seconds: float | None
    result_url: str | None
    error: ErrorInfo | None


class ProgressAnswer(_Answer):
    """Step ``step`` of ``steps`` in a phase; ``fraction`` of the whole runs from 0 to 1."""

    phase: Phase | None
    step: int
    steps: int
    fraction: float


class ArtifactAnswer(_Answer):
    """One finished picture or video; or, with ``role`` poster, a still of the video before it. Sides are pixels."""

    index: int
    url: str
    media_type: str
    bytes: int
    sha256: str
    width: int
    height: int
    seed: int
    frames: int
    fps: float | None
    role: Literal["poster"] | None


class Links(_Answer):
    """Where to go from here. ``result`` is the first artifact."""

    self: str
    status: str
    events: str
    result: str | None


class TaskAnswer(_Answer):
    """``GET /api/v1/tasks/<id>``. ``timings`` are seconds; what is not known yet is null; see ShortAnswer."""

    task_id: str
    state: TaskState
    client_state: ClientState
    model: str | None
    lane: Lane | None
    priority: int | None
    params: Params | None
    seed: int | None
    attempt: int
    max_attempts: int | None
    progress: ProgressAnswer
    ahead: int | None
    eta_seconds: float | None
    created_at: Timestamp | None
    started_at: Timestamp | None
    ended_at: Timestamp | None
    updated_at: Timestamp
    start_deadline: Timestamp | None
    finish_deadline: Timestamp | None
    timings: dict[str, float]
    artifacts: tuple[ArtifactAnswer, ...]
    error: ErrorInfo | None
    receipt: dict[str, str | int | float]
    retry_of: str | None
    retried_as: str | None
    request_id: str | None
    links: Links


def status_path(task_id: str) -> str:
    """The short form's place."""
    return f"/status/{task_id}"


def task_path(task_id: str) -> str:
    """The whole answer's place."""
    return f"/api/v1/tasks/{task_id}"


def artifact_path(task_id: str, index: int) -> str:
    """An artifact's place."""
    return f"{task_path(task_id)}/artifacts/{index}"


def short_answer(view: TaskView, urls: Sequence[str], standing: Standing | None) -> ShortAnswer:
    """The short form; ``urls`` are those of the artifacts."""
    progress = progress_answer(view)
    return ShortAnswer(
        task_id=view.task_id,
        status=CLIENT_STATES[view.state],
        state=view.state,
        phase=progress.phase,
        step=progress.step,
        steps=progress.steps,
        progress=progress.fraction,
        ahead=standing.ahead if standing else None,
        eta_seconds=_eta_seconds(standing),
        result_url=urls[0] if urls else None,
        error=view.error,
    )


def task_answer(view: TaskView, urls: Sequence[str], standing: Standing | None) -> TaskAnswer:
    """The whole; ``urls`` are those of the artifacts."""
    asked = view.submission
    return TaskAnswer(
        task_id=view.task_id,
        state=view.state,
        client_state=CLIENT_STATES[view.state],
        model=asked.model if asked else None,
        lane=asked.lane if asked else None,
        priority=view.priority,
        params=asked.params if asked else None,
        seed=asked.params.seed if asked else None,
        attempt=view.attempt,
        max_attempts=view.max_attempts,
        progress=progress_answer(view),
        ahead=standing.ahead if standing else None,
        eta_seconds=_eta_seconds(standing),
        created_at=asked.submitted_at if asked else None,
        started_at=view.start.at if view.start else None,
        ended_at=view.ended_at,
        updated_at=view.updated_at,
        start_deadline=asked.start_deadline if asked else None,
        finish_deadline=asked.finish_deadline if asked else None,
        timings=view.timings,
        artifacts=artifact_answers(view, urls),
        error=view.error,
        receipt=view.receipt,
        retry_of=asked.retry_of if asked else None,
        retried_as=view.retried_as,
        request_id=asked.request_id if asked else None,
        links=links_of(view, urls),
    )


def _eta_seconds(standing: Standing | None) -> float | None:
    seconds = standing.eta_seconds if standing else None
    return None if seconds is None else round(seconds, 3)


def progress_answer(view: TaskView) -> ProgressAnswer:
    """How far a task has come."""
    if view.progress is None:
        done = 1.0 if view.state is TaskState.SUCCEEDED else 0.0
        return ProgressAnswer(phase=None, step=0, steps=0, fraction=done)
    phase, step, steps = view.progress.phase, view.progress.step, view.progress.steps
    return ProgressAnswer(phase=phase, step=step, steps=steps, fraction=fraction_of(view.progress))


def fraction_of(progress: Progress) -> float:
    """How much of the whole is done, from 0 to 1."""
    begin, end = _SPANS[progress.phase]
    within = min(1.0, max(0.0, progress.step / progress.steps)) if progress.steps > 0 else 0.0
    return round(begin + within * (end - begin), 4)


def links_of(view: TaskView, urls: Sequence[str]) -> Links:
    """Where to go from a task."""
    return Links(
        self=task_path(view.task_id),
        status=status_path(view.task_id),
        events=f"{task_path(view.task_id)}/events",
        result=urls[0] if urls else None,
    )


def artifact_answers(view: TaskView, urls: Sequence[str]) -> tuple[ArtifactAnswer, ...]:
    """The artifacts; ``urls`` are theirs."""
    return tuple(
        ArtifactAnswer(index=index, url=url, **artifact.model_dump(exclude={"key"}))
        for index, (artifact, url) in enumerate(zip(view.artifacts, urls, strict=True))
    )
