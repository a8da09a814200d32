"""The object store over S3. Every error of the library leaves this module as one of ours."""

from __future__ import annotations

from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from urllib3.exceptions import HTTPError

from shared.domain.errors import AlreadyExistsError, ConfigurationError, ObjectNotFoundError, StorageError
from shared.ids import new_execution_id
from shared.storage.ports import ListedObject, StoredObject
from shared.tls.problems import named

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from botocore.response import StreamingBody
    from mypy_boto3_s3 import S3Client

    from shared.config import StorageSettings
    from shared.storage.ports import Span

_ENDPOINT: Final = "ATELIER_S3_ENDPOINT"
_CHUNK_BYTES: Final = 256 * 1024
_MISSING: Final = frozenset({"NoSuchKey", "404", "NotFound"})
# S3 answers a lost conditional write with 412, and with 409 when two of them race.
_LOST: Final = frozenset({"PreconditionFailed", "412", "ConditionalRequestConflict", "409"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """Seconds that one try may take to connect and to wait for an answer, and how often a call is tried."""

    connect: float = 2.0
    read: float = 20.0
    tries: int = 3

    @property
    def longest(self) -> float:
        """Seconds that a call may take, without the pauses between its tries."""
        return self.tries * (self.connect + self.read)


class S3Store:
    """An ObjectStore over one bucket. Thread-safe; in a gevent process it works on the patched sockets."""

    def __init__(self, settings: StorageSettings, patience: Patience | None = None) -> None:
        self._bucket = settings.s3_bucket
        self._client = _client(settings, settings.s3_endpoint, patience or Patience())
        # A presigned URL signs the host, so it is made for the address that clients use.
        public = settings.s3_public_endpoint
        self._public_client = _client(settings, public, Patience()) if public else None

    def put(self, key: str, body: bytes, *, media_type: str) -> None:
        """See ObjectStore."""
        with _translated(key):
            self._client.put_object(Bucket=self._bucket, Key=key, Body=body, ContentType=media_type)

    def create(self, key: str, body: bytes, *, media_type: str) -> None:
        """See ObjectStore."""
        with _translated(key):
            self._client.put_object(Bucket=self._bucket, Key=key, Body=body, ContentType=media_type, IfNoneMatch="*")

    def put_file(self, key: str, path: Path, *, media_type: str) -> None:
        """See ObjectStore."""
        with _translated(key), path.open("rb") as file:
            self._client.put_object(Bucket=self._bucket, Key=key, Body=file, ContentType=media_type)

    def get(self, key: str) -> bytes:
        """See ObjectStore."""
        with _translated(key):
            body: bytes = self._client.get_object(Bucket=self._bucket, Key=key)["Body"].read()
            return body

    def open(self, key: str, span: Span | None = None) -> StoredObject:
        """See ObjectStore."""
        wanted: dict[str, Any] = {"Range": f"bytes={span.first}-{span.last}"} if span is not None else {}
        with _translated(key):
            answer = self._client.get_object(Bucket=self._bucket, Key=key, **wanted)
            return StoredObject(
                chunks=_chunks(key, answer["Body"]),
                size=answer["ContentLength"],
                media_type=answer["ContentType"],
                etag=answer["ETag"],
            )

    def exists(self, key: str) -> bool:
        """See ObjectStore."""
        try:
            with _translated(key):
                self._client.head_object(Bucket=self._bucket, Key=key)
        except ObjectNotFoundError:
            return False
        return True

    def listed(self, prefix: str, *, after: str = "") -> Iterator[ListedObject]:
        """See ObjectStore."""
        with _translated(prefix):
            lister = self._client.get_paginator("list_objects_v2")
            for page in lister.paginate(Bucket=self._bucket, Prefix=prefix, StartAfter=after):
                for item in page.get("Contents", []):
                    yield ListedObject(item["Key"], item["LastModified"], item["Size"])

    def keys(self, prefix: str) -> Iterator[str]:
        """See ObjectStore."""
        return (item.key for item in self.listed(prefix))

    def delete(self, key: str) -> None:
        """See ObjectStore."""
        with _translated(key):
            self._client.delete_object(Bucket=self._bucket, Key=key)

    def delete_prefix(self, prefix: str) -> None:
        """See ObjectStore."""
        for key in list(self.keys(prefix)):
            self.delete(key)

    def presign(self, key: str, *, seconds: int, save_as: str | None = None) -> str | None:
        """See ObjectStore."""
        if self._public_client is None:
            return None
        asked = {"Bucket": self._bucket, "Key": key}
        if save_as is not None:
            asked["ResponseContentDisposition"] = f'attachment; filename="{save_as}"'
        with _translated(key):
            return self._public_client.generate_presigned_url("get_object", Params=asked, ExpiresIn=seconds)

    def probe(self) -> None:
        """Prove that the bucket is there and honours conditional writes, on which "one outcome" rests.

        Raises ConfigurationError when it does not, StorageError when the store does not answer.
        """
        key = f"probes/{new_execution_id()}"
        try:
            # Even the first is refused where its answer was lost and the client library repeated it.
            for body in (b"1", b"2"):
                self.create(key, body, media_type="text/plain")
        except AlreadyExistsError:
            self.delete_prefix(key)
            return
        message = f"bucket {self._bucket!r}: the store ignores If-None-Match on PUT and cannot be used"
        raise ConfigurationError(message)


def _client(settings: StorageSettings, endpoint: str, patience: Patience) -> S3Client:
    client: S3Client = boto3.session.Session().client(
        "s3",
        endpoint_url=endpoint,
        region_name=settings.s3_region,
        aws_access_key_id=settings.s3_access_key.get_secret_value(),
        aws_secret_access_key=settings.s3_secret_key.get_secret_value(),
        verify=str(settings.ca_file) if settings.ca_file else None,
        config=Config(
            connect_timeout=patience.connect,
            read_timeout=patience.read,
            retries={"total_max_attempts": patience.tries, "mode": "standard"},
            max_pool_connections=32,
            s3={"addressing_style": "path"},
            # Without this presigned URLs have signatures of version 2, which not every store takes with further fields.
            signature_version="s3v4",
            # Other stores than Amazon's do not know the newer checksum trailers.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )
    return client


def _chunks(key: str, body: StreamingBody) -> Iterator[bytes]:
    with _translated(key), closing(body):
        yield from body.iter_chunks(_CHUNK_BYTES)


@contextmanager
def _translated(key: str) -> Iterator[None]:
    try:
        yield
    except ClientError as exc:
        code = exc.response.get("Error", {}).get("Code", "")
        if code in _LOST:
            raise AlreadyExistsError(key) from exc
        if code in _MISSING:
            raise ObjectNotFoundError(key) from exc
        # Go's web server tells a client so that speaks HTTP to its port for HTTPS.
        hint = f", as it does to http:// where it expects https://: see {_ENDPOINT}" if code == "400" else ""
        message = f"{key}: the store answered {code}{hint}"
        raise StorageError(message) from exc
    except (BotoCoreError, HTTPError) as exc:  # the latter where an answer breaks off
        message = f"{key}: {named(_ENDPOINT, exc, f'{_ENDPOINT}: {type(exc).__name__}')}"
        raise StorageError(message) from exc
