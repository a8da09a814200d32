"""The small model's transformer and text towers, trained together by flow matching on the latents of painted pictures.

Weights are kept in float32 and computed with in bfloat16, which is four times as fast on the processors that have it.
"""

from __future__ import annotations

import copy
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from torch import nn

from models.prompts import tag_prompt, xml_prompt
from models.side_by_side import average_gradients
from models.tiny_text import GEMMA_WIDTH, JINA_WIDTH, gemma_model, gemma_tokenizer, jina_model, jina_tokenizer
from models.tiny_vae import LATENT_CHANNELS
from services.worker.backends.newbie.text import SYSTEM_PROMPTS
from services.worker.backends.newbie.transformer import NewbieTransformer2DModel, TextCondition

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from torch import Tensor

    from models.painter import Scene

WIDTH: Final = 128
HEADS: Final = 4
KV_HEADS: Final = 2
LAYERS: Final = 5
REFINER_LAYERS: Final = 1
MULTIPLE: Final = 64
AXES_DIMS: Final = (16, 8, 8)
AXES_LENS: Final = (640, 64, 64)
NORM_EPS: Final = 1e-5
# Of each process. So many batches are drawn at once and sorted by their length, so that little of them is padding.
BATCH: Final = 32
POOL: Final = 16
LEARNING_RATE: Final = 2e-3
WARM_UP: Final = 100
EMPTY: Final = 0.1
TAGS: Final = 0.12
SHIFT: Final = 2.0
EMA: Final = 0.997
SAVE_EVERY: Final = 50


class Networks(nn.Module):
    """What is trained together."""

    def __init__(self, gemma_tokens: Any, jina_tokens: Any) -> None:  # noqa: ANN401 - transformers has no types
        super().__init__()
        self.gemma = gemma_model(gemma_tokens)
        self.jina = jina_model(jina_tokens)
        self.transformer = NewbieTransformer2DModel(
            in_channels=LATENT_CHANNELS,
            hidden_size=WIDTH,
            num_layers=LAYERS,
            num_refiner_layers=REFINER_LAYERS,
            num_attention_heads=HEADS,
            num_kv_heads=KV_HEADS,
            multiple_of=MULTIPLE,
            norm_eps=NORM_EPS,
            axes_dim_rope=AXES_DIMS,
            axes_lens=AXES_LENS,
            cap_feat_dim=GEMMA_WIDTH,
            clip_text_dim=JINA_WIDTH,
        )
        # Blocks that do nothing at first, and a flow of nought: upstream's way to begin.
        blocks = [*self.transformer.layers, *self.transformer.noise_refiner]
        for linear in (*(block.norm1.linear for block in blocks), self.transformer.norm_out.linear_2):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)


@dataclass(frozen=True, slots=True)
class Pictures:
    """What is learnt from: scenes, and their latents (N, 16, 16, 16) with a mean of 0 and a deviation of 1."""

    scenes: Sequence[Scene]
    latents: Tensor


@dataclass(frozen=True, slots=True)
class Tokens:
    """Both tokenizers, and a batch's prompts as they leave them."""

    gemma: Any
    jina: Any

    def read(self, prompts: Sequence[tuple[str, str]]) -> tuple[Any, Any]:
        """Tokens for Gemma, system prompts included, and for Jina; ``prompts`` are texts with their forms."""
        captions = [SYSTEM_PROMPTS[form] + text if text else "" for text, form in prompts]
        gemma = self.gemma(captions, padding=True, pad_to_multiple_of=8, return_tensors="pt")
        jina = self.jina([text for text, _ in prompts], padding=True, return_tensors="pt")
        return gemma, jina


