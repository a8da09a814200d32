"""How a service comes to its Authenticator."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.auth.keystore import CachePolicy, KeyStore
from shared.auth.store.address import VARIABLE
from shared.auth.store.bounded import BoundedReader
from shared.auth.store.reader import open_reader
from shared.sql.address import sqlite_path

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from shared.auth.plans import PlanBook
    from shared.auth.store.ports import KeyReader
    from shared.config import AuthSettings


def key_store(settings: AuthSettings, plans: PlanBook, registry: CollectorRegistry) -> KeyStore:
    """Build it in the process that serves: psycopg waits as gevent wants it only when gevent has patched before.

    The store need not answer yet. Raises ConfigurationError for an address that cannot be used.
    """
    return KeyStore(
        key_reader(settings.tenants_url.get_secret_value()),
        settings.key_pepper.get_secret_value(),
        plans,
        registry=registry,
        policy=CachePolicy(fresh=settings.key_fresh_seconds, stale=settings.key_stale_seconds),
    )


def key_reader(url: str) -> KeyReader:
    """The store of tenants at an address, which answers in bounded time. Raises ConfigurationError."""
    reader = open_reader(url)
    # A file answers, or is locked for a bounded time.
    return reader if sqlite_path(url, VARIABLE) else BoundedReader(reader)
