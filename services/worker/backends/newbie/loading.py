"""Loads a local NewBie folder (the published layout) component by component. Safetensors only, no network, no code."""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from accelerate import init_empty_weights  # type: ignore[import-untyped] # ships no types
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from transformers import (
    Gemma3Config,
    Gemma3TextConfig,
    Gemma3TextModel,
    GemmaTokenizer,
    JinaEmbeddingsV3Model,
    XLMRobertaTokenizer,
)
from transformers.utils import logging as transformers_logging

from services.worker.backends.base import OutOfMemoryError
from services.worker.backends.model_folder import read_json, refuse_unsafe
from services.worker.backends.newbie.convert import HeadLayout, some_of, to_diffusers
from services.worker.backends.newbie.text import PromptEncoder
from services.worker.backends.newbie.transformer import NewbieTransformer2DModel
from services.worker.backends.oom import is_out_of_memory
from shared.domain.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import torch

PIPELINE_CLASS: Final = "NewbiePipeline"
TRANSFORMER_TYPE: Final = "nextdit_clip"
ERROR_CHARS: Final = 500


class TransformerConfig(BaseModel):
    """The part of upstream's ``transformer/config.json`` that shapes the model; the rest of the file is ignored.

    What upstream keeps in code and not in the file (refiner layers, width multiple, norm epsilon) has its value here.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    model_type: str
    patch_size: int = Field(gt=0)
    dim: int = Field(gt=0)
    n_layers: int = Field(gt=0)
    n_heads: int = Field(gt=0)
    n_kv_heads: int = Field(gt=0)
    in_channels: int = Field(gt=0)
    axes_dims: tuple[int, int, int]
    axes_lens: tuple[int, int, int]
    clip_text_dim: int = Field(gt=0)
    n_refiner_layers: int = Field(default=2, gt=0)
    multiple_of: int = Field(default=256, gt=0)
    norm_eps: float = Field(default=1e-5, gt=0)

    @property
    def heads(self) -> HeadLayout:
        """How the fused attention weights are laid out."""
        return HeadLayout(self.n_heads, self.n_kv_heads, self.dim // self.n_heads)


@dataclass(frozen=True, slots=True)
class NewbieComponents:
    """A loaded model."""

    transformer: NewbieTransformer2DModel
    encoder: PromptEncoder
    vae: Any


def load_components(model_dir: Path, device: torch.device, dtype: torch.dtype) -> NewbieComponents:
    """Load every component onto the device.

    Raises ConfigurationError (naming the component, and some keys where weights and model differ), OutOfMemoryError.
    """
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call] # the library's gap
    refuse_unsafe(model_dir)
    pipeline_class = read_json(model_dir / "model_index.json").get("_class_name")
    if pipeline_class != PIPELINE_CLASS:
        message = f"model_index.json is for {pipeline_class!r}, not {PIPELINE_CLASS!r}"
        raise ConfigurationError(message)
    with _naming("text_encoder"):
        gemma = _load_gemma(model_dir / "text_encoder", dtype).to(device)
        gemma_tokenizer = GemmaTokenizer.from_pretrained(
            model_dir / "text_encoder", local_files_only=True, padding_side="right"
        )
        if not gemma_tokenizer("").input_ids:
            message = "the tokenizer adds no <bos>, so an empty prompt would have no tokens"
            raise ConfigurationError(message)
    with _naming("clip_model"):
        jina = _load_jina(model_dir / "clip_model", dtype).to(device)
        jina_tokenizer = XLMRobertaTokenizer.from_pretrained(model_dir / "clip_model", local_files_only=True)
    with _naming("vae"):
        vae = _load_vae(model_dir / "vae", dtype).to(device)
    transformer = load_transformer(model_dir, cap_feat_dim=gemma.config.hidden_size, device=device, dtype=dtype)
    for model in (gemma, jina, vae):
        model.eval().requires_grad_(requires_grad=False)
    return NewbieComponents(transformer, PromptEncoder(gemma, gemma_tokenizer, jina, jina_tokenizer), vae)


def load_transformer(
    model_dir: Path, *, cap_feat_dim: int, device: torch.device, dtype: torch.dtype
) -> NewbieTransformer2DModel:
    """Load the transformer alone. Raises as ``load_components``."""
    with _naming("transformer"):
        model = _load_transformer(model_dir / "transformer", cap_feat_dim=cap_feat_dim, device=device, dtype=dtype)
    frozen: NewbieTransformer2DModel = model.eval().requires_grad_(requires_grad=False)
    return frozen


@contextmanager
def _naming(component: str) -> Iterator[None]:
    """Turn what the libraries raise over bad files into one error that names the component."""
    try:
        yield
    except ConfigurationError as exc:
        message = f"{component}: {exc.message}"
        raise ConfigurationError(message) from exc
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, MemoryError, SafetensorError) as exc:
        if is_out_of_memory(exc):
            message = f"{component}: the memory does not hold the weights"
            raise OutOfMemoryError(message) from exc
        message = f"{component} cannot be loaded: {' '.join(str(exc).split())[:ERROR_CHARS]}"
        raise ConfigurationError(message) from exc


def _load_transformer(
    folder: Path, *, cap_feat_dim: int, device: torch.device, dtype: torch.dtype
) -> NewbieTransformer2DModel:
    config = _read_transformer_config(folder)
    with init_empty_weights():
        model: NewbieTransformer2DModel = NewbieTransformer2DModel(
            patch_size=config.patch_size,
            in_channels=config.in_channels,
            hidden_size=config.dim,
            num_layers=config.n_layers,
            num_refiner_layers=config.n_refiner_layers,
            num_attention_heads=config.n_heads,
            num_kv_heads=config.n_kv_heads,
            multiple_of=config.multiple_of,
            norm_eps=config.norm_eps,
            axes_dim_rope=config.axes_dims,
            axes_lens=config.axes_lens,
            cap_feat_dim=cap_feat_dim,
            clip_text_dim=config.clip_text_dim,
        )
    files = sorted(folder.glob("diffusion_pytorch_model*.safetensors"))
    if not files:
        message = "no diffusion_pytorch_model*.safetensors"
        raise ConfigurationError(message)
    published: dict[str, torch.Tensor] = {}
    for file in files:
        published.update(load_file(file, device=str(device)))
    state = {key: value.to(dtype) for key, value in to_diffusers(published, config.heads).items()}
    found = model.load_state_dict(state, strict=False, assign=True)
    _refuse_differences(set(found.missing_keys), set(found.unexpected_keys))
    return model


def _read_transformer_config(folder: Path) -> TransformerConfig:
    try:
        config = TransformerConfig.model_validate(read_json(folder / "config.json"))
    except ValidationError as exc:
        problems = "; ".join(f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in exc.errors())
        message = f"config.json is not a NewBie transformer's: {problems}"
        raise ConfigurationError(message) from exc
    if config.model_type != TRANSFORMER_TYPE:
        message = f"config.json has model_type {config.model_type!r}, expected {TRANSFORMER_TYPE!r}"
        raise ConfigurationError(message)
    if config.dim % config.n_heads or sum(config.axes_dims) != config.dim // config.n_heads:
        message = f"config.json: axes_dims {config.axes_dims} do not add up to dim / n_heads"
        raise ConfigurationError(message)
    return config


def _load_gemma(folder: Path, dtype: torch.dtype) -> Any:  # noqa: ANN401 - transformers has no types
    """Load the text tower, from a text-only folder as well as from the published multimodal one."""
    model_type = read_json(folder / "config.json").get("model_type")
    if model_type == "gemma3":
        config = Gemma3Config.from_pretrained(folder, local_files_only=True).text_config
    elif model_type == "gemma3_text":
        config = Gemma3TextConfig.from_pretrained(folder, local_files_only=True)
    else:
        message = f"config.json has model_type {model_type!r}, expected gemma3 or gemma3_text"
        raise ConfigurationError(message)
    # Without the mapping, from_pretrained takes a multimodal folder and initialises every weight at random.
    prefix = _text_tower_prefix(folder)
    model, info = cast("Any", Gemma3TextModel).from_pretrained(
        folder,
        config=config,
        key_mapping={f"^{re.escape(prefix)}": ""} if prefix else None,
        dtype=dtype,
        local_files_only=True,
        use_safetensors=True,
        output_loading_info=True,
    )
    # A multimodal folder's vision weights are rightly left over.
    _refuse_differences(set(info["missing_keys"]) | set(info["mismatched_keys"]), set())
    return model


def _text_tower_prefix(folder: Path) -> str:
    """Return what precedes the text tower's key names, such as ``language_model.model.``."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        keys = list(read_json(index).get("weight_map", {}))
    else:
        with safe_open(folder / "model.safetensors", framework="pt") as weights:
            keys = list(weights.keys())
    tail = "embed_tokens.weight"
    prefixes = [key.removesuffix(tail) for key in keys if key.endswith(tail)]
    if len(prefixes) != 1:
        message = f"the weights hold {len(prefixes)} keys that end with {tail}, expected one"
        raise ConfigurationError(message)
    return str(prefixes[0])


