"""Which part of the model lies where, by memory tier."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import torch
from diffusers.hooks.group_offloading import apply_group_offloading
from diffusers.hooks.hooks import HookRegistry

from services.worker.backends.newbie.hooks import remove_empty_registries

if TYPE_CHECKING:
    from collections.abc import Iterator

    from services.worker.backends.newbie.loading import NewbieComponents

# From the fastest to the most sparing; each one also does what those before it do.
RESIDENT: Final = "resident"  # everything stays on the device
TILED: Final = "tiled"  # the picture is decoded in tiles (its rows are decoded one by one at every tier)
OFFLOAD: Final = "offload"  # text encoders and VAE wait on the host, and visit the device for their phase
SEQUENTIAL: Final = "sequential"  # so do the transformer's blocks, one after the other in every step
TIERS: Final = (RESIDENT, TILED, OFFLOAD, SEQUENTIAL)

HOST: Final = torch.device("cpu")
_GROUP_HOOK: Final = "group_offloading"
_BLOCKS_IN_A_GROUP: Final = 1


class Placement:
    """Puts the components where a tier wants them. Moving changes no value: pictures of all tiers are the same."""

    def __init__(self, components: NewbieComponents, device: torch.device) -> None:
        self._components = components
        self.device = device
        self._visiting = False

    def apply(self, tier: str) -> None:
        """Bring every part to its place, wherever it is now: first what leaves the device, then what comes to it."""
        transformer, vae = self._components.transformer, self._components.vae
        _remove_group_offloading(transformer)
        (vae.disable_tiling if tier == RESIDENT else vae.enable_tiling)()
        self._visiting = tier in {OFFLOAD, SEQUENTIAL}
        waiting = HOST if self._visiting else self.device
        sequential = tier == SEQUENTIAL
        moves = [(part, waiting) for part in (*self._components.encoder.towers, vae)]
        moves.append((transformer, HOST if sequential else self.device))
        for part, place in sorted(moves, key=lambda move: move[1] != HOST):
            part.to(place)
        if sequential:
            apply_group_offloading(
                transformer,
                onload_device=self.device,
                offload_device=HOST,
                offload_type="block_level",
                num_blocks_per_group=_BLOCKS_IN_A_GROUP,
            )

    @contextmanager
    def on_device(self, *parts: Any) -> Iterator[None]:  # noqa: ANN401 - transformers and diffusers have no types
        """Have these parts on the device meanwhile."""
        if not self._visiting:
            yield
            return
        try:
            for part in parts:
                part.to(self.device)
            yield
        finally:
            for part in parts:
                part.to(HOST)

    @property
    def at_hand(self) -> bool:
        """Whether every part but the transformer's blocks stays on the device between its phases."""
        return not self._visiting

    @property
    def still(self) -> bool:
        """Whether weights keep their place in memory while a task runs."""
        return self.device == HOST or not self._visiting


def _remove_group_offloading(model: torch.nn.Module) -> None:
    for module in model.modules():
        registry = getattr(module, "_diffusers_hook", None)
        if isinstance(registry, HookRegistry):
            registry.remove_hook(_GROUP_HOOK, recurse=False)
    remove_empty_registries(model)
