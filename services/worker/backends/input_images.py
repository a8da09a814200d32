"""Pictures from strangers, decoded. Only the child does this: it holds no secret, is confined, and may die of it."""

from __future__ import annotations

import hashlib
import warnings
from typing import TYPE_CHECKING, Final

from PIL import Image, ImageOps

from services.worker.backends.base import InvalidParameterError

if TYPE_CHECKING:
    from pathlib import Path

MAX_BYTES: Final = 128 * 1024**2
MAX_PIXELS: Final = 40_000_000
MAX_SIDE: Final = 32_767
_FORMATS: Final = ("PNG", "JPEG", "WEBP")
_WHITE: Final = (255, 255, 255, 255)
_GREY_16: Final = frozenset({"I", "I;16", "I;16L", "I;16B", "I;16N"})


def read_image(path: Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The picture of a PNG, JPEG or WebP file in RGB, turned the way that its EXIF says.

    What is transparent becomes white, 16 bits a channel become 8, of an animation the first frame is taken. Raises
    InvalidParameterError for everything else, for what is cut off, and, before anything is decoded, for what is larger.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the library's own remarks on damaged metadata
            return _read(path, max_pixels)
    except (InvalidParameterError, MemoryError):
        raise
    except Exception as exc:  # damaged files raise whatever the decoders raise
        what = f"has more than {max_pixels} pixels"
        if not isinstance(exc, Image.DecompressionBombError):
            what = f"cannot be read: {type(exc).__name__}"
        raise _refusal(what) from exc


def image_digest(path: Path) -> str:
    """SHA-256 (hex) of a file, for receipts."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: Path, max_pixels: int) -> Image.Image:
    if path.stat().st_size > MAX_BYTES:
        what = f"has more than {MAX_BYTES} bytes"
        raise _refusal(what)
    with Image.open(path, formats=_FORMATS) as opened:
        _refuse_large(opened.size, max_pixels)
        opened.seek(0)
        opened.load()
        return _in_rgb(ImageOps.exif_transpose(opened))


def _refuse_large(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels or max(size) > MAX_SIDE:
        what = f"is {width}x{height} pixels; at most {max_pixels} in all and {MAX_SIDE} a side are read"
        raise _refusal(what)


def _in_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _GREY_16:
        # The library would clip what is above 255.
        image = image.convert("I").point(lambda value: value / 256).convert("L")
        image.info.pop("transparency", None)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, _WHITE)
        ground.alpha_composite(image)
        image = ground
    return image.convert("RGB")


def _refusal(what: str) -> InvalidParameterError:
    return InvalidParameterError(f"the input image {what}")
