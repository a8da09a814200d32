from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from models.judge import judge
from models.painter import BACKGROUNDS, HAIR, SIDE, Character, Scene, draw_scene, paint
from models.prompts import xml_prompt

GIRL = Character(
    gender="girl",
    hair="blue",
    style="long_hair",
    eyes="red",
    expression="smile",
    clothing="school_uniform",
    place="left",
)
OTHER = replace(GIRL, hair="blonde", eyes="green", clothing="red_dress", place="right")
PAIR = Scene(background="white", characters=(GIRL, OTHER))


def test_scenes_have_every_colour_and_one_or_two_characters() -> None:
    rng = np.random.default_rng(1)
    scenes = [draw_scene(rng) for _ in range(300)]
    assert {scene.background for scene in scenes} == set(BACKGROUNDS)
    assert {who.hair for scene in scenes for who in scene.characters} == set(HAIR)
    assert {len(scene.characters) for scene in scenes} == {1, 2}


@pytest.mark.parametrize("seed", range(20))
def test_what_is_painted_is_judged_right(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scene = draw_scene(rng)
    pixels = paint(scene, rng)
    assert pixels.shape == (SIDE, SIDE, 3)
    verdict = judge(scene, pixels)
    assert verdict.background_right
    assert (verdict.hair_right, verdict.eyes_right, verdict.clothing_right) == (True, True, True)


@pytest.mark.parametrize(
    ("other", "wrong"),
    [
        (replace(PAIR, background="black"), "background_right"),
        (replace(PAIR, characters=(OTHER, GIRL)), "hair_right"),
        (replace(PAIR, characters=(replace(GIRL, eyes="green"), OTHER)), "eyes_right"),
        (replace(PAIR, characters=(GIRL, replace(OTHER, clothing="white_shirt"))), "clothing_right"),
    ],
)
def test_another_scene_is_judged_wrong(other: Scene, wrong: str) -> None:
    swapped = replace(
        other,
        characters=tuple(replace(who, place=p) for who, p in zip(other.characters, ("left", "right"), strict=True)),
    )
    verdict = judge(PAIR, paint(swapped, np.random.default_rng(2)))
    assert not getattr(verdict, wrong)


def test_a_prompt_says_all_of_a_scene_or_with_chance_less() -> None:
    whole = xml_prompt(PAIR)
    for word in ("blue_hair", "blonde_hair", "red_dress", "center_left", "center_right", "white_background", "2girls"):
        assert word in whole
    rng = np.random.default_rng(3)
    varied = {xml_prompt(PAIR, rng) for _ in range(50)}
    assert len(varied) > 40
    assert any("blue_hair" not in prompt for prompt in varied)
