from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from services.worker.learning import Learner
from shared.contracts.model_card import ModelCard, load_model_card
from tests.support.builders import make_params

if TYPE_CHECKING:
    from shared.contracts.task import Params

CARD = load_model_card(Path(__file__).parents[3] / "models" / "tiny-newbie")
TIERS = {"tiled": {"vram_mb": 100, "vram_mb_per_megapixel": 100, "slow_factor": 1.5}}
PARAMS = make_params(width=256, height=256, steps=10)


class Time:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def card(**cost: object) -> ModelCard:
    """The tiny model with two tiers: 300 + 500 MiB/megapixel resident, 100 + 100 tiled."""
    document: dict[str, Any] = CARD.model_dump(exclude={"tiers"})
    document["cost"] |= {"vram_mb": 300, "vram_mb_per_megapixel": 500, "vram_mb_per_row_megapixel": 0} | cost
    return ModelCard.model_validate(document | {"tiers": TIERS})


def taught(path: Path | None, **changes: Any) -> Learner:  # noqa: ANN401 - any argument
    learner = Learner(changes.pop("card", card()), changes.pop("device", "H200"), path, **changes)
    for _ in range(15):
        learner.observe(PARAMS, "resident", 42.0, 600.0)
    return learner


def seconds(learner: Learner, params: Params = PARAMS) -> float:
    return learner.predict(params).gpu_seconds


def test_it_begins_with_the_card_and_ends_with_what_was_seen() -> None:
    assert Learner(card(), "H200", None).predict(PARAMS) == card().predict(PARAMS)
    predicted = taught(None).predict(PARAMS)
    assert predicted.gpu_seconds == pytest.approx(42.0, rel=0.01)
    assert predicted.vram_mb == pytest.approx(600, abs=3)


def test_the_tier_is_the_first_that_fits_and_the_last_when_none_does() -> None:
    learner = Learner(card(), "H200", None)
    assert learner.tier_for(PARAMS, 400) == "resident"
    assert learner.tier_for(PARAMS, 200) == "tiled"
    assert learner.tier_for(PARAMS, None) == "resident"
    assert (learner.tier_for(PARAMS, 50), learner.fits(PARAMS, 50)) == ("tiled", False)


def test_an_oom_leads_to_the_next_tier_for_that_shape_and_larger_ones() -> None:
    learner = Learner(card(), "H200", None)
    learner.remember_oom(PARAMS, "resident")
    assert learner.tier_for(PARAMS, None) == "tiled"
    assert learner.predict(PARAMS) == learner.predict(PARAMS, "tiled")
    assert learner.predict(PARAMS).gpu_seconds == pytest.approx(1.5 * card().predict(PARAMS).gpu_seconds)
    assert learner.tier_for(make_params(width=512, height=256), None) == "tiled"
    assert learner.tier_for(make_params(width=128, height=256), None) == "resident"


def test_an_unknown_tier_is_ignored() -> None:
    learner = Learner(card(), "H200", None)
    learner.observe(PARAMS, "sequential", 1.0, None)
    learner.remember_oom(PARAMS, "sequential")
    assert learner.version == 0


def test_the_usual_need_is_a_number_of_mebibytes() -> None:
    assert Learner(card(), "H200", None).usual_need_mb() == round(300 + 500 * 128 * 128 / 1e6)
    assert taught(None).usual_need_mb() == 600


def test_what_was_learnt_survives_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "state" / "learnt.json"
    first = taught(path)
    first.remember_oom(PARAMS, "resident")
    first.close()
    second = Learner(card(), "H200", path)
    assert second.predict(PARAMS) == first.predict(PARAMS)
    assert second.tiers() == first.tiers()
    assert second.tier_for(PARAMS, None) == "tiled"


@pytest.mark.parametrize(
    "other",
    [{"device": "cpu"}, {"revision": "abc"}, {"card": card(vram_mb=301)}],
    ids=lambda other: next(iter(other)),
)
def test_another_device_revision_or_card_starts_anew(tmp_path: Path, other: dict[str, Any]) -> None:
    path = tmp_path / "learnt.json"
    taught(path).close()
    learner = Learner(other.get("card", card()), other.get("device", "H200"), path, revision=other.get("revision", ""))
    assert learner.predict(PARAMS) == other.get("card", card()).predict(PARAMS)


def test_other_limits_forget_nothing(tmp_path: Path) -> None:
    path = tmp_path / "learnt.json"
    taught(path).close()
    wider = card().model_copy(update={"limits": card().limits.model_copy(update={"max_steps": 60})})
    assert seconds(Learner(wider, "H200", path)) == pytest.approx(42.0, rel=0.01)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b'"x"', b"[" * 100_000, b'{"key": {}}'])
def test_a_file_that_cannot_be_used_is_ignored_and_written_anew(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "learnt.json"
    path.write_bytes(content)
    learner = taught(path)
    learner.close()
    assert json.loads(path.read_text())["experience"]["version"] == 1


def test_a_file_with_the_right_key_and_a_wrong_inside_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "learnt.json"
    taught(path).close()
    document = json.loads(path.read_text())
    document["experience"]["tiers"]["resident"]["observations"][0][0] = -1
    path.write_text(json.dumps(document))
    assert Learner(card(), "H200", path).predict(PARAMS) == card().predict(PARAMS)


def test_it_writes_every_few_seconds_at_most_and_at_the_end(tmp_path: Path) -> None:
    path, time = tmp_path / "learnt.json", Time()
    learner = taught(path, clock=time)
    assert not path.exists()
    time.now = 5.0
    learner.observe(PARAMS, "resident", 42.0, None)
    written = path.read_text()
    learner.observe(PARAMS, "resident", 42.0, None)
    assert path.read_text() == written
    learner.close()
    assert path.read_text() != written
    assert [file.name for file in tmp_path.iterdir()] == ["learnt.json"]


def test_a_place_that_cannot_be_written_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    learner = taught(tmp_path / "file" / "learnt.json")
    learner.close()
    assert seconds(learner) == pytest.approx(42.0, rel=0.01)


def test_the_report_tells_every_tier_with_its_observations() -> None:
    tiers = taught(None).tiers()
    assert [(tier.name, tier.observations) for tier in tiers] == [
        ("resident", 12),
        ("tiled", 0),
    ]  # 12 of a shape are kept
