"""The names of the transformer's weights: upstream's (or with ComfyUI's prefix before them), and those of our class."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch

from shared.domain.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from torch import Tensor

COMFYUI_PREFIX: Final = "model.diffusion_model."
NAMES_SHOWN: Final = 5

_TOP: Final = {
    "x_embedder": "x_embedder",
    "cap_embedder.0": "time_caption_embed.caption_embedder.0",
    "cap_embedder.1": "time_caption_embed.caption_embedder.1",
    "t_embedder.mlp.0": "time_caption_embed.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "time_caption_embed.timestep_embedder.linear_2",
    "clip_text_pooled_proj.0": "time_caption_embed.clip_text_pooled_proj.0",
    "clip_text_pooled_proj.1": "time_caption_embed.clip_text_pooled_proj.1",
    "time_text_embed.1": "time_caption_embed.time_text_embed.1",
    "final_layer.adaLN_modulation.1": "norm_out.linear_1",
    "final_layer.linear": "norm_out.linear_2",
}
_BLOCK: Final = {
    "attention.out": "attn.to_out.0",
    "attention.q_norm": "attn.norm_q",
    "attention.k_norm": "attn.norm_k",
    "feed_forward.w1": "feed_forward.linear_1",
    "feed_forward.w2": "feed_forward.linear_2",
    "feed_forward.w3": "feed_forward.linear_3",
    "attention_norm1": "norm1.norm",
    "attention_norm2": "norm2",
    "ffn_norm1": "ffn_norm1",
    "ffn_norm2": "ffn_norm2",
    "adaLN_modulation.1": "norm1.linear",
}
_BLOCK_KEY: Final = re.compile(r"(noise_refiner|context_refiner|layers)\.(\d+)\.(.+)\.(weight|bias)")
_TOP_KEY: Final = re.compile(r"(.+)\.(weight|bias)")
_FUSED: Final = "attention.qkv"
_OUR_KEY: Final = re.compile(r"layers\.\d+\.attn\.to_q\.weight")
# Saved by upstream and never used by its forward pass.
_UNUSED: Final = frozenset({"norm_final.weight"})


@dataclass(frozen=True, slots=True)
class HeadLayout:
    """How upstream's fused attention weight is laid out: all query heads, then key heads, then value heads."""

    heads: int
    kv_heads: int
    head_dim: int

    @property
    def rows(self) -> list[int]:
        """Rows of the query, key and value weights."""
        return [self.heads * self.head_dim, self.kv_heads * self.head_dim, self.kv_heads * self.head_dim]


def to_diffusers(state: Mapping[str, Tensor], layout: HeadLayout) -> Iterator[tuple[str, Tensor]]:
    """Rename and split upstream's weights, one after the other; those of our names stay as they are.

    Raises ConfigurationError, at the end, that names keys which are no part of the model.
    """
    if _is_ours(state):
        yield from state.items()
        return
    unknown: list[str] = []
    for key, value in state.items():
        name = key.removeprefix(COMFYUI_PREFIX)
        if name in _UNUSED:
            continue
        parts = _split_fused(name, value, layout) or _rename(name, value)
        if not parts:
            unknown.append(key)
        yield from parts.items()
    if unknown:
        message = f"transformer weights hold unknown keys: {some_of(unknown)}"
        raise ConfigurationError(message)


def to_published(state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Rename weights of our names to upstream's, and join queries, keys and values as upstream has them.

    Upstream's own names stay, without a prefix. Raises ConfigurationError that names keys of neither kind.
    """
    if not _is_ours(state):
        yield from ((key.removeprefix(COMFYUI_PREFIX), value) for key, value in state.items())
        return
    unknown: list[str] = []
    for key, value in state.items():
        stem, found, part = key.partition(".attn.to_")
        if found and part in {"k.weight", "v.weight"}:
            continue
        if found and part == "q.weight":
            rows = [state[f"{stem}.attn.to_{one}.weight"] for one in "qkv"]
            yield f"{stem}.{_FUSED}.weight", torch.cat(rows)
        elif name := _published_name(key):
            yield name, value
        else:
            unknown.append(key)
    if unknown:
        message = f"transformer weights hold unknown keys: {some_of(unknown)}"
        raise ConfigurationError(message)


def some_of(names: Iterable[str]) -> str:
    """Join the first few names, and say how many more there are."""
    ordered = sorted(names)
    more = len(ordered) - NAMES_SHOWN
    return ", ".join(ordered[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _is_ours(state: Mapping[str, Tensor]) -> bool:
    return any(_OUR_KEY.fullmatch(name) for name in state)


def _published_name(name: str) -> str | None:
    stem, _, leaf = name.rpartition(".")
    if found := re.fullmatch(r"(noise_refiner|context_refiner|layers)\.(\d+)\.(.+)", stem):
        stack, index, inner = found.groups()
        if stack == "context_refiner" and inner == "norm1":
            inner = "norm1.norm"
        published = next((theirs for theirs, ours in _BLOCK.items() if ours == inner), None)
        return f"{stack}.{index}.{published}.{leaf}" if published else None
    published = next((theirs for theirs, ours in _TOP.items() if ours == stem), None)
    return f"{published}.{leaf}" if published else None


def _split_fused(name: str, value: Tensor, layout: HeadLayout) -> dict[str, Tensor]:
    found = _BLOCK_KEY.fullmatch(name)
    if not found or found[3] != _FUSED or found[4] != "weight":
        return {}
    if value.shape[0] != sum(layout.rows):
        message = f"{name} has {value.shape[0]} rows; the configuration's heads need {sum(layout.rows)}"
        raise ConfigurationError(message)
    stem = f"{found[1]}.{found[2]}.attn"
    pieces = torch.split(value, layout.rows)
    return {f"{stem}.{part}.weight": piece for part, piece in zip(("to_q", "to_k", "to_v"), pieces, strict=True)}


def _rename(name: str, value: Tensor) -> dict[str, Tensor]:
    if found := _BLOCK_KEY.fullmatch(name):
        stack, index, inner, leaf = found.groups()
        target = _BLOCK.get(inner)
        # The context refiner is not modulated, so its first norm is a plain one.
        if stack == "context_refiner" and inner == "attention_norm1":
            target = "norm1"
        return {f"{stack}.{index}.{target}.{leaf}": value} if target else {}
    found = _TOP_KEY.fullmatch(name)
    target = _TOP.get(found[1]) if found else None
    return {f"{target}.{found[2]}": value} if found and target else {}
