"""The composition root of the tools for dead letters."""

from __future__ import annotations

import os
import pwd
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from services.worker.dead.usecases import DeadLetters
from shared.clock import utc_now
from shared.messaging.browser import RabbitBrowser
from shared.messaging.publisher import ThreadedPublisher
from shared.messaging.topology import TASKS_DEAD
from shared.storage.records import TaskRecords
from shared.storage.s3 import S3Store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from services.worker.dead.config import OpsSettings


@contextmanager
def dead_letters(settings: OpsSettings) -> Iterator[DeadLetters]:
    """Build everything, connect in the background, and end it in the reverse order. Raises ConfigurationError."""
    url = settings.amqp_url.get_secret_value()
    browser = RabbitBrowser(url, "operator.browse", TASKS_DEAD)
    publisher = ThreadedPublisher(url, "operator.publish", settings.queue_type)
    with ExitStack() as stack:
        records = TaskRecords(S3Store(settings))
        for part in (browser, publisher):
            part.start()
            stack.callback(part.stop)
        yield DeadLetters(
            browser=browser, publisher=publisher, records=records, clock=utc_now, actor=operating_system_user()
        )


def operating_system_user() -> str:
    """Who runs this process, by its user id: the environment could say anything."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
