"""Prompts that were encoded before, for whoever had them encoded. See docs/decisions/0018."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

from services.worker.backends.newbie.text import EncodedPrompt

if TYPE_CHECKING:
    import torch


class PromptKey(NamedTuple):
    """What a prompt's features depend on, and for whom they are kept ("": for nobody)."""

    scope: str
    text: str
    prompt_format: str


class EmbeddingCache:
    """The features last used, up to so many bytes of host memory (0: none).

    What is kept is a copy and what is handed out is another, so nothing that is done to one changes the other.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._kept: OrderedDict[PromptKey, EncodedPrompt] = OrderedDict()

    def get(self, key: PromptKey, device: torch.device) -> EncodedPrompt | None:
        """The features of this very prompt in this scope, on the device, or None."""
        kept = self._kept.get(key)
        if kept is None:
            return None
        self._kept.move_to_end(key)
        return _copied(kept, device)

    def put(self, key: PromptKey, prompt: EncodedPrompt) -> None:
        """Keep the features, and drop those that were not used for longest."""
        size = _bytes(prompt)
        if not key.scope or size > self._most_bytes:
            return
        self._bytes -= _bytes(self._kept.pop(key)) if key in self._kept else 0
        self._kept[key] = _copied(prompt, "cpu")
        self._bytes += size
        while self._bytes > self._most_bytes:
            _, dropped = self._kept.popitem(last=False)
            self._bytes -= _bytes(dropped)

    def clear(self) -> None:
        """Forget everything: the towers may be others from here on."""
        self._kept.clear()
        self._bytes = 0


def _copied(prompt: EncodedPrompt, device: torch.device | str) -> EncodedPrompt:
    return EncodedPrompt(
        prompt.caption.to(device, copy=True), prompt.mask.to(device, copy=True), prompt.pooled.to(device, copy=True)
    )


def _bytes(prompt: EncodedPrompt) -> int:
    return prompt.caption.nbytes + prompt.mask.nbytes + prompt.pooled.nbytes