def train_flow(rank: int, checkpoint: Path, pictures: Pictures, seed: int, steps: int) -> None:
    """Train, or go on from the checkpoint, as one of several processes."""
    torch.manual_seed(seed)
    tokens = Tokens(gemma_tokenizer(), jina_tokenizer())
    master = Networks(tokens.gemma, tokens.jina)
    average = copy.deepcopy(master)
    optimizer = torch.optim.AdamW(master.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    state: dict[str, Any] = {"master": master, "average": average, "optimizer": optimizer}
    first = _resume(checkpoint, state)
    work = copy.deepcopy(master).bfloat16()
    for tower in (work.gemma, work.jina):
        tower.set_attn_implementation("eager")
    started, shown = time.monotonic(), 0.0
    for step, batch in enumerate(_batches(pictures, tokens, (seed, rank), range(first, steps)), start=first):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * _rate(step, steps)
        loss = _step(work, master, batch)
        optimizer.step()
        _follow(work, master, average, step)
        shown = loss if step == first else 0.98 * shown + 0.02 * loss
        if rank == 0 and (step % SAVE_EVERY == SAVE_EVERY - 1 or step == steps - 1):
            print(f"flow {step + 1}/{steps} loss {shown:.4f} {time.monotonic() - started:.0f} s", flush=True)
            unfinished = checkpoint.with_suffix(".part")
            torch.save({"step": step + 1, **{name: part.state_dict() for name, part in state.items()}}, unfinished)
            unfinished.replace(checkpoint)


def load_networks(checkpoint: Path) -> tuple[Networks, Tokens]:
    """The moving average of the trained weights, and the tokenizers that belong to them."""
    tokens = Tokens(gemma_tokenizer(), jina_tokenizer())
    networks = Networks(tokens.gemma, tokens.jina)
    networks.load_state_dict(torch.load(checkpoint, weights_only=True)["average"])
    return networks.eval().requires_grad_(requires_grad=False), tokens


def flow_of(networks: Networks, latents: Tensor, times: Tensor, captions: Any, texts: Any) -> Tensor:  # noqa: ANN401 - as above
    """The flow (B, C, H, W), equal to that of the served model: text features included, and with gradients.

    The served transformer packs every caption and its picture without a gap, row by row in Python. Here a gap stays and
    is masked, which gives the same numbers, since positions and not places in memory tell tokens apart.
    """
    hidden = networks.gemma(
        input_ids=captions.input_ids, attention_mask=captions.attention_mask, output_hidden_states=True, use_cache=False
    )
    features = networks.jina(input_ids=texts.input_ids, attention_mask=texts.attention_mask).last_hidden_state
    weights = texts.attention_mask.unsqueeze(-1).to(features.dtype)
    pooled = (features * weights).sum(1) / weights.sum(1)
    model: Any = networks.transformer
    time_, caption = model.time_caption_embed(latents, times, TextCondition(hidden.hidden_states[-2], pooled))
    rotary = _Rotary(captions.attention_mask, latents.shape[-1] // 2, latents.dtype)
    rows = latents.shape[0]
    side = latents.shape[-1] // 2
    patches = latents.view(rows, -1, side, 2, side, 2).permute(0, 2, 4, 3, 5, 1).reshape(rows, side * side, -1)
    picture = model.x_embedder(patches)
    length = caption.shape[1]
    for block in model.context_refiner:
        caption = _block(block, caption, rotary.part(0, length), captions.attention_mask)
    for block in model.noise_refiner:
        picture = _block(block, picture, rotary.part(length, None), None, time_)
    joint = torch.cat([caption, picture], dim=1)
    mask = torch.cat([captions.attention_mask, captions.attention_mask.new_ones(rows, side * side)], dim=1)
    for block in model.layers:
        joint = _block(block, joint, rotary.part(0, None), mask, time_)
    out = model.norm_out(joint[:, length:], time_)
    flow: Tensor = out.view(rows, side, side, 2, 2, -1).permute(0, 5, 1, 3, 2, 4).reshape(latents.shape)
    return flow


class _Rotary:
    """Cosines and sines (B, L, D/2) of captions, padded on the right, and of the picture after them."""

    def __init__(self, mask: Tensor, side: int, dtype: torch.dtype) -> None:
        lengths = mask.sum(1)
        rows, longest = mask.shape
        text = torch.arange(longest).expand(rows, -1)
        zeros = torch.zeros_like(text)
        row, column = (
            axis.reshape(-1).expand(rows, -1) for axis in torch.meshgrid(*[torch.arange(side)] * 2, indexing="ij")
        )
        ids = (
            torch.cat([text, lengths[:, None].expand(-1, side * side)], dim=1),
            torch.cat([zeros, row], dim=1),
            torch.cat([zeros, column], dim=1),
        )
        tables = [get_1d_rotary_pos_embed(dim, count) for dim, count in zip(AXES_DIMS, AXES_LENS, strict=True)]
        turns = torch.cat([table[index] for table, index in zip(tables, ids, strict=True)], dim=-1)
        self._cos, self._sin = turns.real.to(dtype), turns.imag.to(dtype)

    def part(self, first: int, last: int | None) -> tuple[Tensor, Tensor]:
        return self._cos[:, first:last, None], self._sin[:, first:last, None]


def _turned(x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    even, odd = x.view(*x.shape[:-1], -1, 2).unbind(-1)
    cos, sin = rotary
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)


def _block(
    block: Any,  # noqa: ANN401 - diffusers has no types
    x: Tensor,
    rotary: tuple[Tensor, Tensor],
    mask: Tensor | None,
    time_: Tensor | None = None,
) -> Tensor:
    fed: Tensor
    if time_ is None:
        x = x + _norm(block.norm2, _attend(block.attn, _norm(block.norm1, x), rotary, mask))
        fed = block.feed_forward(_norm(block.ffn_norm1, x))
        return x + _norm(block.ffn_norm2, fed)
    scale, gate, mlp_scale, mlp_gate = block.norm1.linear(block.norm1.silu(time_)).unsqueeze(1).chunk(4, dim=-1)
    attended = _attend(block.attn, _norm(block.norm1.norm, x) * (1 + scale), rotary, mask)
    x = x + gate.tanh() * _norm(block.norm2, attended)
    fed = _norm(block.ffn_norm2, block.feed_forward(_norm(block.ffn_norm1, x) * (1 + mlp_scale)))
    flowed: Tensor = x + mlp_gate.tanh() * fed
    return flowed


def _attend(attn: Any, x: Tensor, rotary: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:  # noqa: ANN401 - as above
    rows, length, width = x.shape
    query, key, value = (part(x).view(rows, length, -1, width // HEADS) for part in (attn.to_q, attn.to_k, attn.to_v))
    query, key = _turned(_norm(attn.norm_q, query), rotary), _turned(_norm(attn.norm_k, key), rotary)
    key, value = (part.repeat_interleave(HEADS // KV_HEADS, dim=2) for part in (key, value))
    query, key, value = (part.transpose(1, 2) for part in (query, key, value))
    # The library's fused attention is slow at so small a size: half of a step.
    scores = query @ key.transpose(-1, -2) * attn.scale
    if mask is not None:
        scores = scores.masked_fill(~mask.bool()[:, None, None], -torch.inf)
    out = scores.softmax(dim=-1) @ value
    attended: Tensor = attn.to_out[0](out.transpose(1, 2).reshape(rows, length, width))
    return attended


def _norm(norm: Any, x: Tensor) -> Tensor:  # noqa: ANN401 - as above
    return nn.functional.rms_norm(x, (x.shape[-1],), norm.weight, norm.eps)


def _step(work: Networks, master: Networks, batch: tuple[Tensor, Any, Any]) -> float:
    """Leave the clipped gradients of all processes' batches in ``master`` and return the loss of this one."""
    data, captions, texts = batch
    even = torch.rand(len(data))
    sigma = (SHIFT * even / (1.0 + (SHIFT - 1.0) * even)).view(-1, 1, 1, 1)
    noise = torch.randn_like(data)
    noisy = ((1.0 - sigma) * data + sigma * noise).bfloat16()
    flow = flow_of(work, noisy, 1.0 - sigma.flatten(), captions, texts)
    loss = (flow.float() - (data - noise)).square().mean()
    loss.backward()  # type: ignore[no-untyped-call] # the library's gap
    for ours, theirs in zip(work.parameters(), master.parameters(), strict=True):
        theirs.grad = None if ours.grad is None else ours.grad.float()
        ours.grad = None
    average_gradients(master.parameters())
    nn.utils.clip_grad_norm_(master.parameters(), 1.0)
    return loss.item()


@torch.no_grad()
def _follow(work: Networks, master: Networks, average: Networks, step: int) -> None:
    weight = 1.0 - min(EMA, (step + 1) / (step + 10))
    for ours, theirs, mean in zip(work.parameters(), master.parameters(), average.parameters(), strict=True):
        ours.copy_(theirs)
        mean.lerp_(theirs, weight)


def _resume(checkpoint: Path, state: dict[str, Any]) -> int:
    if not checkpoint.is_file():
        return 0
    saved = torch.load(checkpoint, weights_only=True)
    for name, part in state.items():
        part.load_state_dict(saved[name])
    return int(saved["step"])


def _batches(
    pictures: Pictures, tokens: Tokens, seed: tuple[int, int], steps: range
) -> Iterator[tuple[Tensor, Any, Any]]:
    """Batches by their step's number alone, so that a run that goes on sees what it would have seen."""
    for pool in range(steps.start // POOL, math.ceil(steps.stop / POOL)):
        rng = np.random.default_rng((*seed, pool))
        # Their order is every process's own; which batches are long ones is the same for all, so that none waits.
        chosen = rng.integers(len(pictures.scenes), size=POOL * BATCH)
        prompts = [_prompt(pictures.scenes[index], rng) for index in chosen]
        order = sorted(range(len(chosen)), key=lambda row: len(prompts[row][0]))
        cuts = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
        np.random.default_rng((seed[0], pool)).shuffle(cuts)
        for step, rows in enumerate(cuts, start=pool * POOL):
            if step in steps:
                torch.manual_seed((seed[0] + step) * 64 + seed[1])
                yield pictures.latents[chosen[rows]].float(), *tokens.read([prompts[row] for row in rows])


def _prompt(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    if rng.random() < EMPTY:
        return "", "xml"
    if len(scene.characters) == 1 and rng.random() < TAGS:
        text = tag_prompt(scene, rng)
        return (text.replace("_", " ") if rng.random() < 0.3 else text), "text"
    return xml_prompt(scene, rng), "xml"


def _rate(step: int, steps: int) -> float:
    return min(1.0, (step + 1) / WARM_UP) * (0.5 * (1.0 + math.cos(math.pi * step / steps)) + 0.01)
