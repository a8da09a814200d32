"""Loads a local EasyAnimate V5.1 folder (the published ``-diffusers`` layout) component by component.

Safetensors only, no network, no code. Only the text part of Qwen2-VL is loaded: its vision tower and its output layer
take 2.4 GB and have no part in a video.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from diffusers.models.autoencoders.autoencoder_kl_magvit import AutoencoderKLMagvit
from diffusers.models.transformers.transformer_easyanimate import EasyAnimateTransformer3DModel
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from diffusers.utils import logging as diffusers_logging
from transformers import Qwen2Tokenizer, Qwen2VLConfig
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLTextModel
from transformers.utils import logging as transformers_logging

from services.worker.backends.easyanimate.text import PromptEncoder
from services.worker.backends.model_folder import read_json, refuse_unsafe
from services.worker.backends.networks.loading import naming, refuse_differences, text_tower_prefix
from shared.domain.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import torch

# A folder's pipeline, and what its transformer takes: latents; or latents, a mask and the latents of what is known.
CHANNELS: Final = {"EasyAnimatePipeline": 16, "EasyAnimateInpaintPipeline": 33}
SCHEDULER: Final = "FlowMatchEulerDiscreteScheduler"
# What a folder's text encoder holds beside its text part.
NOT_TEXT: Final = ("visual.", "model.visual.", "lm_head.")


@dataclass(frozen=True, slots=True)
class EasyAnimateComponents:
    """A loaded model."""

    transformer: Any
    encoder: PromptEncoder
    vae: Any
    scheduler: Any

    @property
    def takes_images(self) -> bool:
        """Whether a first picture can be given."""
        return bool(self.transformer.config.in_channels != self.vae.config.latent_channels)


def load_components(model_dir: Path, device: torch.device, dtype: torch.dtype) -> EasyAnimateComponents:
    """Load every component onto the device.

    Raises ConfigurationError (naming the component, and some keys where weights and model differ), OutOfMemoryError.
    """
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call] # the library's gap
    diffusers_logging.disable_progress_bar()
    refuse_unsafe(model_dir)
    expected = CHANNELS.get(pipeline := read_json(model_dir / "model_index.json").get("_class_name", ""))
    if expected is None:
        message = f"model_index.json is for {pipeline!r}, not one of {', '.join(CHANNELS)}"
        raise ConfigurationError(message)
    with naming("scheduler"):
        scheduler = _load_scheduler(model_dir / "scheduler")
    with naming("tokenizer"):
        tokenizer = _load_tokenizer(model_dir / "tokenizer")
    with naming("text_encoder"):
        text = _frozen(_load_text_tower(model_dir / "text_encoder", dtype), device)
    with naming("vae"):
        vae = _frozen(_load_vae(model_dir / "vae", dtype), device)
    transformer = load_transformer(model_dir, device, dtype)
    components = EasyAnimateComponents(transformer, PromptEncoder(text, tokenizer), vae, scheduler)
    with naming("transformer"):
        _check_widths(components, expected)
    return components


def load_transformer(model_dir: Path, device: torch.device, dtype: torch.dtype) -> Any:  # noqa: ANN401 - diffusers has no types
    """Load the transformer alone. Raises as ``load_components``."""
    with naming("transformer"):
        folder = model_dir / "transformer"
        _expect_class(folder / "config.json", EasyAnimateTransformer3DModel.__name__)
        # Without an explicit type the transformer would come as float32 and the text encoder as it was saved.
        model, info = EasyAnimateTransformer3DModel.from_pretrained(
            folder, dtype=dtype, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
        refuse_differences(info)
        return _frozen(model, device)


def _check_widths(components: EasyAnimateComponents, channels: int) -> None:
    """The libraries would notice most of this in the first video."""
    config, latent = components.transformer.config, components.vae.config.latent_channels
    problems = []
    if config.in_channels != channels or config.out_channels != latent:
        problems.append(f"it has {config.in_channels} channels, expected {channels}, and makes {config.out_channels}")
    if config.text_embed_dim != components.encoder.width or config.text_embed_dim_t5 is not None:
        problems.append(f"it reads text of {config.text_embed_dim}, the encoder writes {components.encoder.width}")
    if channels != latent and not config.resize_inpaint_mask_directly:
        problems.append("its mask would be encoded, which its channels have no room for")
    if problems:
        raise ConfigurationError("; ".join(problems))


def _frozen(model: Any, device: torch.device) -> Any:  # noqa: ANN401 - transformers and diffusers have no types
    return model.eval().requires_grad_(requires_grad=False).to(device)


def _expect_class(path: Path, name: str) -> None:
    found = read_json(path).get("_class_name")
    if found != name:
        message = f"{path.name} is for {found!r}, expected {name!r}"
        raise ConfigurationError(message)


def _load_scheduler(folder: Path) -> Any:  # noqa: ANN401 - diffusers has no types
    _expect_class(folder / "scheduler_config.json", SCHEDULER)
    return FlowMatchEulerDiscreteScheduler.from_pretrained(folder, local_files_only=True)


def _load_tokenizer(folder: Path) -> Any:  # noqa: ANN401 - transformers has no types
    tokenizer = Qwen2Tokenizer.from_pretrained(folder, local_files_only=True)
    if not tokenizer.chat_template:
        message = "it has no chat template"
        raise ConfigurationError(message)
    return tokenizer


def _load_text_tower(folder: Path, dtype: torch.dtype) -> Any:  # noqa: ANN401 - transformers has no types
    model_type = read_json(folder / "config.json").get("model_type")
    if model_type != "qwen2_vl":
        message = f"config.json has model_type {model_type!r}, expected qwen2_vl"
        raise ConfigurationError(message)
    config = Qwen2VLConfig.from_pretrained(folder, local_files_only=True).text_config
    prefix = text_tower_prefix(folder)
    with _without_load_report():
        model, info = cast("Any", Qwen2VLTextModel).from_pretrained(
            folder,
            config=config,
            key_mapping={f"^{re.escape(prefix)}": ""} if prefix else None,
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    refuse_differences(info, left_over=NOT_TEXT)
    return model


@contextmanager
def _without_load_report() -> Iterator[None]:
    """The library would print the name of every weight that is left over, which is checked here."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call] # the library's gap
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)


def _load_vae(folder: Path, dtype: torch.dtype) -> Any:  # noqa: ANN401 - diffusers has no types
    _expect_class(folder / "config.json", AutoencoderKLMagvit.__name__)
    model, info = AutoencoderKLMagvit.from_pretrained(
        folder, dtype=dtype, local_files_only=True, use_safetensors=True, output_loading_info=True
    )
    refuse_differences(info)
    if "cache_mag_vae" not in model.config:
        # The pipelines ask for it, and the class's own configuration does not have it.
        model.register_to_config(cache_mag_vae=True)
    return model
