"""How one pipeline is called: which of its arguments carry what, and what it cannot do, by its signature."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch

from services.worker.backends.base import InvalidParameterError
from services.worker.backends.pipeline.placement import lacks
from shared.domain.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from services.worker.backends.base import GenerationRequest
    from services.worker.backends.pipeline.options import PipelineOptions, Scalar
    from shared.contracts.model_card import ModelCard

GUIDANCE: Final = "guidance_scale"
TRUE_GUIDANCE: Final = "true_cfg_scale"
NEW_CALLBACK: Final = "callback_on_step_end"
OLD_CALLBACK: Final = "callback"
_NEEDED: Final = ("prompt", "width", "height", "num_inference_steps", "generator", "output_type")
_FRAMES: Final = ("num_frames", "video_length")
# Guidance at or below this is the conditional prediction alone.
_NO_GUIDANCE: Final = 1.0
# What a pipeline would do to a request that nobody asked for: other sizes, other words.
_QUIET: Final[dict[str, Scalar]] = {"use_resolution_binning": False, "clean_caption": False}
# How many pixels of a side, and how many frames, become one of the decoder's.
_SIDE_FACTORS: Final = ("vae_scale_factor", "vae_scale_factor_spatial", "vae_spatial_compression_ratio")
_FRAME_FACTORS: Final = ("vae_scale_factor_temporal", "vae_temporal_compression_ratio")
_OURS: Final = frozenset(
    {*_NEEDED, *_FRAMES, GUIDANCE, TRUE_GUIDANCE, NEW_CALLBACK, OLD_CALLBACK, "negative_prompt", "max_sequence_length"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """Which arguments a pipeline takes for what; None where it takes none. ``fixed`` are the same in every call."""

    guidance: str | None
    negative: bool
    frames: str | None
    callback: str
    fixed: Mapping[str, Any]

    def arguments(self, requests: Sequence[GenerationRequest]) -> dict[str, Any]:
        """All but the callback, one row for each picture. The requests differ in prompts and seeds alone."""
        first = requests[0]
        rows = [(request, seed) for request in requests for seed in request.seeds]
        arguments: dict[str, Any] = {
            **self.fixed,
            "prompt": [request.prompt for request, _ in rows],
            "width": first.width,
            "height": first.height,
            "num_inference_steps": first.steps,
            # On the host, so that a seed's picture does not depend on the device.
            "generator": [torch.Generator("cpu").manual_seed(seed) for _, seed in rows],
            "output_type": "np",
        }
        if self.guidance is not None:
            arguments[self.guidance] = first.guidance
        if self.negative:
            arguments["negative_prompt"] = [request.negative_prompt for request, _ in rows]
        if self.frames is not None:
            arguments[self.frames] = first.num_frames
        return arguments

    def refuse(self, request: GenerationRequest) -> None:
        """Raise InvalidParameterError for what this pipeline takes no argument for."""
        if request.negative_prompt and not self.negative:
            message = "this model takes no negative prompt"
            raise InvalidParameterError(message)
        if self.guidance is None and request.guidance > _NO_GUIDANCE:
            message = f"this model takes no guidance; guidance {request.guidance:g} was asked for"
            raise InvalidParameterError(message)


def plan_call(pipeline: Any, card: ModelCard, options: PipelineOptions) -> Call:  # noqa: ANN401 - diffusers has no types
    """Map the arguments, and hold the card to what the pipeline can do.

    Raises ConfigurationError that names every promise of the card that the pipeline cannot keep.
    """
    taken = inspect.signature(pipeline.__call__).parameters
    problems = _unfit(pipeline, taken)
    guidance = options.guidance or _guidance(pipeline, taken)
    negative = "negative_prompt" in taken and not _distilled(pipeline, guidance, taken)
    frames = next((name for name in _FRAMES if name in taken), None)
    callback = NEW_CALLBACK if NEW_CALLBACK in taken else OLD_CALLBACK
    fixed: dict[str, Any] = {name: value for name, value in _QUIET.items() if name in taken}
    if "max_sequence_length" in taken:
        fixed["max_sequence_length"] = card.limits.max_prompt_tokens
    if "frame_rate" in taken:
        fixed["frame_rate"] = options.fps
    for name, value in options.arguments.items():
        if name not in taken or name in _OURS:
            problems.append(f"[options.arguments] {name} is no argument of its own")
        fixed[name] = value
    call = Call(guidance=guidance, negative=negative, frames=frames, callback=callback, fixed=fixed)
    problems += _broken_promises(pipeline, card, call, taken)
    if problems:
        message = f"{type(pipeline).__name__} and the model card: {'; '.join(problems)}"
        raise ConfigurationError(message)
    return call


def excess_tokens(pipeline: Any, text: str, most: int) -> tuple[int, int] | None:  # noqa: ANN401 - as above
    """A text's tokens and the most that are read, where no text encoder reads all of it; None where one does."""
    found = []
    for tokenizer, bound in _readers(pipeline):
        count, limit = len(tokenizer(text, truncation=False, verbose=False).input_ids), min(bound, most)
        if count <= limit:
            return None
        found.append((count, limit))
    return max(found, key=lambda one: one[1], default=None)


