"""What workers report decides what a task costs and whether it can be taken."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from services.gateway.errors import ExceedsMemoryError
from services.gateway.fleet import FORGET_SECONDS, Fleet
from shared.contracts.base import encode
from shared.contracts.model_card import ModelCard, load_model_card
from tests.support.builders import make_params, make_report

if TYPE_CHECKING:
    from tests.unit.gateway.conftest import Gateway

SMALL = make_params(width=256, height=256, steps=10, guidance=1.0)


class Time:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def fleet(time: Time) -> Fleet:
    return Fleet(["simulated"], time)


@pytest.fixture(scope="module")
def card() -> ModelCard:
    return load_model_card(Path(__file__).parents[3] / "models" / "simulated")


def told(fleet: Fleet, worker: str = "one", slow: float = 1.0, **changes: object) -> None:
    tier = {"name": "resident", "seconds": {"row_megapixel_step": slow}, "memory": {"base": 1000, "megapixel": 4000}}
    fleet.hear(encode(make_report(worker=worker, tiers=[tier], **changes)))


def test_without_a_report_the_card_prices(fleet: Fleet, card: ModelCard) -> None:
    assert fleet.price(card, SMALL) == card.predict(SMALL)


def test_a_report_prices(fleet: Fleet, card: ModelCard) -> None:
    told(fleet, slow=2.0)
    predicted = fleet.price(card, SMALL)
    assert predicted.gpu_seconds == pytest.approx(2.0 * 10 * 0.065536)
    assert predicted.vram_mb == round(1000 + 4000 * 0.065536)


def test_the_slowest_worker_counts_and_of_one_worker_the_newest_word(fleet: Fleet, card: ModelCard) -> None:
    for worker, slow in (("one", 9.0), ("two", 2.0), ("one", 1.0)):
        told(fleet, worker, slow)
    assert fleet.workers("simulated") == 2
    assert fleet.price(card, SMALL).gpu_seconds == pytest.approx(2.0 * 10 * 0.065536)


def test_of_many_workers_the_slowest_is_among_those_that_are_asked(fleet: Fleet, card: ModelCard) -> None:
    for number in range(30):
        told(fleet, f"worker-{number}", slow=1.0 + (number == 17))
    assert fleet.price(card, SMALL).gpu_seconds == pytest.approx(2.0 * 10 * 0.065536)


def test_a_silent_worker_is_forgotten_and_the_others_are_not(fleet: Fleet, time: Time, card: ModelCard) -> None:
    told(fleet, "one", slow=9.0)
    time.now += FORGET_SECONDS / 2
    told(fleet, "two", slow=2.0)
    time.now += FORGET_SECONDS / 2
    assert fleet.workers("simulated") == 1
    assert fleet.price(card, SMALL).gpu_seconds == pytest.approx(2.0 * 10 * 0.065536)
    time.now += FORGET_SECONDS
    assert fleet.price(card, SMALL) == card.predict(SMALL)


def test_a_worker_that_drains_is_forgotten_at_once(fleet: Fleet) -> None:
    told(fleet)
    told(fleet, state="draining")
    assert fleet.workers("simulated") == 0


def test_a_report_of_a_model_that_is_not_served_is_left_out(fleet: Fleet) -> None:
    told(fleet, model="other")
    assert fleet.workers("simulated") == 0


@pytest.mark.parametrize("body", [b"", b"{}", b'{"schema": 9}', b"\xff"])
def test_a_report_that_cannot_be_read_changes_nothing(fleet: Fleet, body: bytes) -> None:
    told(fleet)
    fleet.hear(body)
    assert fleet.workers("simulated") == 1


def test_what_fits_one_worker_is_priced_by_those_that_it_fits(fleet: Fleet, card: ModelCard) -> None:
    told(fleet, "small", slow=9.0, capacity_mb=1100)
    told(fleet, "large", slow=2.0, capacity_mb=24000)
    assert fleet.price(card, SMALL).gpu_seconds == pytest.approx(2.0 * 10 * 0.065536)


def test_what_fits_no_worker_is_refused_with_the_largest_that_fits_one(fleet: Fleet, card: ModelCard) -> None:
    told(fleet, "small", capacity_mb=1000)
    told(fleet, "large", capacity_mb=1150)
    with pytest.raises(ExceedsMemoryError) as refusal:
        fleet.price(card, SMALL)
    assert refusal.value.largest == (192, 192)
    assert "192x192" in refusal.value.message


def test_where_nothing_fits_no_size_is_named(fleet: Fleet, card: ModelCard) -> None:
    told(fleet, capacity_mb=900)
    with pytest.raises(ExceedsMemoryError) as refusal:
        fleet.price(card, SMALL)
    assert refusal.value.largest is None


def test_everything_fits_a_worker_that_knows_no_capacity(fleet: Fleet, card: ModelCard) -> None:
    told(fleet, capacity_mb=None)
    assert fleet.price(card, make_params(width=100_000, height=100_000)).vram_mb > 10**7


def test_a_shape_that_met_oom_at_every_tier_is_refused(fleet: Fleet, card: ModelCard) -> None:
    met = {"name": "resident", "seconds": {}, "memory": {}, "met_oom": [{"megapixels": 0.05, "row_megapixels": 0.05}]}
    fleet.hear(encode(make_report(tiers=[met])))
    with pytest.raises(ExceedsMemoryError) as refusal:
        fleet.price(card, SMALL)
    assert refusal.value.largest == (208, 208)


def submitted(gateway: Gateway, **body: object) -> tuple[int, dict[str, object]]:
    answer = gateway.client.post("/generate", json={"prompt": "a lake", **body}, headers=gateway.headers)
    document: dict[str, object] = answer.get_json()
    return answer.status_code, document


def test_the_reported_figures_reach_the_task(gateway: Gateway) -> None:
    told(gateway.fleet, slow=3.0)
    assert submitted(gateway, model="simulated", width=256, height=256, steps=10)[0] == 202
    (task,) = gateway.tasks("simulated")
    assert task.predicted.gpu_seconds == pytest.approx(3.0 * 10 * 0.065536)


def test_a_picture_beyond_all_memory_is_a_422_and_nothing_is_published(gateway: Gateway) -> None:
    told(gateway.fleet, capacity_mb=1150)
    status, problem = submitted(gateway, model="simulated", width=256, height=256)
    assert (status, problem["code"]) == (422, "exceeds_memory")
    assert "the largest of this aspect ratio, all else the same, is 192x192" in str(problem["detail"])
    assert gateway.published() == 0


@pytest.mark.parametrize(("slow", "status"), [(11_000.0, 202), (12_000.0, 422)])
def test_work_that_cannot_finish_in_time_even_alone_is_a_422(gateway: Gateway, slow: float, status: int) -> None:
    told(gateway.fleet, slow=slow)  # times 0.65536: 7209 s and 7864 s; a task has two hours
    told(gateway.fleet, slow=slow * 0.998)
    answered, problem = submitted(gateway, model="simulated", width=256, height=256, steps=10)
    assert answered == status
    if status == 422:
        assert problem["code"] == "exceeds_time"
        assert "7200 s" in str(problem["detail"])
        assert gateway.published() == 0


def test_the_list_of_models_tells_workers_and_the_time_of_a_default_request(gateway: Gateway) -> None:
    told(gateway.fleet, slow=100.0)
    listed = gateway.client.get("/api/v1/models", headers=gateway.headers).get_json()["models"]
    assert [(model["id"], model["workers"]) for model in listed] == [("tiny-newbie", 0), ("simulated", 1)]
    assert listed[1]["default_seconds"] == round(100.0 * 64 * 64 / 1e6, 3)
