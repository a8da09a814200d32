"""Gunicorn's settings for the gateway; the address is given on the command line with ``--bind``.

Greenlets wait side by side for the broker's confirms.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.config import LogSettings, load_settings
from shared.http.gunicorn_logging import RootLogger
from shared.logging import configure

if TYPE_CHECKING:
    from gunicorn.arbiter import Arbiter

worker_class = "gevent"
workers = 1
worker_connections = 2000
preload_app = False
control_socket_disable = True  # one socket in the home folder, shared by every instance
keepalive = 75
timeout = 60
graceful_timeout = 10
accesslog = None  # the application logs its requests itself
logger_class = RootLogger


def on_starting(_server: Arbiter) -> None:
    """The master process logs like the others."""
    settings = load_settings(LogSettings)
    configure("gateway", level=settings.log_level, log_format=settings.log_format)
