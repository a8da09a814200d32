"""``python -m services.gateway.ledger``: keeps the ledger of admission true by what events tell."""

from __future__ import annotations

import sys
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry

from services.gateway.admission.redis_ledger import RedisLedger
from services.gateway.config import LedgerSettings
from services.gateway.ledger.loop import BATCH, LedgerLoop
from services.gateway.ledger.open_tasks import StatusClient
from services.gateway.ledger.reconcile import Reconciler
from services.gateway.redis_client import connect
from shared.clock import utc_now
from shared.config import load_settings
from shared.domain.errors import ConfigurationError
from shared.health import Health, HealthServer
from shared.lifecycle import ExitCode, StopSignal
from shared.logging import configure, get_logger
from shared.messaging.consumer import PrefetchingConsumer
from shared.messaging.topology import GATEWAY_LEDGER

if TYPE_CHECKING:
    from shared.messaging.consumer import PrefetchingConsumer as Consumer

# Nobody waits for this process, so a slow Redis is given time.
_REDIS_SECONDS: Final = 2.0
_EVENTS_ONLY: Final = "no ATELIER_STATUS_URL: after a loss of Redis the counts heal by events only"


def main() -> int:
    """Run until told to stop. Returns the exit status, see ExitCode."""
    configure("gateway-ledger")
    log = get_logger(__name__)
    stop = StopSignal()
    stop.install()
    try:
        settings = load_settings(LedgerSettings)
        configure("gateway-ledger", level=settings.log_level, log_format=settings.log_format)
        log.info("ledger_starting")
        with ExitStack() as stack:
            run(settings, stop, stack)
    except ConfigurationError as exc:
        log.error("configuration_error", error_message=exc.message)  # noqa: TRY400 - the stack says nothing
        return ExitCode.CONFIGURATION
    log.info("ledger_stopped", exit_code=int(stop.exit_code))
    return stop.exit_code


def run(settings: LedgerSettings, stop: StopSignal, stack: ExitStack) -> None:
    """Build, start, and work until told to stop."""
    consumer = PrefetchingConsumer(settings.amqp_url.get_secret_value(), "gateway.ledger", GATEWAY_LEDGER, 2 * BATCH)
    consumer.start()
    stack.callback(consumer.stop)
    client = connect(settings.redis_url.get_secret_value(), _REDIS_SECONDS)
    stack.callback(client.close)
    ledger = RedisLedger(client)
    reconciler = _reconciler(settings, ledger)
    if settings.metrics_port:
        health = Health(
            {"events": lambda: _problem(consumer)},
            {"reconcile": lambda: _EVENTS_ONLY if reconciler is None else reconciler.problem},
        )
        server = HealthServer(health, CollectorRegistry(), settings.metrics_port, settings.metrics_host)
        server.start()
        stack.callback(server.stop)
    if reconciler is not None:
        # Beside the events: a status API that does not answer must not hold them up.
        threading.Thread(target=reconciler.run, args=(stop,), name="reconcile", daemon=True).start()
    LedgerLoop(consumer, ledger, utc_now).run(stop)


def _reconciler(settings: LedgerSettings, ledger: RedisLedger) -> Reconciler | None:
    if settings.status_url is None or settings.operator_key is None:
        get_logger(__name__).warning("ledger_heals_by_events_only")
        return None
    tasks = StatusClient(settings.status_url, settings.operator_key.get_secret_value(), settings.ca_file)
    return Reconciler(ledger, tasks, settings.reconcile_seconds, now=utc_now)


def _problem(consumer: Consumer) -> str | None:
    return None if consumer.connected else "not connected"


if __name__ == "__main__":
    sys.exit(main())
