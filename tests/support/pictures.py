"""Small files of pictures, whole and damaged, as clients send them."""

from __future__ import annotations

import io
import struct
import zlib
from typing import TYPE_CHECKING, Final

from PIL import Image

if TYPE_CHECKING:
    from typing import Any

SVG: Final = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
HTML: Final = b"<!DOCTYPE html><html><body>not found</body></html>"
_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"


def picture(kind: str = "PNG", size: tuple[int, int] = (8, 6), mode: str = "RGB", **options: Any) -> bytes:  # noqa: ANN401 - the library's own
    """A file of a picture that is one colour."""
    out = io.BytesIO()
    Image.new(mode, size, options.pop("colour", None) or 0).save(out, kind, **options)
    return out.getvalue()


def chunk(name: bytes, body: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def bomb(width: int, height: int) -> bytes:
    """A valid PNG of so many black pixels in a few bytes for each thousand rows."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pack = zlib.compressobj(9)
    row = bytes(width + 1)
    data = b"".join(pack.compress(row) for _ in range(height)) + pack.flush()
    return _SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def claimed(width: int, height: int) -> bytes:
    """A PNG whose header claims a size and which has next to nothing behind it."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return _SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
