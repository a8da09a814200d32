"""Gunicorn's settings for the gateway; the address is given on the command line with ``--bind``.

Greenlets wait side by side for the broker's confirms.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from services.gateway.config import GatewaySettings
from services.gateway.plans import load_usable_plans
from shared.auth.store.address import check_readable
from shared.config import load_settings
from shared.contracts.model_card import load_model_cards
from shared.domain.errors import ConfigurationError
from shared.http.gunicorn_logging import RootLogger
from shared.http.server_tls import context_of, use_certificate
from shared.lifecycle import ExitCode
from shared.logging import configure, get_logger
from shared.messaging.addresses import BrokerAddresses

if TYPE_CHECKING:
    from gunicorn.arbiter import Arbiter

worker_class = "gevent"
workers = 1
worker_connections = 2000
preload_app = False
worker_tmp_dir = "/dev/shm"  # noqa: S108 - heartbeat files in memory; mkstemp makes their names
control_socket_disable = True  # one socket in the home folder, shared by every instance
keepalive = 75
timeout = 60
graceful_timeout = 10
accesslog = None  # the application logs its requests itself
logger_class = RootLogger
ssl_context = context_of


def on_starting(server: Arbiter) -> None:
    """The master process logs like the others, and ends at once on what no worker process could start with.

    Left to the worker processes, a wrong setting would end in a stack trace and in gunicorn's own exit status.
    """
    configure("gateway")
    try:
        settings = load_settings(GatewaySettings)
        configure("gateway", level=settings.log_level, log_format=settings.log_format)
        load_model_cards(settings.models_dir, settings.model_ids)
        BrokerAddresses(settings.amqp_url.get_secret_value(), "gateway")
        load_usable_plans(settings)
        check_readable(settings.tenants_url.get_secret_value())
        use_certificate(server, settings)
    except ConfigurationError as exc:
        get_logger(__name__).error("configuration_error", error_message=exc.message)
        sys.exit(ExitCode.CONFIGURATION)


def on_reload(server: Arbiter) -> None:
    """After SIGHUP: new worker processes read the certificate anew."""
    use_certificate(server, load_settings(GatewaySettings))
