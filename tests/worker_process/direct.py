"""A real child that a test talks to itself, word by word: for what the child says and the parent does not show."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, TypeVar

from services.worker.child import ChildProcess, LaunchPlan
from services.worker.config import child_environment
from services.worker.protocol import Computed, Done, Failed, Generate
from tests.support.generation import generation_request
from tests.support.runner import unconfined
from tests.support.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    from services.worker.protocol import ChildWord

W = TypeVar("W")


class Dialogue:
    """One launch; every word it says is kept in ``words``."""

    def __init__(self, folder: Path, backend: str, tier: str = "resident") -> None:
        self.folder = folder
        self.words: list[ChildWord] = []
        self.ended = ""
        self._gone = threading.Event()
        self._jobs = 0
        plan = LaunchPlan(
            backend=backend,
            model_dir=folder,
            device="cpu",
            tier=tier,
            environment=child_environment(),
            confinement=unconfined(folder),
            terminate_seconds=0.2,
        )
        self.child = ChildProcess(plan, on_word=self.words.append, on_exit=self._on_exit, on_output=lambda _: None)

    def begin(self, prompt: str, tier: str = "") -> str:
        """Hand over a job and return its name."""
        self._jobs += 1
        name = f"job-{self._jobs}"
        out = self.folder / name
        out.mkdir()
        self.child.say(Generate(job=name, requests=(generation_request(out, prompt=prompt),), tier=tier))
        return name

    def run(self, prompt: str, tier: str = "") -> list[ChildWord]:
        """Run a job to its end and return what was said of it."""
        name = self.begin(prompt, tier)
        until(lambda: any(isinstance(word, Done | Failed) for word in self.of(name)), 30, f"the end of {name}")
        return self.of(name)

    def of(self, job: str) -> list[ChildWord]:
        """What was said of one job."""
        return [word for word in list(self.words) if getattr(word, "job", None) == job]

    def one(self, kind: type[W]) -> W:
        """Wait for a word of this kind, and return the latest."""
        until(lambda: any(isinstance(word, kind) for word in self.words), 30, kind.__name__)
        return [word for word in self.words if isinstance(word, kind)][-1]

    def wait_end(self) -> str:
        """Wait for the process to end by itself."""
        assert self._gone.wait(30), "the child lives"
        return self.ended

    def close(self) -> None:
        """End it."""
        self.child.end(0.2)

    def _on_exit(self, how: str) -> None:
        self.ended = how
        self._gone.set()


def computed(words: list[ChildWord]) -> Computed:
    """The one Computed among a job's words."""
    (found,) = [word for word in words if isinstance(word, Computed)]
    return found


def failed(words: list[ChildWord]) -> Failed:
    """The one Failed among a job's words."""
    (found,) = [word for word in words if isinstance(word, Failed)]
    return found
