"""Input images: from an upload or a client's URL, checked by their header alone, and stored for their tenant."""

from __future__ import annotations

import hashlib
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final

from services.gateway.errors import InvalidParametersError
from services.gateway.images.errors import (
    FIELD,
    ImageNeedsKeyError,
    ImageNotFoundError,
    ImagesBusyError,
    ImageTooLargeError,
    TooManyImagesError,
)
from services.gateway.images.header import read_header
from shared.contracts.task import InputImage
from shared.domain.keeping import INPUTS_NAMED_FOR
from shared.domain.plans import is_anonymous
from shared.http.errors import FieldError
from shared.logging import get_logger
from shared.storage.inputs import input_key, media_type_of, sha256_of, tenant_prefix

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from services.gateway.images.fetching import ImageFetcher
    from services.gateway.images.header import Header
    from services.gateway.images.limits import ImageLimits
    from shared.clock import Clock
    from shared.contracts.model_card import ModelCard
    from shared.storage.ports import ObjectStore

log = get_logger(__name__)

# Between two pieces other greenlets get their turn.
_HASHED_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """An image that is stored, its sides in pixels, and until when it may be named."""

    image: InputImage
    width: int
    height: int
    until: datetime


class Images:
    """Handles ``places`` images at once at most, so that their bytes never fill the process's memory."""

    def __init__(
        self,
        store: ObjectStore,
        fetcher: ImageFetcher,
        limits: ImageLimits,
        clock: Clock,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._store = store
        self._fetcher = fetcher
        self.limits = limits
        self._clock = clock
        self._pause = pause
        self._places = threading.BoundedSemaphore(limits.places)

    @contextmanager
    def place(self) -> Iterator[None]:
        """Room for the bytes of one image. Raises ImagesBusyError."""
        if not self._places.acquire(blocking=False):
            message = f"this gateway handles {self.limits.places} images at once; try again in a few seconds"
            raise ImagesBusyError(message)
        try:
            yield
        finally:
            self._places.release()

    def check(self, reference: str | None, card: ModelCard, tenant_id: str) -> None:
        """Refuse what can be refused without asking anybody. Raises InvalidParametersError, RequestError."""
        wanted = card.model.image_input
        if reference is None:
            if wanted == "required":
                message = f"the model {card.id} starts from an image: give one"
                raise _invalid(message)
            return
        if wanted == "none":
            message = f"the model {card.id} takes no image"
            raise _invalid(message)
        check_owner(tenant_id)
        if _is_url(reference):
            self._fetcher.check(reference)
        elif sha256_of(reference) is None:
            message = "must be an id that /api/v1/images answered with, or a URL"
            raise _invalid(message)

    def bring(self, reference: str, tenant_id: str) -> InputImage:
        """The stored image that a request means, fetched and stored first where it is a URL.

        Raises ImageError, RequestError, StorageError.
        """
        sha256 = sha256_of(reference)
        if sha256 is not None:
            return self._named(sha256, tenant_id)
        with self.place():
            return self.take(self._fetcher.fetch(reference, self.limits.most_bytes), tenant_id).image

    def take(self, body: bytes, tenant_id: str) -> Taken:
        """Check an image's bytes and store them. Raises ImageError, TooManyImagesError, StorageError."""
        if len(body) > self.limits.most_bytes:
            message = f"has more than {self.limits.most_bytes} bytes"
            raise ImageTooLargeError(message)
        header = read_header(body)
        self._refuse_large(header)
        sha256 = self._digest(body)
        key = input_key(tenant_id, sha256, header.media_type)
        self._refuse_many(tenant_id, key)
        # Written again where it is there: its time begins anew.
        self._store.put(key, body, media_type=header.media_type)
        log.info("image_taken", media_type=header.media_type, bytes=len(body), sha256=sha256)
        image = InputImage(key=key, media_type=header.media_type, bytes=len(body), sha256=sha256)
        until = self._clock() + INPUTS_NAMED_FOR
        return Taken(image=image, width=header.width, height=header.height, until=until)

    def _named(self, sha256: str, tenant_id: str) -> InputImage:
        found = next(iter(self._store.listed(f"{tenant_prefix(tenant_id)}{sha256}")), None)
        media_type = None if found is None else media_type_of(found.key)
        if found is None or media_type is None or self._clock() - found.modified_at >= INPUTS_NAMED_FOR:
            message = f"there is no such image, or it was uploaded more than {INPUTS_NAMED_FOR.days} days ago"
            raise ImageNotFoundError(message)
        return InputImage(key=found.key, media_type=media_type, bytes=found.size, sha256=sha256)

    def _refuse_large(self, header: Header) -> None:
        limits = self.limits
        if max(header.width, header.height) > limits.most_side or header.width * header.height > limits.most_pixels:
            message = (
                f"is {header.width}x{header.height} pixels; at most {limits.most_side} a side "
                f"and {limits.most_pixels} in all are taken"
            )
            raise ImageTooLargeError(message)

    def _refuse_many(self, tenant_id: str, key: str) -> None:
        kept = {item.key for item in islice(self._store.listed(tenant_prefix(tenant_id)), self.limits.most_kept)}
        if len(kept) >= self.limits.most_kept and not (key in kept or self._store.exists(key)):
            message = f"{self.limits.most_kept} images are kept; the oldest of them go after some days"
            raise TooManyImagesError(message)

    def _digest(self, body: bytes) -> str:
        digest, view = hashlib.sha256(), memoryview(body)
        for start in range(0, len(view), _HASHED_BYTES):
            digest.update(view[start : start + _HASHED_BYTES])
            self._pause(0)
        return digest.hexdigest()


def check_owner(tenant_id: str) -> None:
    """Raise ImageNeedsKeyError for whoever has no API key: nobody would answer for what is stored."""
    if is_anonymous(tenant_id):
        message = "images are taken from tenants with an API key"
        raise ImageNeedsKeyError(message)


def _is_url(reference: str) -> bool:
    return reference.lower().startswith(("https://", "http://"))


def _invalid(message: str) -> InvalidParametersError:
    return InvalidParametersError(FieldError(field=FIELD, message=message))
