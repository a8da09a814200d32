"""The model card, ``atelier.toml`` in a model's folder: what a model is, what it allows, what it costs."""

from __future__ import annotations

import tomllib
from functools import cached_property
from math import ceil
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from shared.contracts.base import ModelId
from shared.contracts.task import Params, Predicted
from shared.domain.errors import ConfigurationError
from shared.domain.prediction import (
    NO_GUIDANCE,
    TIERS,
    MemoryTerms,
    SecondsTerms,
    Shape,
    Sides,
    TierPrice,
    estimate,
)
from shared.domain.quality import QUALITIES, Quality

if TYPE_CHECKING:
    from pathlib import Path

CARD_NAME = "atelier.toml"
Positive = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(gt=0)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelIdentity(_Section):
    """Who the model is, which backend serves it, and what it takes."""

    id: ModelId
    backend: str
    kind: Literal["image", "video"] = "image"
    prompt_formats: tuple[Literal["xml", "text"], ...] = ("xml", "text")
    negative_prompt: bool = True
    image_input: Literal["none", "optional", "required"] = "none"
    licence: str


class Defaults(_Section):
    """What a request gets that does not say."""

    width: Count
    height: Count
    steps: Count
    guidance: Positive
    count: Count = 1
    num_frames: Count = 1
    negative_prompt: str = ""


class Limits(_Section):
    """What a request may ask for. Sides are pixels; frames are one more than a multiple of ``frame_step``.

    ``max_batch`` is how many tasks one computation takes at most; None: as many as a worker is set to.
    """

    min_side: Count
    max_side: Count
    side_multiple: Count
    max_pixels: Count
    max_steps: Count
    max_guidance: Positive
    max_count: Count = 1
    max_frames: Count = 1
    max_batch: Count | None = None
    frame_step: Count = 1
    max_prompt_chars: Count
    max_prompt_tokens: Count


class Cost(_Section):
    """What work costs before anything was learnt, all of the model resident: seconds and MiB.

    ``cfg``: guidance above 1 doubles the rows of a step, and the step's figures are those of one row. Megapixels are
    those of all frames, megapixels2 their square.
    """

    load_seconds: Positive
    fixed_seconds: Positive = 0.0
    seconds_per_megapixel: Positive = 0.0
    seconds_per_step: Positive = 0.0
    seconds_per_megapixel_step: Positive = 0.0
    seconds_per_megapixel2_step: Positive = 0.0
    vram_mb: Annotated[int, Field(ge=0)]
    vram_mb_per_megapixel: Positive = 0.0
    vram_mb_per_row_megapixel: Positive = 0.0
    cfg: bool = False


class TierCost(_Section):
    """What a memory tier below ``resident`` costs: its memory, and how many times slower it is."""

    vram_mb: Annotated[int, Field(ge=0)]
    vram_mb_per_megapixel: Positive = 0.0
    vram_mb_per_row_megapixel: Positive = 0.0
    slow_factor: Annotated[float, Field(ge=1)] = 1.0


class QualityPreset(_Section):
    """What a quality means for a model.

    ``steps`` (the default's where absent) unless a client names its own. ``cache_threshold``: how far the first block's
    output may have moved since a step that was computed in full, before the next one is; 0 computes every step in full.
    ``work``: what is then left of a step's seconds, on average.
    """

    steps: Count | None = None
    cache_threshold: Positive = 0.0
    work: Annotated[float, Field(gt=0, le=1)] = 1.0


class Degrade(_Section):
    """When a task of a client who allows it is made at the next lower quality: it would wait longer than this."""

    above_seconds: Positive


class Previews(_Section):
    """How often a running task shows a small picture of how far it is: at most once in so many steps and seconds.

    ``every_steps`` 0: never.
    """

    every_steps: Annotated[int, Field(ge=0)] = 5
    every_seconds: Annotated[float, Field(ge=1)] = 2.0


class PromptTokens(_Section):
    """How the gateway counts a prompt's tokens: by a ``tokenizer.json`` of the model's folder, behind a prefix.

    ``prefix`` is what the model reads in front of a prompt of each format.
    """

    file: Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]*/)*[A-Za-z0-9][A-Za-z0-9._-]*$")]
    prefix: dict[Literal["xml", "text"], str] = Field(default_factory=dict)


