"""Levels and forecasts, from what the ledger found."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from services.gateway.admission.ports import Admitted, Place
from services.gateway.fleet import Fleet
from services.gateway.scheduling import Forecast, Scheduling
from shared.contracts.base import encode
from shared.contracts.model_card import load_model_cards
from shared.domain.task import LANE_PRIORITY
from tests.support.builders import make_report
from tests.support.tenants import PLANS
from tests.unit.gateway.conftest import MODELS_DIR

if TYPE_CHECKING:
    from shared.contracts.model_card import ModelCard

SIMULATED = "simulated"


@pytest.fixture(scope="module")
def card() -> ModelCard:
    return load_model_cards(MODELS_DIR, (SIMULATED,))[SIMULATED]


def scheduling(*workers: str) -> Scheduling:
    fleet = Fleet((SIMULATED,))
    for worker in workers:
        fleet.hear(encode(make_report(worker=worker, model=SIMULATED)))
    return Scheduling(fleet)


def admitted(**changes: float) -> Admitted:
    figures = {"level": 5, "ahead": 0, "ahead_work": 0.0, "running": 0, "running_work": 0.0, **changes}
    return Admitted(place=Place(**figures))  # type: ignore[arg-type]


def test_more_workers_and_a_heavier_plan_bear_more_work_at_the_same_level(card: ModelCard) -> None:
    standard, vip = PLANS.resolve("standard", {}), PLANS.resolve("vip", {})
    one, two = scheduling("a"), scheduling("a", "b")
    assert two.falls_at(card, standard)[1] == pytest.approx(2 * one.falls_at(card, standard)[1])
    assert one.falls_at(card, vip)[0] > one.falls_at(card, standard)[0] == 0


def test_the_ledger_s_level_counts_and_the_lane_s_where_there_is_none() -> None:
    for name in ("standard", "vip", "batch"):
        plan = PLANS.resolve(name, {})
        assert scheduling().priority(plan, admitted(level=3)) == 3
        assert scheduling().priority(plan, Admitted(degraded=True)) == LANE_PRIORITY[plan.lane]


@pytest.mark.parametrize(
    ("workers", "found", "expected"),
    [
        ("a", admitted(), Forecast(ahead=0, eta_seconds=2.0)),
        ("a", admitted(running=1, running_work=6.0), Forecast(ahead=0, eta_seconds=5.0)),
        ("ab", admitted(running=1, running_work=6.0), Forecast(ahead=0, eta_seconds=2.0)),
        ("ab", admitted(ahead=3, ahead_work=9.0, running=2, running_work=6.0), Forecast(ahead=3, eta_seconds=8.0)),
        ("", admitted(ahead=3, ahead_work=9.0), Forecast(ahead=3)),
        ("a", Admitted(degraded=True), Forecast()),
    ],
    ids=["idle", "one runs", "another is idle", "a queue for two", "no worker", "no ledger"],
)
def test_a_forecast_counts_what_is_ahead_and_half_of_what_runs(
    workers: str, found: Admitted, expected: Forecast
) -> None:
    assert scheduling(*workers).forecast(SIMULATED, 2.0, found) == expected
