"""Liveness, readiness and metrics over HTTP, for processes that have no web framework of their own."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Final, Literal

import orjson
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from shared.domain.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

JSON: Final = "application/json"
Readiness = Literal["ready", "degraded", "not_ready"]


@dataclass(slots=True)
class Health:
    """Named checks; each returns None when all is well, or what is wrong in a few words.

    ``warnings`` are asked after the checks, and leave the process ready.
    """

    checks: dict[str, Callable[[], str | None]] = field(default_factory=dict)
    warnings: dict[str, Callable[[], str | None]] = field(default_factory=dict)

    def report(self) -> tuple[Readiness, Mapping[str, str]]:
        """Whether the process is ready, and each check's state."""
        states = {name: check() or "ok" for name, check in self.checks.items()}
        ready = all(state == "ok" for state in states.values())
        degraded = {name: f"degraded: {problem}" for name, warn in self.warnings.items() if (problem := warn())}
        for name in self.warnings:
            if states.setdefault(name, "ok") == "ok":
                states[name] = degraded.get(name, "ok")
        if not ready:
            return "not_ready", states
        return "degraded" if degraded else "ready", states


class HealthServer:
    """``/healthz`` (the process answers), ``/readyz`` (its checks pass, else 503), ``/metrics`` (Prometheus)."""

    def __init__(self, health: Health, registry: CollectorRegistry, port: int, host: str = "127.0.0.1") -> None:
        """Listen. Raises ConfigurationError for a port that cannot be had."""
        handler = type("Handler", (_Handler,), {"health": health, "registry": registry})
        try:
            self._server = ThreadingHTTPServer((host, port), handler)
        except OSError as exc:
            message = f"cannot listen on {host}:{port}: {exc.strerror}"
            raise ConfigurationError(message) from exc
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="health", daemon=True)

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return self._server.server_port

    def start(self) -> None:
        """Serve in a thread of its own."""
        self._thread.start()

    def stop(self) -> None:
        """Stop serving, or listening where nothing was served yet."""
        if self._thread.ident is not None:
            # It waits for the end of a loop that must have begun.
            self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    health: Health
    registry: CollectorRegistry

    def do_GET(self) -> None:
        if self.path == "/healthz":
            self._answer(200, JSON, orjson.dumps({"status": "ok"}))
        elif self.path == "/readyz":
            status, states = self.health.report()
            body = orjson.dumps({"status": status, "checks": states})
            self._answer(503 if status == "not_ready" else 200, JSON, body)
        elif self.path == "/metrics":
            self._answer(200, CONTENT_TYPE_LATEST, generate_latest(self.registry))
        else:
            self._answer(404, JSON, orjson.dumps({"status": "not_found"}))

    def _answer(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is http.server's
        """Probes are not worth a line."""
