"""An object store in memory that obeys the same contract tests as S3; for unit tests and nothing else."""

from __future__ import annotations

import hashlib
import threading
from typing import TYPE_CHECKING

from shared.clock import utc_now
from shared.domain.errors import AlreadyExistsError, ObjectNotFoundError, StorageError
from shared.storage.ports import ListedObject, StoredObject

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from pathlib import Path

    from shared.clock import Clock
    from shared.storage.ports import Span


class MemoryStore:
    """An ObjectStore. While ``available`` is false every call fails as a broken store would."""

    def __init__(self, clock: Clock = utc_now) -> None:
        self._objects: dict[str, tuple[bytes, str, datetime]] = {}
        self._clock = clock
        self._lock = threading.Lock()
        self.available = True

    def put(self, key: str, body: bytes, *, media_type: str) -> None:
        """See ObjectStore."""
        with self._lock:
            self._check()
            self._write(key, body, media_type)

    def create(self, key: str, body: bytes, *, media_type: str) -> None:
        """See ObjectStore."""
        with self._lock:
            self._check()
            if key in self._objects:
                raise AlreadyExistsError(key)
            self._write(key, body, media_type)

    def put_file(self, key: str, path: Path, *, media_type: str) -> None:
        """See ObjectStore."""
        self.put(key, path.read_bytes(), media_type=media_type)

    def get(self, key: str) -> bytes:
        """See ObjectStore."""
        return self._find(key)[0]

    def open(self, key: str, span: Span | None = None) -> StoredObject:
        """See ObjectStore."""
        body, media_type, _ = self._find(key)
        etag = hashlib.md5(body, usedforsecurity=False).hexdigest()
        if span is not None:
            body = body[span.first : span.last + 1]
        return StoredObject(chunks=iter([body]), size=len(body), media_type=media_type, etag=f'"{etag}"')

    def exists(self, key: str) -> bool:
        """See ObjectStore."""
        with self._lock:
            self._check()
            return key in self._objects

    def listed(self, prefix: str, *, after: str = "") -> Iterator[ListedObject]:
        """See ObjectStore."""
        with self._lock:
            self._check()
            keys = sorted(key for key in self._objects if key.startswith(prefix) and key > after)
            return iter([ListedObject(key, self._objects[key][2], len(self._objects[key][0])) for key in keys])

    def keys(self, prefix: str) -> Iterator[str]:
        """See ObjectStore."""
        return (item.key for item in self.listed(prefix))

    def delete(self, key: str) -> None:
        """See ObjectStore."""
        with self._lock:
            self._check()
            self._objects.pop(key, None)

    def delete_prefix(self, prefix: str) -> None:
        """See ObjectStore."""
        for key in self.keys(prefix):
            self.delete(key)

    def presign(self, key: str, *, seconds: int, save_as: str | None = None) -> str | None:
        """See ObjectStore. Nobody can reach this store."""
        del key, seconds, save_as
        return None

    def _write(self, key: str, body: bytes, media_type: str) -> None:
        self._objects[key] = (body, media_type, self._clock())

    def _find(self, key: str) -> tuple[bytes, str, datetime]:
        with self._lock:
            self._check()
            if key not in self._objects:
                raise ObjectNotFoundError(key)
            return self._objects[key]

    def _check(self) -> None:
        if not self.available:
            message = "the store is switched off"
            raise StorageError(message)