def _unfit(pipeline: Any, taken: Mapping[str, inspect.Parameter]) -> list[str]:  # noqa: ANN401 - as above
    problems = [f"it takes no {name}" for name in _NEEDED if name not in taken]
    if NEW_CALLBACK not in taken and OLD_CALLBACK not in taken:
        problems.append("it takes no callback, so a task could not be cancelled")
    for name, one in taken.items():
        if name != "prompt" and one.default is inspect.Parameter.empty and one.kind is one.POSITIONAL_OR_KEYWORD:
            problems.append(f"it needs {name}, which no request has")
    if not hasattr(pipeline, "scheduler"):
        problems.append("it has no scheduler")
    return problems


def _guidance(pipeline: Any, taken: Mapping[str, inspect.Parameter]) -> str | None:  # noqa: ANN401 - as above
    """A pipeline with both has ``guidance_scale`` for a distilled transformer, which is told the scale."""
    if TRUE_GUIDANCE in taken and not (GUIDANCE in taken and _embeds_guidance(pipeline)):
        return TRUE_GUIDANCE
    return GUIDANCE if GUIDANCE in taken else None


def _distilled(pipeline: Any, guidance: str | None, taken: Mapping[str, inspect.Parameter]) -> bool:  # noqa: ANN401 - as above
    if TRUE_GUIDANCE in taken:
        return guidance != TRUE_GUIDANCE
    return guidance is None or _embeds_guidance(pipeline)


def _embeds_guidance(pipeline: Any) -> bool:  # noqa: ANN401 - as above
    networks = [getattr(pipeline, name, None) for name in ("transformer", "unet")]
    configs = [network.config for network in networks if network is not None]
    return any(
        getattr(config, "guidance_embeds", False) or getattr(config, "time_cond_proj_dim", None) is not None
        for config in configs
    )


def _broken_promises(
    pipeline: Any,  # noqa: ANN401 - as above
    card: ModelCard,
    call: Call,
    taken: Mapping[str, inspect.Parameter],
) -> list[str]:
    problems = []
    if call.guidance is not None and call.guidance not in taken:
        problems.append(f"[options] guidance = {call.guidance!r} is no argument of its own")
    if call.guidance is None and max(card.limits.max_guidance, card.defaults.guidance) > _NO_GUIDANCE:
        problems.append("[limits] max_guidance is above 1, and it takes no guidance")
    if not call.negative and (card.model.negative_prompt or card.defaults.negative_prompt):
        problems.append("it takes no negative prompt: say [model] negative_prompt = false")
    if (call.frames is not None) != (card.model.kind == "video"):
        problems.append(f"[model] kind is {card.model.kind!r}, and it makes {'videos' if call.frames else 'images'}")
    if (factor := _first_of(pipeline, _SIDE_FACTORS)) and card.limits.side_multiple % factor:
        problems.append(f"[limits] side_multiple {card.limits.side_multiple} is no multiple of its {factor}")
    if (step := _first_of(pipeline, _FRAME_FACTORS)) and card.limits.frame_step % step:
        problems.append(f"[limits] frame_step {card.limits.frame_step} is no multiple of its {step}")
    reads = max((bound for _, bound in _readers(pipeline)), default=card.limits.max_prompt_tokens)
    if card.limits.max_prompt_tokens > reads:
        problems.append(
            f"[limits] max_prompt_tokens {card.limits.max_prompt_tokens} is above the {reads} that it reads"
        )
    problems += [f"[tiers.{tier}] needs {lack}" for tier in card.tiers if (lack := lacks(pipeline, tier))]
    return problems


def _first_of(pipeline: Any, names: tuple[str, ...]) -> int:  # noqa: ANN401 - as above
    """The first of these numbers that the pipeline has; 0 without any."""
    return int(next((value for name in names if (value := getattr(pipeline, name, None))), 0))


def _readers(pipeline: Any) -> list[tuple[Any, int]]:  # noqa: ANN401 - as above
    """Each tokenizer of the pipeline, and how many tokens it keeps."""
    parts = [part for name, part in pipeline.components.items() if name.startswith("tokenizer") and part is not None]
    return [(part, int(part.model_max_length)) for part in parts]
