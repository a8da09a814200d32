"""What every request has: an id, a trace, and one line in the log when it is answered."""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from flask import g, request

from shared.ids import REQUEST_ID, TRACEPARENT, new_request_id, new_traceparent, trace_id_of
from shared.logging import bind, get_logger, unbind_all

if TYPE_CHECKING:
    from flask import Flask, Response

log = get_logger(__name__)

REQUEST_ID_HEADER: Final = "X-Request-ID"
_PROBES: Final = frozenset({"/healthz", "/readyz", "/metrics"})


def request_id() -> str:
    """The id of the current request."""
    return str(g.request_id)


def traceparent() -> str:
    """The W3C trace context of the current request."""
    return str(g.traceparent)


def install_request_context(app: Flask) -> None:
    """Keep a well-formed id and trace of the caller (Nginx overwrites the id), else make them; log each request."""
    app.before_request(_begin)
    app.after_request(_end)


def _begin() -> None:
    # A connection that is kept alive serves its requests in one greenlet, hence with one context.
    unbind_all()
    given_id = request.headers.get(REQUEST_ID_HEADER, "")
    given_trace = request.headers.get("traceparent", "")
    g.request_id = given_id if REQUEST_ID.fullmatch(given_id) else new_request_id()
    g.traceparent = given_trace if TRACEPARENT.fullmatch(given_trace) else new_traceparent()
    g.began = time.perf_counter()
    bind(request_id=g.request_id, trace_id=trace_id_of(g.traceparent))


def _end(response: Response) -> Response:
    response.headers[REQUEST_ID_HEADER] = g.request_id
    # An accepted task has an event of its own, and Nginx logs every request.
    if response.status_code != HTTPStatus.ACCEPTED and request.path not in _PROBES:
        log.info(
            "request_handled",
            method=request.method,
            path=request.path,
            status=response.status_code,
            duration_ms=round((time.perf_counter() - g.began) * 1000, 3),
        )
    return response
