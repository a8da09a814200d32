"""Prompts that are over the model's number of tokens are refused before they wait, with the number."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from services.gateway.prompt.errors import PromptTooManyTokensError
from services.gateway.prompt.tokens import TokenCounts
from shared.contracts.model_card import PromptTokens
from shared.domain.errors import ConfigurationError
from tests.support.status_api import assert_problem
from tests.unit.gateway.conftest import MODELS_DIR

if TYPE_CHECKING:
    from pathlib import Path

    from services.gateway.prompt.validate import PromptFormat
    from shared.contracts.model_card import ModelCard
    from tests.unit.gateway.conftest import Gateway

MOST = 10


def words() -> Tokenizer:
    """A token for each word."""
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return tokenizer


def counting(card: ModelCard, most: int = MOST) -> ModelCard:
    """The card of a model that puts two words before XML and one before text."""
    section = PromptTokens(file="tokenizer.json", prefix={"xml": "draw this: ", "text": "draw: "})
    limits = card.limits.model_copy(update={"max_prompt_tokens": most})
    return card.model_copy(update={"tokenizer": section, "limits": limits})


@pytest.fixture
def card(gateway: Gateway) -> ModelCard:
    return counting(gateway.cards["simulated"])


@pytest.fixture
def counts(tmp_path: Path, card: ModelCard) -> TokenCounts:
    folder = tmp_path / card.id
    folder.mkdir()
    words().save(str(folder / "tokenizer.json"))
    return TokenCounts.load({card.id: card}, tmp_path)


@pytest.mark.parametrize(("prompt_format", "before"), [("text", 1), ("xml", 2)])
def test_what_the_model_reads_in_front_counts(
    counts: TokenCounts, card: ModelCard, prompt_format: PromptFormat, before: int
) -> None:
    assert counts.count("a lake at dawn", prompt_format, card) == before + 4
    counts.check(" ".join("x" * (MOST - before)), prompt_format, card)
    with pytest.raises(PromptTooManyTokensError, match=f"has {MOST + 1} tokens .* reads {MOST}"):
        counts.check(" ".join("x" * (MOST + 1 - before)), prompt_format, card)


def test_a_tokenizer_that_cuts_or_fills_up_counts_all_the_same(tmp_path: Path, card: ModelCard) -> None:
    tokenizer = words()
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=8)
    folder = tmp_path / card.id
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    counts = TokenCounts.load({card.id: card}, tmp_path)
    assert counts.count("one two", "text", card) == 3
    assert counts.count(" ".join("x" * 20), "text", card) == 21


def test_without_the_file_nothing_is_counted(
    tmp_path: Path, card: ModelCard, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = TokenCounts.load({card.id: card}, tmp_path)
    counts.check("word " * 5000, "text", card)
    assert "prompt_tokens_uncounted" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["", "no JSON", json.dumps({"version": "1.0"})])
def test_a_file_that_is_no_tokenizer_ends_the_start(tmp_path: Path, card: ModelCard, text: str) -> None:
    folder = tmp_path / card.id
    folder.mkdir()
    (folder / "tokenizer.json").write_text(text)
    with pytest.raises(ConfigurationError, match=r"tokenizer\.json"):
        TokenCounts.load({card.id: card}, tmp_path)


@pytest.mark.parametrize("file", ["/etc/passwd", "../other/tokenizer.json", "a/../../b.json", "", "a//b", ".hidden"])
def test_a_card_names_a_file_of_its_own_folder(file: str) -> None:
    with pytest.raises(ValueError, match="file"):
        PromptTokens(file=file)


def submit(gateway: Gateway, **body: Any) -> Any:  # noqa: ANN401 - the test client's answer
    return gateway.client.post("/api/v1/generate", json={"prompt": "a lake", **body}, headers=gateway.headers)


def test_a_request_with_too_many_tokens_is_a_422_with_the_number(gateway: Gateway) -> None:
    """The card and the tokenizer of the tiny model, as they are."""
    card = gateway.cards["tiny-newbie"]
    counts = TokenCounts.load({card.id: card}, MODELS_DIR)
    text = "blue_hair, " * 700
    count = counts.count(text, "text", card)
    assert count is not None
    assert count > card.limits.max_prompt_tokens
    problem = assert_problem(submit(gateway, prompt=text), 422, "prompt_too_many_tokens")
    assert f"has {count} tokens" in problem["detail"]
    assert problem["errors"][0]["field"] == "prompt"
    assert gateway.published() == 0


def test_a_negative_prompt_is_counted_as_well(gateway: Gateway) -> None:
    problem = assert_problem(submit(gateway, negative_prompt="blue_hair, " * 700), 422, "prompt_too_many_tokens")
    assert problem["errors"][0]["field"] == "negative_prompt"


def test_length_comes_before_tokens(gateway: Gateway) -> None:
    assert_problem(submit(gateway, prompt="x" * 8001), 422, "prompt_too_long")
