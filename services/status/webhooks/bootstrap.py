"""The composition root of the sender of callbacks: settings in, a wired process out."""

from __future__ import annotations

import random
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final

from services.status.errors import ViewStoreError
from services.status.store.database import open_database
from services.status.webhooks.courier import Courier
from services.status.webhooks.crowd import Crowd, Limits
from services.status.webhooks.loop import Pace, Sender
from services.status.webhooks.metrics import WebhookMetrics
from services.status.webhooks.secrets import SigningSecrets
from shared.auth.bootstrap import key_reader
from shared.clock import utc_now
from shared.health import Health, HealthServer
from shared.http.outbound import Outbound, Patience

if TYPE_CHECKING:
    from collections.abc import Iterator

    from services.status.config import StatusWebhooksSettings
    from services.status.webhooks.ports import DeliveryStore


# Beside the call: looking for a secret, and noting what came of it behind others that write.
_AROUND_SECONDS: Final = 10.0


@contextmanager
def webhook_sender(settings: StatusWebhooksSettings) -> Iterator[Sender]:
    """Build everything, start what runs in the background, and end it in the reverse order.

    Raises ConfigurationError for settings that cannot be used, ViewStoreError for a database that does not answer.
    """
    metrics = WebhookMetrics()
    with ExitStack() as stack:
        database = open_database(settings.database_url.get_secret_value())
        store = database.deliveries
        stack.callback(database.close)
        secrets = SigningSecrets(key_reader(settings.tenants_url.get_secret_value()), utc_now, time.monotonic)
        if settings.metrics_port:
            health = Health({"database": lambda: _database_problem(store)}, {"tenants": secrets.problem})
            server = HealthServer(health, metrics.registry, settings.metrics_port, settings.metrics_host)
            server.start()
            stack.callback(server.stop)
        whole = settings.webhook_timeout_seconds
        patience = Patience(connect=min(settings.webhook_connect_seconds, whole), whole=whole)
        courier = Courier(
            store=store,
            secrets=secrets,
            outbound=Outbound(settings.outbound_policy, patience),
            clock=utc_now,
            draw=random.random,
        )
        share = max(1, settings.webhook_slots // 4)
        limits = Limits(slots=settings.webhook_slots, tenant=share, host=share, line=settings.webhook_per_host)
        yield Sender(
            store=store,
            courier=courier,
            crowd=Crowd(limits),
            metrics=metrics,
            clock=utc_now,
            # What a sender that died had in hand is taken up by another after so long.
            pace=Pace(look=settings.webhook_look_seconds, hold=3 * whole + _AROUND_SECONDS),
        )


def _database_problem(store: DeliveryStore) -> str | None:
    try:
        store.check()
    except ViewStoreError as exc:
        return exc.message
    return None
