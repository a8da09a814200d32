"""diffusers' hooks on the transformer: put on for a purpose, and taken off without a trace."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import torch
from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry
from diffusers.hooks.first_block_cache import FirstBlockCacheConfig
from diffusers.hooks.hooks import HookRegistry
from diffusers.models.transformers.transformer_lumina2 import Lumina2TransformerBlock

from shared.domain.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from services.worker.backends.newbie.transformer import NewbieTransformer2DModel

_COMPILERS: Final = ("cc", "gcc", "clang")
_LEADER: Final = "fbc_leader_block_hook"


def remove_empty_registries(model: torch.nn.Module) -> None:
    """Take away what the library leaves on modules whose last hook was removed: a registry, and a bound forward."""
    for module in model.modules():
        registry = getattr(module, "_diffusers_hook", None)
        if isinstance(registry, HookRegistry) and not registry.hooks:
            for name in ("_diffusers_hook", "forward"):
                vars(module).pop(name, None)


def store_in_8_bits(transformer: NewbieTransformer2DModel, dtype: torch.dtype) -> None:
    """Keep the matrices of the blocks as float8 (e4m3), and cast each to ``dtype`` for as long as it is computed with.

    Norms and what surrounds the blocks stay as they are. The weights are rounded for good.
    """
    # Casting to and fro makes inference tensors of them; they are such from the beginning, so that no task does that.
    with torch.inference_mode():
        transformer.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=dtype)


def compile_blocks(transformer: NewbieTransformer2DModel) -> None:
    """Have each kind of block compiled when it is first used; shapes may vary. Raises ConfigurationError."""
    if not any(map(shutil.which, _COMPILERS)):
        message = f"[options] compile needs a C compiler ({', '.join(_COMPILERS)}), and there is none"
        raise ConfigurationError(message)
    transformer.compile_repeated_blocks(dynamic=True)  # type: ignore[no-untyped-call] # the library's gap


class FirstBlockCache:
    """Skips the blocks after the first in steps whose first block changes its input much as in the step before.

    What those blocks added when they were last computed is added again. The decision is one for all rows of a batch.
    """

    def __init__(self, transformer: NewbieTransformer2DModel, threshold: float) -> None:
        self._transformer = transformer
        self._threshold = threshold
        self.steps = self.skipped = 0

    @contextmanager
    def running(self) -> Iterator[None]:
        """From the first step of a picture to its last. Nothing of it is left afterwards."""
        if not self._threshold:
            yield
            return
        metadata = TransformerBlockMetadata(return_hidden_states_index=0)
        TransformerBlockRegistry.register(Lumina2TransformerBlock, metadata)
        transformer: Any = self._transformer
        transformer.enable_cache(FirstBlockCacheConfig(threshold=self._threshold))
        try:
            yield
        finally:
            transformer.disable_cache()
            vars(transformer).pop("_cache_config", None)
            remove_empty_registries(transformer)

    @contextmanager
    def step(self, rows: int) -> Iterator[None]:
        """One forward pass; those of other numbers of rows have nothing in common."""
        self.steps += 1
        if not self._threshold:
            yield
            return
        transformer: Any = self._transformer
        with transformer.cache_context(f"{rows} rows"):
            yield
            leader: Any = transformer.layers[0]._diffusers_hook.get_hook(_LEADER)  # noqa: SLF001 - the library's own place
            self.skipped += not leader.state_manager.get_state().should_compute
