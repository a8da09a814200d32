from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

from services.worker.backends.newbie.sampling import flow_sigmas, guide, initial_noise, shrunk


@pytest.mark.parametrize("steps", [1, 2, 8, 28])
def test_noise_levels_are_those_of_diffusers_given_even_sigmas(steps: int) -> None:
    scheduler: Any = FlowMatchEulerDiscreteScheduler(shift=6.0)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1.0 / steps, steps))
    assert flow_sigmas(steps) == pytest.approx(scheduler.sigmas.tolist(), abs=1e-6)


def test_the_shift_is_applied_once() -> None:
    # 6 * 0.5 / (1 + 5 * 0.5); applied twice it would be 0.035 * 1000 steps from the end.
    assert flow_sigmas(2) == pytest.approx([1.0, 6 / 7, 0.0])


def test_noise_levels_fall_from_one_to_zero() -> None:
    sigmas = flow_sigmas(50)
    assert (sigmas[0], sigmas[-1], len(sigmas)) == (1.0, 0.0, 51)
    assert sigmas == sorted(sigmas, reverse=True)


def test_noise_depends_on_a_row_s_seed_alone() -> None:
    together = initial_noise([1, 2, 3], (16, 4, 6))
    assert torch.equal(together[1:2], initial_noise([2], (16, 4, 6)))
    assert not torch.equal(together[0], together[1])


def rows(*values: float) -> torch.Tensor:
    return torch.tensor(values).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)


def test_guidance_moves_away_from_the_unconditional_prediction() -> None:
    guided = guide(rows(2.0), rows(1.0), torch.tensor([3.0]), torch.tensor([0.0]))
    assert torch.equal(guided, rows(4.0))


def test_the_clamp_scales_a_row_down_to_its_conditional_norm_and_never_up() -> None:
    scale, renorm = torch.tensor([3.0, 3.0, 3.0]), torch.tensor([1.0, 1.0, 1.5])
    guided = guide(rows(2.0, 1.0, 2.0), rows(1.0, 1.2, 1.0), scale, renorm)
    torch.testing.assert_close(guided, rows(2.0, 0.6, 3.0))


def test_rows_are_guided_independently() -> None:
    generator = torch.Generator().manual_seed(0)
    conditional, unconditional = torch.randn((2, 3, 4, 5, 6), generator=generator)
    scale, renorm = torch.tensor([4.5, 1.5, 9.0]), torch.tensor([1.0, 0.0, 0.5])
    together = guide(conditional, unconditional, scale, renorm)
    for row in range(3):
        one = slice(row, row + 1)
        alone = guide(conditional[one], unconditional[one], scale[one], renorm[one])
        torch.testing.assert_close(together[one], alone)


def test_a_prediction_of_zero_stays_zero() -> None:
    guided = guide(rows(0.0), rows(0.0), torch.tensor([4.5]), torch.tensor([1.0]))
    assert torch.equal(guided, rows(0.0))


@pytest.mark.parametrize(
    ("shape", "side", "small"),
    [((4, 32, 16), 8, (4, 8, 4)), ((4, 6, 8), 12, (4, 6, 8)), ((4, 1, 64), 8, (4, 1, 8)), ((4, 8, 8), 8, (4, 8, 8))],
)
def test_what_is_shrunk_keeps_its_shape_and_its_mean(
    shape: tuple[int, int, int], side: int, small: tuple[int, int, int]
) -> None:
    latents = torch.arange(float(shape[0] * shape[1] * shape[2])).reshape(shape)
    made = shrunk(latents, side)
    assert made.shape == small
    torch.testing.assert_close(made.mean(dim=(1, 2)), latents.mean(dim=(1, 2)))
