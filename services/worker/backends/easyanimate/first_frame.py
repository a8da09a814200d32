"""The picture that a video begins with, brought to the video's size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageOps

from services.worker.backends.input_images import read_image

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor


def first_frame(path: Path, width: int, height: int) -> Tensor:
    """Return the picture as (3, height, width) from 0 to 1: scaled to cover the frame, and its middle cut out.

    Raises InvalidParameterError for what ``read_image`` refuses.
    """
    fitted = ImageOps.fit(read_image(path), (width, height), method=Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(fitted)).permute(2, 0, 1).float() / 255.0
