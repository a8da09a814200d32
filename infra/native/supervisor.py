"""supervisord: its configuration, and a client of its control socket."""

from __future__ import annotations

import http.client
import os
import pwd
import shlex
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast
from xmlrpc.client import Fault, ProtocolError, ServerProxy, Transport

from infra.native.config import CHECKOUT
from infra.native.errors import StackError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from infra.native.program import Program, Site

_TIMEOUT_SECONDS: Final = 10.0
_BAD_NAME: Final = 10
_NOT_RUNNING: Final = 70
_ALREADY_STARTED: Final = 60
# A program that keeps dying is tried again after 1, 2, 3 ... seconds, this many times.
_START_RETRIES: Final = 30
_LOG_BYTES: Final = "20MB"
_LOG_BACKUPS: Final = 2


def config_text(site: Site, programs: Sequence[Program]) -> str:
    """The configuration. Programs are started by us, stage by stage; supervisord keeps them running."""
    layout = site.layout
    user = f"user = {pwd.getpwuid(os.geteuid()).pw_name}\n" if os.geteuid() == 0 else ""
    head = f"""\
[supervisord]
nodaemon = true
silent = true
{user}directory = {CHECKOUT}
logfile = {layout.logs / "supervisord.log"}
logfile_maxbytes = {_LOG_BYTES}
logfile_backups = {_LOG_BACKUPS}
pidfile = {layout.run / "supervisord.pid"}
childlogdir = {layout.logs}

[unix_http_server]
file = {layout.control_socket}
chmod = 0700

[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface

[supervisorctl]
serverurl = unix://{layout.control_socket}
"""
    return head + "".join(_section(site, program) for program in programs)


def _section(site: Site, program: Program) -> str:
    return f"""
[program:{program.name}]
command = {_escaped(shlex.join(program.command))}
environment = {",".join(f'{name}="{_value(text)}"' for name, text in sorted(program.environment.items()))}
priority = {int(program.stage)}
autostart = false
autorestart = true
startsecs = 1
startretries = {_START_RETRIES}
stopsignal = TERM
stopwaitsecs = {program.stop_seconds}
killasgroup = true
stdout_logfile = {site.layout.logs / f"{program.name}.log"}
stdout_logfile_maxbytes = {_LOG_BYTES}
stdout_logfile_backups = {_LOG_BACKUPS}
redirect_stderr = true
"""


def _escaped(text: str) -> str:
    return text.replace("%", "%%")


def _value(text: str) -> str:
    return _escaped(text).replace("\\", "\\\\").replace('"', '\\"')


def command(conf: Path) -> tuple[str, ...]:
    """How supervisord is started."""
    return (str(Path(sys.prefix) / "bin" / "supervisord"), "-n", "-c", str(conf))


@dataclass(frozen=True, slots=True)
class ProgramState:
    """What supervisord knows of a program. ``state`` is one of its words: RUNNING, STARTING, BACKOFF, FATAL ..."""

    name: str
    state: str
    pid: int
    description: str

    @property
    def failed(self) -> bool:
        """Whether the program ended by itself."""
        return self.state in {"BACKOFF", "FATAL", "EXITED"}

    @property
    def stopped(self) -> bool:
        """Whether no process is left."""
        return self.pid == 0


class Supervisor:
    """supervisord's control socket. Every call raises StackError when supervisord does not answer."""

    def __init__(self, control_socket: Path) -> None:
        self._socket = control_socket

    def is_up(self) -> bool:
        """Whether supervisord answers."""
        if not self._socket.exists():
            return False
        try:
            return bool(self._call("getState")["statename"] == "RUNNING")
        except StackError:
            return False

    def states(self) -> list[ProgramState]:
        """Every program."""
        return [_state(info) for info in self._call("getAllProcessInfo")]

    def state(self, name: str) -> ProgramState:
        """One program. Raises StackError when there is none of that name."""
        return _state(self._call("getProcessInfo", name))

    def start(self, name: str) -> None:
        """Begin to start a program; no error when it runs already."""
        self._call("startProcess", name, False, tolerated=_ALREADY_STARTED)  # noqa: FBT003 - positional in XML-RPC

    def stop(self, name: str) -> None:
        """Begin to stop a program; no error when it does not run."""
        self._call("stopProcess", name, False, tolerated=_NOT_RUNNING)  # noqa: FBT003 - positional in XML-RPC

    def shutdown(self) -> None:
        """Stop whatever runs, then supervisord itself."""
        self._call("shutdown")

    def _call(self, method: str, *arguments: Any, tolerated: int = 0) -> Any:  # noqa: ANN401 - XML-RPC has no types
        proxy = ServerProxy("http://supervisor", transport=_UnixTransport(self._socket))
        try:
            with proxy:
                return getattr(proxy.supervisor, method)(*arguments)
        except Fault as exc:
            if exc.faultCode == tolerated:
                return None
            message = f"no program {arguments[0]!r}" if exc.faultCode == _BAD_NAME else f"{method}: {exc.faultString}"
            raise StackError(message) from exc
        except (OSError, ProtocolError, http.client.HTTPException) as exc:
            message = f"the supervisor does not answer at {self._socket}"
            raise StackError(message) from exc


def _state(info: Any) -> ProgramState:  # noqa: ANN401 - XML-RPC has no types
    fields = cast("dict[str, Any]", info)
    return ProgramState(fields["name"], fields["statename"], fields["pid"], fields["description"])


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class _UnixTransport(Transport):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, host: tuple[str, dict[str, str]] | str) -> http.client.HTTPConnection:
        connection = _UnixConnection(self._path)
        self._connection = host, connection  # what close() closes
        return connection
