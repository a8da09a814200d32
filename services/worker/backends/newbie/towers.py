"""The two text towers: their configurations, and their weights under the names of the classes that read them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import torch
from accelerate import init_empty_weights  # type: ignore[import-untyped] # ships no types
from transformers import (
    Gemma3Config,
    Gemma3TextConfig,
    Gemma3TextModel,
    JinaEmbeddingsV3Config,
    JinaEmbeddingsV3Model,
)

from services.worker.backends.newbie.names import some_of
from services.worker.backends.newbie.weights import fill
from shared.domain.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from services.worker.backends.newbie.weights import WeightFiles

GEMMA_TYPES: Final = frozenset({"gemma3", "gemma3_text"})
JINA_TYPE: Final = "jina_embeddings_v3"
# The repository's own class, with its tower of images beside it; what shapes the tower is not in its configuration.
JINA_CLIP_TYPE: Final = "jina_clip"
JINA_HEAD_DIM: Final = 64
JINA_ADAPTER: Final = "retrieval.query"
JINA_ALPHA: Final = 4.0
_EMBEDDING: Final = "embed_tokens.weight"
_BESIDE_GEMMA: Final = ("vision_", "multi_modal_projector.", "lm_head.", "spiece_model", "tokenizer_json")
_BESIDE_JINA: Final = ("vision_model.", "logit_scale", "spiece_model", "tokenizer_json", "text_projection.")
_POOLER: Final = "pooler."
_WORDS: Final = "embeddings.word_embeddings."
_JINA_NAMES: Final = (
    ("emb_ln.", "embeddings.LayerNorm."),
    ("encoder.layers.", "layers."),
    (".mixer.out_proj.", ".self_attn.o_proj."),
    (".norm1.", ".post_attention_layernorm."),
    (".norm2.", ".post_mlp_layernorm."),
)
_FUSED: Final = ".mixer.Wqkv."
_ADAPTED: Final = re.compile(r"(.+)\.parametrizations\.weight\.(original|0\.lora_[AB])")


def gemma_config(document: dict[str, Any]) -> Any:  # noqa: ANN401 - transformers has no types
    """Read the configuration of the text tower, from a multimodal model's as well. Raises ConfigurationError."""
    model_type = document.get("model_type")
    if model_type not in GEMMA_TYPES:
        message = f"config.json has model_type {model_type!r}, expected gemma3 or gemma3_text"
        raise ConfigurationError(message)
    if model_type == "gemma3_text":
        return Gemma3TextConfig.from_dict(document)
    return Gemma3Config.from_dict(document).text_config


def gemma_tensors(weights: WeightFiles) -> Iterator[tuple[str, Tensor]]:
    """Read the text tower, and leave what other towers have. Raises ConfigurationError where there is no such tower."""
    prefix = _text_prefix(weights)
    for name in weights:
        if name.startswith(prefix) and not name.startswith(_BESIDE_GEMMA):
            yield name.removeprefix(prefix), weights[name]


def load_gemma(document: dict[str, Any], weights: WeightFiles, dtype: torch.dtype) -> Any:  # noqa: ANN401 - as above
    """Build the tower; transformers' own loading takes a multimodal folder and draws every weight at random."""
    with init_empty_weights():
        model = Gemma3TextModel(gemma_config(document))
    fill(model, gemma_tensors(weights), dtype)
    return model


