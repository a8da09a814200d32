"""Which part of a pipeline lies where, by memory tier, with diffusers' own means."""

from __future__ import annotations

from typing import Any, Final

import torch
from accelerate import cpu_offload  # type: ignore[import-untyped] # ships no types

from services.worker.backends.networks.device import hand_back

# From the fastest to the most sparing.
RESIDENT: Final = "resident"  # everything stays on the device
TILED: Final = "tiled"  # the picture is decoded in tiles
OFFLOAD: Final = "offload"  # a model comes to the device when it is called, and leaves it for the next one
SEQUENTIAL: Final = "sequential"  # so does every layer
TIERS: Final = (RESIDENT, TILED, OFFLOAD, SEQUENTIAL)


def place(pipeline: Any, tier: str, device: torch.device) -> None:  # noqa: ANN401 - diffusers has no types
    """Bring every part to its place, wherever it is now."""
    pipeline.remove_all_hooks()
    _tile(pipeline, wanted=tier != RESIDENT)
    if tier in {RESIDENT, TILED}:
        pipeline.to(device)
        return
    pipeline.to("cpu")
    hand_back(device)
    if tier == OFFLOAD:
        pipeline.enable_model_cpu_offload(device=device)
        return
    # As enable_sequential_cpu_offload does, which spells the host as a device of which accelerate makes copies.
    for name, part in pipeline.components.items():
        if not isinstance(part, torch.nn.Module):
            continue
        if name in pipeline._exclude_from_cpu_offload:  # noqa: SLF001 - as the library does
            part.to(device)
        else:
            cpu_offload(part, device, offload_buffers=len(part._parameters) > 0)  # noqa: SLF001 - as the library does


def lacks(pipeline: Any, tier: str) -> str | None:  # noqa: ANN401 - as above
    """What the pipeline has not that the tier needs, or None."""
    if tier == TILED and not _can_tile(pipeline):
        return "a decoder that works in tiles"
    if tier == OFFLOAD and pipeline.model_cpu_offload_seq is None:
        return "an order in which its models are called"
    return None


def stays(tier: str) -> bool:
    """Whether weights keep their place in memory while a task runs."""
    return tier in {RESIDENT, TILED}


def _can_tile(pipeline: Any) -> bool:  # noqa: ANN401 - as above
    vae = getattr(pipeline, "vae", None)
    return hasattr(vae, "use_tiling") and hasattr(vae, "enable_tiling")


def _tile(pipeline: Any, *, wanted: bool) -> None:  # noqa: ANN401 - as above
    if _can_tile(pipeline):
        (pipeline.vae.enable_tiling if wanted else pipeline.vae.disable_tiling)()
