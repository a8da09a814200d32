"""``python -m bench.follow``: whether the small model's pictures follow their prompts, judged by their colours.

200 scenes drawn by a fixed seed, each with a prompt that says all of it and a seed of its own; with guidance and
without.
``--sheet FILE`` also writes twelve of the pictures as one PNG.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image, ImageDraw

from bench.report import Row, at_most, plain, print_table, share_at_least, write
from models.judge import Verdict, judge
from models.painter import Character, Scene, draw_scene
from models.prompts import xml_prompt
from services.worker.backends.base import GenerationRequest
from services.worker.backends.newbie.backend import NewbieBackend
from shared.contracts.model_card import load_model_card

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from services.worker.backends.base import Backend
    from shared.contracts.model_card import ModelCard

MODEL: Final = Path(__file__).parents[1] / "models" / "tiny-newbie"
SEED: Final = 20261122
SCENES: Final = 200
SHEET: Final = 12
LABEL_HEIGHT: Final = 34
SECONDS_TARGET: Final = 1.0


@dataclass(frozen=True, slots=True)
class Followed:
    """Shares (0 to 1) of pictures, and the mean seconds of one."""

    background: float
    hair_and_background: float
    two_characters: float
    eyes: float
    clothing: float
    seconds: float

    @classmethod
    def of(cls, verdicts: Sequence[Verdict], seconds: float) -> Followed:
        """Sum up; a picture of two counts where hair and clothing are right on both characters."""
        pairs = [verdict for verdict in verdicts if len(verdict.characters) > 1]
        return cls(
            _share(verdict.background_right for verdict in verdicts),
            _share(verdict.hair_right and verdict.background_right for verdict in verdicts),
            _share(verdict.hair_right and verdict.clothing_right for verdict in pairs),
            _share(verdict.eyes_right for verdict in verdicts),
            _share(verdict.clothing_right for verdict in verdicts),
            seconds / len(verdicts),
        )


def scenes(count: int) -> list[Scene]:
    """The first scenes of the fixed seed."""
    rng = np.random.default_rng(SEED)
    return [draw_scene(rng) for _ in range(count)]


def follow(backend: Backend, card: ModelCard, asked: Sequence[Scene], guidance: float | None = None) -> Followed:
    """Make a picture of each scene, one at a time, and judge it."""
    verdicts = []
    started = time.perf_counter()
    for number, scene in enumerate(asked):
        verdicts.append(judge(scene, picture(backend, card, xml_prompt(scene), number, guidance)))
    return Followed.of(verdicts, time.perf_counter() - started)


def picture(
    backend: Backend, card: ModelCard, prompt: str, seed: int, guidance: float | None = None
) -> NDArray[np.uint8]:
    """One picture by the card's defaults, as pixels (height, width, 3)."""
    defaults = card.defaults
    with tempfile.TemporaryDirectory() as folder:
        request = GenerationRequest(
            task_id=f"follow-{seed}",
            prompt=prompt,
            negative_prompt=defaults.negative_prompt,
            prompt_format="xml",
            width=defaults.width,
            height=defaults.height,
            steps=defaults.steps,
            guidance=defaults.guidance if guidance is None else guidance,
            seeds=(seed,),
            num_frames=1,
            out_dir=Path(folder),
        )
        (made,) = backend.generate([request], lambda *_, **__: None, lambda: False).encode()
        return np.asarray(Image.open(Path(folder) / made.artifacts[0].name).convert("RGB"))


def main(arguments: list[str]) -> int:
    """Run and report. Returns 1 when a target is missed."""
    parser = argparse.ArgumentParser(prog="bench.follow", description=__doc__)
    parser.add_argument("--scenes", type=int, default=SCENES, help="how many pictures")
    parser.add_argument("--sheet", type=Path, help="where to write the contact sheet")
    options = parser.parse_args(arguments)
    card = load_model_card(MODEL)
    backend = NewbieBackend()
    backend.load(MODEL, "cpu", "resident")
    if options.sheet:
        write_sheet(backend, card, options.sheet)
    asked = scenes(options.scenes)
    rows = _rows(follow(backend, card, asked), follow(backend, card, asked, guidance=1.0), len(asked))
    print_table(rows)
    print(f"\nwritten to {write(rows, 'follow')}")
    return int(any(row.ok is False for row in rows))


