"""The child process: loads one model, then loops receive, generate, send. It may be killed at any moment.

It knows nothing of the broker, the bucket or the API, and holds no secret. Started by ``services.worker.child``.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import os
import queue
import signal
import sys
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Final

from services.worker.backends.base import (
    GenerationCancelledError,
    InvalidParameterError,
    OutOfMemoryError,
)
from services.worker.backends.oom import is_fatal, is_out_of_memory
from services.worker.backends.outputs import check_outputs
from services.worker.backends.previews import Previews
from services.worker.backends.registry import create_backend
from services.worker.backends.workbench import Workbench
from services.worker.confine import ConfinementPlan, confine
from services.worker.errors import WorkFolderError
from services.worker.protocol import Cancel, Channel, Computed, Done, Failed, Generate, PreviewPace, Progress, Ready
from shared.domain.errors import AtelierError, BackendError, ConfigurationError, DecodeError
from shared.domain.task import Phase

if TYPE_CHECKING:
    from services.worker.backends.base import Sketch
    from services.worker.backends.workbench import Worked
    from services.worker.protocol import Preview

_PR_SET_PDEATHSIG: Final = 1
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_MESSAGE_CHARS: Final = 2000
_STACK_CHARS: Final = 8000
# How the process ends, other than 0: the model cannot be loaded; it can compute no more.
EXIT_UNLOADED: Final = 1
EXIT_LOST: Final = 70
# Errors whose message says everything.
_PLAIN: Final = (ConfigurationError, GenerationCancelledError, InvalidParameterError)


class RunnerStoppedError(BackendError):
    """The job was stopped at its next step, because the child was told to end."""

    code = "runner_stopped"


class Runner:
    """The loop over jobs. Computing happens in the main thread, file writing in another, listening in a third."""

    def __init__(self, channel: Channel, bench: Workbench, pace: PreviewPace) -> None:
        self._channel = channel
        self._pace = pace
        self._bench = bench
        self._jobs: queue.SimpleQueue[Generate | None] = queue.SimpleQueue()
        self._cancelled: set[str] = set()
        self._stopping = threading.Event()
        self._lost = threading.Event()
        self._encoder = ThreadPoolExecutor(max_workers=1, thread_name_prefix="encode")

    def run(self) -> bool:
        """Work until told to stop, or until it can work no more (then returns False, and nothing is unloaded)."""
        threading.Thread(target=self._listen, name="listen", daemon=True).start()
        while (job := self._jobs.get()) is not None and not self._lost.is_set():
            self._generate(job)
            self._tidy()
        self._encoder.shutdown()
        if self._lost.is_set():
            return False
        self._bench.unload()
        return True

    def _listen(self) -> None:
        while True:
            try:
                word = self._channel.receive()
            except (EOFError, OSError, DecodeError):
                # Without its parent nobody can want this process's work; the main thread may be deep inside a kernel.
                os._exit(0)
            if isinstance(word, Generate):
                self._jobs.put(word)
            elif isinstance(word, Cancel):
                self._cancelled.add(word.job)
            elif word is not None:
                self._stopping.set()
                self._jobs.put(None)
                return

    def _generate(self, job: Generate) -> None:
        previews = Previews(self._pace)

        def report(phase: str, step: int = 0, steps: int = 0, sketch: Sketch | None = None) -> None:
            preview = _preview(previews, step, steps, sketch)
            self._channel.send(Progress(job=job.job, phase=Phase(phase), step=step, steps=steps, preview=preview))

        def unwanted() -> bool:
            return self._stopping.is_set() or job.job in self._cancelled

        try:
            worked = self._bench.compute(list(job.requests), job.tier, report, unwanted)
        except GenerationCancelledError as exc:
            self._fail(job.job, exc if job.job in self._cancelled else RunnerStoppedError(), self._bench.tier)
        except Exception as exc:  # noqa: BLE001 - the boundary of the model's code: everything becomes a message
            self._fail(job.job, exc, self._bench.tier)
        else:
            self._channel.send(Computed(job=job.job, tier=worked.tier, memory=worked.memory))
            self._encoder.submit(self._encode, job, worked)
        finally:
            self._cancelled.discard(job.job)

    def _tidy(self) -> None:
        """Make the model ready for the next job, which may take as long as loading it."""
        if self._lost.is_set():
            return
        try:
            self._bench.tidy()
        except Exception as exc:  # noqa: BLE001 - as above
            self._end_lost(failure("", exc, self._bench.tier, fatal=True))

    def _encode(self, job: Generate, worked: Worked) -> None:
        try:
            results = tuple(worked.generated.encode())
            check_outputs(job.requests, results)
            self._channel.send(Done(job=job.job, results=results))
        except Exception as exc:  # noqa: BLE001 - as above
            self._fail(job.job, exc, worked.tier)

    def _fail(self, job: str, error: Exception, tier: str) -> None:
        word = failure(job, error, tier)
        if word.fatal:
            self._end_lost(word)
        else:
            self._channel.send(word)

    def _end_lost(self, word: Failed) -> None:
        self._lost.set()
        self._channel.send(word)
        self._jobs.put(None)


def _preview(previews: Previews, step: int, steps: int, sketch: Sketch | None) -> Preview | None:
    try:
        return previews.of(step, steps, sketch)
    except Exception:  # noqa: BLE001 - the boundary of the model's code: no job shall fail for want of a preview
        previews.stop()
        # What this process writes is logged by its parent.
        sys.stderr.write(f"no more previews of this job: {traceback.format_exc()}")
        return None


def failure(job: str, error: Exception, tier: str, *, fatal: bool = False) -> Failed:
    """An exception as a message to the parent. What a library raises for want of memory counts as such."""
    kind: type[AtelierError] | AtelierError = BackendError
    message = f"{type(error).__name__}: {error}"
    if isinstance(error, AtelierError):
        kind, message = error, error.message
    elif is_out_of_memory(error):
        kind = OutOfMemoryError
    elif isinstance(error, OSError) and error.errno in _NO_ROOM:
        kind = WorkFolderError
    stack = "" if isinstance(error, _PLAIN) else "".join(traceback.format_exception(error))[-_STACK_CHARS:]
    return Failed(
        job=job,
        code=kind.code,
        message=message[:_MESSAGE_CHARS],
        retryable=kind.retryable,
        stack=stack,
        tier=tier,
        fatal=fatal or is_fatal(error),
    )


def die_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process when its parent dies, and check that the parent is not dead already."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        sys.exit(0)


def main(arguments: list[str]) -> int:
    """Load the model, say so, and work. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="services.worker.runner")
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--launch", required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--backend", required=True)
    parser.add_argument("--model-dir", type=Path, required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--tier", required=True)
    parser.add_argument("--confine", type=ConfinementPlan.from_argument, required=True)
    parser.add_argument("--previews", type=PreviewPace.from_argument, required=True)
    options = parser.parse_args(arguments)
    die_with_parent(options.parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C reaches the whole group; the parent decides
    channel = Channel(Connection(options.fd), options.launch)
    tier = options.tier
    try:
        confinement = confine(options.confine)
        bench = Workbench(create_backend(options.backend), options.model_dir, options.device)
        report, memory = bench.load(tier)
    except Exception as exc:  # noqa: BLE001 - the boundary of the model's code: everything becomes a message
        channel.send(failure("", exc, tier))
        return EXIT_UNLOADED
    ready = Ready(
        seconds=report.seconds,
        bytes_on_disk=report.bytes_on_disk,
        receipt=report.receipt,
        tier=bench.tier,
        memory=memory,
        confinement=asdict(confinement),
    )
    channel.send(ready)
    if not Runner(channel, bench, options.previews).run():
        # Nothing of the interpreter's own end: with a broken device it may never come.
        os._exit(EXIT_LOST)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
