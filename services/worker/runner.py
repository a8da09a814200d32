"""The child process: loads one model, then loops receive, generate, send. It may be killed at any moment.

It knows nothing of the broker, the bucket or the API, and holds no secret. Started by ``services.worker.child``.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import queue
import signal
import sys
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Final

from services.worker.backends.base import Encoded
from services.worker.backends.registry import create_backend
from services.worker.protocol import Cancel, Channel, Computed, Done, Failed, Generate, Progress, Ready
from shared.domain.errors import AtelierError, BackendError, DecodeError
from shared.domain.task import Phase

if TYPE_CHECKING:
    from services.worker.backends.base import Backend, Generated

_PR_SET_PDEATHSIG: Final = 1
_MESSAGE_CHARS: Final = 2000
_STACK_CHARS: Final = 8000


class Runner:
    """The loop over jobs. Computing happens in the main thread, file writing in another, listening in a third."""

    def __init__(self, channel: Channel, backend: Backend) -> None:
        self._channel = channel
        self._backend = backend
        self._jobs: queue.SimpleQueue[Generate | None] = queue.SimpleQueue()
        self._cancelled: set[str] = set()
        self._encoder = ThreadPoolExecutor(max_workers=1, thread_name_prefix="encode")

    def run(self) -> None:
        """Work until told to stop or until the parent is gone."""
        threading.Thread(target=self._listen, name="listen", daemon=True).start()
        while (job := self._jobs.get()) is not None:
            self._generate(job)
        self._encoder.shutdown()
        self._backend.unload()

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
                self._jobs.put(None)
                return

    def _generate(self, job: Generate) -> None:
        def report(phase: str, step: int = 0, steps: int = 0) -> None:
            self._channel.send(Progress(job=job.job, phase=Phase(phase), step=step, steps=steps))

        try:
            generated = self._backend.generate(list(job.requests), report, lambda: job.job in self._cancelled)
        except Exception as exc:  # noqa: BLE001 - the boundary of the model's code: everything becomes a message
            self._channel.send(failure(job.job, exc))
        else:
            self._channel.send(Computed(job=job.job))
            self._encoder.submit(self._encode, job, generated)
        finally:
            self._cancelled.discard(job.job)

    def _encode(self, job: Generate, generated: Generated) -> None:
        try:
            results = tuple(generated.encode())
            if [type(result) for result in results] != [Encoded] * len(job.requests):
                message = f"the model returned {len(results)} results for {len(job.requests)} requests, or other things"
                raise BackendError(message)  # noqa: TRY301 - what the model returns and what it raises end alike
            self._channel.send(Done(job=job.job, results=results))
        except Exception as exc:  # noqa: BLE001 - as above
            self._channel.send(failure(job.job, exc))


def failure(job: str, error: Exception) -> Failed:
    """An exception as a message to the parent."""
    code = error.code if isinstance(error, AtelierError) else BackendError.code
    retryable = error.retryable if isinstance(error, AtelierError) else BackendError.retryable
    message = error.message if isinstance(error, AtelierError) else f"{type(error).__name__}: {error}"
    stack = "" if isinstance(error, AtelierError) else "".join(traceback.format_exception(error))[-_STACK_CHARS:]
    return Failed(job=job, code=code, message=message[:_MESSAGE_CHARS], retryable=retryable, stack=stack)


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
    options = parser.parse_args(arguments)
    die_with_parent(options.parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C reaches the whole group; the parent decides
    channel = Channel(Connection(options.fd), options.launch)
    try:
        backend = create_backend(options.backend)
        report = backend.load(options.model_dir, options.device, options.tier)
    except Exception as exc:  # noqa: BLE001 - the boundary of the model's code: everything becomes a message
        channel.send(failure("", exc))
        return 1
    channel.send(Ready(seconds=report.seconds, bytes_on_disk=report.bytes_on_disk, receipt=report.receipt))
    Runner(channel, backend).run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
