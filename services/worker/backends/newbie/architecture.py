"""What shape a NewBie transformer has, by its configuration file or by its weights alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from services.worker.backends.newbie.names import COMFYUI_PREFIX, HeadLayout
from shared.domain.errors import ConfigurationError

if TYPE_CHECKING:
    from services.worker.backends.newbie.weights import WeightFiles

TRANSFORMER_TYPE: Final = "nextdit_clip"
PUBLISHED_CLASS: Final = "NextDiT_3B_GQA_patch2_Adaln_Refiner_WHIT_CLIP"
DIFFUSERS_CLASS: Final = "Lumina2Transformer2DModel"
# What no weight shows: the published model's.
PATCH_SIZE: Final = 2
AXES_LENS: Final = (1024, 512, 512)
ROPE_AXES: Final = 3
_DIFFUSERS_NAMES: Final = {
    "hidden_size": "dim",
    "num_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "num_refiner_layers": "n_refiner_layers",
    "num_kv_heads": "n_kv_heads",
    "axes_dim_rope": "axes_dims",
    "pooled_projection_dim": "clip_text_dim",
}

_IN_CODE: Final = {"n_refiner_layers", "multiple_of", "norm_eps"}


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

    def arguments(self) -> dict[str, Any]:
        """What our class is built with, besides the width of the caption features."""
        theirs = self.model_dump(exclude={"model_type", "dim", "n_layers", "n_heads", "n_kv_heads", "axes_dims"})
        return {
            **{name: value for name, value in theirs.items() if name != "n_refiner_layers"},
            "hidden_size": self.dim,
            "num_layers": self.n_layers,
            "num_refiner_layers": self.n_refiner_layers,
            "num_attention_heads": self.n_heads,
            "num_kv_heads": self.n_kv_heads,
            "axes_dim_rope": self.axes_dims,
        }

    def published(self) -> dict[str, Any]:
        """The configuration file as upstream writes it."""
        written = self.model_dump(exclude=_IN_CODE)
        # Entries of ours, for models that differ in what upstream has in its code.
        written |= {name: value for name in sorted(_IN_CODE) if (value := getattr(self, name)) != _default(name)}
        return {"_class_name": PUBLISHED_CLASS, **written, "clip_img_dim": self.clip_text_dim}

    def diffusers(self, cap_feat_dim: int) -> dict[str, Any]:
        """The configuration file of a diffusers-style folder."""
        written = {name: value for name, value in self.arguments().items() if name != "clip_text_dim"}
        named = {"_class_name": DIFFUSERS_CLASS, "pooled_projection_dim": self.clip_text_dim}
        return {**named, **written, "cap_feat_dim": cap_feat_dim}


def _default(name: str) -> object:
    return TransformerConfig.model_fields[name].default


def from_file(document: dict[str, Any], weights: WeightFiles) -> TransformerConfig:
    """Read upstream's or a diffusers-style configuration. Raises ConfigurationError that names the entries at fault."""
    if document.get("_class_name") == DIFFUSERS_CLASS:
        found = from_weights(weights).model_dump()
        said = {_DIFFUSERS_NAMES.get(name, name): value for name, value in document.items()}
        # Without an entry for it, a folder of the plain Lumina would look like one of NewBie.
        document = {**found, **{name: value for name, value in said.items() if name in found and value is not None}}
    try:
        config = TransformerConfig.model_validate(document)
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


def from_weights(weights: WeightFiles) -> TransformerConfig:
    """Tell the shape from the weights, as files come that have no configuration. Raises ConfigurationError."""
    prefix = COMFYUI_PREFIX if any(name.startswith(COMFYUI_PREFIX) for name in weights) else ""
    ours = f"{prefix}norm_out.linear_2.weight" in weights
    block = f"{prefix}layers.0."
    head_dim = weights.shape(block + ("attn.norm_q.weight" if ours else "attention.q_norm.weight"))[0]
    dim = weights.shape(f"{prefix}x_embedder.weight")[0]
    out, clip = ("norm_out.linear_2", "time_caption_embed.") if ours else ("final_layer.linear", "")
    if ours:
        kv_rows = weights.shape(f"{block}attn.to_k.weight")[0]
    else:
        kv_rows = (weights.shape(f"{block}attention.qkv.weight")[0] - dim) // 2
    return TransformerConfig(
        model_type=TRANSFORMER_TYPE,
        patch_size=PATCH_SIZE,
        dim=dim,
        n_layers=_count(weights, f"{prefix}layers."),
        n_refiner_layers=_count(weights, f"{prefix}noise_refiner."),
        n_heads=dim // head_dim,
        n_kv_heads=kv_rows // head_dim,
        in_channels=weights.shape(f"{prefix}{out}.weight")[0] // PATCH_SIZE**2,
        axes_dims=(head_dim // ROPE_AXES,) * ROPE_AXES,
        axes_lens=AXES_LENS,
        clip_text_dim=weights.shape(f"{prefix}{clip}clip_text_pooled_proj.0.weight")[0],
    )


def _count(weights: WeightFiles, stack: str) -> int:
    return len({name.removeprefix(stack).partition(".")[0] for name in weights if name.startswith(stack)})
