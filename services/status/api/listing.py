"""``GET /api/v1/tasks``: a tenant's tasks, the newest first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import Blueprint, Response, request
from pydantic import BaseModel, ConfigDict

from services.status.api.answers import (
    CLIENT_STATES,
    ArtifactAnswer,
    ClientState,
    Links,
    ProgressAnswer,
    artifact_answers,
    artifact_path,
    links_of,
    progress_answer,
)
from services.status.api.list_query import cursor_behind, read_query
from shared.contracts.base import Timestamp
from shared.contracts.outcome import ErrorInfo
from shared.domain.task import Lane, TaskState

if TYPE_CHECKING:
    from services.status.api.readers import Readers
    from services.status.store.ports import TaskViewStore
    from services.status.view import TaskView


class ListedTask(BaseModel):
    """A task in a list: as ``GET /api/v1/tasks/<id>``, but for what was asked for and where it stands in its queue."""

    model_config = ConfigDict(frozen=True)

    task_id: str
    tenant_id: str
    state: TaskState
    client_state: ClientState
    model: str | None
    lane: Lane | None
    priority: int | None
    seed: int | None
    attempt: int
    max_attempts: int | None
    progress: ProgressAnswer
    created_at: Timestamp | None
    started_at: Timestamp | None
    ended_at: Timestamp | None
    updated_at: Timestamp
    artifacts: tuple[ArtifactAnswer, ...]
    error: ErrorInfo | None
    retry_of: str | None
    retried_as: str | None
    links: Links


class TaskPage(BaseModel):
    """``GET /api/v1/tasks``. ``next_cursor`` is null when these are the last."""

    model_config = ConfigDict(frozen=True)

    tasks: tuple[ListedTask, ...]
    next_cursor: str | None


def listing_blueprint(views: TaskViewStore, readers: Readers) -> Blueprint:
    """``/api/v1/tasks``."""
    blueprint = Blueprint("listing", __name__)

    @blueprint.get("/api/v1/tasks")
    def tasks() -> Response:
        query = read_query(request.args, readers.reader().tenant_id)
        # One more than asked for tells whether there are more.
        found = views.listed(query.wanted, query.before, query.limit + 1)
        shown = found[: query.limit]
        page = TaskPage(
            tasks=tuple(_listed(view) for view in shown),
            next_cursor=cursor_behind(shown[-1].task_id) if len(found) > query.limit else None,
        )
        return Response(page.model_dump_json(), content_type="application/json", headers={"Cache-Control": "no-store"})

    return blueprint


def _listed(view: TaskView) -> ListedTask:
    asked = view.submission
    urls = [artifact_path(view.task_id, index) for index in range(len(view.artifacts))]
    return ListedTask(
        task_id=view.task_id,
        tenant_id=view.tenant_id,
        state=view.state,
        client_state=CLIENT_STATES[view.state],
        model=asked.model if asked else None,
        lane=asked.lane if asked else None,
        priority=view.priority,
        seed=asked.params.seed if asked else None,
        attempt=view.attempt,
        max_attempts=view.max_attempts,
        progress=progress_answer(view),
        created_at=asked.submitted_at if asked else None,
        started_at=view.start.at if view.start else None,
        ended_at=view.ended_at,
        updated_at=view.updated_at,
        artifacts=artifact_answers(view, urls),
        error=view.error,
        retry_of=asked.retry_of if asked else None,
        retried_as=view.retried_as,
        links=links_of(view, urls),
    )
