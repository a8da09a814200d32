"""The guard between two tasks: the next one finds the process and the model as if it were the first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.worker.backends.base import StateLostError
from services.worker.backends.pristine.parts import Part
from services.worker.backends.pristine.process import ProcessState

if TYPE_CHECKING:
    from services.worker.backends.base import Guarded


class PristineGuard:
    """Remembers a state once, and brings it back after each task. Belongs to the thread that computes."""

    def __init__(self) -> None:
        self._process: ProcessState | None = None
        self._parts: dict[str, Part] = {}

    def capture(self, guarded: Guarded) -> None:
        """Remember the state now, unless one is remembered already: what was restored is what was captured."""
        if self._process is None:
            self._parts = {name: Part(root, still=guarded.still) for name, root in guarded.parts.items()}
            self._process = ProcessState()

    def forget(self) -> None:
        """The model was changed on purpose: the next capture remembers it as it is then."""
        self._process, self._parts = None, {}

    def restore(self) -> frozenset[str]:
        """Put back what can be, and return the parts whose weights changed, which must be loaded anew.

        Raises StateLostError when something cannot be put back.
        """
        if self._process is None:
            return frozenset()
        try:
            self._process.restore()
            for part in self._parts.values():
                part.restore()
            return frozenset(name for name, part in self._parts.items() if part.dirty())
        except Exception as exc:
            message = f"the state before the task could not be restored: {type(exc).__name__}: {exc}"
            raise StateLostError(message) from exc