def _load_jina(folder: Path, dtype: torch.dtype) -> Any:  # noqa: ANN401 - transformers has no types
    """Load the CLIP text tower on the native class: the same network, without the repository's remote code."""
    model, info = cast("Any", JinaEmbeddingsV3Model).from_pretrained(
        folder,
        add_pooling_layer=False,
        dtype=dtype,
        local_files_only=True,
        use_safetensors=True,
        output_loading_info=True,
    )
    _refuse_differences(
        set(info["missing_keys"]) | set(info["mismatched_keys"]),
        {key for key in info["unexpected_keys"] if not key.startswith("pooler.")},
    )
    return model


def _load_vae(folder: Path, dtype: torch.dtype) -> Any:  # noqa: ANN401 - diffusers has no types
    model, info = AutoencoderKL.from_pretrained(
        folder, torch_dtype=dtype, local_files_only=True, use_safetensors=True, output_loading_info=True
    )
    missing = set(info["missing_keys"]) | set(info["mismatched_keys"])
    _refuse_differences(missing, set(info["unexpected_keys"]))
    return model


def _refuse_differences(missing: set[Any], unexpected: set[Any]) -> None:
    problems = [
        f"{len(keys)} {kind} keys ({some_of(map(str, keys))})"
        for kind, keys in (("missing", missing), ("unexpected", unexpected))
        if keys
    ]
    if problems:
        message = f"weights and configuration differ: {'; '.join(problems)}"
        raise ConfigurationError(message)
