"""Prompts as the transformer wants them: Gemma features of every token, and one pooled Jina CLIP vector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch

from services.worker.backends.base import InvalidParameterError
from services.worker.backends.newbie.transformer import TextCondition

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

# Trained with captions of at most 512 tokens; the rotary table would end at 1024.
MAX_TOKENS: Final = 512
PAD_MULTIPLE: Final = 8

# The sentences that preceded the captions in training, by the form of the caption.
SYSTEM_PROMPTS: Final = {
    "xml": (
        "You are an assistant designed to generate high-quality anime images based on xml format prompts. "
        "<Prompt Start> "
    ),
    "text": (
        "You are an assistant designed to generate high-quality anime images with the highest degree of "
        "image-text alignment based on textual prompts. <Prompt Start> "
    ),
}


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """One prompt: features (L, D), their mask (L) with L a multiple of 8, and the pooled vector (P)."""

    caption: Tensor
    mask: Tensor
    pooled: Tensor


class PromptEncoder:
    """Runs the two text towers on one prompt at a time, so that a prompt's features never depend on its batch."""

    def __init__(self, gemma: Any, gemma_tokenizer: Any, jina: Any, jina_tokenizer: Any) -> None:  # noqa: ANN401 - transformers has no types
        self._gemma = gemma
        self._gemma_tokenizer = gemma_tokenizer
        self._jina = jina
        self._jina_tokenizer = jina_tokenizer

    @property
    def towers(self) -> tuple[Any, Any]:
        """The two text models: Gemma and Jina."""
        return self._gemma, self._jina

    def encode(self, prompt: str, prompt_format: str) -> EncodedPrompt:
        """Encode a prompt or a negative prompt. Raises InvalidParameterError when it has more than 512 tokens.

        Gemma reads the system prompt first, Jina never does; an empty (negative) prompt is empty for both.
        """
        system = SYSTEM_PROMPTS.get(prompt_format)
        if system is None:
            message = f"prompt format {prompt_format!r} is unknown; known: {', '.join(SYSTEM_PROMPTS)}"
            raise InvalidParameterError(message)
        caption, mask = self._caption(system + prompt if prompt else "")
        return EncodedPrompt(caption, mask, self._pooled(prompt))

    def _caption(self, text: str) -> tuple[Tensor, Tensor]:
        tokens = self._gemma_tokenizer(text, padding=True, pad_to_multiple_of=PAD_MULTIPLE, return_tensors="pt")
        count = int(tokens.attention_mask.sum())
        if count > MAX_TOKENS:
            message = f"the prompt has {count} tokens with the system prompt; the model reads {MAX_TOKENS}"
            raise InvalidParameterError(message)
        tokens = tokens.to(self._gemma.device)
        output = self._gemma(
            input_ids=tokens.input_ids,
            attention_mask=tokens.attention_mask,
            output_hidden_states=True,
            use_cache=False,
        )
        # The last but one layer, before the final norm: what the transformer was trained on.
        return output.hidden_states[-2][0], tokens.attention_mask[0]

    def _pooled(self, text: str) -> Tensor:
        tokens = self._jina_tokenizer(text, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
        tokens = tokens.to(self._jina.device)
        output = self._jina(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask)
        features = output.last_hidden_state[0]
        weights = tokens.attention_mask[0].unsqueeze(-1)
        mean: Tensor = (features.float() * weights).sum(0) / weights.sum()
        return mean.to(features.dtype)


def collate(prompts: Sequence[EncodedPrompt]) -> tuple[TextCondition, Tensor]:
    """Stack prompts of different lengths, padded on the right, and return them with their caption mask."""
    caption = torch.nn.utils.rnn.pad_sequence([prompt.caption for prompt in prompts], batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([prompt.mask for prompt in prompts], batch_first=True)
    pooled = torch.stack([prompt.pooled for prompt in prompts])
    return TextCondition(caption, pooled), mask
