"""Judges by its pixels whether a picture shows the scene that was asked for: the colours where they are painted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from models.painter import BACKGROUNDS, CLOTHING, EYES, HAIR, SIDE, head_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from models.painter import Character, Scene

TOPS: Final = {name: colours[0] for name, colours in CLOTHING.items()}


@dataclass(frozen=True, slots=True)
class Seen:
    """What was recognised of one character, by the names of the painter's palettes."""

    hair: str
    eyes: str
    clothing: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a picture shows, and whether that was asked for."""

    background: str
    characters: tuple[Seen, ...]
    scene: Scene

    @property
    def background_right(self) -> bool:
        """Whether the background has the colour asked for."""
        return self.background == self.scene.background

    @property
    def hair_right(self) -> bool:
        """Whether every character has its own hair colour."""
        return self._all("hair")

    @property
    def eyes_right(self) -> bool:
        """Whether every character has its own eye colour."""
        return self._all("eyes")

    @property
    def clothing_right(self) -> bool:
        """Whether every character wears its own top."""
        return self._all("clothing")

    def _all(self, what: str) -> bool:
        pairs = zip(self.characters, self.scene.characters, strict=True)
        return all(getattr(seen, what) == getattr(asked, what) for seen, asked in pairs)


def judge(scene: Scene, pixels: NDArray[np.uint8]) -> Verdict:
    """Look at pixels (SIDE, SIDE, 3) where the scene's parts have to be."""
    edges = [pixels[2:14, 2:12], pixels[2:14, -12:-2]]
    background = _nearest(np.concatenate([edge.reshape(-1, 3) for edge in edges]), BACKGROUNDS)
    return Verdict(background, tuple(_see(scene, who, pixels) for who in scene.characters), scene)


def _see(scene: Scene, who: Character, pixels: NDArray[np.uint8]) -> Seen:
    head = head_of(scene, who)
    x, y, r = head.x, head.y, head.radius
    eyes = [_box(pixels, x + side * 0.37 * r, y + 0.26 * r, 0.09 * r, 0.09 * r) for side in (-1, 1)]
    return Seen(
        hair=_nearest(_box(pixels, x, y - 0.72 * r, 0.45 * r, 0.16 * r), HAIR),
        eyes=_nearest(np.concatenate(eyes), EYES),
        clothing=_nearest(_box(pixels, x, y + 2.3 * r, 0.45 * r, 0.25 * r), TOPS),
    )


def _box(pixels: NDArray[np.uint8], x: float, y: float, half_width: float, half_height: float) -> NDArray[np.uint8]:
    top, bottom = max(0, round(y - half_height)), min(SIDE, round(y + half_height) + 1)
    left, right = max(0, round(x - half_width)), min(SIDE, round(x + half_width) + 1)
    return pixels[top:bottom, left:right].reshape(-1, 3)


def _nearest(pixels: NDArray[np.uint8], palette: Mapping[str, tuple[int, int, int]]) -> str:
    names = list(palette)
    middle = np.median(pixels.astype(np.float64), axis=0)
    distances = np.linalg.norm(np.array([palette[name] for name in names]) - middle, axis=1)
    return names[int(distances.argmin())]
