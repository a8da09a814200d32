"""A whole stack: up, down, and what tests and operators do to its programs in between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from infra.native import entrance, processes, rabbitmq, redis_server, seaweedfs, services, supervisor
from infra.native.config import CHECKOUT, base_environment
from infra.native.credentials import DemoInfo, read_demo_info
from infra.native.errors import StackError
from infra.native.ports import taken
from infra.native.program import Program, Site, Stage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from infra.native.config import StackSettings

READY_SECONDS: Final = 120.0
_SUPERVISOR_SECONDS: Final = 15.0
_POLL_SECONDS: Final = 0.05
_LAST_LINES: Final = 20
_MAKERS: Final = (rabbitmq, redis_server, seaweedfs, services, entrance)


class Stack:
    """One stack, running or not. Any process of its owner may make an object for it and use it.

    ``report`` is told of each program as it becomes ready, with the seconds since the start.
    """

    def __init__(self, settings: StackSettings, report: Callable[[str, float], None] | None = None) -> None:
        self.settings = settings
        self.site = Site(settings)
        self._report = report or (lambda _name, _seconds: None)
        self._supervisor = supervisor.Supervisor(self.site.layout.control_socket)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.up()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.down()

    @property
    def is_running(self) -> bool:
        """Whether its supervisor answers."""
        return self._supervisor.is_up()

    @property
    def demo_info(self) -> DemoInfo:
        """Address and API keys."""
        return read_demo_info(self.site.layout)

    def programs(self) -> list[Program]:
        """Every program, in the order of their stages."""
        return sorted((each for maker in _MAKERS for each in maker.programs(self.site)), key=lambda each: each.stage)

    def render(self) -> list[Program]:
        """Write every configuration and secret; nothing is started."""
        self.site.layout.make()
        for maker in _MAKERS:
            maker.render(self.site)
        programs = self.programs()
        self._conf.write_text(supervisor.config_text(self.site, programs), encoding="utf-8")
        return programs

    def up(self, stages: Iterable[Stage] = Stage) -> None:
        """Start every program of these stages and wait until each is ready.

        Raises StackError when one does not get there; then nothing is left running.
        """
        if self.is_running:
            message = f"a stack of {self.settings.run_dir} is running already (`make ps`, `make down`)"
            raise StackError(message)
        processes.end(self._members(), seconds=10)  # of a run whose supervisor was killed
        self._refuse_taken_ports()
        programs = self.render()
        began = time.monotonic()
        try:
            self._start_supervisor()
            for stage in sorted(stages):
                mine = [program for program in programs if program.stage == stage]
                for program in mine:
                    self._supervisor.start(program.name)
                self._wait_ready(mine, began)
        except BaseException:  # Ctrl-C as well: whatever ended the start, nothing may be left behind
            self.down()
            raise

    def down(self) -> bool:
        """Stop every program, last stage first, and wait until no process is left.

        Returns whether there was anything to stop.
        """
        members = self._members()
        if self.is_running:
            for stage in sorted(Stage, reverse=True):
                self._stop_all([program for program in self.programs() if program.stage == stage])
            self._supervisor.shutdown()
            processes.wait_gone(members, seconds=10)
        processes.end(members, seconds=10)
        if self._process is not None:
            self._process.wait()
        for path in (self._session_file, *seaweedfs.leftover_sockets(self.site)):
            path.unlink(missing_ok=True)
        self.site.layout.remove_sockets()
        return bool(members)

    def states(self) -> list[supervisor.ProgramState]:
        """What the supervisor knows of each program; nothing when the stack is down."""
        return self._supervisor.states() if self.is_running else []

    def pid(self, name: str) -> int:
        """The pid of a program. Raises StackError when it has none now."""
        state = self._supervisor.state(name)
        if state.stopped:
            message = f"{name} does not run: {state.state} {state.description}"
            raise StackError(message)
        return state.pid

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> int:
        """Send a program a signal past the supervisor, as an accident would. Returns the pid that it had."""
        pid = self.pid(name)
        os.kill(pid, number)
        return pid

    def stop_program(self, name: str) -> None:
        """Stop one program and wait until it is gone."""
        self._stop_all([self._program(name)])

    def start_program(self, name: str) -> None:
        """Start one program and wait until it is ready."""
        self._supervisor.start(name)
        self.wait_ready(name)

    def restart(self, name: str) -> None:
        """Stop one program, start it, wait until it is ready."""
        self.stop_program(name)
        self.start_program(name)

    def wait_ready(self, *names: str, seconds: float = READY_SECONDS) -> None:
        """Wait until these programs (all, when none is named) are ready, through restarts if need be.

        Raises StackError that says what is missing when the time is over.
        """
        waiting = [self._program(name) for name in names] or self.programs()
        self._wait_ready(waiting, time.monotonic(), seconds=seconds, patient=True)

    def environment_of(self, name: str) -> dict[str, str]:
        """The variables that a program is started with, for tests that use its settings."""
        return dict(self._program(name).environment)

    def rabbitmqctl(self, *arguments: str) -> str:
        """Run the broker's own tool against this stack's node. Raises StackError with what it said."""
        command, environment = rabbitmq.control_command(self.site, arguments)
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            message = f"rabbitmqctl {' '.join(arguments)}: {(done.stderr or done.stdout).strip()}"
            raise StackError(message)
        return done.stdout

    @property
    def _conf(self) -> Path:
        return self.site.layout.conf / "supervisord.conf"

    @property
    def _session_file(self) -> Path:
        return self.site.layout.session_file

    def _program(self, name: str) -> Program:
        for program in self.programs():
            if program.name == name:
                return program
        message = f"no program {name!r}"
        raise StackError(message)

    def _refuse_taken_ports(self) -> None:
        found = taken(self.site.ports)
        if found:
            listed = ", ".join(f"{port} ({name})" for name, port in found.items())
            message = f"already in use on 127.0.0.1: {listed}; see ATELIER_NATIVE_PUBLIC_PORT and _BASE_PORT"
            raise StackError(message)

    def _start_supervisor(self) -> None:
        log = (self.site.layout.logs / "supervisord.out").open("w", encoding="utf-8")
        with log:
            self._process = process = subprocess.Popen(
                supervisor.command(self._conf),
                cwd=CHECKOUT,
                env=base_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C in our terminal is for us, and its session is how we find them all
            )
        started = processes.find(process.pid)
        self._session_file.write_text(
            json.dumps({"pid": process.pid, "started": started.started if started else 0, "boot": _boot_id()}),
            encoding="utf-8",
        )
        deadline = time.monotonic() + _SUPERVISOR_SECONDS
        while not self._supervisor.is_up():
            if process.poll() is not None or time.monotonic() > deadline:
                message = f"the supervisor did not start:\n{_last_lines(Path(log.name))}"
                raise StackError(message)
            time.sleep(_POLL_SECONDS)

    def _wait_ready(
        self, programs: list[Program], began: float, *, seconds: float = READY_SECONDS, patient: bool = False
    ) -> None:
        deadline = time.monotonic() + seconds
        waiting = {program.name: program for program in programs}
        missing = dict.fromkeys(waiting, "not started")
        while waiting:
            for name, program in list(waiting.items()):
                state = self._supervisor.state(name)
                if state.failed and not patient:
                    raise self._failure(name, f"{state.state}: {state.description}")
                missing[name] = program.probe() or "" if not state.stopped else state.state
                if not missing[name]:
                    del waiting[name]
                    self._report(name, time.monotonic() - began)
            if waiting and time.monotonic() > deadline:
                name = next(iter(waiting))
                raise self._failure(name, f"not ready after {seconds:g} s: {missing[name]}")
            if waiting:
                time.sleep(_POLL_SECONDS)

    def _failure(self, name: str, reason: str) -> StackError:
        log = self.site.layout.logs / f"{name}.log"
        return StackError(f"{name}: {reason}\nlast lines of {log}:\n{_last_lines(log)}")

    def _stop_all(self, programs: list[Program]) -> None:
        for program in programs:
            self._supervisor.stop(program.name)
        deadline = time.monotonic() + max((program.stop_seconds for program in programs), default=0) + 5
        for program in programs:
            while not self._supervisor.state(program.name).stopped and time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS)

    def _members(self) -> set[processes.Process]:
        """The processes of this stack's last start that are still there."""
        try:
            document = json.loads(self._session_file.read_text(encoding="utf-8"))
            leader, started, boot = int(document["pid"]), int(document["started"]), str(document["boot"])
        except (OSError, ValueError, KeyError, TypeError):
            return set()
        now = processes.find(leader)
        # While any process of a session lives, the kernel gives its number to nobody else.
        if boot != _boot_id() or (now is not None and now.started != started):
            return set()
        return processes.belonging_to(leader)


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()


def _last_lines(log: Path) -> str:
    if not log.exists():
        return "  (empty)"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LAST_LINES:]
    return "\n".join(f"  {line}" for line in lines) or "  (empty)"
