"""The picture that a task starts from, out of the bucket and into the task's folder. Only the child decodes it."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

from services.worker.errors import InputImageLostError, InputImageUnavailableError
from shared.domain.errors import ObjectNotFoundError, StorageError
from shared.storage.inputs import file_suffix
from shared.storage.ports import Span

if TYPE_CHECKING:
    from pathlib import Path

    from services.worker.sandbox import Sandboxes
    from shared.contracts.task import InputImage
    from shared.storage.ports import ObjectStore

_NAME: Final = "input"


def fetch_input(store: ObjectStore, sandboxes: Sandboxes, image: InputImage, folder: Path) -> Path:
    """Write the image to the task's folder. Returns its path.

    Raises InputImageLostError where it is gone or is not what was submitted, InputImageUnavailableError where the store
    cannot be used, WorkFolderError.
    """
    body = _read(store, image)
    if hashlib.sha256(body).hexdigest() != image.sha256:
        message = "the stored image is not the one that was submitted"
        raise InputImageLostError(message)
    return sandboxes.write_file(folder, f"{_NAME}{file_suffix(image.media_type)}", body)


def _read(store: ObjectStore, image: InputImage) -> bytes:
    try:
        # No more than was submitted, whatever lies there by now.
        return b"".join(store.open(image.key, Span(0, image.bytes - 1)).chunks)
    except ObjectNotFoundError as exc:
        message = "the image is no longer kept"
        raise InputImageLostError(message) from exc
    except StorageError as exc:
        raise InputImageUnavailableError(exc.message) from exc
