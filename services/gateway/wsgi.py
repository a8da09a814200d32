"""Gunicorn's entry: ``services.gateway.wsgi:build()``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from services.gateway.app import create_app
from services.gateway.bootstrap import gateway
from services.gateway.config import GatewaySettings
from shared.config import load_settings
from shared.http.gathered_lines import gathered
from shared.lifecycle import settle_memory
from shared.logging import configure, get_logger

if TYPE_CHECKING:
    from flask import Flask


def build() -> Flask:
    """The application, built in the worker process. Raises ConfigurationError."""
    settings = load_settings(GatewaySettings)
    out = gathered(sys.stdout)
    configure("gateway", level=settings.log_level, log_format=settings.log_format, stream=out, for_good=True)
    app = create_app(gateway(settings))
    settle_memory()
    get_logger(__name__).info("gateway_started")
    return app
