"""The status sweeper's composition root: settings in, a wired process out."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from services.status.errors import ViewStoreError
from services.status.lifecycle.keep_times import read_keep_times
from services.status.lifecycle.rounds import Lifecycle
from services.status.retention.bootstrap import terms_of
from services.status.retention.retention import Retention
from services.status.store.database import open_database
from services.status.sweeper.chores import ChoreDuty
from services.status.sweeper.comparison import Comparison
from services.status.sweeper.evidence import Margins
from services.status.sweeper.expiry import ExpiryDuty
from services.status.sweeper.lifting import LiftingDuty
from services.status.sweeper.loop import AUTHOR, Pace, Sweeper
from services.status.sweeper.metrics import SweeperMetrics
from services.status.sweeper.recovery import RecoveryDuty
from services.status.sweeper.weights import PlanWeights
from shared.auth.bootstrap import key_reader
from shared.auth.plans import load_plans
from shared.clock import utc_now
from shared.health import Health, HealthServer
from shared.messaging.depths import ReadyCounts
from shared.messaging.publisher import ThreadedPublisher
from shared.storage.records import TaskRecords
from shared.storage.s3 import S3Store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from services.status.config import StatusSweeperSettings
    from services.status.store.database import Database
    from services.status.store.ports import WorkStore


@contextmanager
def status_sweeper(settings: StatusSweeperSettings) -> Iterator[Sweeper]:
    """Build everything, start what runs in the background, and end it in the reverse order.

    Raises ConfigurationError for settings that cannot be used, ViewStoreError for a database that does not answer.
    """
    metrics = SweeperMetrics()
    with ExitStack() as stack:
        database = open_database(settings.database_url.get_secret_value())
        stack.callback(database.close)
        work = database.work
        objects = S3Store(settings)
        publisher = ThreadedPublisher(settings.amqp_url.get_secret_value(), "status.sweeper", settings.queue_type)
        publisher.start()
        stack.callback(publisher.stop)
        counts = ReadyCounts(settings.amqp_url.get_secret_value(), "status.sweeper.counts")
        counts.start()
        stack.callback(counts.stop)
        reader = key_reader(settings.tenants_url.get_secret_value())
        plans = load_plans(settings.plans_file)
        weights = PlanWeights(reader, plans, utc_now)
        if settings.metrics_port:
            health = Health(
                {
                    "publisher": lambda: None if publisher.connected else "not connected",
                    "database": lambda: database_problem(work),
                },
                {"tenants": weights.problem},
            )
            server = HealthServer(health, metrics.registry, settings.metrics_port, settings.metrics_host)
            server.start()
            stack.callback(server.stop)
        records = TaskRecords(objects)
        expiry = ExpiryDuty(work=work, records=records, publisher=publisher, metrics=metrics, clock=utc_now)
        recovery = RecoveryDuty(
            work=work,
            comparison=Comparison(records=records, publisher=publisher, clock=utc_now, author=AUTHOR),
            ready=counts.ready,
            metrics=metrics,
            clock=utc_now,
            margins=Margins(silent=timedelta(seconds=settings.sweep_silent_seconds)),
        )
        lifting = LiftingDuty(
            work=work,
            publisher=publisher,
            metrics=metrics,
            clock=utc_now,
            interval_seconds=settings.sweep_seconds,
            weight_of=weights.of,
        )
        rounds = Lifecycle(records=records, read_times=lambda: read_keep_times(reader, plans))
        lifecycle = ChoreDuty("artifacts", rounds.run, metrics=metrics, clock=utc_now)
        yield Sweeper(
            work=work,
            # Lifting forgets what has ended, which tells the others how far workers have come.
            duties=(expiry, recovery, lifting, lifecycle, _retention(database, objects, settings, metrics)),
            prove_store=objects.probe,
            metrics=metrics,
            clock=utc_now,
            pace=Pace(seconds=settings.sweep_seconds, tasks=settings.sweep_tasks),
        )


def _retention(
    database: Database, objects: S3Store, settings: StatusSweeperSettings, metrics: SweeperMetrics
) -> ChoreDuty:
    rows = Retention(store=database.retention, objects=objects, terms=terms_of(settings))
    # Its rows are cheap beside what the limit of a pass is for.
    return ChoreDuty("retention", lambda now, _: rows.run_piece(now), metrics=metrics, clock=utc_now)


def database_problem(work: WorkStore) -> str | None:
    """What keeps the database from being written, or None."""
    try:
        work.check()
    except ViewStoreError as exc:
        return exc.message
    return None
