"""What a model's card asks of this backend: its ``[options]``, and what each ``[quality]`` skips."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from services.worker.backends.newbie.sampling import SHIFT
from shared.domain.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

_MEBIBYTE = 1 << 20


class NewbieOptions(BaseModel):
    """``[options]`` of the card, as far as they are this backend's.

    ``storage``: "fp8" keeps the transformer's matrices in 8 bits and computes as before. ``embedding_cache_mb``: host
    memory for the features of prompts. ``compile``: the transformer's blocks are compiled at their first use.
    ``shift``: the larger, the more of the steps are at noisy times; what the model was trained with.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    float32_matmul_precision: Literal["highest", "high", "medium"] | None = None
    storage: Literal["full", "fp8"] = "full"
    compile: bool = False
    embedding_cache_mb: Annotated[int, Field(ge=0, le=65_536)] = 64
    shift: Annotated[float, Field(gt=0, le=100)] = SHIFT

    @property
    def embedding_cache_bytes(self) -> int:
        """The same in bytes."""
        return self.embedding_cache_mb * _MEBIBYTE


def read_options(card: Mapping[str, Any]) -> NewbieOptions:
    """Read the card's options. Raises ConfigurationError that names the option."""
    try:
        return NewbieOptions.model_validate(card.get("options", {}))
    except ValidationError as exc:
        problems = "; ".join(f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in exc.errors())
        message = f"model card: [options] {problems}"
        raise ConfigurationError(message) from exc


def read_thresholds(card: Mapping[str, Any]) -> dict[str, float]:
    """Return the block cache's threshold of every quality that has one. Raises ConfigurationError."""
    found = {}
    for quality, preset in card.get("quality", {}).items():
        threshold = preset.get("cache_threshold", 0.0)
        if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 <= threshold < float("inf"):
            message = f"model card: [quality.{quality}] cache_threshold = {threshold!r} is no number of 0 or more"
            raise ConfigurationError(message)
        found[str(quality)] = float(threshold)
    return found
