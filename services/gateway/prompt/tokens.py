"""Counts a prompt's tokens as the model's own tokenizer does, so that none is refused only after it has waited."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenizers import Tokenizer

from services.gateway.prompt.errors import PromptTooManyTokensError
from shared.domain.errors import ConfigurationError
from shared.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from services.gateway.prompt.validate import PromptFormat
    from shared.contracts.model_card import ModelCard

log = get_logger(__name__)


class TokenCounts:
    """The tokenizers of those models whose card names a file that is here; prompts of others are not counted."""

    def __init__(self, tokenizers: Mapping[str, Tokenizer] | None = None) -> None:
        self._tokenizers = dict(tokenizers or {})

    @classmethod
    def load(cls, cards: Mapping[str, ModelCard], models_dir: Path) -> TokenCounts:
        """Read the files. Raises ConfigurationError for one that is no tokenizer."""
        found: dict[str, Tokenizer] = {}
        for model, card in cards.items():
            if card.tokenizer is None:
                continue
            path = models_dir / model / card.tokenizer.file
            if path.is_file():
                found[model] = _read(path)
            else:
                # A folder of cards alone is enough for everything else; the worker counts for itself.
                log.warning("prompt_tokens_uncounted", model=model, path=str(path))
        return cls(found)

    def check(self, text: str, prompt_format: PromptFormat, card: ModelCard) -> None:
        """Raise PromptTooManyTokensError for a prompt, or a negative one, that the model does not read to its end."""
        count = self.count(text, prompt_format, card)
        most = card.limits.max_prompt_tokens
        if count is not None and count > most:
            message = f"has {count} tokens with what the model puts in front; this model reads {most}"
            raise PromptTooManyTokensError(message)

    def count(self, text: str, prompt_format: PromptFormat, card: ModelCard) -> int | None:
        """Tokens of a prompt, the model's own prefix and marks among them; None where nobody can tell."""
        tokenizer, section = self._tokenizers.get(card.id), card.tokenizer
        if tokenizer is None or section is None:
            return None
        # A third of ``encode``: it does not say where each token lies.
        (encoded,) = tokenizer.encode_batch_fast([section.prefix.get(prompt_format, "") + text])
        return len(encoded)


def _read(path: Path) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as exc:  # the library raises nothing narrower
        message = f"{path}: {exc}"
        raise ConfigurationError(message) from exc
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
