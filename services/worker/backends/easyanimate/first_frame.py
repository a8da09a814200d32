"""The picture that a video begins with, decoded here in the child and brought to the video's size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from services.worker.backends.base import InvalidParameterError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

FORMATS: Final = ("PNG", "JPEG", "WEBP")
MOST_PIXELS: Final = 64_000_000


def first_frame(path: Path, width: int, height: int) -> Tensor:
    """Return the picture as (3, height, width) from 0 to 1: scaled to cover the frame, and its middle cut out.

    Raises InvalidParameterError for what is no picture of a known format, or one with too many pixels.
    """
    try:
        with Image.open(path, formats=FORMATS) as opened:
            if opened.width * opened.height > MOST_PIXELS:
                message = f"the image has {opened.width}x{opened.height} pixels, at most {MOST_PIXELS} are decoded"
                raise InvalidParameterError(message)
            upright = ImageOps.exif_transpose(opened).convert("RGB")
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as exc:
        message = f"the image cannot be decoded: {type(exc).__name__}"
        raise InvalidParameterError(message) from exc
    fitted = ImageOps.fit(upright, (width, height), method=Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(fitted)).permute(2, 0, 1).float() / 255.0
