"""The rebuild's composition root: settings in, a wired rebuild out."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from services.status.rebuild.ends import EndReader
from services.status.rebuild.rebuilder import Rebuilder
from services.status.store.sql import open_store
from shared.clock import utc_now
from shared.storage.records import TaskRecords
from shared.storage.s3 import S3Store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from services.status.config import StatusRebuildSettings


@contextmanager
def status_rebuild(settings: StatusRebuildSettings) -> Iterator[Rebuilder]:
    """Build everything, and end it afterwards.

    Raises ConfigurationError for settings that cannot be used, ViewStoreError for a database that does not answer.
    """
    with ExitStack() as stack:
        store = open_store(settings.database_url.get_secret_value())
        stack.callback(store.close)
        objects = S3Store(settings)
        beside = stack.enter_context(ThreadPoolExecutor(settings.rebuild_readers, thread_name_prefix="reader"))
        yield Rebuilder(
            objects=objects,
            reader=EndReader(TaskRecords(objects), beside),
            store=store,
            tell_since=utc_now() - timedelta(hours=settings.rebuild_tell_hours),
        )
