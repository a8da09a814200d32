"""``/healthz`` (the process answers), ``/readyz`` (its checks pass, else 503), ``/metrics`` for Flask services."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson
from flask import Blueprint, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shared.health import Health


def health_blueprint(health: Health, registry: CollectorRegistry) -> Blueprint:
    """The three probes. Nginx lets only the first of them through."""
    blueprint = Blueprint("health", __name__)

    @blueprint.get("/healthz")
    def healthz() -> Response:
        return _json({"status": "ok"}, 200)

    @blueprint.get("/readyz")
    def readyz() -> Response:
        status, states = health.report()
        return _json({"status": status, "checks": states}, 503 if status == "not_ready" else 200)

    @blueprint.get("/metrics")
    def metrics() -> Response:
        return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)

    return blueprint


def _json(body: Mapping[str, object], status: int) -> Response:
    response = Response(orjson.dumps(body), status, content_type="application/json")
    response.headers["Cache-Control"] = "no-store"
    return response
