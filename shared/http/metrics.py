"""How many requests an HTTP service answers, and how fast."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Final

from prometheus_client import Histogram

from shared.http.request_context import current_request, seconds_so_far

if TYPE_CHECKING:
    from flask import Flask, Response
    from prometheus_client import CollectorRegistry

# A client may invent methods; a series for each of them would fill the memory.
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def install_metrics(app: Flask, registry: CollectorRegistry) -> None:
    """Observe every request. Install it after the request context, whose start time it uses."""
    seconds = Histogram(
        "atelier_http_request_seconds",
        "Time to answer a request.",
        ["endpoint", "method", "status"],
        buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60),
        registry=registry,
    )

    @cache  # looking a series up costs more than counting in it
    def series(endpoint: str, method: str, status: int) -> Histogram:
        return seconds.labels(endpoint, method, status)

    def observe(response: Response) -> Response:
        # The route and not the path: an id in a label would make a series for each task.
        request = current_request()
        method = request.method if request.method in _METHODS else "other"
        series(request.endpoint or "none", method, response.status_code).observe(seconds_so_far())
        return response

    app.after_request(observe)
