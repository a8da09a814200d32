"""The simulated model with a taste: it refuses some prompts, as a model refuses what its user may not ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from services.worker.backends.base import InvalidParameterError
from services.worker.backends.simulated import SimulatedBackend

if TYPE_CHECKING:
    from services.worker.backends.base import Cancelled, GenerationRequest, Report
    from services.worker.backends.images import GeneratedPictures

REFUSED: Final = "something that this model does not make"


class ChoosyBackend(SimulatedBackend):
    """Refuses one prompt after its first step."""

    def generate(self, requests: list[GenerationRequest], report: Report, cancelled: Cancelled) -> GeneratedPictures:
        generated = super().generate(requests, report, cancelled)
        if any(request.prompt == REFUSED for request in requests):
            message = "the model does not make this"
            raise InvalidParameterError(message)
        return generated
