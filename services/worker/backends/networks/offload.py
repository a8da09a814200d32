"""Blocks of a network that wait on the host and come to the device one after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
from diffusers.hooks.group_offloading import apply_group_offloading
from diffusers.hooks.hooks import HookRegistry

if TYPE_CHECKING:
    from torch import nn

HOST: Final = torch.device("cpu")
_GROUP_HOOK: Final = "group_offloading"
_BLOCKS_IN_A_GROUP: Final = 1


def offload_blocks(model: nn.Module, device: torch.device) -> None:
    """Keep every block on the host until its turn comes in a forward pass."""
    apply_group_offloading(
        model,
        onload_device=device,
        offload_device=HOST,
        offload_type="block_level",
        num_blocks_per_group=_BLOCKS_IN_A_GROUP,
    )


def keep_blocks(model: nn.Module) -> None:
    """Take back what ``offload_blocks`` has put around the model; its weights stay where they are."""
    for module in model.modules():
        registry = getattr(module, "_diffusers_hook", None)
        if isinstance(registry, HookRegistry):
            registry.remove_hook(_GROUP_HOOK, recurse=False)
            if not registry.hooks:
                # The library leaves a bound copy of the class's forward behind.
                for name in ("_diffusers_hook", "forward"):
                    vars(module).pop(name, None)
