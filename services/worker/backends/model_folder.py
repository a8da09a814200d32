"""A model's folder: its card's own section, its revision, its size, and what must never be in it. No torch here."""

from __future__ import annotations

import hashlib
import json
import tomllib
from typing import TYPE_CHECKING, Any, Final

from shared.domain.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

CARD_NAME: Final = "atelier.toml"

# Formats that can run code when read: refused before any library sees the folder.
UNSAFE_SUFFIXES: Final = frozenset({".bin", ".ckpt", ".dill", ".joblib", ".pickle", ".pkl", ".pt", ".pth"})

# What a backend reads with a class of its own although the published configuration names code for it.
NATIVE_TYPES: Final = {"newbie": frozenset({"jina_clip"})}


def read_card(model_dir: Path) -> dict[str, Any]:
    """Return the parsed card. Raises ConfigurationError when it is missing, malformed or has no model id."""
    path = model_dir / CARD_NAME
    try:
        card = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        message = f"model card {path} cannot be read: {exc}"
        raise ConfigurationError(message) from exc
    model = card.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("id"), str) or not model["id"]:
        message = f"model card {path} has no [model] id"
        raise ConfigurationError(message)
    return card


def model_id(card: dict[str, Any]) -> str:
    """Return the id that ``read_card`` has checked."""
    return str(card["model"]["id"])


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises ConfigurationError with the path."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        message = f"{path} cannot be read: {exc}"
        raise ConfigurationError(message) from exc
    if not isinstance(value, dict):
        message = f"{path} does not hold a JSON object"
        raise ConfigurationError(message)
    return value


def refuse_unsafe(model_dir: Path, native: frozenset[str] = frozenset()) -> None:
    """Raise ConfigurationError when the folder holds pickled weights, or a config that asks for remote code.

    ``native``: kinds of model that the backend reads with its own code, whatever else their configuration asks for.
    """
    for path in _files(model_dir):
        name = path.relative_to(model_dir).as_posix()
        if path.suffix.lower() in UNSAFE_SUFFIXES:
            message = f"{name} is not safetensors; convert the weights and remove it"
            raise ConfigurationError(message)
        if path.suffix != ".json" or "config" not in path.name:
            continue
        config = read_json(path)
        if "auto_map" in config and config.get("model_type") not in native:
            message = f"{name} asks for remote code (auto_map), which is never run"
            raise ConfigurationError(message)


def revision(model_dir: Path) -> tuple[str, int]:
    """Return (sha256 over every file's name, size and content, bytes in total); reads every file once."""
    digest = hashlib.sha256()
    total = 0
    for path in _files(model_dir):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        size = path.stat().st_size
        total += size
        digest.update(f"{path.relative_to(model_dir).as_posix()}\0{size}\0{content}\n".encode())
    return digest.hexdigest(), total


def _files(model_dir: Path) -> list[Path]:
    """Every regular file below the folder, hidden ones apart, in a stable order."""
    if not model_dir.is_dir():
        message = f"model folder {model_dir} does not exist"
        raise ConfigurationError(message)
    found = [path for path in model_dir.rglob("*") if path.is_file()]
    visible = [path for path in found if not any(part.startswith(".") for part in path.relative_to(model_dir).parts)]
    return sorted(visible, key=lambda path: path.relative_to(model_dir).as_posix())
