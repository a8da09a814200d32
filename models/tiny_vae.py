"""The small model's autoencoder, trained on crops of painted pictures: an eighth of the side, 16 channels."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from diffusers import AutoencoderKL

from models.painter import SIDE, draw_scene, paint
from models.side_by_side import average_gradients

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

CHANNELS: Final = (8, 16, 32, 64)
GROUPS: Final = 4
LATENT_CHANNELS: Final = 16
FACTOR: Final = 8
CROP: Final = 64
CROPS_OF_A_PICTURE: Final = 2
LEARNING_RATE: Final = 2e-3
# Latents are decoded with so much noise added, and kept from growing: small and smooth ones are easy to generate.
NOISE: Final = 0.1
SIZE_WEIGHT: Final = 1e-3
EDGE_WEIGHT: Final = 0.5
WARM_UP: Final = 100
SAVE_EVERY: Final = 100


@dataclass(frozen=True, slots=True)
class Steps:
    """Steps on crops, then on whole pictures, which have the statistics of what is decoded later.

    Each process takes ``batch`` crops, or a quarter as many pictures.
    """

    crops: int = 2300
    whole: int = 200
    batch: int = 16


def make_vae() -> Any:  # noqa: ANN401 - diffusers has no types
    """An untrained autoencoder of the layout that NewBie uses."""
    return AutoencoderKL(  # type: ignore[no-untyped-call] # the library's gap
        in_channels=3,
        out_channels=3,
        down_block_types=["DownEncoderBlock2D"] * len(CHANNELS),
        up_block_types=["UpDecoderBlock2D"] * len(CHANNELS),
        block_out_channels=list(CHANNELS),
        layers_per_block=1,
        norm_num_groups=GROUPS,
        latent_channels=LATENT_CHANNELS,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def train_vae(rank: int, checkpoint: Path, seed: int, steps: Steps) -> None:
    """Train, or go on from the checkpoint, as one of several processes; the seed decides on pictures and weights."""
    torch.manual_seed(seed)
    vae = make_vae().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=1e-4)
    total = steps.crops + steps.whole
    first = _resume(checkpoint, vae, optimizer)
    started = time.monotonic()
    for step in range(first, total):
        rng = np.random.default_rng((seed, rank, step))
        torch.manual_seed((seed + step) * 64 + rank)
        pictures = _crops(rng, steps.batch) if step < steps.crops else _whole(rng, steps.batch // 4)
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * _rate(step, total)
        optimizer.zero_grad()
        loss, error = _loss(vae, pictures.to(memory_format=torch.channels_last))
        loss.backward()  # type: ignore[no-untyped-call] # the library's gap
        average_gradients(vae.parameters())
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        if rank == 0 and (step % SAVE_EVERY == SAVE_EVERY - 1 or step == total - 1):
            print(f"vae {step + 1}/{total} error {error.item():.4f} {time.monotonic() - started:.0f} s", flush=True)
            torch.save({"step": step + 1, "vae": vae.state_dict(), "optimizer": optimizer.state_dict()}, checkpoint)


def load_vae(checkpoint: Path) -> Any:  # noqa: ANN401 - as above
    """The trained autoencoder."""
    vae = make_vae()
    vae.load_state_dict(torch.load(checkpoint, weights_only=True)["vae"])
    return vae.eval().requires_grad_(requires_grad=False)


def to_tensor(pictures: list[np.ndarray[Any, np.dtype[np.uint8]]]) -> Tensor:
    """Pixels (H, W, 3) as one tensor (B, 3, H, W) from -1 to 1."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def _crops(rng: np.random.Generator, count: int) -> Tensor:
    cut = []
    for _ in range(count // CROPS_OF_A_PICTURE):
        picture = paint(draw_scene(rng), rng)
        for top, left in rng.integers(0, SIDE - CROP + 1, size=(CROPS_OF_A_PICTURE, 2)):
            cut.append(picture[top : top + CROP, left : left + CROP])
    return to_tensor(cut)


def _whole(rng: np.random.Generator, count: int) -> Tensor:
    return to_tensor([paint(draw_scene(rng), rng) for _ in range(count)])


def _loss(vae: Any, pictures: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ANN401 - as above
    """What is minimised, and the mean error of a pixel's value from -1 to 1."""
    latents = vae.encode(pictures).latent_dist.mode()
    made = vae.decode(latents + NOISE * torch.randn_like(latents)).sample
    error = (made - pictures).abs().mean()
    edges = sum((made.diff(dim=axis) - pictures.diff(dim=axis)).abs().mean() for axis in (2, 3))
    return error + EDGE_WEIGHT * edges + SIZE_WEIGHT * latents.square().mean(), error


def _rate(step: int, total: int) -> float:
    return min(1.0, (step + 1) / WARM_UP) * (0.5 * (1.0 + math.cos(math.pi * step / total)) + 0.01)


def _resume(checkpoint: Path, vae: Any, optimizer: Any) -> int:  # noqa: ANN401 - as above
    if not checkpoint.is_file():
        return 0
    saved = torch.load(checkpoint, weights_only=True)
    vae.load_state_dict(saved["vae"])
    optimizer.load_state_dict(saved["optimizer"])
    return int(saved["step"])
