"""Errors as RFC 9457 problem documents, with an ``error`` object besides for clients that expect OpenAI's shape."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import orjson
from flask import Response, request
from werkzeug.exceptions import HTTPException

from shared.auth.errors import KeyRefusedError, TenantStoreError, TenantSuspendedError, TooManyFailuresError
from shared.domain.errors import AtelierError
from shared.http.errors import FieldError, InvalidRequestError, TaskStateError, UnauthorizedError
from shared.http.request_context import request_id
from shared.logging import get_logger

if TYPE_CHECKING:
    from flask import Flask

log = get_logger(__name__)

PROBLEM_JSON: Final = "application/problem+json"
_OPENAI_TYPES: Final = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """How one class of error is answered. ``detail`` stands in for messages that are not for clients."""

    status: int
    title: str
    detail: str | None = None
    retry_after_seconds: int | None = None


ErrorTable = Mapping[type[AtelierError], Refusal]

# What every service answers alike; a service adds its own classes. The closest base class of an error counts.
COMMON_REFUSALS: Final[ErrorTable] = {
    InvalidRequestError: Refusal(status=400, title="The request is not valid"),
    UnauthorizedError: Refusal(status=401, title="A valid API key is needed"),
    KeyRefusedError: Refusal(status=401, title="The API key is no longer in force"),
    TenantSuspendedError: Refusal(status=403, title="The tenant is suspended"),
    TooManyFailuresError: Refusal(status=429, title="Too many unknown keys"),  # when to come again is in the error
    TaskStateError: Refusal(status=409, title="The task's state does not allow it"),
    TenantStoreError: Refusal(
        status=503,
        title="The API key cannot be checked now",
        detail="The key may be good; nothing was done. Try again.",
        retry_after_seconds=5,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One refusal of one request. ``members`` stand beside those that every problem has (RFC 9457, 3.2)."""

    status: int
    code: str
    title: str
    detail: str
    errors: tuple[FieldError, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    members: Mapping[str, object] = field(default_factory=dict)

    def response(self) -> Response:
        """The answer to the current request."""
        body: dict[str, Any] = {
            "type": f"urn:atelier:problem:{self.code}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "instance": request.path,
            "code": self.code,
            "request_id": request_id(),
            **self.members,
        }
        if self.errors:
            body["errors"] = [
                {name: value for name, value in asdict(error).items() if value is not None} for error in self.errors
            ]
        body["error"] = {
            "message": self.detail,
            "type": _openai_type(self.status),
            "param": self.errors[0].field if self.errors else None,
            "code": self.code,
        }
        response = Response(orjson.dumps(body), self.status, content_type=PROBLEM_JSON)
        response.headers["Cache-Control"] = "no-store"
        response.headers.update(self.headers)
        return response


def install_problems(app: Flask, table: ErrorTable) -> None:
    """Answer every error of this application as a problem; ``table`` goes before the common refusals."""
    refusals = {**COMMON_REFUSALS, **table}

    def on_atelier_error(error: AtelierError) -> Response:
        refusal = next((refusals[kind] for kind in type(error).__mro__ if kind in refusals), None)
        if refusal is None:
            return on_crash(error)
        problem = problem_of(error, refusal)
        note = log.warning if problem.status >= HTTPStatus.INTERNAL_SERVER_ERROR else log.info
        note("request_refused", error_code=problem.code, error_message=error.message, status=problem.status)
        return problem.response()

    def on_http_exception(error: HTTPException) -> Response:
        status = HTTPStatus(error.code or HTTPStatus.INTERNAL_SERVER_ERROR)
        headers = {name: value for name, value in error.get_headers() if name in {"Allow", "Retry-After"}}
        code = status.name.lower()
        detail = error.description or status.description
        return Problem(status=status, code=code, title=status.phrase, detail=detail, headers=headers).response()

    def on_crash(error: Exception) -> Response:  # the boundary of a request: nothing else may end it
        log.error("request_crashed", exc_info=error)
        detail = "An error on our side; the request id finds it in our logs."
        return Problem(status=500, code="internal_error", title="Internal error", detail=detail).response()

    app.register_error_handler(AtelierError, on_atelier_error)
    app.register_error_handler(HTTPException, on_http_exception)
    app.register_error_handler(Exception, on_crash)


def problem_of(error: AtelierError, refusal: Refusal) -> Problem:
    """An error as it is answered."""
    headers = {}
    if isinstance(error, TooManyFailuresError):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_seconds)))
    elif refusal.retry_after_seconds is not None:
        headers["Retry-After"] = str(refusal.retry_after_seconds)
    if refusal.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = 'Bearer realm="atelier"'
    return Problem(
        status=refusal.status,
        code=error.code,
        title=refusal.title,
        detail=refusal.detail or error.message,
        errors=error.errors if isinstance(error, InvalidRequestError) else (),
        headers=headers,
        members={"state": error.state} if isinstance(error, TaskStateError) and error.state is not None else {},
    )


def _openai_type(status: int) -> str:
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return "server_error"
    return _OPENAI_TYPES.get(status, "invalid_request_error")
