"""What the makers of tiny models share: a folder that is whole or absent, and weights drawn from a seed and a name."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import torch

INDEX = "model_index.json"
LIBRARIES = ("diffusers", "numpy", "tokenizers", "torch", "transformers")
# Every 3x3 (or 3x3x3) convolution is a blur of mixed channels, which makes a decoder paint soft patches and not static.
BLUR = np.outer([1.0, 2.0, 1.0], [1.0, 2.0, 1.0]).astype(np.float32) / 6.0


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a model is made: ``build`` writes the components' folders and returns the index without ``_made_by``."""

    name: str
    script: Path
    components: tuple[str, ...]
    build: Callable[[Path], dict[str, Any]]

    @property
    def made_by(self) -> dict[str, str]:
        """What a folder has to be made by to be up to date."""
        scripts = (Path(__file__), self.script)
        return {
            "name": self.name,
            "script_sha256": hashlib.sha256(b"\0".join(script.read_bytes() for script in scripts)).hexdigest(),
            **{library: version(library) for library in LIBRARIES},
        }


def up_to_date(out: Path, recipe: Recipe) -> bool:
    """Say whether ``out`` holds a complete model, made by this recipe with the installed libraries."""
    try:
        index = json.loads((out / INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(index.get("_made_by") == recipe.made_by) and all((out / name).is_dir() for name in recipe.components)


def make(out: Path, recipe: Recipe, *, force: bool = False) -> bool:
    """Make the model in ``out`` and return whether anything was done.

    Everything is written aside and renamed into place, the index last: an interrupted run leaves no index, and a
    folder without one is not a model.
    """
    if not force and up_to_date(out, recipe):
        return False
    out.mkdir(parents=True, exist_ok=True)
    with _locked(out):
        if not force and up_to_date(out, recipe):
            return False
        for abandoned in out.glob(".making-*"):
            shutil.rmtree(abandoned)
        _replace(out, recipe)
    return True


def save(model: Any, folder: Path, seed: int, gains: Mapping[str, float]) -> None:  # noqa: ANN401 - diffusers has no types
    """Replace a library model's weights, which depend on the library's version, with ours."""
    state: Mapping[str, torch.Tensor] = model.state_dict()
    drawn = {name: draw(name, tuple(value.shape), seed, gains) for name, value in state.items()}
    model.load_state_dict(drawn, assign=True)
    model.save_pretrained(folder)


def draw(name: str, shape: tuple[int, ...], seed: int, gains: Mapping[str, float]) -> torch.Tensor:
    """Draw a weight from the seed and its name, with the standard deviation gain / sqrt(fan in).

    ``gains`` go by the end of a name. Norms and biases are recognised by having one axis.
    """
    import torch  # noqa: PLC0415 - takes seconds, and a folder that is up to date needs none of it

    words = np.frombuffer(hashlib.sha256(f"{seed} {name}".encode()).digest(), dtype=np.uint32)
    generator = np.random.default_rng(words)
    gain = next((gain for end, gain in gains.items() if name.endswith(end)), 1.0)
    if shape[-2:] == BLUR.shape and len(shape) > BLUR.ndim + 1:
        random = generator.standard_normal((*shape[:-2], 1, 1), dtype=np.float32) * BLUR
    else:
        random = generator.standard_normal(shape, dtype=np.float32)
    if len(shape) == 1:
        values = random * np.float32(0.1 * gain) if name.endswith("bias") else np.ones(shape, dtype=np.float32)
    else:
        values = random * np.float32(gain / np.sqrt(np.prod(shape[1:])))
    return torch.from_numpy(values).to(torch.bfloat16)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other runs of the script out of the folder; the lock ends with the process at the latest."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _replace(out: Path, recipe: Recipe) -> None:
    with tempfile.TemporaryDirectory(prefix=".making-", dir=out) as name:
        making = Path(name)
        index = {**recipe.build(making), "_made_by": recipe.made_by}
        (making / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        for file in making.rglob("*"):
            # safetensors writes files that only their owner can read, and a worker is another user.
            file.chmod(0o755 if file.is_dir() else 0o644)
        (out / INDEX).unlink(missing_ok=True)
        for component in recipe.components:
            shutil.rmtree(out / component, ignore_errors=True)
            (making / component).rename(out / component)
        (making / INDEX).rename(out / INDEX)
