"""What a model card may say to this backend: its ``[options]``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.contracts.model_card import ModelCard
from shared.domain.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

Scalar = bool | int | float | str


class PipelineOptions(BaseModel):
    """``[options]`` of a card whose backend is ``diffusers``.

    ``arguments`` go to every call of the pipeline. ``fps`` is frames a second, of videos.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    isolation: Literal["resident", "reload"] = "resident"
    float32_matmul_precision: Literal["highest", "high", "medium"] | None = None
    dtype: Literal["bfloat16", "float16", "float32"] | None = None
    variant: str | None = Field(None, pattern=r"^[A-Za-z0-9_-]+$")
    guidance: Literal["guidance_scale", "true_cfg_scale"] | None = None
    fps: float = Field(8.0, gt=0, le=120)
    arguments: dict[str, Scalar] = Field(default_factory=dict)


def read_options(card: Mapping[str, Any]) -> tuple[ModelCard, PipelineOptions]:
    """Check the card. Raises ConfigurationError that names the entry."""
    section = ""
    try:
        checked = ModelCard.model_validate(card)
        section = "options."
        return checked, PipelineOptions.model_validate(card.get("options", {}))
    except ValidationError as exc:
        reasons = "; ".join(f"{section}{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in exc.errors())
        message = f"model card: {reasons}"
        raise ConfigurationError(message) from exc
