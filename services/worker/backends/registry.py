"""Which backends there are. Names are resolved lazily, in the child only, so that the parent never imports torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final, cast

from shared.domain.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.worker.backends.base import Backend

BACKENDS: Final[dict[str, str]] = {
    "diffusers": "services.worker.backends.pipeline.backend:DiffusersBackend",
    "easyanimate": "services.worker.backends.easyanimate.backend:EasyAnimateBackend",
    "newbie": "services.worker.backends.newbie.backend:NewbieBackend",
    "simulated": "services.worker.backends.simulated:SimulatedBackend",
}


def create_backend(name: str) -> Backend:
    """Build the backend of a model card's ``backend`` name, or of ``package.module:Class``.

    Raises ConfigurationError, which lists the known names.
    """
    target = BACKENDS.get(name, name)
    module_name, separator, class_name = target.partition(":")
    if not separator:
        known = ", ".join(sorted(BACKENDS))
        message = f"unknown backend {name!r}; known: {known}"
        raise ConfigurationError(message)
    try:
        factory = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as exc:
        message = f"backend {name!r} cannot be imported: {exc}"
        raise ConfigurationError(message) from exc
    return cast("Callable[[], Backend]", factory)()
