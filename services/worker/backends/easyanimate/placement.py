"""Which part of the model lies where, by memory tier."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from services.worker.backends.networks.offload import HOST, keep_blocks, offload_blocks

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from services.worker.backends.easyanimate.loading import EasyAnimateComponents

# From the fastest to the most sparing; each one also does what those before it do.
RESIDENT: Final = "resident"  # everything stays on the device
TILED: Final = "tiled"  # the frames are decoded in tiles (each video is decoded alone at every tier)
OFFLOAD: Final = "offload"  # text encoder and transformer wait on the host, and visit the device for their phase
SEQUENTIAL: Final = "sequential"  # so do their blocks, one after the other in every pass
TIERS: Final = (RESIDENT, TILED, OFFLOAD, SEQUENTIAL)


class Placement:
    """Puts the components where a tier wants them. The VAE, half a gigabyte, stays on the device at every tier."""

    def __init__(self, components: EasyAnimateComponents, device: torch.device) -> None:
        self._vae = components.vae
        self._large = (components.encoder.model, components.transformer)
        self.device = device
        self._tier = RESIDENT

    def apply(self, tier: str) -> None:
        """Bring every part to its place, wherever it is now: first what leaves the device, then what comes to it."""
        for part in self._large:
            keep_blocks(part)
        (self._vae.disable_tiling if tier == RESIDENT else self._vae.enable_tiling)()
        self._tier = tier
        for part in self._large:
            part.to(HOST if tier in {OFFLOAD, SEQUENTIAL} else self.device)
        self._vae.to(self.device)
        if tier == SEQUENTIAL:
            for part in self._large:
                offload_blocks(part, self.device)

    @contextmanager
    def on_device(self, part: Any) -> Iterator[None]:  # noqa: ANN401 - transformers and diffusers have no types
        """Have the text encoder or the transformer on the device meanwhile."""
        if self._tier != OFFLOAD:
            yield
            return
        try:
            part.to(self.device)
            yield
        finally:
            part.to(HOST)

    @property
    def still(self) -> bool:
        """Whether weights keep their place in memory while a task runs."""
        return self.device == HOST or self._tier in {RESIDENT, TILED}
