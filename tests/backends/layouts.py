"""A tiny NewBie folder, written in each layout in which the model is published."""

from __future__ import annotations

import json
import re
import shutil
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Weights = dict[str, torch.Tensor]

ROBERTA = "text_model.transformer.roberta."
RANK = 4
JINA_CLIP = {
    "model_type": "jina_clip",
    "auto_map": {"AutoModel": "jinaai/jina-clip-implementation--modeling_clip.JinaCLIPModel"},
    "text_config": {
        "model_type": "jina_clip_text",
        "hf_model_config_kwargs": {
            "lora_adaptations": ["retrieval.query"],
            "lora_alpha": RANK,
            "lora_rank": RANK,
            # The tiny tower's heads are narrower than the published one's.
            "num_attention_heads": 2,
        },
    },
}
VAE_NAMES = (
    (r"conv_norm_out", "norm_out"),
    (r"down_blocks\.(\d+)\.resnets\.(\d+)", r"down.\1.block.\2"),
    (r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample"),
    (r"mid_block\.resnets\.0", "mid.block_1"),
    (r"mid_block\.resnets\.1", "mid.block_2"),
    (r"mid_block\.attentions\.0\.group_norm", "mid.attn_1.norm"),
    (r"mid_block\.attentions\.0\.to_([qkv])", r"mid.attn_1.\1"),
    (r"mid_block\.attentions\.0\.to_out\.0", "mid.attn_1.proj_out"),
    (r"conv_shortcut", "nin_shortcut"),
)


def read(folder: Path) -> Weights:
    """Everything of a component's folder, in float32: what is changed on the way shall not be rounded."""
    found: Weights = {}
    for file in sorted(folder.glob("*.safetensors")):
        found.update(load_file(file))
    return {name: value.float() for name, value in found.items()}


def write(path: Path, weights: Weights) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in weights.items()}, path, metadata={"format": "pt"})


def write_json(path: Path, document: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document), encoding="utf-8")


def with_adapter(weights: Weights) -> Weights:
    """The published file: every matrix as what it is without its adapter, and the adapter beside it."""
    drawn = torch.Generator().manual_seed(5)
    published: Weights = {"logit_scale": torch.ones(()), "vision_model.cls_token": torch.ones(3)}
    for name, value in weights.items():
        if value.ndim == 1 or name.startswith("embeddings.token_type"):
            published[ROBERTA + name] = value
            continue
        first = torch.randn((1, RANK, value.shape[1]), generator=drawn) * 0.1
        second = torch.randn((1, value.shape[0], RANK), generator=drawn) * 0.1
        if name.startswith("embeddings."):
            first, second = second, first
            change = first[0] @ second[0]
        else:
            change = second[0] @ first[0]
        stem = ROBERTA + name.removesuffix("weight") + "parametrizations.weight."
        published[f"{stem}original"] = value - change
        published[f"{stem}0.lora_A"], published[f"{stem}0.lora_B"] = first, second
    return published


def authors_vae(weights: Weights) -> Weights:
    """The decoder's file as its authors name it: levels count from the other end, and linears are convolutions."""
    levels = 1 + max(int(found[1]) for name in weights if (found := re.search(r"up_blocks\.(\d+)", name)))

    def level(found: re.Match[str]) -> str:
        return f"up.{levels - 1 - int(found[1])}."

    renamed: Weights = {}
    for name, value in weights.items():
        theirs = re.sub(r"up_blocks\.(\d+)\.resnets\.(\d+)", lambda found: f"{level(found)}block.{found[2]}", name)
        theirs = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda found: f"{level(found)}upsample", theirs)
        for pattern, replacement in VAE_NAMES:
            theirs = re.sub(pattern, replacement, theirs)
        linear = ".attn_1." in theirs and value.ndim == 2
        renamed[theirs] = value[:, :, None, None] if linear else value
    return renamed


def publish(tiny: Path, folder: Path) -> None:
    """As downloaded: a multimodal text encoder in two files, and the CLIP tower as the repository's own class."""
    shutil.copytree(tiny, folder)
    text = json.loads((folder / "text_encoder" / "config.json").read_text(encoding="utf-8"))
    vision = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 1, "num_hidden_layers": 1}
    write_json(
        folder / "text_encoder" / "config.json", {"model_type": "gemma3", "text_config": text, "vision_config": vision}
    )
    gemma = {f"language_model.model.{name}": value for name, value in read(folder / "text_encoder").items()}
    gemma["vision_tower.vision_model.post_layernorm.weight"] = torch.ones(8)
    (folder / "text_encoder" / "model.safetensors").unlink()
    half = len(gemma) // 2
    parts = dict(list(gemma.items())[:half]), dict(list(gemma.items())[half:])
    for number, part in enumerate(parts, start=1):
        write(folder / "text_encoder" / f"model-0000{number}-of-00002.safetensors", part)
    write_json(folder / "clip_model" / "config.json", JINA_CLIP)
    write(folder / "clip_model" / "model.safetensors", with_adapter(read(folder / "clip_model")))


def pack_for_comfyui(tiny: Path, folder: Path) -> None:
    """Single files with the prefixes of ComfyUI's repack, and what it lacks beside them."""
    for name in ("text_encoder", "clip_model"):
        shutil.copytree(tiny / name, folder / name, ignore=shutil.ignore_patterns("*.safetensors"))
    write_json(folder / "clip_model" / "config.json", JINA_CLIP)
    shutil.copy(tiny / "atelier.toml", folder)
    (folder / "vae").mkdir()
    shutil.copy(tiny / "vae" / "config.json", folder / "vae")
    spiece = {"spiece_model": torch.zeros(5)}
    texts = folder / "text_encoders"
    gemma = {f"model.{name}": value for name, value in read(tiny / "text_encoder").items()}
    gemma["multi_modal_projector.mm_soft_emb_norm.weight"] = torch.ones(3)
    write(texts / "gemma_3_4b_it_bf16.safetensors", gemma | spiece)
    jina = {f"model.{name}": value for name, value in read(tiny / "clip_model").items()}
    write(texts / "jina_clip_v2_bf16.safetensors", jina | spiece)
    transformer = {f"model.diffusion_model.{name}": value for name, value in read(tiny / "transformer").items()}
    write(folder / "diffusion_models" / "NewBie-Image-Exp0.1-bf16.safetensors", transformer)
    write(folder / "vae" / "ae.safetensors", authors_vae(read(tiny / "vae")))


PACKED: dict[str, Callable[[Path, Path], None]] = {"published": publish, "comfyui": pack_for_comfyui}
