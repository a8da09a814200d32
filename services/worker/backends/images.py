"""Pictures as files: PNG with reproducible bytes, and the results of a request that are not yet written."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from services.worker.backends.base import ArtifactFile, Encoded, InvalidOutputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from services.worker.backends.base import GenerationRequest

PNG_MEDIA_TYPE: Final = "image/png"


def write_png(pixels: NDArray[np.uint8], path: Path, metadata: Mapping[str, str]) -> None:
    """Write (height, width, 3) pixels; equal pixels and metadata give equal bytes.

    The metadata become text chunks that anyone can read: never put a prompt or a secret there.
    """
    info = PngInfo()
    for key in sorted(metadata):
        info.add_text(key, metadata[key])
    Image.fromarray(pixels).save(path, format="PNG", pnginfo=info)


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureSet:
    """One request's computed pictures, one for each of its seeds."""

    request: GenerationRequest
    model_id: str
    pixels: tuple[NDArray[np.uint8], ...]
    timings: dict[str, float]
    receipt: dict[str, str | int | float]

    def write(self) -> Encoded:
        """Write ``<n>.png`` (n from 0) below the request's folder. Raises InvalidOutputError before the first one."""
        self._check()
        prompt_hash = hashlib.sha256(self.request.prompt.encode()).hexdigest()
        artifacts = []
        for index, (seed, pixels) in enumerate(zip(self.request.seeds, self.pixels, strict=True)):
            name = f"{index}.png"
            metadata = {
                "task_id": self.request.task_id,
                "seed": str(seed),
                "model": self.model_id,
                "prompt_sha256": prompt_hash,
            }
            write_png(pixels, self.request.out_dir / name, metadata)
            height, width = pixels.shape[:2]
            artifacts.append(ArtifactFile(name=name, media_type=PNG_MEDIA_TYPE, width=width, height=height, seed=seed))
        return Encoded(artifacts=tuple(artifacts), timings=self.timings, receipt=self.receipt)

    def _check(self) -> None:
        if len(self.pixels) != len(self.request.seeds):
            message = f"the model made {len(self.pixels)} pictures for {len(self.request.seeds)} seeds"
            raise InvalidOutputError(message)
        wanted = (self.request.height, self.request.width, 3)
        for pixels in self.pixels:
            if np.issubdtype(pixels.dtype, np.inexact) and not np.isfinite(pixels).all():
                message = "the model produced values that are not finite"
                raise InvalidOutputError(message)
            if pixels.shape != wanted or pixels.dtype != np.uint8:
                message = f"the model made {pixels.dtype} pixels of {pixels.shape}, not uint8 of {wanted}"
                raise InvalidOutputError(message)


@dataclass(frozen=True, slots=True)
class GeneratedPictures:
    """The ``Generated`` of every picture backend."""

    sets: Sequence[PictureSet]

    def encode(self) -> list[Encoded]:
        """Write the files of every request, in the requests' order."""
        return [pictures.write() for pictures in self.sets]
