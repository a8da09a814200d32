"""Strict loading: weights that do not fit their model are refused by name, and a library's error is one of ours."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from services.worker.backends.base import OutOfMemoryError
from services.worker.backends.oom import is_out_of_memory
from shared.domain.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_ERROR_CHARS: Final = 500
_SHOWN_KEYS: Final = 3
_LIBRARY_ERRORS: Final = (
    *(OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, ImportError, MemoryError),
)


@contextmanager
def naming(component: str) -> Iterator[None]:
    """Name the component in every error. Raises ConfigurationError, OutOfMemoryError."""
    try:
        yield
    except ConfigurationError as exc:
        message = f"{component}: {exc.message}"
        raise ConfigurationError(message) from exc
    except Exception as exc:
        if is_out_of_memory(exc):
            message = f"{component}: the memory does not hold the weights"
            raise OutOfMemoryError(message) from exc
        # safetensors' own error derives from Exception alone.
        if not isinstance(exc, _LIBRARY_ERRORS) and type(exc).__name__ != "SafetensorError":
            raise
        message = f"{component} cannot be loaded: {' '.join(str(exc).split())[:_ERROR_CHARS]}"
        raise ConfigurationError(message) from exc


def refuse_differences(missing: Iterable[Any], unexpected: Iterable[Any]) -> None:
    """Raise ConfigurationError when a model lacks weights, or a file has some that are not the model's."""
    problems = []
    for kind, keys in (("missing", missing), ("unexpected", unexpected)):
        names = sorted(map(str, keys))
        if names:
            more = ", ..." if len(names) > _SHOWN_KEYS else ""
            problems.append(f"{len(names)} {kind} keys ({', '.join(names[:_SHOWN_KEYS])}{more})")
    if problems:
        message = f"weights and configuration differ: {'; '.join(problems)}"
        raise ConfigurationError(message)
