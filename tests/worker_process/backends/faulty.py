"""What obedient does, and what only shows with a whole worker around the child."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from services.worker.backends.base import GenerationCancelledError
from tests.worker_process.backends.obedient import LONG, MEBIBYTE, Call, ObedientBackend, Picture, hang

if TYPE_CHECKING:
    from services.worker.backends.base import Cancelled, Generated, GenerationRequest, LoadReport, Report

POLL_SECONDS: Final = 0.01
LOAD_ORDER: Final = "load"


class FaultyBackend(ObedientBackend):
    """A file ``load`` in the model's folder says how loading ends, the prompt how generating does."""

    def load(self, model_dir: Path, device: str, tier: str) -> LoadReport:
        order = model_dir / LOAD_ORDER
        if order.exists():
            LOADINGS[order.read_text()]()
        return super().load(model_dir, device, tier)

    def generate(self, requests: list[GenerationRequest], report: Report, cancelled: Cancelled) -> Generated:
        (request,) = requests
        if request.prompt not in DEEDS:
            return super().generate(requests, report, cancelled)
        report("denoising", 1, request.steps)
        made: Generated = DEEDS[request.prompt](Call(request, report, cancelled))
        return made


def raise_in_load() -> None:
    message = "a tensor is missing"
    raise KeyError(message)


def exit_in_load() -> None:
    sys.exit(0)


def segfault_in_load() -> None:
    ctypes.string_at(0)


def hold_the_lock(call: Call) -> Picture:
    """As many seconds as there are steps, in C, without letting another thread of Python run."""
    ctypes.PyDLL(None).sleep(call.request.steps)
    return Picture(call.request)


def wait_for_go(call: Call) -> Picture:
    while not (call.request.out_dir / "go").exists():
        if call.cancelled():
            raise GenerationCancelledError
        time.sleep(POLL_SECONDS)
    return Picture(call.request)


def take_all_memory(_: Call) -> Picture:
    held = []
    while True:
        held.append(b"x" * (16 * MEBIBYTE))


def fill_the_disk(call: Call) -> Picture:
    with (call.request.out_dir / "heap").open("wb") as file:
        while True:
            file.write(bytes(MEBIBYTE))


def write_many_files(call: Call) -> Picture:
    for number in range(16):
        (call.request.out_dir / f"{number}.tmp").write_bytes(bytes(MEBIBYTE))
    return hang(call)


def litter(call: Call) -> Picture:
    """A folder that is closed to its owner, a link out, a file in the home, a program that stays."""
    closed = call.request.out_dir / "closed"
    closed.mkdir()
    (closed / "inside").touch()
    closed.chmod(0)
    (call.request.out_dir / "link").symlink_to("/etc")
    (Path.home() / "rest").touch()
    subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({LONG})"])
    return Picture(call.request)


class Empty(Picture):
    def put(self, path: Path) -> None:
        path.touch()


def write_an_empty_file(call: Call) -> Picture:
    return Empty(call.request)


class SecondName(Picture):
    def put(self, path: Path) -> None:
        other = path.with_name("other")
        other.write_bytes(self.content)
        os.link(other, path)


def give_a_file_two_names(call: Call) -> Picture:
    return SecondName(call.request)


class Pipe(Picture):
    def put(self, path: Path) -> None:
        os.mkfifo(path)


def return_a_pipe(call: Call) -> Picture:
    return Pipe(call.request)


LOADINGS: Final = {order.__name__: order for order in (raise_in_load, exit_in_load, segfault_in_load)}
DEEDS: Final[dict[str, Any]] = {
    deed.__name__: deed
    for deed in (
        *(hold_the_lock, wait_for_go, take_all_memory, fill_the_disk, write_many_files, litter),
        *(write_an_empty_file, give_a_file_two_names, return_a_pipe),
    )
}
