from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
from PIL import Image

from services.worker.backends.images import write_png

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.PngImagePlugin import PngImageFile

PIXELS = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)


def test_pixels_and_metadata_survive(tmp_path: Path) -> None:
    write_png(PIXELS, tmp_path / "a.png", {"seed": "7", "task_id": "t"})
    with Image.open(tmp_path / "a.png") as image:
        assert cast("PngImageFile", image).text == {"seed": "7", "task_id": "t"}
        assert np.array_equal(np.asarray(image), PIXELS)


def test_the_bytes_do_not_depend_on_the_order_of_the_metadata(tmp_path: Path) -> None:
    write_png(PIXELS, tmp_path / "a.png", {"seed": "7", "task_id": "t"})
    write_png(PIXELS, tmp_path / "b.png", {"task_id": "t", "seed": "7"})
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
