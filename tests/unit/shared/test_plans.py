from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from shared.auth.errors import PlanUnavailableError
from shared.auth.plans import load_plans
from shared.domain.errors import ConfigurationError
from shared.domain.plans import Rate
from shared.domain.task import Lane
from tests.support.tenants import PLANS, PLANS_FILE

if TYPE_CHECKING:
    from pathlib import Path

PLAN = """
[free]
lane = "standard"
weight = 1.0
requests_per_second = 2
requests_per_hour = 100
concurrency = 1
queued = 10
gpu_seconds_per_day = 600.0
max_pixels = 1_000_000
max_frames = 1
models = ["simulated"]
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "plans.toml"
    path.write_text(text)
    return path


def test_the_plans_that_come_with_the_service() -> None:
    assert PLANS.names == ("free", "standard", "vip", "batch")
    assert PLANS.anonymous is None
    free, vip = PLANS.resolve("free", {}), PLANS.resolve("vip", {})
    assert free.rates == (Rate(requests=2, seconds=1), Rate(requests=100, seconds=3600))
    assert (free.lane, vip.lane, PLANS.resolve("batch", {}).lane) == (Lane.STANDARD, Lane.VIP, Lane.BATCH)
    assert vip.weight >= 4 * PLANS.resolve("standard", {}).weight
    assert vip.allows_model("anything")


def test_the_anonymous_plan_can_be_switched_on_and_given_to_no_tenant(tmp_path: Path) -> None:
    text = PLANS_FILE.read_text().replace("enabled = false", "enabled = true")
    plans = load_plans(written(tmp_path, text))
    assert plans.anonymous is not None
    assert plans.anonymous.rates == (Rate(requests=5, seconds=60),)
    assert "anonymous" not in plans.names
    with pytest.raises(PlanUnavailableError):
        plans.resolve("anonymous", {})


def test_single_values_of_a_tenant_stand_in_place_of_the_plan_s(tmp_path: Path) -> None:
    plans = load_plans(written(tmp_path, PLAN))
    plan = plans.resolve("free", {"queued": 50, "lane": "vip", "models": "*", "requests_per_second": None})
    assert (plan.queued, plan.lane, plan.models, plan.concurrency) == (50, Lane.VIP, None, 1)
    assert plan.rates == (Rate(requests=100, seconds=3600),)
    assert plans.resolve("free", {}).queued == 10


@pytest.mark.parametrize("overrides", [{"queud": 5}, {"queued": "5"}, {"queued": 0}, {"lane": "fast"}, {"models": "x"}])
def test_a_wrong_override_is_named(overrides: dict[str, object]) -> None:
    with pytest.raises(PlanUnavailableError, match=next(iter(overrides))):
        PLANS.resolve("standard", overrides)


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("weight = 1.0", "weight = 0.0", r"free\.weight"),
        ("weight = 1.0", 'weight = "1"', r"free\.weight"),
        ("weight = 1.0", "weight = nan", r"free\.weight"),
        ("queued = 10", "", r"free\.queued"),
        ("queued = 10", "queued = true", r"free\.queued"),
        ('lane = "standard"', 'lane = "fast"', r"free\.lane"),
        ("queued = 10", "queued = 10\nextra = 1", r"free\.extra"),
        ("[free]", "[Free Plan]", "plans.toml"),
        ("[free]", "[anonymous]", "no plan that a tenant could have"),
        ("[free]", "[free", "plans.toml"),
    ],
)
def test_a_wrong_entry_is_named_with_the_file(tmp_path: Path, old: str, new: str, named: str) -> None:
    path = written(tmp_path, PLAN.replace(old, new, 1))
    with pytest.raises(ConfigurationError, match=named) as failure:
        load_plans(path)
    assert f"ATELIER_PLANS_FILE: {path}" in failure.value.message


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"ATELIER_PLANS_FILE: .*gone\.toml"):
        load_plans(tmp_path / "gone.toml")
