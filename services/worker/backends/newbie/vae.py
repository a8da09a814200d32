"""The picture decoder: a FLUX autoencoder under diffusers' names, or under those of its authors as ComfyUI packs it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from accelerate import init_empty_weights  # type: ignore[import-untyped] # ships no types
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

from services.worker.backends.newbie.weights import fill

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from torch import Tensor

    from services.worker.backends.newbie.weights import WeightFiles

# What no weight shows: FLUX's.
SCALING: Final = 0.3611
SHIFT: Final = 0.1159
_AUTHORS_KEY: Final = "decoder.up.0.block.0.conv1.weight"


def vae_config(document: dict[str, Any] | None, weights: WeightFiles) -> dict[str, Any]:
    """The configuration as the folder says, or FLUX's with the widths that the weights have."""
    if document is not None:
        return document
    authors = _prefix(weights) is not None
    stem = f"{_prefix(weights) or ''}encoder."
    levels = f"{stem}down." if authors else f"{stem}down_blocks."
    inner = "block" if authors else "resnets"
    count = len({name.removeprefix(levels).partition(".")[0] for name in weights if name.startswith(levels)})
    widths = [weights.shape(f"{levels}{level}.{inner}.0.conv2.weight")[0] for level in range(count)]
    first = f"{levels}0.{inner}."
    layers = len({name.removeprefix(first).partition(".")[0] for name in weights if name.startswith(first)})
    return {
        "_class_name": "AutoencoderKL",
        "in_channels": 3,
        "out_channels": 3,
        "down_block_types": ["DownEncoderBlock2D"] * count,
        "up_block_types": ["UpDecoderBlock2D"] * count,
        "block_out_channels": widths,
        "layers_per_block": layers,
        "latent_channels": weights.shape(f"{stem}conv_out.weight")[0] // 2,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
        "scaling_factor": SCALING,
        "shift_factor": SHIFT,
    }


def vae_tensors(config: dict[str, Any], weights: WeightFiles) -> Iterator[tuple[str, Tensor]]:
    """Read the weights under diffusers' names."""
    prefix = _prefix(weights)
    if prefix is None:
        yield from weights.items()
        return
    plain = {name.removeprefix(prefix): value for name, value in weights.items()}
    converted: dict[str, Tensor] = convert_ldm_vae_checkpoint(plain, config)  # type: ignore[no-untyped-call] # ships no types
    yield from converted.items()


def load_vae(document: dict[str, Any] | None, weights: WeightFiles, dtype: torch.dtype) -> Any:  # noqa: ANN401 - diffusers has no types
    """Build the autoencoder. Raises ConfigurationError."""
    config = vae_config(document, weights)
    with init_empty_weights():
        model = AutoencoderKL.from_config(config)
    fill(model, vae_tensors(config, weights), dtype)
    return model


def _prefix(weights: WeightFiles) -> str | None:
    """What precedes the authors' names; None where the names are diffusers'."""
    found = [name.removesuffix(_AUTHORS_KEY) for name in weights if name.endswith(_AUTHORS_KEY)]
    return found[0] if found else None
