"""What services ask of an object store. Adapters: s3 and memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Span:
    """Some bytes of an object, from ``first`` to ``last``; both count, from 0."""

    first: int
    last: int

    @property
    def size(self) -> int:
        """How many."""
        return self.last - self.first + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredObject:
    """An object, or a span of it, that is being read; ``size`` is of what is read.

    ``chunks`` must be read to the end or closed.
    """

    chunks: Iterator[bytes]
    size: int
    media_type: str
    etag: str


@dataclass(frozen=True, slots=True)
class ListedObject:
    """An object in a listing: how many bytes it has, and when it was written last by the store's clock."""

    key: str
    modified_at: datetime
    size: int


class ObjectStore(Protocol):
    """Objects under keys, in one bucket. Every method raises StorageError when the store cannot be used."""

    def put(self, key: str, body: bytes, *, media_type: str) -> None:
        """Write an object, replacing one that is there."""
        ...

    def create(self, key: str, body: bytes, *, media_type: str) -> None:
        """Write an object that must not exist (``If-None-Match: *``). Raises AlreadyExistsError: exactly one wins."""
        ...

    def put_file(self, key: str, path: Path, *, media_type: str) -> None:
        """Write a file's content."""
        ...

    def get(self, key: str) -> bytes:
        """Read an object. Raises ObjectNotFoundError."""
        ...

    def open(self, key: str, span: Span | None = None) -> StoredObject:
        """Begin to read an object piece by piece, or only a span that lies within it. Raises ObjectNotFoundError."""
        ...

    def exists(self, key: str) -> bool:
        """Whether there is such an object."""
        ...

    def listed(self, prefix: str, *, after: str = "") -> Iterator[ListedObject]:
        """The objects whose keys begin with a prefix, in order, from the first behind the key ``after`` on.

        ``after`` must be a whole key, but need not exist any more: not every store orders parts of keys.
        """
        ...

    def keys(self, prefix: str) -> Iterator[str]:
        """The keys that begin with a prefix, in order."""
        ...

    def delete(self, key: str) -> None:
        """Delete an object, if there is one."""
        ...

    def delete_prefix(self, prefix: str) -> None:
        """Delete every object whose key begins with a prefix."""
        ...

    def presign(self, key: str, *, seconds: int, save_as: str | None = None) -> str | None:
        """An URL that lets anybody read the object for a while, or None when clients cannot reach the store.

        With ``save_as`` browsers save the object under that name.
        """
        ...
