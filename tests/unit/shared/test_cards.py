"""The cards that come with the repository."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.worker.backends.registry import BACKENDS
from shared.contracts.model_card import load_model_card
from tests.support.builders import make_params

MODELS = Path(__file__).parents[3] / "models"
CARDS = sorted(path.parent for path in MODELS.glob("*/atelier.toml"))

# Seconds of a step with guidance on an A100 of 80 GB, 12b (EasyAnimate's README), by width, height and frames.
PUBLISHED = [
    (672, 384, 25, 1.75),
    (672, 384, 49, 3.7),
    (1008, 576, 25, 4.7),
    (1008, 576, 49, 11.4),
    (1344, 768, 25, 10.6),
    (1344, 768, 49, 28.3),
]


@pytest.mark.parametrize("folder", CARDS, ids=lambda folder: folder.name)
def test_every_card_is_read_and_names_a_backend_that_is_there(folder: Path) -> None:
    card = load_model_card(folder)
    assert card.model.backend in BACKENDS
    assert card.limits.frame_step == (4 if card.model.kind == "video" else 1)


@pytest.mark.parametrize(("width", "height", "frames", "seconds"), PUBLISHED)
def test_the_prices_of_easyanimate_12b_are_within_a_tenth_of_the_published_times(
    width: int, height: int, frames: int, seconds: float
) -> None:
    card = load_model_card(MODELS / "easyanimate-v5.1-12b")
    params = make_params(width=width, height=height, num_frames=frames, steps=25, guidance=6.0)
    predicted = (card.predict(params).gpu_seconds - card.cost.fixed_seconds) / 25
    assert predicted == pytest.approx(seconds, rel=0.1)


def test_lower_tiers_need_less_memory() -> None:
    for folder in CARDS:
        needs = [price.memory.base for price in load_model_card(folder).prices]
        assert needs == sorted(needs, reverse=True)
