"""What is read of a picture's first bytes: right for real files, and never anything but a refusal for others."""

from __future__ import annotations

import struct
import time
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.images.errors import UnsupportedImageError
from services.gateway.images.header import read_header
from tests.support.pictures import HTML, SVG, claimed, picture

if TYPE_CHECKING:
    from typing import Any

REAL: Final[dict[str, tuple[str, bytes]]] = {
    "png": ("image/png", picture("PNG", (300, 7))),
    "palette": ("image/png", picture("PNG", (300, 7), "P")),
    "jpeg": ("image/jpeg", picture("JPEG", (300, 7))),
    "progressive": ("image/jpeg", picture("JPEG", (300, 7), progressive=True)),
    "profile": ("image/jpeg", picture("JPEG", (300, 7), icc_profile=bytes(200_000))),
    "exif": ("image/jpeg", picture("JPEG", (300, 7), exif=b"Exif\0\0" + bytes(5000))),
    "cmyk": ("image/jpeg", picture("JPEG", (300, 7), "CMYK")),
    "webp": ("image/webp", picture("WEBP", (300, 7))),
    "lossless": ("image/webp", picture("WEBP", (300, 7), lossless=True)),
    "extended": ("image/webp", picture("WEBP", (300, 7), "RGBA", exif=b"Exif\0\0" + bytes(50))),
}
FILES = st.sampled_from([body for _, body in REAL.values()])


@pytest.mark.parametrize("name", REAL)
def test_a_real_file_says_what_it_is_and_how_large(name: str) -> None:
    media_type, body = REAL[name]
    header = read_header(body)
    assert (header.media_type, header.width, header.height) == (media_type, 300, 7)


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"", "is empty"),
        (SVG, "is an SVG"),
        (b"\xef\xbb\xbf\n  <svg>", "is an SVG"),
        (HTML, "is HTML"),
        (picture("GIF", (8, 8), "P"), "is a GIF"),
        (b"\0\0\0\x20ftypavif" + bytes(30), "is an AVIF"),
        (picture("BMP"), "is something else"),
        (b"%PDF-1.7", "is something else"),
        (b"\x89PNG\r\n\x1a\n", "no valid header"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\x0dIDAT" + bytes(20), "no valid header"),
        (claimed(0, 5), "no valid header"),
        (b"\xff\xd8\xff\xd9", "no valid header"),
        (b"\xff\xd8\xff\xda" + bytes(50), "no valid header"),
        (b"\xff\xd8\xff\xc3\0\x11\x08\0\x10\0\x10", "no valid header"),
        (b"RIFF\0\0\0\0WEBP", "no valid header"),
        (b"RIFF\0\0\0\0WEBPVP8 " + bytes(20), "no valid header"),
    ],
)
def test_everything_else_is_refused_and_says_what_it_looks_like(body: bytes, what: str) -> None:
    with pytest.raises(UnsupportedImageError, match=what) as caught:
        read_header(body)
    assert caught.value.code == "unsupported_image"


def test_a_size_is_what_the_header_claims_whatever_follows() -> None:
    assert read_header(claimed(30_000, 2)).width == 30_000
    assert read_header(claimed(2**31 - 1, 2**31 - 1)).height == 2**31 - 1


def test_a_file_of_nothing_but_segments_is_given_up() -> None:
    body = b"\xff\xd8" + struct.pack(">BBH", 0xFF, 0xE0, 2) * 2_000_000
    began = time.process_time()
    with pytest.raises(UnsupportedImageError):
        read_header(body)
    # Reading all of it would take seconds.
    assert time.process_time() - began < 0.5


def _read(body: bytes) -> Any:  # noqa: ANN401 - the header, or none
    try:
        return read_header(body)
    except UnsupportedImageError:
        return None


@given(st.binary(max_size=300))
def test_no_bytes_do_more_than_be_refused(body: bytes) -> None:
    header = _read(body)
    assert header is None or min(header.width, header.height) >= 1


@given(st.sampled_from([b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\0\0\0\0WEBPVP8"]), st.binary(max_size=300))
def test_nor_do_bytes_behind_a_magic_number(magic: bytes, body: bytes) -> None:
    header = _read(magic + body)
    assert header is None or min(header.width, header.height) >= 1


@given(FILES, st.integers(0, 100), st.integers(0, 255), st.integers(0, 400))
def test_nor_do_real_files_that_are_changed_and_cut(body: bytes, at: int, value: int, length: int) -> None:
    changed = bytearray(body[:length])
    if at < len(changed):
        changed[at] = value
    header = _read(bytes(changed))
    assert header is None or min(header.width, header.height) >= 1
