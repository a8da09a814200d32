"""The ways to submit a task, and the list of models."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import orjson
from flask import Blueprint, Response, request

from services.gateway.api.limits import rate_limit_fields
from services.gateway.api.schemas import GenerateRequest, parse
from services.gateway.errors import BodyTooLargeError, UnreadableBodyError, UnsupportedMediaTypeError
from services.gateway.usecases import Caller
from shared.http.request_context import request_id, traceparent

if TYPE_CHECKING:
    from collections.abc import Mapping

    from services.gateway.fleet import Fleet
    from services.gateway.usecases import Accepted, Submitter
    from shared.contracts.model_card import ModelCard
    from shared.http.auth import Gatekeeper

JSON: Final = "application/json"


def generate_blueprint(submitter: Submitter, gatekeeper: Gatekeeper, max_body_bytes: int) -> Blueprint:
    """``POST /generate`` answers in the short form, ``POST /api/v1/generate`` in the full one."""
    blueprint = Blueprint("generate", __name__)

    def refuse_beyond_limit(length: int) -> None:
        if length > max_body_bytes:
            message = f"the body is larger than {max_body_bytes} bytes"
            raise BodyTooLargeError(message)

    def submit() -> Accepted:
        refuse_beyond_limit(request.content_length or 0)
        principal = gatekeeper.admit()
        if request.mimetype != JSON:
            message = f"the body must be {JSON}"
            raise UnsupportedMediaTypeError(message)
        body = _body()
        refuse_beyond_limit(len(body))
        wanted = parse(GenerateRequest, body)
        caller = Caller(principal=principal, request_id=request_id(), traceparent=traceparent())
        return submitter.submit(wanted, caller)

    @blueprint.post("/generate")
    def generate() -> Response:
        accepted = submit()
        task_id = accepted.task.task_id
        return _accepted(accepted, {"task_id": task_id, "status_url": f"/status/{task_id}"})

    @blueprint.post("/api/v1/generate")
    def generate_v1() -> Response:
        accepted = submit()
        task = accepted.task
        body = {
            "task_id": task.task_id,
            "status_url": f"/status/{task.task_id}",
            "state": "queued",
            "model": task.model,
            "seed": task.params.seed,
            "priority": task.priority,
            "ahead": accepted.forecast.ahead,
            "eta_seconds": None if accepted.forecast.eta_seconds is None else round(accepted.forecast.eta_seconds, 3),
        }
        return _accepted(accepted, body)

    return blueprint


def models_blueprint(cards: Mapping[str, ModelCard], fleet: Fleet, gatekeeper: Gatekeeper) -> Blueprint:
    """``GET /api/v1/models``: what each model allows, how many workers it has, and what its default request takes."""
    blueprint = Blueprint("models", __name__)

    @blueprint.get("/api/v1/models")
    def models() -> Response:
        gatekeeper.authenticate()
        listing = [
            {
                **_public(card),
                "workers": fleet.workers(card.id),
                "default_seconds": round(fleet.default_seconds(card), 3),
            }
            for card in cards.values()
        ]
        return Response(orjson.dumps({"models": listing}), content_type=JSON)

    return blueprint


def _body() -> bytes:
    try:
        return request.get_data(cache=False)
    except Exception as exc:  # the boundary to the WSGI server: gunicorn's errors for bad chunks have no public base
        message = "the body could not be read to its end"
        raise UnreadableBodyError(message) from exc


def _accepted(accepted: Accepted, body: Mapping[str, object]) -> Response:
    response = Response(orjson.dumps(body), HTTPStatus.ACCEPTED, content_type=JSON)
    response.headers["Location"] = f"/api/v1/tasks/{accepted.task.task_id}"
    response.headers["X-Task-Id"] = accepted.task.task_id
    response.headers.update(rate_limit_fields(accepted.admitted.windows))
    response.headers["Cache-Control"] = "no-store"
    return response


def _public(card: ModelCard) -> dict[str, object]:
    return {
        "id": card.id,
        "kind": card.model.kind,
        "prompt_formats": card.model.prompt_formats,
        "licence": card.model.licence,
        "defaults": card.defaults.model_dump(),
        "limits": card.limits.model_dump(),
    }