class ModelCard(_Section):
    """One model, as its folder declares it."""

    model: ModelIdentity
    defaults: Defaults
    limits: Limits
    cost: Cost
    tiers: dict[Literal["tiled", "offload", "sequential"], TierCost] = Field(default_factory=dict)
    quality: dict[Quality, QualityPreset] = Field(default_factory=dict)
    degrade: Degrade | None = None
    previews: Previews = Previews()
    tokenizer: PromptTokens | None = None
    simulated: dict[str, Any] = Field(default_factory=dict)
    options: dict[str, Any] = Field(default_factory=dict)

    @property
    def id(self) -> str:
        """The model's id, the routing key of its work queue."""
        return self.model.id

    @model_validator(mode="after")
    def _defaults_within_limits(self) -> ModelCard:
        for side in (self.defaults.width, self.defaults.height):
            if not self.limits.min_side <= side <= self.limits.max_side or side % self.limits.side_multiple:
                message = f"default side {side} is outside the card's own limits"
                raise ValueError(message)
        frames = self.defaults.num_frames
        if frames > self.limits.max_frames or (frames - 1) % self.limits.frame_step:
            message = f"default num_frames {frames} is outside the card's own limits"
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _qualities_within_limits(self) -> ModelCard:
        for name, preset in self.quality.items():
            if preset.steps is not None and preset.steps > self.limits.max_steps:
                message = f"quality {name} takes {preset.steps} steps, and the card allows {self.limits.max_steps}"
                raise ValueError(message)
        return self

    @property
    def qualities(self) -> tuple[Quality, ...]:
        """What a request may ask for, from the cheapest on; standard is always there."""
        return tuple(quality for quality in QUALITIES if quality is Quality.STANDARD or quality in self.quality)

    def preset(self, quality: Quality) -> QualityPreset:
        """What a quality means for this model."""
        return self.quality.get(quality, QualityPreset())

    def steps(self, quality: Quality) -> int:
        """Steps of a request that names none."""
        return self.preset(quality).steps or self.defaults.steps

    @cached_property
    def prices(self) -> tuple[TierPrice, ...]:
        """What each memory tier costs by this card, ``resident`` (that is ``[cost]``) first, then down the ladder."""
        cost = self.cost
        seconds = SecondsTerms(
            picture=cost.fixed_seconds,
            picture_megapixel=cost.seconds_per_megapixel,
            row_step=cost.seconds_per_step,
            row_megapixel_step=cost.seconds_per_megapixel_step,
            row_megapixel2_step=cost.seconds_per_megapixel2_step,
        )
        resident = TierPrice(TIERS[0], seconds, _memory_terms(cost))
        lower = (
            TierPrice(name, SecondsTerms(*(tier.slow_factor * term for term in seconds)), _memory_terms(tier))
            for name in TIERS[1:]
            if (tier := self.tiers.get(name)) is not None
        )
        return (resident, *lower)

    @property
    def sides(self) -> Sides:
        """Which sides the model can make."""
        return Sides(multiple=self.limits.side_multiple, least=self.limits.min_side)

    def shape(self, params: Params) -> Shape:
        """What of a task decides on its cost."""
        passes = 2 if self.cost.cfg and params.guidance > NO_GUIDANCE else 1
        steps = ceil(params.steps * self.preset(params.made_quality).work)
        return Shape(params.width, params.height, params.num_frames, steps, params.count, passes)

    @property
    def default_shape(self) -> Shape:
        """The shape of a request that says nothing."""
        defaults = self.defaults
        passes = 2 if self.cost.cfg and defaults.guidance > NO_GUIDANCE else 1
        steps = ceil(self.steps(Quality.STANDARD) * self.preset(Quality.STANDARD).work)
        return Shape(defaults.width, defaults.height, defaults.num_frames, steps, defaults.count, passes)

    def predict(self, params: Params) -> Predicted:
        """Seconds and memory of a task by this card alone, all of the model resident."""
        expected = estimate(self.prices[0], self.shape(params))
        return Predicted(gpu_seconds=expected.seconds, vram_mb=round(expected.memory_mb))


def _memory_terms(cost: Cost | TierCost) -> MemoryTerms:
    return MemoryTerms(cost.vram_mb, cost.vram_mb_per_megapixel, cost.vram_mb_per_row_megapixel)


def load_model_card(folder: Path) -> ModelCard:
    """Read the card of one model folder. Raises ConfigurationError, which names the file and the entry."""
    path = folder / CARD_NAME
    try:
        with path.open("rb") as file:
            card = ModelCard.model_validate(tomllib.load(file))
    except OSError as exc:
        message = f"{path}: {exc.strerror}"
        raise ConfigurationError(message) from exc
    except tomllib.TOMLDecodeError as exc:
        message = f"{path}: {exc}"
        raise ConfigurationError(message) from exc
    except ValidationError as exc:
        reasons = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in exc.errors())
        message = f"{path}: {reasons}"
        raise ConfigurationError(message) from exc
    if card.id != folder.name:
        message = f"{path}: model.id {card.id!r} differs from its folder's name {folder.name!r}"
        raise ConfigurationError(message)
    return card


def load_model_cards(models_dir: Path, model_ids: tuple[str, ...]) -> dict[str, ModelCard]:
    """Read the cards of the named models, by id, in the given order."""
    return {model_id: load_model_card(models_dir / model_id) for model_id in model_ids}
