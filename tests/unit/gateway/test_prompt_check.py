"""A prompt that was right is known for a while; nothing else is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from services.gateway.prompt import check
from services.gateway.prompt.check import PromptCheck
from services.gateway.prompt.errors import PromptError
from services.gateway.prompt.tokens import TokenCounts
from services.gateway.prompt.validate import PromptSummary, PromptValidator

if TYPE_CHECKING:
    from collections.abc import Collection

    from tests.unit.gateway.conftest import Gateway

XML = "<general_tags><style>x</style></general_tags>"


class Counted(PromptValidator):
    """Counts what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def validate(self, prompt: str, *, max_chars: int, formats: Collection[str] = ("xml", "text")) -> PromptSummary:
        self.asked += 1
        return super().validate(prompt, max_chars=max_chars, formats=formats)


@pytest.fixture
def validator() -> Counted:
    return Counted()


def test_a_prompt_that_comes_again_is_not_checked_again(gateway: Gateway, validator: Counted) -> None:
    checks, card = PromptCheck(validator, TokenCounts()), gateway.cards["simulated"]
    found = [checks.prompt(text, card) for text in ("a lake", "a lake", XML, "a lake")]
    assert found == ["text", "text", "xml", "text"]
    assert validator.asked == 2


def test_what_one_model_takes_says_nothing_of_another(gateway: Gateway, validator: Counted) -> None:
    checks, card = PromptCheck(validator, TokenCounts()), gateway.cards["simulated"]
    checks.prompt("a lake", card)
    identity = card.model.model_copy(update={"id": "other", "prompt_formats": ("xml",)})
    with pytest.raises(PromptError):
        checks.prompt("a lake", card.model_copy(update={"model": identity}))


def test_a_refused_prompt_is_refused_every_time(gateway: Gateway, validator: Counted) -> None:
    checks, card = PromptCheck(validator, TokenCounts()), gateway.cards["simulated"]
    for _ in range(2):
        with pytest.raises(PromptError):
            checks.prompt("<n>x", card)
    assert validator.asked == 2


def test_the_oldest_is_forgotten(gateway: Gateway, validator: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "KNOWN", 2)
    checks, card = PromptCheck(validator, TokenCounts()), gateway.cards["simulated"]
    for text in ("one", "two", "three", "two", "one"):
        checks.prompt(text, card)
    assert validator.asked == 4
