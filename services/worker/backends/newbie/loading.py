"""Loads a local NewBie folder, in any of its layouts, part by part. Safetensors only, no network, no code."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from accelerate import init_empty_weights  # type: ignore[import-untyped] # ships no types
from safetensors import SafetensorError
from transformers import GemmaTokenizer, XLMRobertaTokenizer

from services.worker.backends.base import OutOfMemoryError
from services.worker.backends.model_folder import NATIVE_TYPES, refuse_unsafe
from services.worker.backends.newbie.architecture import from_file, from_weights
from services.worker.backends.newbie.layouts import find_parts
from services.worker.backends.newbie.names import to_diffusers
from services.worker.backends.newbie.text import PromptEncoder
from services.worker.backends.newbie.towers import load_gemma, load_jina
from services.worker.backends.newbie.transformer import NewbieTransformer2DModel
from services.worker.backends.newbie.vae import load_vae
from services.worker.backends.newbie.weights import WeightFiles, fill
from services.worker.backends.oom import is_out_of_memory
from shared.domain.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import torch

    from services.worker.backends.newbie.architecture import TransformerConfig
    from services.worker.backends.newbie.layouts import Component, ModelParts

ERROR_CHARS: Final = 500


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
    parts = open_parts(model_dir)
    with naming("text_encoder"):
        with WeightFiles(parts.gemma.files, device) as weights:
            gemma = load_gemma(parts.gemma.config or {}, weights, dtype).to(device)
        gemma_tokenizer = GemmaTokenizer.from_pretrained(
            parts.gemma_tokenizer, local_files_only=True, padding_side="right"
        )
        if not gemma_tokenizer("").input_ids:
            message = "the tokenizer adds no <bos>, so an empty prompt would have no tokens"
            raise ConfigurationError(message)
    with naming("clip_model"):
        with WeightFiles(parts.jina.files, device) as weights:
            jina = load_jina(parts.jina.config, weights, dtype).to(device)
        jina_tokenizer = XLMRobertaTokenizer.from_pretrained(parts.jina_tokenizer, local_files_only=True)
    with naming("vae"), WeightFiles(parts.vae.files, device) as weights:
        vae = load_vae(parts.vae.config, weights, dtype).to(device)
    transformer = _transformer(parts.transformer, gemma.config.hidden_size, device, dtype)
    for model in (gemma, jina, vae):
        model.eval().requires_grad_(requires_grad=False)
    return NewbieComponents(transformer, PromptEncoder(gemma, gemma_tokenizer, jina, jina_tokenizer), vae)


def load_transformer(
    model_dir: Path, *, cap_feat_dim: int, device: torch.device, dtype: torch.dtype
) -> NewbieTransformer2DModel:
    """Load the transformer alone. Raises as ``load_components``."""
    return _transformer(open_parts(model_dir).transformer, cap_feat_dim, device, dtype)


def open_parts(model_dir: Path) -> ModelParts:
    """Find a folder's parts, refused where it holds what is never read. Raises ConfigurationError."""
    refuse_unsafe(model_dir, NATIVE_TYPES["newbie"])
    with naming("model folder"):
        return find_parts(model_dir)


def build_transformer(config: TransformerConfig, cap_feat_dim: int) -> NewbieTransformer2DModel:
    """Build the transformer without weights (on torch's meta device)."""
    with init_empty_weights():
        model: NewbieTransformer2DModel = NewbieTransformer2DModel(**config.arguments(), cap_feat_dim=cap_feat_dim)
    return model


def read_config(component: Component, weights: WeightFiles) -> TransformerConfig:
    """The transformer's shape, by its configuration where there is one. Raises ConfigurationError."""
    return from_weights(weights) if component.config is None else from_file(component.config, weights)


def _transformer(
    component: Component, cap_feat_dim: int, device: torch.device, dtype: torch.dtype
) -> NewbieTransformer2DModel:
    with naming("transformer"), WeightFiles(component.files, device) as weights:
        config = read_config(component, weights)
        model = build_transformer(config, cap_feat_dim)
        fill(model, to_diffusers(weights, config.heads), dtype)
    frozen: NewbieTransformer2DModel = model.eval().requires_grad_(requires_grad=False)
    return frozen


@contextmanager
def naming(component: str) -> Iterator[None]:
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
