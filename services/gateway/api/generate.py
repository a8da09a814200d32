"""The ways to submit a task, and the list of models."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import orjson
from flask import Blueprint, Response

from services.gateway.api.bodies import read_body, refuse_beyond
from services.gateway.api.limits import rate_limit_fields
from services.gateway.api.schemas import GenerateRequest, parse, read_object
from services.gateway.errors import UnsupportedMediaTypeError
from services.gateway.idempotency.once import Answer
from services.gateway.idempotency.wanted import KEY_HEADER, RETRY_HEADER, wanted
from services.gateway.results.cache import Found
from services.gateway.usecases import Caller
from shared.http.request_context import current_request, request_id, traceparent

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from wsgiref.types import WSGIEnvironment

    from werkzeug.datastructures import Headers

    from services.gateway.fleet import Fleet
    from services.gateway.idempotency.once import Once
    from services.gateway.idempotency.ports import Turn
    from services.gateway.usecases import Accepted, Submitter
    from shared.contracts.model_card import ModelCard
    from shared.contracts.task import TaskMessage
    from shared.http.auth import Gatekeeper

JSON: Final = "application/json"
_CACHE_STATUS: Final = {
    Found.HIT: "atelier; hit",
    Found.MISS: "atelier; fwd=miss",
    Found.BYPASS: "atelier; fwd=bypass",
    Found.UNAVAILABLE: 'atelier; fwd=bypass; detail="unavailable"',
}


def generate_blueprint(submitter: Submitter, once: Once, gatekeeper: Gatekeeper, max_body_bytes: int) -> Blueprint:
    """``POST /generate`` answers in the short form, ``POST /api/v1/generate`` in the full one."""
    blueprint = Blueprint("generate", __name__)

    def submit(shown: Callable[[Accepted], Mapping[str, object]]) -> Response:
        request = current_request()
        refuse_beyond(request.content_length or 0, max_body_bytes)
        principal = gatekeeper.admit()
        if request.mimetype != JSON:
            message = f"the body must be {JSON}"
            raise UnsupportedMediaTypeError(message)
        document = read_object(read_body(max_body_bytes))

        def publish(turn: Turn) -> Answer:
            caller = Caller(principal=principal, request_id=request_id(), traceparent=traceparent())
            accepted = submitter.submit(parse(GenerateRequest, document), caller, turn)
            text = orjson.dumps(shown(accepted)).decode()
            return Answer(task_id=turn.task_id, body=text, found=accepted.found, windows=accepted.admitted.windows)

        asked = wanted(
            principal.tenant_id,
            request.path,
            document,
            key_header=request.headers.get(KEY_HEADER),
            retry_header=request.headers.get(RETRY_HEADER),
        )
        return accepted_response(once.submit(asked, publish))

    @blueprint.post("/generate")
    def generate() -> Response:
        return submit(_short)

    @blueprint.post("/api/v1/generate")
    def generate_v1() -> Response:
        return submit(full_form)

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


def _short(accepted: Accepted) -> dict[str, object]:
    task_id, outcome = accepted.task.task_id, accepted.outcome
    short: dict[str, object] = {"task_id": task_id, "status_url": f"/status/{task_id}"}
    if outcome is not None:
        short |= {"state": outcome.state, "result_url": _artifact_path(task_id, 0) if outcome.artifacts else None}
    if accepted.task.params.quality_asked is not None:
        short |= _qualities(accepted.task)
    return short


def _qualities(task: TaskMessage) -> dict[str, object]:
    return {"quality": task.params.made_quality, "quality_asked": task.params.quality_asked}


def full_form(accepted: Accepted) -> dict[str, object]:
    """What ``POST /api/v1/generate`` answers."""
    task, forecast, outcome = accepted.task, accepted.forecast, accepted.outcome
    full = {**_short(accepted), "model": task.model, "priority": task.priority, **_qualities(task)}
    if outcome is None:
        return full | {
            "state": "queued",
            "seed": task.params.seed,
            "ahead": forecast.ahead,
            "eta_seconds": None if forecast.eta_seconds is None else round(forecast.eta_seconds, 3),
        }
    return full | {
        "seed": outcome.task.params.seed,
        "ended_at": outcome.ended_at,
        "artifacts": [
            {"index": index, "url": _artifact_path(task.task_id, index), **artifact.model_dump(exclude={"key"})}
            for index, artifact in enumerate(outcome.artifacts)
        ],
    }


def _artifact_path(task_id: str, index: int) -> str:
    return f"/api/v1/tasks/{task_id}/artifacts/{index}"


class _Final(Response):
    """An answer whose headers are complete and ASCII."""

    def get_wsgi_headers(self, environ: WSGIEnvironment) -> Headers:
        """The headers as they are: taking a Location apart and joining it again would be 3 % of a submit."""
        del environ
        return self.headers


def accepted_response(answer: Answer) -> Response:
    """202 with the task's places, or 200 for one that has ended already."""
    fields = {
        "Location": f"/api/v1/tasks/{answer.task_id}",
        "X-Task-Id": answer.task_id,
        "Cache-Status": _CACHE_STATUS[Found(answer.found)],  # RFC 9211
        "Cache-Control": "no-store",
        **rate_limit_fields(answer.windows),
    }
    if answer.replayed:
        fields["Idempotency-Replayed"] = "true"
    status = HTTPStatus.OK if answer.found == Found.HIT else HTTPStatus.ACCEPTED
    return _Final(answer.body, status, fields, content_type=JSON)


def _public(card: ModelCard) -> dict[str, object]:
    """What a client can ask for. What it costs is the operator's; ``default_seconds`` and every forecast tell."""
    return {
        **card.model.model_dump(exclude={"backend"}),
        "tiers": [price.name for price in card.prices],
        "defaults": card.defaults.model_dump(),
        "limits": card.limits.model_dump(),
        "qualities": {quality.value: {"steps": card.steps(quality)} for quality in card.qualities},
    }
