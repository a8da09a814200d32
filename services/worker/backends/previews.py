"""Small pictures of how far a job has come, at a pace that costs it nothing to speak of."""

from __future__ import annotations

import base64
import io
import time
from typing import TYPE_CHECKING, Final

from PIL import Image

from services.worker.protocol import Preview
from shared.domain.task import PREVIEW_MAX_CHARS

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from services.worker.backends.base import Sketch
    from services.worker.protocol import PreviewPace

# The longer side, in pixels.
PREVIEW_SIDE: Final = 96
_QUALITY: Final = 75


class Previews:
    """The previews of one job, which begins now."""

    def __init__(self, pace: PreviewPace, clock: Callable[[], float] = time.monotonic) -> None:
        self._pace = pace
        self._clock = clock
        self._step, self._at = 0, clock()
        self._wanted = pace.every_steps > 0

    def of(self, step: int, steps: int, sketch: Sketch | None) -> Preview | None:
        """The preview of a step, where one is due. After the last step the picture itself is near.

        Raises whatever the sketch raises.
        """
        if step < self._step:
            self._step = 0  # it was begun anew, at a lower memory tier
        if sketch is None or not self._wanted or step >= steps or step - self._step < self._pace.every_steps:
            return None
        if self._clock() - self._at < self._pace.every_seconds:
            return None
        made = encoded(sketch())
        # What it cost counts as well: a slow sketch comes no more often than a fast one.
        self._step, self._at = step, self._clock()
        return made

    def stop(self) -> None:
        """There are no more of this job."""
        self._wanted = False


def encoded(pixels: NDArray[np.uint8]) -> Preview | None:
    """Pixels (height, width, 3) as a preview; None for a picture that cannot be said in so few characters."""
    image = Image.fromarray(pixels)
    image.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=_QUALITY)
    data = base64.b64encode(file.getvalue()).decode()
    if len(data) > PREVIEW_MAX_CHARS:
        return None
    return Preview(media_type="image/jpeg", data=data, width=image.width, height=image.height)
