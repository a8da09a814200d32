"""``POST /api/v1/tasks/<id>/retry``: the same work once more, as a new task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
from flask import Blueprint, Response, request

from services.gateway.admission.ports import Admitted
from services.gateway.api.bodies import read_body, refuse_beyond
from services.gateway.api.generate import accepted_response, full_form
from services.gateway.api.schemas import GenerateRequest, RetryRequest, parse, read_object
from services.gateway.idempotency.once import Answer
from services.gateway.idempotency.wanted import KEY_HEADER, Wanted, read_key
from services.gateway.results.cache import Found
from services.gateway.scheduling import Forecast
from services.gateway.usecases import Accepted, Caller
from shared.http.request_context import request_id, traceparent
from shared.logging import get_logger
from shared.storage.inputs import image_id

if TYPE_CHECKING:
    from services.gateway.idempotency.once import Once
    from services.gateway.idempotency.ports import Turn
    from services.gateway.retrying import Retries
    from services.gateway.usecases import Submitter
    from shared.contracts.outcome import Outcome
    from shared.contracts.task import TaskMessage
    from shared.http.auth import Gatekeeper

log = get_logger(__name__)


def retry_blueprint(
    submitter: Submitter, once: Once, retries: Retries, gatekeeper: Gatekeeper, max_body_bytes: int
) -> Blueprint:
    """Answers as ``POST /api/v1/generate`` does, with ``retry_of`` besides."""
    blueprint = Blueprint("retry", __name__)

    @blueprint.post("/api/v1/tasks/<task_id>/retry")
    def retry(task_id: str) -> Response:
        refuse_beyond(request.content_length or 0, max_body_bytes)
        principal = gatekeeper.admit()
        document = _document(read_body(max_body_bytes))
        found = retries.find(task_id, principal.tenant_id)
        if found.outcome is not None:
            return accepted_response(_ended(found.outcome))

        def publish(turn: Turn) -> Answer:
            if turn.task_id != found.task_id:
                # An earlier request with this key had that one made, which has failed meanwhile.
                return _ended(retries.ended(turn.task_id, principal.tenant_id))
            caller = Caller(principal=principal, request_id=request_id(), traceparent=traceparent())
            accepted = submitter.submit(_request(found.origin), caller, turn, found.origin)
            log.info("task_retried", retry_of=found.origin.task_id)
            text = orjson.dumps(_shown(accepted)).decode()
            return Answer(task_id=turn.task_id, body=text, found=accepted.found, windows=accepted.admitted.windows)

        wanted = Wanted(
            tenant_id=principal.tenant_id,
            key=read_key(request.headers.get(KEY_HEADER)),
            path=request.path,
            document=document,
            repeatable=True,
            counted=False,
            task_id=found.task_id,
        )
        return accepted_response(once.submit(wanted, publish))

    return blueprint


def _document(body: bytes) -> dict[str, Any]:
    document = read_object(body) if body else {}
    parse(RetryRequest, document)
    return document


def _request(task: TaskMessage) -> GenerateRequest:
    """The request whose answer would be this task; never answered with work that was done before."""
    params = task.params
    return GenerateRequest(
        model=task.model,
        prompt=params.prompt,
        negative_prompt=params.negative_prompt,
        width=params.width,
        height=params.height,
        steps=params.steps,
        guidance=params.guidance,
        seed=params.seed,
        count=params.count,
        num_frames=params.num_frames,
        image=None if params.image is None else image_id(params.image.sha256),
        cache="off",
    )


def _ended(outcome: Outcome) -> Answer:
    accepted = Accepted(task=outcome.task, admitted=Admitted(), forecast=Forecast(), found=Found.HIT, outcome=outcome)
    text = orjson.dumps(_shown(accepted)).decode()
    return Answer(task_id=outcome.task.task_id, body=text, found=Found.HIT, replayed=True)


def _shown(accepted: Accepted) -> dict[str, object]:
    return {**full_form(accepted), "retry_of": accepted.task.retry_of}
