"""Loading a component of a model's folder strictly: every weight it needs, none that it does not know."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from safetensors import SafetensorError, safe_open

from services.worker.backends.base import OutOfMemoryError
from services.worker.backends.model_folder import read_json
from services.worker.backends.oom import is_out_of_memory
from shared.domain.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

ERROR_CHARS: Final = 500
NAMES_SHOWN: Final = 5
_EMBEDDING: Final = "embed_tokens.weight"


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


def refuse_differences(info: Mapping[str, Any], *, left_over: tuple[str, ...] = ()) -> None:
    """Raise ConfigurationError where ``from_pretrained``'s loading info names keys that differ.

    ``left_over`` are the beginnings of keys that are rightly not used.
    """
    missing = {str(key) for name in ("missing_keys", "mismatched_keys") for key in info[name]}
    unexpected = {str(key) for key in info["unexpected_keys"] if not str(key).startswith(left_over)}
    problems = [
        f"{len(keys)} {kind} keys ({some_of(keys)})"
        for kind, keys in (("missing", missing), ("unexpected", unexpected))
        if keys
    ]
    if problems:
        message = f"weights and configuration differ: {'; '.join(problems)}"
        raise ConfigurationError(message)


def some_of(names: Iterable[str]) -> str:
    """Join the first few names, and say how many more there are."""
    ordered = sorted(names)
    more = len(ordered) - NAMES_SHOWN
    return ", ".join(ordered[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def text_tower_prefix(folder: Path) -> str:
    """Return what precedes a text tower's key names in its safetensors, such as ``language_model.model.``."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        keys = list(read_json(index).get("weight_map", {}))
    else:
        with safe_open(folder / "model.safetensors", framework="pt") as weights:
            keys = list(weights.keys())
    prefixes = [key.removesuffix(_EMBEDDING) for key in keys if key.endswith(_EMBEDDING)]
    if len(prefixes) != 1:
        message = f"the weights hold {len(prefixes)} keys that end with {_EMBEDDING}, expected one"
        raise ConfigurationError(message)
    return str(prefixes[0])
