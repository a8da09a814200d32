"""Gunicorn's settings for the status API; the address is given on the command line with ``--bind``.

Greenlets wait side by side in streams and long polls. SQLite calls block their process for well under a millisecond;
PostgreSQL's block only their greenlet, as long as psycopg is loaded after gevent has patched: by the worker processes.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from services.status.config import StatusApiSettings
from services.status.store.address import check_address
from shared.auth.plans import load_plans
from shared.auth.store.address import check_readable
from shared.config import load_settings
from shared.domain.errors import ConfigurationError
from shared.http.gunicorn_logging import RootLogger
from shared.http.server_tls import context_of, use_certificate
from shared.lifecycle import ExitCode, raise_descriptor_limit
from shared.logging import configure, get_logger
from shared.messaging.addresses import BrokerAddresses

if TYPE_CHECKING:
    from gunicorn.arbiter import Arbiter

worker_class = "gevent"
workers = 1
# The most streams that a process may be set to bear, and room for everything else.
worker_connections = 12_000
backlog = 4096
preload_app = False
keepalive = 75
timeout = 60
# Idle connections that Nginx keeps open count as unfinished: a stop always takes this long.
graceful_timeout = 5
# Its default place is shared by every gunicorn of this user.
control_socket_disable = True
accesslog = None  # the application logs its requests itself
logger_class = RootLogger
ssl_context = context_of


def on_starting(server: Arbiter) -> None:
    """The master process logs like the others, and ends at once on what no worker process could start with."""
    configure("status-api")
    raise_descriptor_limit(worker_connections + 1000)
    try:
        settings = load_settings(StatusApiSettings)
        configure("status-api", level=settings.log_level, log_format=settings.log_format)
        check_address(settings.database_url.get_secret_value())
        load_plans(settings.plans_file)
        BrokerAddresses(settings.amqp_url.get_secret_value(), "status-api")
        check_readable(settings.tenants_url.get_secret_value())
        use_certificate(server, settings)
    except ConfigurationError as exc:
        get_logger(__name__).error("configuration_error", error_message=exc.message)
        sys.exit(ExitCode.CONFIGURATION)


def on_reload(server: Arbiter) -> None:
    """After SIGHUP: new worker processes read the certificate anew."""
    use_certificate(server, load_settings(StatusApiSettings))
