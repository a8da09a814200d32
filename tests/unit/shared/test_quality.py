"""Which quality is made, and what it costs by a model's card."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from shared.contracts.model_card import ModelCard, load_model_card
from shared.domain.quality import QUALITIES, Quality, next_cheaper, under_load
from tests.support.builders import make_params

MODELS = Path(__file__).parents[3] / "models"
DRAFT, STANDARD, HIGH = QUALITIES


@pytest.mark.parametrize(
    ("asked", "offered", "expected"),
    [
        (HIGH, QUALITIES, STANDARD),
        (HIGH, (DRAFT, HIGH), DRAFT),
        (STANDARD, QUALITIES, DRAFT),
        (STANDARD, (STANDARD, HIGH), None),
        (DRAFT, QUALITIES, None),
    ],
)
def test_the_next_cheaper_is_the_dearest_below(
    asked: Quality, offered: tuple[Quality, ...], expected: Quality | None
) -> None:
    assert next_cheaper(asked, offered) is expected


@pytest.mark.parametrize(
    ("wait", "above", "expected"),
    [(31.0, 30.0, STANDARD), (30.0, 30.0, HIGH), (None, 30.0, HIGH), (31.0, None, HIGH), (0.0, 0.0, HIGH)],
)
def test_only_a_known_wait_beyond_the_bound_lowers(wait: float | None, above: float | None, expected: Quality) -> None:
    assert under_load(HIGH, QUALITIES, wait, above) is expected


@pytest.mark.parametrize("asked", [DRAFT, STANDARD])
def test_what_has_nothing_below_it_stays(asked: Quality) -> None:
    assert under_load(asked, (STANDARD, asked), 1e9, 0.0) is asked


def card(**sections: Any) -> ModelCard:  # noqa: ANN401 - any section
    simulated = load_model_card(MODELS / "simulated").model_dump()
    return ModelCard.model_validate(simulated | sections)


def test_a_card_says_what_a_quality_means_and_standard_is_always_there() -> None:
    plain = card(quality={})
    assert plain.qualities == (STANDARD,)
    assert plain.steps(STANDARD) == plain.defaults.steps
    rich = card(quality={"draft": {"steps": 3}, "high": {"cache_threshold": 0.1}})
    assert rich.qualities == QUALITIES
    assert (rich.steps(DRAFT), rich.steps(HIGH)) == (3, rich.defaults.steps)


def test_a_task_is_priced_by_the_work_that_its_quality_leaves() -> None:
    rich = card(quality={"draft": {"cache_threshold": 0.2, "work": 0.5}})
    standard = rich.predict(make_params(steps=20, quality="standard"))
    assert rich.predict(make_params(steps=20)) == standard
    draft = rich.predict(make_params(steps=20, quality="draft"))
    assert draft.gpu_seconds == pytest.approx(standard.gpu_seconds / 2)


def test_the_card_that_the_guide_shows_is_one() -> None:
    guide = (MODELS.parent / "docs" / "newbie.md").read_text(encoding="utf-8")
    shown = ModelCard.model_validate(tomllib.loads(guide.partition("```toml\n")[2].partition("```")[0]))
    assert shown.qualities == QUALITIES
    # The half of a picture's seconds: fewer steps, and less work in each.
    seconds = [
        shown.predict(make_params(width=1024, height=1024, steps=shown.steps(one), quality=one)) for one in QUALITIES
    ]
    assert seconds[0].gpu_seconds < seconds[1].gpu_seconds / 2 < seconds[2].gpu_seconds


@pytest.mark.parametrize(
    "quality",
    [{"draft": {"steps": 5000}}, {"poor": {}}, {"draft": {"work": 0}}, {"draft": {"threshold": 1}}],
)
def test_a_quality_beyond_the_card_s_own_limits_is_refused(quality: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="quality"):
        card(quality=quality)
