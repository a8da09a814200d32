"""One call of a pipeline: progress of every step, an end between two of them, and pixels that are checked."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from services.worker.backends.base import GenerationCancelledError, InvalidOutputError, InvalidParameterError
from services.worker.backends.networks.device import PhaseClock
from services.worker.backends.pipeline.call import NEW_CALLBACK

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from services.worker.backends.base import Cancelled, GenerationRequest, Report
from services.worker.backends.pipeline.call import Call


@dataclass(frozen=True, slots=True)
class Sampled:
    """Pixels, uint8, of each row: (height, width, 3), or of a video (frames, height, width, 3); seconds by phase."""

    pixels: list[NDArray[np.uint8]]
    timings: dict[str, float]


def sample(
    pipeline: Any,  # noqa: ANN401 - diffusers has no types
    call: Call,
    requests: list[GenerationRequest],
    report: Report,
    cancelled: Cancelled,
) -> Sampled:
    """Call the pipeline once for all rows.

    Raises GenerationCancelledError between two steps, InvalidParameterError for what the pipeline itself refuses,
    InvalidOutputError for values that are not finite and for what its safety checker withholds.
    """
    watch = _Watch(pipeline, report, cancelled)
    report("encoding")
    watch.stop_if_unwanted()
    arguments = {**call.arguments(requests), call.callback: _callback(watch, call.callback)}
    with _own_state(pipeline, watch):
        try:
            output = pipeline(**arguments)
        except ValueError as exc:
            if watch.step:
                raise
            # Before its first step a pipeline checks its arguments, and says so with this error.
            message = f"the pipeline refuses the request: {exc}"
            raise InvalidParameterError(message) from exc
        watch.clock.end("decode")
    if any(getattr(output, "nsfw_content_detected", None) or ()):
        message = "the model's own safety checker withholds a picture"
        raise InvalidOutputError(message)
    made = output.frames if hasattr(output, "frames") else output.images
    return Sampled([_pixels(row) for row in made], {"encode": 0.0, "denoise": 0.0, **watch.clock.seconds})


class _Watch:
    """Counts the steps of one call, times its phases, and ends it when it is not wanted any more."""

    def __init__(self, pipeline: Any, report: Report, cancelled: Cancelled) -> None:  # noqa: ANN401 - as above
        self._pipeline = pipeline
        self._report = report
        self._cancelled = cancelled
        self.step = 0
        self.clock = PhaseClock(pipeline._execution_device)  # noqa: SLF001 - the library has no public name for it

    def stop_if_unwanted(self) -> None:
        """Raise GenerationCancelledError when asked to."""
        if self._cancelled():
            raise GenerationCancelledError

    def stepped(self) -> None:
        """A step is done."""
        self.step += 1
        # Some schedulers take more steps than were asked for.
        steps = max(self.step, len(self._pipeline.scheduler.timesteps))
        self._report("denoising", self.step, steps)
        self.stop_if_unwanted()
        if self.step == steps:
            self.clock.end("denoise")
            self._report("decoding")


def _callback(watch: _Watch, name: str) -> Any:  # noqa: ANN401 - as above
    def new(_pipeline: object, _step: int, _timestep: object, _tensors: object) -> dict[str, object]:
        watch.stepped()
        return {}

    def old(_step: int, _timestep: object, _latents: object) -> None:
        watch.stepped()

    return new if name == NEW_CALLBACK else old


@contextmanager
def _own_state(pipeline: Any, watch: _Watch) -> Iterator[None]:  # noqa: ANN401 - as above
    """Whatever the call leaves on the pipeline, the next one does not find it; and its loop's begin is noticed."""
    before = dict(vars(pipeline))
    begin = pipeline.progress_bar

    def progress_bar(*arguments: object, **named: object) -> object:
        watch.clock.end("encode")
        return begin(*arguments, **named)

    pipeline.progress_bar = progress_bar
    try:
        yield
    except BaseException:
        # After an error a model may have stayed on the device; at its own end the pipeline sees to that.
        pipeline.maybe_free_model_hooks()
        raise
    finally:
        vars(pipeline).clear()
        vars(pipeline).update(before)


def _pixels(row: NDArray[Any]) -> NDArray[np.uint8]:
    """From 0 to 1 to whole levels."""
    values = np.asarray(row)
    if not np.isfinite(values).all():
        message = "the model produced values that are not finite"
        raise InvalidOutputError(message)
    levels: NDArray[np.uint8] = np.rint(np.clip(values, 0.0, 1.0) * 255.0).astype(np.uint8)
    return levels
