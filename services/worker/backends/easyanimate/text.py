"""Prompts as the transformer wants them: features of 256 tokens, padding included, from Qwen2-VL's text part."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch

from services.worker.backends.base import InvalidParameterError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

# With the words of the chat template. The transformer has no mask: padding takes part, so its length must not change.
MAX_TOKENS: Final = 256


class EncodedPrompts(NamedTuple):
    """Features (B, 256, D) and the mask of their tokens (B, 256)."""

    features: Tensor
    mask: Tensor


class PromptEncoder:
    """Runs the text part on one prompt at a time, so that a prompt's features never depend on its batch."""

    def __init__(self, model: Any, tokenizer: Any) -> None:  # noqa: ANN401 - transformers has no types
        self.model = model
        self._tokenizer = tokenizer

    @property
    def width(self) -> int:
        """Numbers of a token's feature."""
        return int(self.model.config.hidden_size)

    def encode(self, prompt: str) -> EncodedPrompts:
        """Encode a prompt or a negative prompt. Raises InvalidParameterError when it has more than 256 tokens."""
        message = {"role": "user", "content": [{"type": "text", "text": prompt}]}
        text = self._tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
        count = len(self._tokenizer(text).input_ids)
        if count > MAX_TOKENS:
            problem = f"the prompt has {count} tokens with the chat template; the model reads {MAX_TOKENS}"
            raise InvalidParameterError(problem)
        tokens = self._tokenizer(
            text, padding="max_length", max_length=MAX_TOKENS, padding_side="right", return_tensors="pt"
        ).to(self.model.device)
        output = self.model(
            input_ids=tokens.input_ids,
            attention_mask=tokens.attention_mask,
            output_hidden_states=True,
            use_cache=False,
        )
        # The last but one layer, before the final norm: what the transformer was trained on.
        return EncodedPrompts(output.hidden_states[-2], tokens.attention_mask)


def collate(prompts: Sequence[EncodedPrompts]) -> EncodedPrompts:
    """Join prompts to one batch; all have the same length."""
    return EncodedPrompts(*(torch.cat(part) for part in zip(*prompts, strict=True)))
