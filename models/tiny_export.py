"""Writes the trained networks as a model folder, in the layout in which NewBie is published."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from safetensors.torch import save_file

from models.tiny_flow import AXES_DIMS, AXES_LENS, HEADS, KV_HEADS, LAYERS, MULTIPLE, NORM_EPS, REFINER_LAYERS, WIDTH
from models.tiny_text import JINA_WIDTH
from models.tiny_vae import LATENT_CHANNELS
from services.worker.backends.newbie.names import to_published

if TYPE_CHECKING:
    from torch import Tensor

    from models.tiny_flow import Networks, Tokens

INDEX: Final = {
    "_class_name": "NewbiePipeline",
    "transformer": [None, "NextDiT_3B_GQA_patch2_Adaln_Refiner_WHIT_CLIP"],
    "text_encoder": ["transformers", "Gemma3TextModel"],
    "tokenizer": ["transformers", "GemmaTokenizer"],
    "clip_model": ["transformers", "JinaEmbeddingsV3Model"],
    "clip_tokenizer": ["transformers", "XLMRobertaTokenizer"],
    "vae": ["diffusers", "AutoencoderKL"],
}
TRANSFORMER: Final[dict[str, Any]] = {
    "_class_name": "NextDiT_3B_GQA_patch2_Adaln_Refiner_WHIT_CLIP",
    "model_type": "nextdit_clip",
    "patch_size": 2,
    "in_channels": LATENT_CHANNELS,
    "dim": WIDTH,
    "n_layers": LAYERS,
    "n_refiner_layers": REFINER_LAYERS,
    "n_heads": HEADS,
    "n_kv_heads": KV_HEADS,
    "multiple_of": MULTIPLE,
    "norm_eps": NORM_EPS,
    "axes_dims": AXES_DIMS,
    "axes_lens": AXES_LENS,
    "clip_text_dim": JINA_WIDTH,
    "clip_img_dim": JINA_WIDTH,
}
COMPONENTS: Final = ("transformer", "text_encoder", "clip_model", "vae")


def export(out: Path, networks: Networks, tokens: Tokens, vae: Any) -> None:  # noqa: ANN401 - diffusers has no types
    """Write every component aside in bfloat16 and rename it into place, the index last."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".making-", dir=out) as name:
        making = Path(name)
        _transformer(making / "transformer", dict(networks.transformer.state_dict()))
        networks.gemma.bfloat16().save_pretrained(making / "text_encoder")
        tokens.gemma.save_pretrained(making / "text_encoder")
        networks.jina.bfloat16().save_pretrained(making / "clip_model")
        tokens.jina.save_pretrained(making / "clip_model")
        vae.to(torch.bfloat16).save_pretrained(making / "vae")
        for file in making.rglob("*"):
            # safetensors writes files that only their owner can read, and a worker is another user.
            file.chmod(0o755 if file.is_dir() else 0o644)
        (out / "model_index.json").unlink(missing_ok=True)
        for component in COMPONENTS:
            shutil.rmtree(out / component, ignore_errors=True)
            (making / component).rename(out / component)
    (out / "model_index.json").write_text(json.dumps(INDEX, indent=2) + "\n", encoding="utf-8")


def _transformer(folder: Path, state: dict[str, Tensor]) -> None:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(TRANSFORMER, indent=2) + "\n", encoding="utf-8")
    weights = {name: value.to(torch.bfloat16).contiguous() for name, value in to_published(state)}
    save_file(weights, folder / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
