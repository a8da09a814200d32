"""A tenant's callbacks: those of a task, all of them page by page, and one more try."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from flask import Blueprint, Response, request
from pydantic import BaseModel, ConfigDict

from services.status.errors import WebhookNotFoundError
from services.status.webhooks.deliveries import DeliveryAttempt, DeliveryState
from shared.contracts.base import Timestamp
from shared.http.errors import FieldError, InvalidRequestError

if TYPE_CHECKING:
    from services.status.api.access import TaskAccess
    from services.status.webhooks.deliveries import Delivery
    from services.status.webhooks.ports import DeliveryStore
    from shared.clock import Clock
    from shared.http.auth import Gatekeeper

PAGE: Final = 50
MOST: Final = 200
_ID: Final = re.compile(r"msg_[0-9a-f]{32}_[0-9]{1,9}_[a-z]{1,16}")


class WebhookAnswer(BaseModel):
    """One callback. ``tries`` counts since it was last asked for; ``next_try_at`` is null once it has ended."""

    model_config = ConfigDict(frozen=True)

    webhook_id: str
    task_id: str
    type: str
    url: str
    state: DeliveryState
    tries: int
    created_at: Timestamp
    next_try_at: Timestamp | None
    attempts: tuple[DeliveryAttempt, ...]


class WebhookPage(BaseModel):
    """Callbacks, and where the next page begins; null on the last one."""

    model_config = ConfigDict(frozen=True)

    webhooks: tuple[WebhookAnswer, ...]
    next_cursor: str | None = None


def webhooks_blueprint(
    access: TaskAccess, gatekeeper: Gatekeeper, deliveries: DeliveryStore, clock: Clock
) -> Blueprint:
    """``/api/v1/tasks/<id>/webhooks``, ``/api/v1/webhooks`` and ``/api/v1/webhooks/<id>/replay``."""
    blueprint = Blueprint("webhooks", __name__)

    @blueprint.get("/api/v1/tasks/<task_id>/webhooks")
    def of_task(task_id: str) -> Response:
        view = access.find(access.reader(), task_id)
        found = deliveries.of_task(view.task_id, view.tenant_id)
        return _json(WebhookPage(webhooks=tuple(map(_answer, found))))

    @blueprint.get("/api/v1/webhooks")
    def listing() -> Response:
        tenant_id = gatekeeper.authenticate().tenant_id
        limit = _limit()
        found = deliveries.listed(tenant_id, _state(), _cursor(), limit + 1)
        page = tuple(map(_answer, found[:limit]))
        return _json(WebhookPage(webhooks=page, next_cursor=page[-1].webhook_id if len(found) > limit else None))

    @blueprint.post("/api/v1/webhooks/<webhook_id>/replay")
    def replay(webhook_id: str) -> Response:
        tenant_id = gatekeeper.authenticate().tenant_id
        found = deliveries.replay(webhook_id, tenant_id, clock()) if _ID.fullmatch(webhook_id) else None
        if found is None:
            raise WebhookNotFoundError
        response = _json(_answer(found))
        response.status_code = 202
        return response

    return blueprint


def _answer(delivery: Delivery) -> WebhookAnswer:
    notice = delivery.notice
    return WebhookAnswer(
        webhook_id=notice.webhook_id,
        task_id=notice.task_id,
        type=notice.type,
        url=notice.url,
        state=delivery.state,
        tries=delivery.tries,
        created_at=notice.created_at,
        next_try_at=delivery.due_at if delivery.state is DeliveryState.PENDING else None,
        attempts=delivery.attempts,
    )


def _state() -> DeliveryState | None:
    text = request.args.get("state")
    if text is None:
        return None
    try:
        return DeliveryState(text)
    except ValueError as exc:
        raise _invalid(state=f"must be one of {', '.join(DeliveryState)}") from exc


def _cursor() -> str | None:
    text = request.args.get("cursor")
    if text is not None and _ID.fullmatch(text) is None:
        raise _invalid(cursor="must be the next_cursor of an answer")
    return text


def _limit() -> int:
    text = request.args.get("limit", str(PAGE))
    if re.fullmatch(r"[0-9]{1,4}", text) is None or not 1 <= int(text) <= MOST:
        raise _invalid(limit=f"must be a number from 1 to {MOST}")
    return int(text)


def _invalid(**problems: str) -> InvalidRequestError:
    errors = [FieldError(field=field, message=message) for field, message in problems.items()]
    return InvalidRequestError("; ".join(f"{error.field} {error.message}" for error in errors), *errors)


def _json(answer: BaseModel) -> Response:
    response = Response(answer.model_dump_json(), content_type="application/json")
    response.headers["Cache-Control"] = "no-store"
    return response
