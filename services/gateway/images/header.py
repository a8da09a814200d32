"""What a picture is and how large, read from the first bytes of its file: nothing is decoded.

PNG (W3C, PNG 3rd edition, 5.2 and 11.2.1), JPEG (ITU-T T.81, annex B), WebP (RFC 9649). Every read is bounded, whatever
the bytes are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from services.gateway.images.errors import UnsupportedImageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from shared.storage.inputs import MediaType

_PNG: Final = b"\x89PNG\r\n\x1a\n"
_PNG_HEADER: Final = b"\x00\x00\x00\x0dIHDR"
_JPEG: Final = b"\xff\xd8\xff"
# Baseline, extended and progressive with Huffman coding: what decoders read.
_FRAMES: Final = frozenset({0xC0, 0xC1, 0xC2})
_OTHER_FRAMES: Final = frozenset({0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF})
_SCAN, _END, _FILL = 0xDA, 0xD9, 0xFF
# Colour profiles may take 255 segments; a file of nothing but small ones would be read for seconds.
_MOST_SEGMENTS: Final = 1000
_VP8_START: Final = b"\x9d\x01\x2a"
_VP8L_START: Final = 0x2F
_SHOWN_BYTES: Final = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a file's first bytes say. Sides are pixels, at least 1."""

    media_type: MediaType
    width: int
    height: int


def read_header(body: bytes) -> Header:
    """The header of a PNG, JPEG or WebP. Raises UnsupportedImageError for anything else."""
    found: tuple[MediaType, Callable[[bytes], tuple[int, int]]] | None = None
    if body.startswith(_PNG):
        found = "image/png", _png_sides
    elif body.startswith(_JPEG):
        found = "image/jpeg", _jpeg_sides
    elif body[:4] == b"RIFF" and body[8:12] == b"WEBP":
        found = "image/webp", _webp_sides
    if found is None:
        message = f"must be a PNG, JPEG or WebP file, and this {_looks(body)}"
        raise UnsupportedImageError(message)
    media_type, sides = found
    try:
        width, height = sides(body)
    except IndexError as exc:
        raise _broken(media_type) from exc
    if min(width, height) < 1:
        raise _broken(media_type)
    return Header(media_type=media_type, width=width, height=height)


def _broken(media_type: str) -> UnsupportedImageError:
    return UnsupportedImageError(f"begins as {media_type} and has no valid header")


def _number(body: bytes, at: int, size: int, *, big: bool) -> int:
    if at + size > len(body):
        raise IndexError
    return int.from_bytes(body[at : at + size], "big" if big else "little")


def _png_sides(body: bytes) -> tuple[int, int]:
    if body[8:16] != _PNG_HEADER:
        raise IndexError
    return _number(body, 16, 4, big=True), _number(body, 20, 4, big=True)


def _jpeg_sides(body: bytes) -> tuple[int, int]:
    at = 2
    for _ in range(_MOST_SEGMENTS):
        if body[at] != _FILL:
            raise IndexError
        marker = body[at + 1]
        if marker == _FILL:
            at += 1
            continue
        if marker in _FRAMES:
            return _number(body, at + 7, 2, big=True), _number(body, at + 5, 2, big=True)
        if marker in {_SCAN, _END} or marker in _OTHER_FRAMES:
            break
        length = _number(body, at + 2, 2, big=True)
        if length < 2:  # noqa: PLR2004 - it counts its own two bytes
            break
        at += 2 + length
    raise IndexError


def _webp_sides(body: bytes) -> tuple[int, int]:
    kind = body[12:16]
    if kind == b"VP8X":
        return 1 + _number(body, 24, 3, big=False), 1 + _number(body, 27, 3, big=False)
    if kind == b"VP8L" and body[20] == _VP8L_START:
        bits = _number(body, 21, 4, big=False)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 " and body[23:26] == _VP8_START:
        return _number(body, 26, 2, big=False) & 0x3FFF, _number(body, 28, 2, big=False) & 0x3FFF
    raise IndexError


def _looks(body: bytes) -> str:
    """What a client sent instead, as far as that is easily told."""
    first = body[:_SHOWN_BYTES].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not body:
        return "is empty"
    if first.startswith((b"gif87a", b"gif89a")):
        return "is a GIF"
    if b"<svg" in first:
        return "is an SVG"
    if first.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "is HTML"
    if body[4:8] == b"ftyp":
        return "is an AVIF, HEIC or video file"
    return "is something else"
