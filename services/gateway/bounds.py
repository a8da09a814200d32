"""Whether a request stays within what its model's card allows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from shared.http.errors import FieldError

if TYPE_CHECKING:
    from shared.contracts.model_card import Limits, ModelCard
    from shared.contracts.task import Params

LARGEST_SEED: Final = 2**63 - 1


def outside(params: Params, card: ModelCard) -> list[FieldError]:
    """What of a request is beyond the model's limits."""
    limits, errors = card.limits, []
    for name in ("width", "height"):
        side = getattr(params, name)
        if not limits.min_side <= side <= limits.max_side:
            errors.append(FieldError(field=name, message=f"must be {limits.min_side} to {limits.max_side}"))
        elif side % limits.side_multiple:
            errors.append(FieldError(field=name, message=f"must be a multiple of {limits.side_multiple}"))
    if not errors and params.width * params.height > limits.max_pixels:
        errors.append(FieldError(field="width", message=f"width x height must be at most {limits.max_pixels} pixels"))
    bounds = (
        ("steps", params.steps, limits.max_steps),
        ("guidance", params.guidance, limits.max_guidance),
        ("count", params.count, limits.max_count),
        ("num_frames", params.num_frames, limits.max_frames),
        ("seed", params.seed, LARGEST_SEED - params.count),
    )
    if params.made_quality not in card.qualities:
        errors.append(FieldError(field="quality", message=f"must be one of {', '.join(card.qualities)}"))
    errors += [
        FieldError(field=name, message=f"must be at most {most}") for name, value, most in bounds if value > most
    ]
    if params.num_frames <= limits.max_frames and (params.num_frames - 1) % limits.frame_step:
        errors.append(FieldError(field="num_frames", message=_nearest_frames(params.num_frames, limits)))
    if params.negative_prompt and not card.model.negative_prompt:
        errors.append(FieldError(field="negative_prompt", message="this model takes none"))
    return errors


def _nearest_frames(frames: int, limits: Limits) -> str:
    step = limits.frame_step
    below = frames - (frames - 1) % step
    nearest = " or ".join(str(count) for count in (below, below + step) if count <= limits.max_frames)
    return f"must be one more than a multiple of {step}; the nearest is {nearest}"
