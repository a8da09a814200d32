"""Pictures as files: PNG with reproducible bytes, and the results of a request that are not yet written."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from services.worker.backends.base import ArtifactFile, Encoded

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np
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
        """Write ``<n>.png`` (n from 0) below the request's folder."""
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


@dataclass(frozen=True, slots=True)
class GeneratedPictures:
    """The ``Generated`` of every picture backend."""

    sets: Sequence[PictureSet]

    def encode(self) -> list[Encoded]:
        """Write the files of every request, in the requests' order."""
        return [pictures.write() for pictures in self.sets]
