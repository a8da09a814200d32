"""The small model does what its prompts say, through the code that serves the real one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.follow import Followed, follow, picture, scenes, write_sheet
from models.prompts import xml_prompt
from services.worker.backends.newbie.backend import NewbieBackend
from shared.contracts.model_card import ModelCard, load_model_card

MODEL = Path(__file__).parents[2] / "models" / "tiny-newbie"
PROMPTS = 40
RIGHT = 32


@pytest.fixture(scope="module")
def card() -> ModelCard:
    return load_model_card(MODEL)


@pytest.fixture(scope="module")
def backend() -> NewbieBackend:
    backend = NewbieBackend()
    backend.load(MODEL, "cpu", "resident")
    return backend


@pytest.fixture(scope="module")
def followed(backend: NewbieBackend, card: ModelCard) -> Followed:
    return follow(backend, card, scenes(PROMPTS))


def test_the_background_is_what_the_prompt_says(followed: Followed) -> None:
    assert followed.background * PROMPTS >= RIGHT


def test_the_weights_are_small_enough_for_a_repository() -> None:
    weights = [path.stat().st_size for path in MODEL.rglob("*.safetensors")]
    assert len(weights) == 4
    assert sum(weights) < 12_000_000


def test_the_same_prompt_and_seed_give_the_same_picture_and_another_seed_another(
    backend: NewbieBackend, card: ModelCard
) -> None:
    prompt = xml_prompt(scenes(1)[0])
    first = picture(backend, card, prompt, 5)
    assert np.array_equal(first, picture(backend, card, prompt, 5))
    assert not np.array_equal(first, picture(backend, card, prompt, 6))


def test_the_sheet_shows_twelve_pictures(backend: NewbieBackend, card: ModelCard, tmp_path: Path) -> None:
    write_sheet(backend, card, tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").stat().st_size > 50_000
