"""A NewBie folder of any size with random weights, for measuring: the diffusers-style layout, written part by part."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import torch
from accelerate import init_empty_weights  # type: ignore[import-untyped] # ships no types
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from safetensors.torch import save_file
from transformers import Gemma3TextConfig, Gemma3TextModel, JinaEmbeddingsV3Config, JinaEmbeddingsV3Model

from services.worker.backends.newbie.architecture import TransformerConfig
from services.worker.backends.newbie.layouts import CONFIG, INDEX, PIPELINE_CLASS, TRANSFORMER, VAE, Layout, folders_of
from services.worker.backends.newbie.loading import build_transformer

if TYPE_CHECKING:
    from pathlib import Path

SEED: Final = 20255
_PUBLISHED: Final[dict[str, Any]] = {
    "model_type": "nextdit_clip",
    "patch_size": 2,
    "dim": 2304,
    "n_layers": 36,
    "n_heads": 24,
    "n_kv_heads": 8,
    "in_channels": 16,
    "axes_dims": (32, 32, 32),
    "axes_lens": (1024, 512, 512),
    "clip_text_dim": 1024,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """The widths and depths of the four networks; what is absent is the published model's."""

    transformer: dict[str, Any] = field(default_factory=lambda: dict(_PUBLISHED))
    gemma: dict[str, Any] = field(default_factory=lambda: {"rope_scaling": {"factor": 8.0, "rope_type": "linear"}})
    jina: dict[str, Any] = field(default_factory=dict)
    vae_widths: tuple[int, ...] = (128, 256, 512, 512)
    vae_layers: int = 2


def write_random(folder: Path, sizes: Sizes, tokenizers: Path, device: str) -> int:
    """Write the folder and return the bytes of its weights (bfloat16). ``tokenizers``: a folder as published.

    Weights are drawn on the device, each with the standard deviation 1 / sqrt(fan in); norms are ones.
    """
    folder.mkdir(parents=True)
    gemma_folder, gemma_tokens, jina_folder, jina_tokens = folders_of(Layout.DIFFUSERS)
    shape = TransformerConfig.model_validate(sizes.transformer)
    with init_empty_weights():
        gemma_config = Gemma3TextConfig(**{**_published_gemma(), **sizes.gemma})
        gemma = Gemma3TextModel(gemma_config)
        jina = JinaEmbeddingsV3Model(JinaEmbeddingsV3Config(**sizes.jina), add_pooling_layer=False)
        vae = _vae(sizes)
    transformer = build_transformer(shape, gemma_config.hidden_size)
    generator = torch.Generator(device).manual_seed(SEED)
    configs = {
        gemma_folder: (gemma, "model", gemma_config.to_dict()),
        jina_folder: (jina, "model", jina.config.to_dict()),
        VAE: (vae, "diffusion_pytorch_model", dict(vae.config)),
        TRANSFORMER: (transformer, "diffusion_pytorch_model", shape.diffusers(gemma_config.hidden_size)),
    }
    for name, (model, stem, config) in configs.items():
        _write(folder / name, model, stem, generator)
        (folder / name / CONFIG).write_text(json.dumps(config, default=str), encoding="utf-8")
    for source, name in (("text_encoder", gemma_tokens), ("clip_model", jina_tokens)):
        (folder / name).mkdir()
        for file in (tokenizers / source).glob("tokenizer*"):
            shutil.copy(file, folder / name)
    (folder / INDEX).write_text(json.dumps({"_class_name": PIPELINE_CLASS}), encoding="utf-8")
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


def _published_gemma() -> dict[str, Any]:
    return {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_hidden_layers": 34,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "vocab_size": 262208,
        "sliding_window": 1024,
    }


def _vae(sizes: Sizes) -> Any:  # noqa: ANN401 - diffusers has no types
    count = len(sizes.vae_widths)
    return AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * count,
        up_block_types=["UpDecoderBlock2D"] * count,
        block_out_channels=list(sizes.vae_widths),
        layers_per_block=sizes.vae_layers,
        norm_num_groups=math.gcd(32, *sizes.vae_widths),
        latent_channels=16,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=0.3611,
        shift_factor=0.1159,
    )


def _write(folder: Path, model: torch.nn.Module, stem: str, generator: torch.Generator) -> None:
    folder.mkdir()
    drawn = {name: _draw(name, value, generator) for name, value in model.state_dict().items()}
    save_file(drawn, folder / f"{stem}.safetensors", metadata={"format": "pt"})


def _draw(name: str, value: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    if value.ndim == 1:
        return (torch.zeros if name.endswith("bias") else torch.ones)(value.shape, dtype=torch.bfloat16)
    fan_in = math.prod(value.shape[1:])
    weights = torch.randn(value.shape, generator=generator, device=generator.device, dtype=torch.float32)
    return (weights / math.sqrt(fan_in)).to(torch.bfloat16).cpu()
