"""Writes a NewBie folder of any layout as another one, tensor by tensor: no more than a file's worth is in memory."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from safetensors.torch import save_file

from services.worker.backends.checksums import write_sums
from services.worker.backends.model_folder import CARD_NAME
from services.worker.backends.newbie.architecture import DIFFUSERS_CLASS, PUBLISHED_CLASS
from services.worker.backends.newbie.layouts import (
    CONFIG,
    INDEX,
    PIPELINE_CLASS,
    TRANSFORMER,
    VAE,
    Layout,
    folders_of,
)
from services.worker.backends.newbie.loading import load_components, naming, open_parts, read_config
from services.worker.backends.newbie.names import to_diffusers, to_published
from services.worker.backends.newbie.towers import gemma_config, gemma_tensors, jina_config, jina_tensors
from services.worker.backends.newbie.vae import vae_config, vae_tensors
from services.worker.backends.newbie.weights import WeightFiles
from shared.domain.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from services.worker.backends.newbie.layouts import ModelParts

TYPES: Final = {"bfloat16": torch.bfloat16, "float32": torch.float32}
FILE_BYTES: Final = 2 << 30
_TOKENIZER_FILES: Final = ("tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "*.model")
_READABLE: Final = 0o644
_FOLDER: Final = 0o755


def convert(source: Path, dest: Path, layout: str, dtype: str, file_bytes: int = FILE_BYTES) -> dict[str, str]:
    """Write ``source`` to ``dest`` and return the SHA-256 of each file by its name; weights become ``dtype``.

    ``dest`` appears whole or not at all. Raises ConfigurationError, also where ``dest`` exists or a weight is missing.
    """
    if dest.exists():
        message = f"{dest} exists; remove it, or name another folder"
        raise ConfigurationError(message)
    parts = open_parts(source)
    dest.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{dest.name}-", dir=dest.parent) as name:
        making = Path(name) / dest.name
        making.mkdir()
        _Writer(making, Layout(layout), TYPES[dtype], file_bytes).write(parts)
        if (source / CARD_NAME).is_file():
            shutil.copy(source / CARD_NAME, making)
        check(making)
        sums = write_sums(making)
        for path in (making, *making.rglob("*")):
            # safetensors writes files that only their owner can read, and a worker is another user.
            path.chmod(_FOLDER if path.is_dir() else _READABLE)
        making.rename(dest)
    return sums


def check(folder: Path) -> None:
    """Compare the names and shapes of all weights with the model's, without reading one. Raises ConfigurationError."""
    load_components(folder, torch.device("meta"), torch.bfloat16)


class _Writer:
    """Writes the parts into a folder."""

    def __init__(self, folder: Path, layout: Layout, dtype: torch.dtype, file_bytes: int) -> None:
        self._folder, self._layout = folder, layout
        self._dtype, self._file_bytes = dtype, file_bytes

    def write(self, parts: ModelParts) -> None:
        """Write every part, and the index."""
        gemma, gemma_tokenizer, jina, jina_tokenizer = folders_of(self._layout)
        with naming("text_encoder"), WeightFiles(parts.gemma.files) as weights:
            config = gemma_config(parts.gemma.config or {})
            self._model(gemma, gemma_tensors(weights), "model")
        self._config(gemma, {"architectures": ["Gemma3TextModel"], **config.to_dict()})
        self._tokenizer(parts.gemma_tokenizer, gemma_tokenizer)
        with naming("clip_model"), WeightFiles(parts.jina.files) as weights:
            jina_document = jina_config(parts.jina.config, weights).to_dict()
            self._model(jina, jina_tensors(parts.jina.config, weights), "model")
        self._config(jina, {"architectures": ["JinaEmbeddingsV3Model"], **jina_document})
        self._tokenizer(parts.jina_tokenizer, jina_tokenizer)
        with naming("vae"), WeightFiles(parts.vae.files) as weights:
            vae = vae_config(parts.vae.config, weights)
            self._model(VAE, vae_tensors(vae, weights), "diffusion_pytorch_model")
        self._config(VAE, vae)
        self._transformer(parts, cap_feat_dim=config.hidden_size)
        self._json(self._folder / INDEX, _index(self._layout))

    def _transformer(self, parts: ModelParts, cap_feat_dim: int) -> None:
        with naming(TRANSFORMER), WeightFiles(parts.transformer.files) as weights:
            shape = read_config(parts.transformer, weights)
            if self._layout is Layout.DIFFUSERS:
                tensors, config = to_diffusers(weights, shape.heads), shape.diffusers(cap_feat_dim)
            else:
                tensors, config = to_published(weights), shape.published()
            self._model(TRANSFORMER, tensors, "diffusion_pytorch_model")
        self._config(TRANSFORMER, config)

    def _model(self, name: str, tensors: Iterable[tuple[str, Tensor]], stem: str) -> None:
        """Write files of at most so many bytes (or of one tensor), and an index where there are several."""
        folder = self._folder / name
        folder.mkdir(exist_ok=True)
        files: list[list[str]] = []
        held: dict[str, Tensor] = {}
        size = 0
        for key, value in tensors:
            # A copy: parts of one tensor share its memory, which the format does not allow.
            tensor = value.to(self._dtype, copy=True).contiguous()
            if held and size + tensor.nbytes > self._file_bytes:
                files.append(_save(folder, len(files), held))
                held, size = {}, 0
            held[key] = tensor
            size += tensor.nbytes
        files.append(_save(folder, len(files), held))
        names = [f"{stem}-{number:05}-of-{len(files):05}.safetensors" for number in range(1, len(files) + 1)]
        if len(files) == 1:
            names = [f"{stem}.safetensors"]
        else:
            places = {key: file for file, keys in zip(names, files, strict=True) for key in keys}
            self._json(folder / f"{stem}.safetensors.index.json", {"metadata": {}, "weight_map": places})
        for number, file in enumerate(names):
            (folder / _part(number)).rename(folder / file)

    def _tokenizer(self, source: Path, name: str) -> None:
        folder = self._folder / name
        folder.mkdir(exist_ok=True)
        found = [path for pattern in _TOKENIZER_FILES for path in source.glob(pattern)]
        for path in found:
            shutil.copy(path, folder)

    def _config(self, name: str, config: dict[str, Any]) -> None:
        dtype = str(self._dtype).removeprefix("torch.")
        self._json(self._folder / name / CONFIG, config | ({"dtype": dtype} if "dtype" in config else {}))

    @staticmethod
    def _json(path: Path, document: dict[str, Any]) -> None:
        path.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _save(folder: Path, number: int, tensors: dict[str, Tensor]) -> list[str]:
    save_file(tensors, folder / _part(number), metadata={"format": "pt"})
    return list(tensors)


def _part(number: int) -> str:
    return f"{number}.part"


def _index(layout: Layout) -> dict[str, Any]:
    gemma, gemma_tokenizer, jina, jina_tokenizer = folders_of(layout)
    if layout is Layout.PUBLISHED:
        gemma_tokenizer, jina_tokenizer = "tokenizer", "clip_tokenizer"
    transformer = ["diffusers", DIFFUSERS_CLASS] if layout is Layout.DIFFUSERS else [None, PUBLISHED_CLASS]
    return {
        "_class_name": PIPELINE_CLASS,
        TRANSFORMER: transformer,
        gemma: ["transformers", "Gemma3TextModel"],
        gemma_tokenizer: ["transformers", "GemmaTokenizer"],
        jina: ["transformers", "JinaEmbeddingsV3Model"],
        jina_tokenizer: ["transformers", "XLMRobertaTokenizer"],
        VAE: ["diffusers", "AutoencoderKL"],
    }
