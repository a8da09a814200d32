"""Confines itself as a plan says, then tries what it should not be able to do.

``python -m tests.worker_process.confined <plan> <attempts>``; writes what became of each attempt as JSON.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import signal
import socket
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from services.worker.confine import ConfinementPlan, confine

if TYPE_CHECKING:
    from collections.abc import Callable

# Both x86-64 and arm64.
IO_URING_SETUP: Final = 425
MMAPPED: Final = 4096


def write(path: str) -> str:
    Path(path).write_bytes(b"x")
    return "written"


def read(path: str) -> str:
    return Path(path).read_bytes()[:MMAPPED].decode(errors="replace")


def names(path: str) -> str:
    return " ".join(sorted(os.listdir(path)))  # noqa: PTH208 - names suffice


def rename(pair: str) -> str:
    source, target = pair.split("|")
    Path(source).rename(target)
    return "renamed"


def link(pair: str) -> str:
    source, target = pair.split("|")
    os.link(source, target)
    return "linked"


def remove(path: str) -> str:
    Path(path).unlink()
    return "removed"


def truncate(path: str) -> str:
    os.truncate(path, 0)
    return "truncated"


def run(program: str) -> str:
    return subprocess.run([program, "ok"], check=True, capture_output=True, text=True).stdout.strip()


def run_in_the_work_folder(folder: str) -> str:
    script = Path(folder) / "script"
    script.write_text("#!/bin/sh\necho ran\n")
    script.chmod(0o700)
    return run(str(script))


def tcp(port: str) -> str:
    socket.create_connection(("127.0.0.1", int(port)), 5).close()
    return "connected"


def udp(port: str) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.sendto(b"x", ("127.0.0.1", int(port)))
    return "sent"


def look_up(name: str) -> str:
    return str(socket.getaddrinfo(name, 80))


def netlink(_: str) -> str:
    socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close()
    return "made"


def local(path: str) -> str:
    with socket.socket(socket.AF_UNIX) as made:
        made.connect(path)
    return "connected"


def local_pair(_: str) -> str:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(b"through")
        return theirs.recv(100).decode()


def in_a_program(port: str) -> str:
    code = f"import socket; socket.create_connection(('127.0.0.1', {port}), 5)"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    return done.stderr.strip().rpartition("\n")[2]


def io_uring(_: str) -> str:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(IO_URING_SETUP, 1, ctypes.create_string_buffer(200)) < 0:
        raise OSError(ctypes.get_errno(), "io_uring_setup")
    return "made"


def read_memory(pid: str) -> str:
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(8)
    vector = (ctypes.c_size_t * 2)(ctypes.addressof(buffer), 8)
    if libc.process_vm_readv(int(pid), ctypes.byref(vector), 1, ctypes.byref(vector), 1, 0) < 0:
        raise OSError(ctypes.get_errno(), "process_vm_readv")
    return "read"


def send_signal(pid: str) -> str:
    os.kill(int(pid), 0)
    return "sent"


def signal_itself(_: str) -> str:
    os.kill(os.getpid(), signal.SIGCONT)
    return "sent"


def limits(_: str) -> str:
    return f"{resource.getrlimit(resource.RLIMIT_CORE)} {resource.getrlimit(resource.RLIMIT_FSIZE)}"


def write_much(path: str) -> str:
    with Path(path).open("wb") as file:
        for _ in range(40):
            file.write(b"x" * 100_000)
            file.flush()
    return "written"


def become_root_again(_: str) -> str:
    with Path("/proc/self/status").open() as file:
        return " ".join(line.split()[1] for line in file if line.startswith(("CapEff", "CapPrm", "NoNewPrivs")))


def picture(folder: str) -> str:
    """Load the model and make its picture, as the runner does."""
    from services.worker.backends.registry import create_backend  # noqa: PLC0415 - after the confinement
    from tests.support.generation import generation_request  # noqa: PLC0415 - likewise

    plan = ConfinementPlan.from_argument(sys.argv[1])
    backend = create_backend(plan.backend)
    backend.load(plan.model_dir, plan.device, "resident")
    request = generation_request(Path(folder), steps=2)
    (encoded,) = backend.generate([request], lambda *_: None, lambda: False).encode()
    backend.unload()
    return encoded.artifacts[0].name


ATTEMPTS: Final[dict[str, Callable[[str], str]]] = {
    attempt.__name__: attempt
    for attempt in (
        *(write, read, names, rename, link, remove, truncate, run, run_in_the_work_folder, tcp, udp, look_up),
        *(netlink, local, local_pair, in_a_program, io_uring, read_memory, send_signal, signal_itself, limits),
        *(write_much, become_root_again, picture),
    )
}


def attempt(name: str, argument: str) -> str:
    try:
        return ATTEMPTS[name](argument)
    except socket.gaierror as exc:
        return f"gaierror {exc.errno}"
    except OSError as exc:
        return errno.errorcode.get(exc.errno or 0, repr(exc))


def main(plan: str, attempts: str) -> int:
    """Confine, try, report."""
    held = confine(ConfinementPlan.from_argument(plan))
    results: list[Any] = [attempt(name, argument) for name, argument in json.loads(attempts)]
    sys.stdout.write(json.dumps({"confinement": asdict(held), "results": results}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
