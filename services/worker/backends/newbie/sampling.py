"""Flow matching as NewBie was trained for it: pure functions over tensors, each row of a batch on its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

SHIFT: Final = 6.0


def flow_sigmas(steps: int, shift: float = SHIFT) -> list[float]:
    """Return ``steps + 1`` noise levels from 1 to 0; the shift is applied once, to an even spacing from 1 to 1/steps.

    (diffusers' ``set_timesteps(steps)`` without explicit sigmas applies it twice at the low end.)
    """
    even = np.linspace(1.0, 1.0 / steps, steps)
    return [*(shift * even / (1.0 + (shift - 1.0) * even)).tolist(), 0.0]


def initial_noise(seeds: Sequence[int], shape: tuple[int, int, int]) -> Tensor:
    """Draw (len(seeds), *shape) on the CPU, one generator for each seed: a seed's picture depends on nothing else."""
    rows = [torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed)) for seed in seeds]
    return torch.stack(rows)


def guide(conditional: Tensor, unconditional: Tensor, scale: Tensor, renorm: Tensor) -> Tensor:
    """Classifier-free guidance with upstream's clamp, for each row alone.

    A row whose norm exceeds ``renorm`` times its conditional norm is scaled down to that; ``renorm`` 0 switches the
    clamp off. ``scale`` and ``renorm`` have one value for each row.
    """
    guided = unconditional + _by_row(scale) * (conditional - unconditional)
    factor = _by_row(renorm) * _norms(conditional) / _norms(guided).clamp_min(1e-12)
    return guided * torch.where(_by_row(renorm) > 0, factor.clamp_max(1.0), 1.0)


def shrunk(latents: Tensor, side: int) -> Tensor:
    """One row (channels, height, width) averaged down until no side is longer; as it is where none was."""
    height, width = latents.shape[-2:]
    scale = side / max(height, width, side)
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    small: Tensor = torch.nn.functional.interpolate(latents.unsqueeze(0), size=size, mode="area")[0]
    return small


def _by_row(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


def _norms(rows: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(rows, dim=(1, 2, 3), keepdim=True)
    return norms
