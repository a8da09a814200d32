"""Starting, watching and ending one child process. What it means for a task is the supervisor's business."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import struct
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from services.worker.protocol import Channel, ChildWord, PreviewPace, Stop
from shared.domain.errors import DecodeError
from shared.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import IO

    from services.worker.confine import ConfinementPlan
    from services.worker.protocol import ParentWord

log = get_logger(__name__)

_LINE_CHARS: Final = 2000
_READER_SECONDS: Final = 3.0
_SAY_SECONDS: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchPlan:
    """What to start, after ``prepare``. ``environment`` is all that the child gets: none of the parent's secrets."""

    backend: str
    model_dir: Path
    device: str
    tier: str
    environment: Mapping[str, str]
    confinement: ConfinementPlan
    prepare: Callable[[], object] = lambda: None
    python: str = sys.executable
    previews: PreviewPace = field(default_factory=PreviewPace)
    terminate_seconds: float = 3.0
    reap_seconds: float = 20.0


class ChildProcess:
    """One launch of the runner. Create it in the main thread: PDEATHSIG is bound to the thread that forks."""

    def __init__(
        self,
        plan: LaunchPlan,
        *,
        on_word: Callable[[ChildWord], None],
        on_exit: Callable[[str], None],
        on_output: Callable[[str], None],
    ) -> None:
        """Start it. Raises OSError when no process can be started, and whatever ``prepare`` raises."""
        self.launch_id = secrets.token_hex(8)
        self._terminate_seconds, self._reap_seconds = plan.terminate_seconds, plan.reap_seconds
        self._gone = threading.Event()
        self._on_word, self._on_exit, self._on_output = on_word, on_exit, on_output
        plan.prepare()
        ours, theirs = socket.socketpair()
        # A child that does not read must not hold whoever speaks to it: a lease is renewed in one of those threads.
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", _SAY_SECONDS, 0))
        with ours, theirs:
            self._process = self._spawn(plan, theirs.fileno())
            self._connection: Connection[Any, Any] = Connection(ours.detach())
        self._channel = Channel(self._connection, self.launch_id)
        self._sentinel = os.pidfd_open(self._process.pid)
        self._reader = threading.Thread(target=self._read, name="runner-words", daemon=True)
        self._reader.start()
        output = self._process.stdout
        if output is not None:
            threading.Thread(target=self._read_output, args=(output,), name="runner-output", daemon=True).start()

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    def say(self, word: ParentWord) -> None:
        """Send a message, within seconds; a child that is already gone is reported by its exit, not here."""
        try:
            self._channel.send(word)
        except BlockingIOError:
            # Half a message may be on its way: nothing can follow it.
            log.warning("runner_does_not_listen")
            self._process.kill()
        except OSError as exc:
            log.debug("runner_gone", error_message=repr(exc))

    def end(self, grace_seconds: float) -> bool:
        """Stop politely, then SIGTERM, then SIGKILL; returns once the process is gone, False for one that stays."""
        self.say(Stop())
        if self._gone.wait(grace_seconds):
            return self._ended()
        return self.put_down()

    def put_down(self) -> bool:
        """End what does not listen any more: SIGTERM, then SIGKILL. Returns like ``end``."""
        self._process.terminate()
        self._gone.wait(self._terminate_seconds)
        return self.kill()

    def kill(self) -> bool:
        """End it now. Returns like ``end``."""
        self._process.kill()
        return self._ended()

    def _ended(self) -> bool:
        # What hangs in the kernel, on a broken device say, outlives even SIGKILL.
        gone = self._gone.wait(self._reap_seconds)
        if gone:
            self._reader.join(_READER_SECONDS)
        else:
            log.error("runner_unkillable", runner_pid=self.pid)
        return gone

    def _spawn(self, plan: LaunchPlan, fd: int) -> subprocess.Popen[bytes]:
        command = [
            *(plan.python, "-m", "services.worker.runner", "--fd", str(fd), "--launch", self.launch_id),
            *("--parent", str(os.getpid()), "--backend", plan.backend, "--model-dir", str(plan.model_dir.resolve())),
            *("--previews", plan.previews.to_argument()),
            *("--device", plan.device, "--tier", plan.tier, "--confine", plan.confinement.to_argument()),
        ]
        return subprocess.Popen(  # noqa: S603 - our own module, arguments from validated settings
            command,
            cwd=Path(__file__).parents[2],
            env=dict(plan.environment),
            pass_fds=(fd,),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # What it starts dies with it: see ``_read``.
            process_group=0,
        )

    def _read(self) -> None:
        try:
            self._hear()
        except Exception:
            # The boundary of the child's words: whatever they do to us, its end must still be noticed.
            log.exception("runner_words_failed")
            self._process.kill()
        wait([self._sentinel], _READER_SECONDS)
        # What it started, and itself if it closed its end and lives on: of no use to anybody.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        status = self._process.wait()
        self._gone.set()
        os.close(self._sentinel)
        self._connection.close()
        self._on_exit(_how(status))

    def _hear(self) -> None:
        # Waiting on both ends the thread when the child dies, even if a grandchild keeps the socket open.
        while self._connection in wait([self._connection, self._sentinel]):
            try:
                word = self._channel.receive()
            except (EOFError, OSError):
                return
            except DecodeError as exc:
                log.warning("runner_unintelligible", error_message=exc.message)
                self._process.kill()
                return
            if isinstance(word, ChildWord):
                self._on_word(word)

    def _read_output(self, output: IO[bytes]) -> None:
        with output:
            for line in iter(lambda: output.readline(_LINE_CHARS), b""):
                self._on_output(line.decode(errors="replace").rstrip())


def _how(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    # Most of the real-time signals have no name.
    names = {int(number): number.name for number in signal.Signals}
    return f"signal {names.get(-status, -status)}"
