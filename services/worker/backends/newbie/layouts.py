"""Where a folder keeps what: the published layout, ComfyUI's repack of it, and a diffusers-style one."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from safetensors import safe_open

from services.worker.backends.model_folder import read_json
from shared.domain.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

INDEX: Final = "model_index.json"
PIPELINE_CLASS: Final = "NewbiePipeline"
# A diffusers-style folder may name the pipeline whose parts it uses.
PIPELINE_CLASSES: Final = (PIPELINE_CLASS, "Lumina2Pipeline")
CONFIG: Final = "config.json"
TRANSFORMER: Final = "transformer"
VAE: Final = "vae"
_COMFYUI_TRANSFORMERS: Final = "diffusion_models"
_COMFYUI_TEXTS: Final = "text_encoders"
# By which ComfyUI tells its text encoders apart: one weight that only this tower has.
_GEMMA_KEY: Final = "layers.0.self_attn.q_norm.weight"
_JINA_KEY: Final = "encoder.layers.0.mixer.Wqkv.weight"
_TOKENIZER: Final = "tokenizer.json"


class Layout(StrEnum):
    """How a folder is laid out."""

    PUBLISHED = "published"
    COMFYUI = "comfyui"
    DIFFUSERS = "diffusers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """The files of one part of the model, and what its configuration says (None where there is none)."""

    files: tuple[Path, ...]
    config: dict[str, Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelParts:
    """A folder's parts, found and not yet read."""

    layout: Layout
    transformer: Component
    gemma: Component
    gemma_tokenizer: Path
    jina: Component
    jina_tokenizer: Path
    vae: Component


# The folders of the two text towers and of their tokenizers.
_FOLDERS: Final = {
    Layout.PUBLISHED: ("text_encoder", "text_encoder", "clip_model", "clip_model"),
    Layout.DIFFUSERS: ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"),
}


def folders_of(layout: Layout) -> tuple[str, str, str, str]:
    """The folders of Gemma, its tokenizer, Jina and its tokenizer, in a layout of folders."""
    return _FOLDERS[layout]


def find_parts(model_dir: Path) -> ModelParts:
    """Tell a folder's layout and find its parts. Raises ConfigurationError that says what is missing."""
    if not (model_dir / INDEX).is_file() and (model_dir / _COMFYUI_TRANSFORMERS).is_dir():
        return _comfyui(model_dir)
    name = read_json(model_dir / INDEX).get("_class_name")
    if name not in PIPELINE_CLASSES:
        message = f"{INDEX} is for {name!r}, not {PIPELINE_CLASS!r}"
        raise ConfigurationError(message)
    layout = Layout.DIFFUSERS if (model_dir / "text_encoder_2").is_dir() else Layout.PUBLISHED
    gemma, gemma_tokenizer, jina, jina_tokenizer = folders_of(layout)
    return ModelParts(
        layout=layout,
        transformer=_folder(model_dir / TRANSFORMER, "diffusion_pytorch_model"),
        gemma=_folder(model_dir / gemma, "model"),
        gemma_tokenizer=model_dir / gemma_tokenizer,
        jina=_folder(model_dir / jina, "model"),
        jina_tokenizer=model_dir / jina_tokenizer,
        vae=_folder(model_dir / VAE, "diffusion_pytorch_model"),
    )


def _comfyui(model_dir: Path) -> ModelParts:
    """Single files; the tokenizers, and Gemma's configuration, lie beside them as in the published layout."""
    texts = sorted((model_dir / _COMFYUI_TEXTS).glob("*.safetensors"))
    gemma, gemma_tokenizer, jina, jina_tokenizer = folders_of(Layout.PUBLISHED)
    for folder, file, origin in (
        (gemma_tokenizer, _TOKENIZER, "google/gemma-3-4b-it"),
        (gemma, CONFIG, "google/gemma-3-4b-it"),
        (jina_tokenizer, _TOKENIZER, "jinaai/jina-clip-v2"),
    ):
        if not (model_dir / folder / file).is_file():
            message = f"ComfyUI's files hold no {folder}/{file}; put that of {origin} there"
            raise ConfigurationError(message)
    return ModelParts(
        layout=Layout.COMFYUI,
        transformer=Component(files=_only(model_dir / _COMFYUI_TRANSFORMERS), config=_config(model_dir / TRANSFORMER)),
        gemma=Component(files=_with(texts, _GEMMA_KEY, "Gemma"), config=_config(model_dir / gemma)),
        gemma_tokenizer=model_dir / gemma_tokenizer,
        jina=Component(files=_with(texts, _JINA_KEY, "Jina CLIP"), config=_config(model_dir / jina)),
        jina_tokenizer=model_dir / jina_tokenizer,
        vae=Component(files=_only(model_dir / VAE), config=_config(model_dir / VAE)),
    )


def _folder(folder: Path, stem: str) -> Component:
    """One component's folder. Beside the library's own files there may be ComfyUI's single one, which is left."""
    files = sorted(folder.glob(f"{stem}*.safetensors")) or sorted(folder.glob("*.safetensors"))
    return Component(files=tuple(files), config=read_json(folder / CONFIG))


def _config(folder: Path) -> dict[str, Any] | None:
    return read_json(folder / CONFIG) if (folder / CONFIG).is_file() else None


def _only(folder: Path) -> tuple[Path, ...]:
    files = sorted(folder.glob("*.safetensors"))
    if len(files) != 1:
        message = f"{folder.name}/ holds {len(files)} safetensors files, expected one"
        raise ConfigurationError(message)
    return tuple(files)


def _with(files: list[Path], key: str, name: str) -> tuple[Path, ...]:
    found = tuple(file for file in files if _has(file, lambda names: any(one.endswith(key) for one in names)))
    if len(found) != 1:
        message = f"{_COMFYUI_TEXTS}/ holds {len(found)} files of {name}, expected one"
        raise ConfigurationError(message)
    return found


def _has(file: Path, test: Callable[[list[str]], bool]) -> bool:
    with safe_open(file, framework="pt") as weights:
        return test(list(weights.keys()))
