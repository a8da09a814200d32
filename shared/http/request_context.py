"""What every request has: an id, a trace, and one line in the log when it is answered."""

from __future__ import annotations

import time
from contextvars import ContextVar
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from flask import request

from shared.ids import REQUEST_ID, TRACEPARENT, new_request_id, new_traceparent, trace_id_of
from shared.logging import bind, get_logger, unbind_all

if TYPE_CHECKING:
    from flask import Flask, Request, Response

log = get_logger(__name__)

REQUEST_ID_HEADER: Final = "X-Request-ID"
_PROBES: Final = frozenset({"/healthz", "/readyz", "/metrics"})


@dataclass(frozen=True, slots=True)
class _About:
    request_id: str
    traceparent: str
    began: float


# Each look through Flask's proxies costs ten times as much as one at this, and a submit has many.
_about: ContextVar[_About] = ContextVar("atelier_request")


def current_request() -> Request:
    """The current request itself, for who looks at it more than once."""
    found: Request = request._get_current_object()  # type: ignore[attr-defined] # noqa: SLF001 - what a proxy has for this
    return found


def request_id() -> str:
    """The id of the current request."""
    return _about.get().request_id


def traceparent() -> str:
    """The W3C trace context of the current request."""
    return _about.get().traceparent


def seconds_so_far() -> float:
    """How long the current request has taken until now."""
    return time.perf_counter() - _about.get().began


def install_request_context(app: Flask) -> None:
    """Keep a well-formed id and trace of the caller (Nginx overwrites the id), else make them; log each request."""
    app.before_request(_begin)
    app.after_request(_end)


def _begin() -> None:
    # A connection that is kept alive serves its requests in one greenlet, hence with one context.
    unbind_all()
    headers = current_request().headers
    given_id = headers.get(REQUEST_ID_HEADER, "")
    given_trace = headers.get("traceparent", "")
    about = _About(
        request_id=given_id if REQUEST_ID.fullmatch(given_id) else new_request_id(),
        traceparent=given_trace if TRACEPARENT.fullmatch(given_trace) else new_traceparent(),
        began=time.perf_counter(),
    )
    _about.set(about)
    bind(request_id=about.request_id, trace_id=trace_id_of(about.traceparent))


def _end(response: Response) -> Response:
    response.headers[REQUEST_ID_HEADER] = request_id()
    # An accepted task has an event of its own, and Nginx logs every request.
    if response.status_code != HTTPStatus.ACCEPTED and request.path not in _PROBES:
        log.info(
            "request_handled",
            method=request.method,
            path=request.path,
            status=response.status_code,
            duration_ms=round(seconds_so_far() * 1000, 3),
        )
    return response
