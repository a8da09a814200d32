"""What a card allows of a video."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.gateway.bounds import outside
from shared.contracts.model_card import load_model_card
from tests.support.builders import make_params

MODELS = Path(__file__).parents[3] / "models"
VIDEO = load_model_card(MODELS / "tiny-easyanimate")
PICTURE = load_model_card(MODELS / "simulated")


@pytest.mark.parametrize("frames", [1, 5, 25, 45, 49])
def test_frames_of_the_form_4k_plus_1_are_allowed(frames: int) -> None:
    assert outside(make_params(num_frames=frames), VIDEO) == []


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (2, "must be one more than a multiple of 4; the nearest is 1 or 5"),
        (24, "must be one more than a multiple of 4; the nearest is 21 or 25"),
        (48, "must be one more than a multiple of 4; the nearest is 45 or 49"),
        (50, "must be at most 49"),
        (53, "must be at most 49"),
    ],
)
def test_other_numbers_of_frames_are_refused_with_the_nearest(frames: int, message: str) -> None:
    (error,) = outside(make_params(num_frames=frames), VIDEO)
    assert (error.field, error.message) == ("num_frames", message)


def test_the_nearest_number_of_frames_is_one_that_is_allowed() -> None:
    card = VIDEO.model_copy(update={"limits": VIDEO.limits.model_copy(update={"max_frames": 48})})
    (error,) = outside(make_params(num_frames=47), card)
    assert error.message.endswith("the nearest is 45")


def test_a_card_without_a_step_allows_any_number_up_to_its_own() -> None:
    limits = PICTURE.limits.model_copy(update={"max_frames": 4})
    card = PICTURE.model_copy(update={"limits": limits})
    assert [outside(make_params(num_frames=frames), card) for frames in (1, 2, 3, 4)] == [[]] * 4


def test_a_longer_video_is_predicted_to_cost_more() -> None:
    params = {"width": 128, "height": 128, "steps": 8, "guidance": 6.0}
    short, long = (VIDEO.predict(make_params(num_frames=frames, **params)) for frames in (5, 49))
    assert long.gpu_seconds > 2 * short.gpu_seconds
    assert long.vram_mb > short.vram_mb
