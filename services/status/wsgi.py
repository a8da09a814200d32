"""Gunicorn's entry: ``services.status.wsgi:build()``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.status.app import create_app
from services.status.bootstrap import status_api
from services.status.config import StatusApiSettings
from shared.config import load_settings
from shared.lifecycle import settle_memory
from shared.logging import configure, get_logger

if TYPE_CHECKING:
    from flask import Flask


def build() -> Flask:
    """The application, built in the worker process. Raises ConfigurationError, ViewStoreError."""
    settings = load_settings(StatusApiSettings)
    configure("status-api", level=settings.log_level, log_format=settings.log_format)
    app = create_app(status_api(settings))
    settle_memory()
    get_logger(__name__).info("status_api_started")
    return app
