"""Paints cartoon characters from attributes: the pictures that the small model learns from, and is judged by.

Everything a prompt can say has one plain look, and the places of hair and background are known, so that a picture can
be judged by its pixels alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Colour = tuple[int, int, int]
    Box = tuple[float, float, float, float]

SIDE: Final = 128
HAIR: Final[Mapping[str, Colour]] = {
    "black": (42, 38, 52),
    "brown": (122, 74, 42),
    "blonde": (244, 212, 104),
    "red": (202, 38, 48),
    "pink": (246, 146, 190),
    "purple": (132, 78, 192),
    "blue": (58, 108, 222),
    "green": (58, 160, 88),
    "white": (232, 234, 244),
}
BACKGROUNDS: Final[Mapping[str, Colour]] = {
    "white": (250, 250, 250),
    "grey": (168, 168, 176),
    "blue": (146, 194, 242),
    "green": (160, 214, 154),
    "pink": (250, 200, 218),
    "yellow": (250, 234, 150),
    "purple": (198, 170, 230),
    "orange": (250, 190, 132),
    "black": (44, 44, 54),
}
EYES: Final[Mapping[str, Colour]] = {
    "blue": (50, 110, 220),
    "red": (205, 40, 50),
    "green": (40, 150, 70),
    "brown": (120, 70, 35),
    "purple": (130, 70, 190),
    "yellow": (225, 180, 30),
}
# The top and its collar or ribbon.
CLOTHING: Final[Mapping[str, tuple[Colour, Colour]]] = {
    "school_uniform": ((44, 56, 100), (214, 52, 58)),
    "white_shirt": ((240, 240, 244), (150, 160, 180)),
    "red_dress": ((196, 44, 58), (250, 236, 236)),
    "green_jacket": ((60, 124, 84), (236, 226, 196)),
    "black_hoodie": ((56, 54, 64), (150, 150, 160)),
}
STYLES: Final = ("long_hair", "short_hair", "twintails", "ponytail")
EXPRESSIONS: Final = ("smile", "sad", "angry", "surprised", "expressionless")
GENDERS: Final = ("girl", "boy")
PLACES: Final = ("left", "center", "right")
SKIN: Final = (250, 222, 204)
LINE: Final = (60, 42, 52)
# Painted larger and shrunk: smooth edges.
_SCALE: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Character:
    """One character. ``place`` is one of PLACES; with two in a scene the first is left and the second right."""

    gender: str
    hair: str
    style: str
    eyes: str
    expression: str
    clothing: str
    place: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What is in a picture: one or two characters before a plain background."""

    background: str
    characters: tuple[Character, ...]


@dataclass(frozen=True, slots=True)
class Head:
    """Where a character's head is: centre and radius in pixels of a picture of SIDE."""

    x: float
    y: float
    radius: float


def draw_scene(rng: np.random.Generator) -> Scene:
    """Draw a scene, every attribute on its own; two characters in four scenes of ten."""
    two = rng.random() < 0.4
    places = ("left", "right") if two else (str(rng.choice(PLACES, p=(0.2, 0.6, 0.2))),)
    return Scene(background=_one(rng, BACKGROUNDS), characters=tuple(_character(rng, place) for place in places))


def head_of(scene: Scene, character: Character) -> Head:
    """Where this character's head is painted, give or take two pixels."""
    if len(scene.characters) > 1:
        return Head({"left": 35.0, "right": 93.0}[character.place], 58.0, 21.0)
    return Head({"left": 44.0, "center": 64.0, "right": 84.0}[character.place], 56.0, 27.0)


