"""Which servers a test run takes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.server_choice import OFFERS, POSTGRES, PUBLIC, RABBIT, REDIS, S3, Mode, asked_mode, choose

CHECKOUT = Path(__file__).parents[3]
ALL = {offer.image: f"sha256:{offer.name}" for offer in OFFERS}


def test_with_every_image_every_server_is_a_container() -> None:
    choice = choose(Mode.AUTO, lambda: ALL)
    assert all(choice.contained(offer) for offer in OFFERS)


def test_a_server_whose_image_is_missing_is_a_process_and_the_report_names_the_image() -> None:
    choice = choose(Mode.AUTO, lambda: {RABBIT.image: "sha256:1", S3.image: "sha256:2", "redis:6": "sha256:3"})
    assert [choice.contained(offer) for offer in (RABBIT, S3, REDIS, POSTGRES)] == [True, True, False, False]
    assert REDIS.image in choice.why


def test_without_an_engine_all_are_processes() -> None:
    assert choose(Mode.AUTO, lambda: None).images == {}


def test_who_asks_for_processes_gets_them_and_no_engine_is_asked() -> None:
    def fails() -> dict[str, str]:
        pytest.fail("an engine was asked")

    assert choose(Mode.LOCAL, fails).images == {}


@pytest.mark.parametrize("there", [None, {}, {RABBIT.image: "sha256:1"}])
def test_containers_that_are_demanded_and_cannot_be_had_are_an_error(there: dict[str, str] | None) -> None:
    with pytest.raises(pytest.UsageError):
        choose(Mode.CONTAINERS, lambda: there)


def test_what_is_asked_for_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEST_SERVERS", raising=False)
    assert asked_mode() is Mode.AUTO
    monkeypatch.setenv("TEST_SERVERS", "local")
    assert asked_mode() is Mode.LOCAL
    monkeypatch.setenv("TEST_SERVERS", "docker")
    with pytest.raises(pytest.UsageError, match="docker"):
        asked_mode()


def test_the_images_that_are_pulled_are_those_that_the_tests_take() -> None:
    text = (CHECKOUT / "infra" / "engine" / "test-images.sh").read_text()
    (listed,) = re.findall(r"^images=\(\n(.*?)^\)$", text, re.MULTILINE | re.DOTALL)
    assert set(listed.split()) == PUBLIC