def jina_config(document: dict[str, Any] | None, weights: WeightFiles) -> Any:  # noqa: ANN401 - as above
    """Read the configuration of the CLIP text tower, or tell it from the weights. Raises ConfigurationError."""
    document = document or {"model_type": JINA_CLIP_TYPE}
    if document.get("model_type") == JINA_TYPE:
        return JinaEmbeddingsV3Config.from_dict(document)
    if document.get("model_type") != JINA_CLIP_TYPE:
        message = f"config.json has model_type {document.get('model_type')!r}, expected {JINA_TYPE} or {JINA_CLIP_TYPE}"
        raise ConfigurationError(message)
    prefix = _jina_prefix(weights)
    shapes = {_ADAPTED.sub(r"\1.weight", name): weights.shape(name) for name in weights if "lora_" not in name}
    vocabulary, hidden = shapes[f"{prefix}{_WORDS}weight"]
    given = _adapters(document).get("num_attention_heads")
    return JinaEmbeddingsV3Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=len({name for name in shapes if name.endswith(".mlp.fc1.weight")}),
        num_attention_heads=int(given or max(1, hidden // JINA_HEAD_DIM)),
        intermediate_size=shapes[f"{prefix}encoder.layers.0.mlp.fc1.weight"][0],
    )


def jina_tensors(document: dict[str, Any] | None, weights: WeightFiles) -> Iterator[tuple[str, Tensor]]:
    """Read the tower with its adapter merged, under the native class's names, whatever the file calls it.

    The published file is the repository's own class with a low-rank adapter beside the weights, ComfyUI's has it
    merged, and the native class saves the same names without a prefix. Raises ConfigurationError.
    """
    prefix = _jina_prefix(weights)
    foreign = [name for name in weights if not name.startswith((prefix, *_BESIDE_JINA))]
    if foreign:
        message = f"the weights hold unknown keys: {some_of(foreign)}"
        raise ConfigurationError(message)
    for name in weights:
        inner = name.removeprefix(prefix)
        adapted = _ADAPTED.fullmatch(inner)
        if not name.startswith(prefix) or inner.startswith((_POOLER, *_BESIDE_JINA)):
            continue
        if adapted is None:
            yield from _native(inner, weights[name])
        elif adapted[2] == "original":
            yield from _native(f"{adapted[1]}.weight", _merged(weights, name, document or {}))


def load_jina(document: dict[str, Any] | None, weights: WeightFiles, dtype: torch.dtype) -> Any:  # noqa: ANN401 - as above
    """Build the tower on the native class: the same network, without the repository's remote code."""
    with init_empty_weights():
        model = JinaEmbeddingsV3Model(jina_config(document, weights), add_pooling_layer=False)
    fill(model, jina_tensors(document, weights), dtype)
    return model


def _text_prefix(weights: WeightFiles) -> str:
    """What precedes the text tower's names, such as ``language_model.model.``."""
    prefixes = [name.removesuffix(_EMBEDDING) for name in weights if name.endswith(_EMBEDDING)]
    if len(prefixes) != 1:
        message = f"the weights hold {len(prefixes)} keys that end with {_EMBEDDING}, expected one"
        raise ConfigurationError(message)
    return prefixes[0]


def _jina_prefix(weights: WeightFiles) -> str:
    prefixes = {name.partition(_WORDS)[0] for name in weights if _WORDS in name}
    if len(prefixes) != 1:
        message = f"the weights hold {len(prefixes)} keys of {_WORDS}weight, expected one"
        raise ConfigurationError(message)
    return prefixes.pop()


def _adapters(document: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document.get("text_config", {}).get("hf_model_config_kwargs", {})
    return found


def _merged(weights: WeightFiles, name: str, document: Mapping[str, Any]) -> Tensor:
    """``W + B A alpha / rank`` of the adapter that prompts are read with; A B for embeddings, which are transposed.

    As the repository's own class computes it: jinaai/xlm-roberta-flash-implementation, ``xlm_lora.py``.
    """
    settings, stem = _adapters(document), name.removesuffix("original")
    adapters = list(settings.get("lora_adaptations") or [JINA_ADAPTER])
    first, second = weights[f"{stem}0.lora_A"].float(), weights[f"{stem}0.lora_B"].float()
    if JINA_ADAPTER not in adapters or len(first) != len(adapters) or len(second) != len(adapters):
        message = f"{stem}0.lora_A holds {len(first)} adapters; the configuration names {', '.join(adapters)}"
        raise ConfigurationError(message)
    chosen = adapters.index(JINA_ADAPTER)
    first, second = first[chosen], second[chosen]
    left, right = (first, second) if "embeddings." in stem else (second, first)
    scale = float(settings.get("lora_alpha", JINA_ALPHA)) / left.shape[1]
    original = weights[name]
    if left.shape[1] != right.shape[0] or (left.shape[0], right.shape[1]) != tuple(original.shape):
        message = f"{name} has the shape {tuple(original.shape)}, which its adapter does not fit"
        raise ConfigurationError(message)
    return torch.addmm(original.float(), left, right, alpha=scale)


def _native(name: str, value: Tensor) -> Iterator[tuple[str, Tensor]]:
    for theirs, ours in _JINA_NAMES:
        # A name within starts with a dot, which the first of a file has not.
        name = name.replace(theirs, ours) if theirs.startswith(".") or name.startswith(theirs) else name
    before, found, leaf = name.partition(_FUSED)
    if not found:
        yield name, value
        return
    for part, rows in zip("qkv", value.chunk(3), strict=True):
        yield f"{before}.self_attn.{part}_proj.{leaf}", rows