def paint(scene: Scene, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Paint a scene as pixels (SIDE, SIDE, 3); ``rng`` moves heads by two pixels at most and varies shades a little."""
    image = Image.new("RGB", (SIDE * _SCALE, SIDE * _SCALE), _shade(BACKGROUNDS[scene.background], rng, 0.02))
    brush = _Brush(ImageDraw.Draw(image))
    for character in scene.characters:
        head = head_of(scene, character)
        moved = Head(head.x + rng.uniform(-2, 2), head.y + rng.uniform(-2, 2), head.radius * rng.uniform(0.96, 1.04))
        _paint_character(brush, character, moved, _shade(HAIR[character.hair], rng, 0.04))
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX))


class _Brush:
    """Draws in pixels of the finished picture."""

    def __init__(self, draw: ImageDraw.ImageDraw) -> None:
        self._draw = draw

    def oval(self, x: float, y: float, rx: float, ry: float, fill: Colour, *, line: Colour | None = None) -> None:
        self._draw.ellipse(_scaled(x - rx, y - ry, x + rx, y + ry), fill=fill, outline=line, width=_SCALE)

    def sector(self, box: Box, angles: tuple[float, float], fill: Colour) -> None:
        self._draw.chord(_scaled(*box), *angles, fill=fill)

    def arc(self, box: Box, angles: tuple[float, float]) -> None:
        self._draw.arc(_scaled(*box), *angles, fill=LINE, width=2 * _SCALE)

    def shape(self, points: list[tuple[float, float]], fill: Colour, *, line: Colour | None = None) -> None:
        self._draw.polygon([(x * _SCALE, y * _SCALE) for x, y in points], fill=fill, outline=line, width=_SCALE)

    def stroke(self, *points: tuple[float, float]) -> None:
        self._draw.line([(x * _SCALE, y * _SCALE) for x, y in points], fill=LINE, width=2 * _SCALE)


def _character(rng: np.random.Generator, place: str) -> Character:
    gender = str(rng.choice(GENDERS, p=(0.75, 0.25)))
    return Character(
        gender=gender,
        hair=_one(rng, HAIR),
        style="short_hair" if gender == "boy" else str(rng.choice(STYLES)),
        eyes=_one(rng, EYES),
        expression=str(rng.choice(EXPRESSIONS)),
        clothing=_one(rng, CLOTHING),
        place=place,
    )


def _paint_character(brush: _Brush, who: Character, head: Head, hair: Colour) -> None:
    x, y, r = head.x, head.y, head.radius
    _paint_back_hair(brush, who.style, head, hair)
    top, trim = CLOTHING[who.clothing]
    shoulder = y + 1.35 * r
    body = [(x - 0.5 * r, shoulder), (x + 0.5 * r, shoulder), (x + 1.1 * r, SIDE), (x - 1.1 * r, SIDE)]
    brush.oval(x, y + 1.1 * r, 0.2 * r, 0.45 * r, SKIN)
    brush.shape(body, top, line=LINE)
    brush.shape([(x - 0.35 * r, shoulder), (x + 0.35 * r, shoulder), (x, shoulder + 0.5 * r)], trim)
    brush.oval(x, y + 0.08 * r, 0.82 * r, 0.92 * r, SKIN, line=LINE)
    _paint_face(brush, who, head)
    # The fringe: a cap down to the brow, with a parting cut out of it.
    brush.sector((x - r, y - 1.08 * r, x + r, y + 0.75 * r), (192, 348), hair)
    brush.shape([(x - 0.98 * r, y - 0.3 * r), (x - 0.62 * r, y - 0.3 * r), (x - 0.82 * r, y + 0.5 * r)], hair)
    brush.shape([(x + 0.98 * r, y - 0.3 * r), (x + 0.62 * r, y - 0.3 * r), (x + 0.82 * r, y + 0.5 * r)], hair)
    brush.shape([(x - 0.1 * r, y - 0.36 * r), (x + 0.3 * r, y - 0.36 * r), (x + 0.12 * r, y - 0.05 * r)], hair)


def _paint_back_hair(brush: _Brush, style: str, head: Head, hair: Colour) -> None:
    x, y, r = head.x, head.y, head.radius
    line = _darker(hair)
    if style == "long_hair":
        low = y + 2.2 * r
        brush.shape([(x - 1.05 * r, y), (x + 1.05 * r, y), (x + 1.25 * r, low), (x - 1.25 * r, low)], hair, line=line)
    if style == "twintails":
        for side in (-1, 1):
            brush.oval(x + side * 1.2 * r, y + 0.75 * r, 0.32 * r, 1.05 * r, hair, line=line)
    if style == "ponytail":
        brush.oval(x + 0.95 * r, y - 0.5 * r, 0.5 * r, 0.42 * r, hair, line=line)
        brush.oval(x + 1.25 * r, y + 0.35 * r, 0.3 * r, 0.95 * r, hair, line=line)
    brush.oval(x, y - 0.06 * r, 1.04 * r, 1.06 * r, hair, line=line)


def _paint_face(brush: _Brush, who: Character, head: Head) -> None:
    x, y, r = head.x, head.y, head.radius
    for side in (-1, 1):
        ex, ey = x + side * 0.37 * r, y + 0.2 * r
        open_ = 1.25 if who.expression == "surprised" else 1.0
        brush.oval(ex, ey, 0.2 * r, 0.27 * r * open_, (255, 255, 255), line=LINE)
        brush.oval(ex, ey + 0.02 * r, 0.15 * r, 0.22 * r * open_, EYES[who.eyes])
        brush.oval(ex - 0.05 * r, ey - 0.08 * r, 0.05 * r, 0.06 * r, (255, 255, 255))
        if who.gender == "girl":
            brush.oval(x + side * 0.55 * r, y + 0.55 * r, 0.13 * r, 0.07 * r, (250, 176, 176))
        if who.expression == "angry":
            brush.stroke((ex - side * 0.22 * r, ey - 0.24 * r), (ex + side * 0.2 * r, ey - 0.42 * r))
        if who.expression == "sad":
            brush.stroke((ex - side * 0.2 * r, ey - 0.42 * r), (ex + side * 0.22 * r, ey - 0.26 * r))
    mouth = y + 0.68 * r
    if who.expression == "smile":
        brush.sector((x - 0.26 * r, mouth - 0.24 * r, x + 0.26 * r, mouth + 0.2 * r), (10, 170), (196, 60, 70))
    elif who.expression == "sad":
        brush.arc((x - 0.2 * r, mouth - 0.02 * r, x + 0.2 * r, mouth + 0.3 * r), (200, 340))
    elif who.expression == "surprised":
        brush.oval(x, mouth, 0.11 * r, 0.16 * r, (196, 60, 70), line=LINE)
    else:
        brush.stroke((x - 0.15 * r, mouth), (x + 0.15 * r, mouth))


def _one(rng: np.random.Generator, names: Mapping[str, object]) -> str:
    return str(rng.choice(list(names)))


def _shade(colour: Colour, rng: np.random.Generator, spread: float) -> Colour:
    factor = rng.uniform(1 - spread, 1 + spread)
    return _mixed(colour, factor)


def _darker(colour: Colour) -> Colour:
    return _mixed(colour, 0.7)


def _mixed(colour: Colour, factor: float) -> Colour:
    red, green, blue = (min(255, round(part * factor)) for part in colour)
    return red, green, blue


def _scaled(*numbers: float) -> Box:
    left, top, right, bottom = (number * _SCALE for number in numbers)
    return left, top, right, bottom
