"""What is asked of a request's prompts: form first, which costs little, then the number of their tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from services.gateway.prompt.errors import PromptError

if TYPE_CHECKING:
    from services.gateway.prompt.tokens import TokenCounts
    from services.gateway.prompt.validate import PromptFormat, PromptValidator
    from shared.contracts.model_card import ModelCard


# So many prompts that were right are known: most come again, with another seed.
KNOWN: Final = 256


class PromptCheck:
    """Holds both prompts against a model's card. Methods raise PromptError."""

    def __init__(self, validator: PromptValidator, tokens: TokenCounts) -> None:
        self._validator = validator
        self._tokens = tokens
        self._known: dict[tuple[str, str], PromptFormat] = {}

    def prompt(self, text: str, card: ModelCard) -> PromptFormat:
        """The format of a prompt that the model takes."""
        found = self._known.get((card.id, text))
        if found is None:
            found = self._checked(text, card)
            if len(self._known) >= KNOWN:
                self._known.pop(next(iter(self._known)))
            self._known[card.id, text] = found
        return found

    def _checked(self, text: str, card: ModelCard) -> PromptFormat:
        summary = self._validator.validate(
            text, formats=card.model.prompt_formats, max_chars=card.limits.max_prompt_chars
        )
        self._tokens.check(text, summary.format, card)
        return summary.format

    def negative(self, text: str, prompt_format: PromptFormat, card: ModelCard) -> None:
        """Check a negative prompt, which may be empty. The model reads it as one of the main prompt's format."""
        if not text:
            return
        try:
            # It may be of either format whatever the model's main prompt has to be.
            self._validator.validate(text, formats=("xml", "text"), max_chars=card.limits.max_prompt_chars)
            self._tokens.check(text, prompt_format, card)
        except PromptError as exc:
            exc.name_field("negative_prompt")
            raise