def _rows(guided: Followed, free: Followed, count: int) -> list[Row]:
    detail = f"of {count} prompts"
    without = f"{free.hair_and_background:.2f} and {free.two_characters:.2f} without guidance"
    return [
        share_at_least("follow.hair_and_background", guided.hair_and_background, 0.85, detail),
        share_at_least("follow.two_characters", guided.two_characters, 0.6, "hair and clothing of both right"),
        plain("follow.background", guided.background, "", "background colour right"),
        plain("follow.eyes", guided.eyes, "", "eye colour of every character right"),
        plain("follow.clothing", guided.clothing, "", "clothing of every character right"),
        plain("follow.hair_and_background_unguided", free.hair_and_background, "", without),
        plain("follow.two_characters_unguided", free.two_characters, ""),
        at_most("follow.seconds", guided.seconds, "s", SECONDS_TARGET, "a picture, one at a time"),
    ]


def write_sheet(backend: Backend, card: ModelCard, path: Path) -> None:
    """Twelve scenes that differ in everything, with what was asked for written below each."""
    cells = [_cell(picture(backend, card, xml_prompt(scene), 7 + n), scene) for n, scene in enumerate(_shown())]
    rows = [np.concatenate(cells[start : start + 4], axis=1) for start in range(0, SHEET, 4)]
    Image.fromarray(np.concatenate(rows, axis=0)).save(path, optimize=True)


def _cell(pixels: NDArray[np.uint8], scene: Scene) -> NDArray[np.uint8]:
    side = pixels.shape[0]
    image = Image.new("RGB", (2 * side, 2 * side + LABEL_HEIGHT), "white")
    image.paste(Image.fromarray(pixels).resize((2 * side, 2 * side), Image.Resampling.NEAREST))
    words = [f"{who.hair} {who.style}, {who.eyes} eyes, {who.expression}" for who in scene.characters]
    lines = [*words, f"{scene.background} background"] if len(words) == 1 else words
    ImageDraw.Draw(image).text((4, 2 * side + 3), "\n".join(lines), fill="black")
    return np.asarray(image)


def _shown() -> list[Scene]:
    girl = Character(
        gender="girl",
        hair="blue",
        style="long_hair",
        eyes="red",
        expression="smile",
        clothing="school_uniform",
        place="center",
    )
    one = [
        (girl, "white"),
        (replace(girl, hair="pink", style="twintails", eyes="blue", clothing="white_shirt"), "yellow"),
        (replace(girl, hair="green", style="ponytail", eyes="yellow", expression="surprised"), "purple"),
        (replace(girl, gender="boy", hair="brown", style="short_hair", eyes="green", expression="angry"), "orange"),
        (replace(girl, hair="white", eyes="purple", expression="sad", clothing="red_dress", place="left"), "black"),
        (replace(girl, hair="black", style="twintails", eyes="brown", clothing="green_jacket"), "pink"),
        (replace(girl, hair="blonde", style="short_hair", clothing="black_hoodie", place="right"), "blue"),
        (replace(girl, hair="red", style="ponytail", eyes="green", clothing="white_shirt"), "grey"),
    ]
    left, right = replace(girl, place="left"), replace(girl, place="right", style="twintails", eyes="green")
    two = [
        ((left, replace(right, hair="blonde", clothing="red_dress")), "white"),
        ((replace(left, hair="red", expression="angry"), replace(right, hair="black")), "green"),
        ((replace(left, hair="purple", clothing="white_shirt"), replace(right, hair="pink", expression="sad")), "blue"),
        ((replace(left, hair="brown"), replace(right, hair="green", clothing="black_hoodie")), "yellow"),
    ]
    single = [Scene(background=background, characters=(who,)) for who, background in one]
    return [*single, *(Scene(background=background, characters=pair) for pair, background in two)]


def _share(answers: Iterable[bool]) -> float:
    found = list(answers)
    return sum(found) / len(found) if found else 0.0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
