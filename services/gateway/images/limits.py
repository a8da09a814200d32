"""How large and how many input images may be."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageLimits:
    """What is taken: bytes, pixels a side, pixels in all, images that a tenant may have kept, and how many at once."""

    most_bytes: int = 10 * 1024**2
    most_side: int = 8192
    most_pixels: int = 40_000_000
    most_kept: int = 1000
    places: int = 8
