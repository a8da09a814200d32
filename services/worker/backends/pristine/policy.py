"""Which isolation policy a model card asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from services.worker.backends.base import Isolation
from shared.domain.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping


def isolation_of(card: Mapping[str, Any]) -> Isolation:
    """Return ``[options] isolation``, or the default. Raises ConfigurationError."""
    value = card.get("options", {}).get("isolation", Isolation.RESIDENT)
    try:
        return Isolation(value)
    except ValueError as exc:
        message = f"model card: [options] isolation = {value!r} is not one of {', '.join(Isolation)}"
        raise ConfigurationError(message) from exc
