"""The gateway counts a prompt's tokens as the worker does, on the tiny model's own card and tokenizer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import GemmaTokenizer

from services.gateway.prompt.tokens import TokenCounts
from services.worker.backends.newbie.text import MAX_TOKENS, PAD_MULTIPLE, SYSTEM_PROMPTS
from shared.contracts.model_card import load_model_card
from tests.support.generation import XML_PROMPT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from services.gateway.prompt.validate import PromptFormat
    from shared.contracts.model_card import ModelCard

TAGS = [
    "blue_hair",
    "<appearance>",
    "</appearance>",
    "\\(blue\\)",
    "R&B",
    "$character_1$",
    "漢字",
    "👩‍🎨",
    "<bos>",
    "  ",
    "\n",
]
PROMPTS = st.one_of(st.text(max_size=200), st.lists(st.sampled_from(TAGS), max_size=60).map(", ".join))


@pytest.fixture(scope="module")
def card(tiny_newbie: Path) -> ModelCard:
    return load_model_card(tiny_newbie)


@pytest.fixture(scope="module")
def counts(tiny_newbie: Path, card: ModelCard) -> TokenCounts:
    return TokenCounts.load({card.id: card}, tiny_newbie.parent)


@pytest.fixture(scope="module")
def counted_by_worker(tiny_newbie: Path) -> Callable[[str], int]:
    """As ``PromptEncoder`` counts, with the tokenizer that ``load_components`` loads."""
    tokenizer = GemmaTokenizer.from_pretrained(tiny_newbie / "text_encoder", local_files_only=True)

    def count(text: str) -> int:
        tokens = tokenizer(text, padding=True, pad_to_multiple_of=PAD_MULTIPLE, return_tensors="pt")
        return int(tokens.attention_mask.sum())

    return count


def test_the_card_has_the_workers_prefixes_and_its_limit(card: ModelCard) -> None:
    assert card.tokenizer is not None
    assert card.tokenizer.prefix == SYSTEM_PROMPTS
    assert card.limits.max_prompt_tokens == MAX_TOKENS


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(PROMPTS, st.sampled_from(["xml", "text"]))
def test_both_count_alike(
    counts: TokenCounts,
    card: ModelCard,
    counted_by_worker: Callable[[str], int],
    text: str,
    prompt_format: PromptFormat,
) -> None:
    assert counts.count(text, prompt_format, card) == counted_by_worker(SYSTEM_PROMPTS[prompt_format] + text)


@pytest.mark.parametrize("text", [XML_PROMPT, "", "a" * 8000, "👩‍🎨" * 1000, XML_PROMPT * 30])
def test_and_so_they_do_of_prompts_that_matter(
    counts: TokenCounts, card: ModelCard, counted_by_worker: Callable[[str], int], text: str
) -> None:
    assert counts.count(text, "xml", card) == counted_by_worker(SYSTEM_PROMPTS["xml"] + text)
