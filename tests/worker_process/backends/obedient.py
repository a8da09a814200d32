"""A model that does what its prompt says: the word is the name of one of the functions below."""

from __future__ import annotations

import ctypes
import json
import os
import random
import resource
import signal
import socket
import struct
import subprocess
import sys
import time
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from services.worker.backends.base import (
    ArtifactFile,
    Encoded,
    GenerationCancelledError,
    GenerationRequest,
    InvalidParameterError,
    LoadReport,
    OutOfMemoryError,
    Simple,
)
from services.worker.backends.images import GeneratedPictures, PictureSet
from services.worker.protocol import VERSION

if TYPE_CHECKING:
    from services.worker.backends.base import Cancelled, Generated, Report

LONG: Final = 1000.0
MANY: Final = 5000
MEBIBYTE: Final = 1 << 20
FLOOD_MEBIBYTES: Final = 100


@dataclass
class Call:
    """What generate was called with."""

    request: GenerationRequest
    report: Report
    cancelled: Cancelled


@dataclass
class Picture:
    """Writes one file, with whatever the deed left for it."""

    request: GenerationRequest
    content: bytes = b"picture"

    def encode(self) -> list[Encoded]:
        self.wait()
        self.put(self.request.out_dir / "0.png")
        return [Encoded(artifacts=(self.file(),), timings={"denoise": 0.1}, receipt={"pid": os.getpid()})]

    def put(self, path: Path) -> None:
        path.write_bytes(self.content)

    def file(self) -> ArtifactFile:
        request = self.request
        return ArtifactFile(
            name="0.png", media_type="image/png", width=request.width, height=request.height, seed=request.seeds[0]
        )

    def wait(self) -> None:
        pass


class ObedientBackend(Simple):
    def load(self, model_dir: Path, device: str, tier: str) -> LoadReport:
        del model_dir
        return LoadReport(seconds=0.01, bytes_on_disk=5, receipt={"device": device, "tier": tier})

    def generate(self, requests: list[GenerationRequest], report: Report, cancelled: Cancelled) -> Generated:
        (request,) = requests
        report("denoising", 1, request.steps)
        made: Generated = DEEDS[request.prompt](Call(request, report, cancelled))
        return made

    def unload(self) -> None:
        pass


def paint(call: Call) -> Picture:
    return Picture(call.request)


def fail(_: Call) -> Picture:
    message = "the tensor is sad"
    raise RuntimeError(message)


def fail_unprintably(_: Call) -> Picture:
    message = "no file \udcff"
    raise RuntimeError(message)


def fail_at_length(_: Call) -> Picture:
    raise RuntimeError("x" * 1_000_000)


def refuse(_: Call) -> Picture:
    message = "odd sizes are refused"
    raise InvalidParameterError(message)


def run_out_of_memory(_: Call) -> Picture:
    raise OutOfMemoryError


def leave(_: Call) -> Picture:
    sys.exit(3)


def leave_at_once(_: Call) -> Picture:
    os._exit(4)


def kill_itself(_: Call) -> Picture:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def segfault(_: Call) -> Picture:
    ctypes.string_at(0)
    raise AssertionError


def kill_itself_but_leave_a_child(_: Call) -> Picture:
    # The grandchild holds the socket and the output open.
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(20)"], close_fds=False)
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def hang(call: Call) -> Picture:
    while not call.cancelled():
        time.sleep(0.01)
    raise GenerationCancelledError


def hang_deaf(_: Call) -> Picture:
    time.sleep(LONG)
    raise AssertionError


def hang_with_the_lock(_: Call) -> Picture:
    ctypes.PyDLL(None).sleep(int(LONG))
    raise AssertionError


def take_many_small_steps(call: Call) -> Picture:
    for step in range(1, 31):
        time.sleep(0.02)
        call.report("denoising", step, 30)
    return Picture(call.request)


def show(call: Call) -> Picture:
    for step in range(1, 11):
        call.report("denoising", step, 10, lambda step=step: np.full((64, 128, 3), 20 * step, dtype=np.uint8))
    return Picture(call.request)


def show_what_is_no_picture(call: Call) -> Picture:
    for step in range(1, 11):
        call.report("denoising", step, 10, lambda: np.zeros((0, 3), dtype=np.uint8))
    return Picture(call.request)


def dream(call: Call) -> Picture:
    call.report("dreaming")
    return Picture(call.request)


def return_nothing(_: Call) -> Any:  # noqa: ANN401 - wrong on purpose
    return None


class NoResults(Picture):
    def encode(self) -> list[Encoded]:
        return []


def return_no_results(call: Call) -> Picture:
    return NoResults(call.request)


class Unencodable(Picture):
    def wait(self) -> None:
        message = "no space left on device"
        raise OSError(message)


def fail_to_encode(call: Call) -> Picture:
    return Unencodable(call.request)


class Smaller(Picture):
    def file(self) -> ArtifactFile:
        return replace(super().file(), width=16, height=16)


def make_a_smaller_one(call: Call) -> Picture:
    return Smaller(call.request)


class OfAnotherSeed(Picture):
    def file(self) -> ArtifactFile:
        return replace(super().file(), seed=self.request.seeds[0] + 1)


def make_one_of_another_seed(call: Call) -> Picture:
    return OfAnotherSeed(call.request)


class Unwritten(Picture):
    def put(self, path: Path) -> None:
        pass


def write_nothing(call: Call) -> Picture:
    return Unwritten(call.request)


class Elsewhere(Picture):
    def file(self) -> ArtifactFile:
        return replace(super().file(), name="../model")


def write_elsewhere(call: Call) -> Picture:
    return Elsewhere(call.request)


class Link(Picture):
    def put(self, path: Path) -> None:
        path.symlink_to("/etc/passwd")


def return_a_link(call: Call) -> Picture:
    return Link(call.request)


def _pictures(call: Call, *pixels: Any) -> GeneratedPictures:  # noqa: ANN401 - wrong on purpose
    return GeneratedPictures(
        [PictureSet(request=call.request, model_id="obedient", pixels=pixels, timings={}, receipt={})]
    )


def return_nan(call: Call) -> GeneratedPictures:
    return _pictures(call, np.full((call.request.height, call.request.width, 3), np.nan, dtype=np.float32))


def return_small_pixels(call: Call) -> GeneratedPictures:
    return _pictures(call, np.zeros((8, 8, 3), dtype=np.uint8))


def return_too_many(call: Call) -> GeneratedPictures:
    return _pictures(call, *[np.zeros((call.request.height, call.request.width, 3), dtype=np.uint8)] * 2)


def break_the_device(_: Call) -> Picture:
    message = "CUDA error: device-side assert triggered"
    raise RuntimeError(message)


class BreaksLater(Picture):
    def put(self, path: Path) -> None:
        del path
        message = "CUDA error: an illegal memory access was encountered"
        raise RuntimeError(message)


def break_the_device_later(call: Call) -> Picture:
    return BreaksLater(call.request)


def leave_no_way_back(call: Call) -> Picture:
    warnings.filters = ()
    return Picture(call.request)


def allocate_without_end(_: Call) -> Picture:
    before = resource.getrlimit(resource.RLIMIT_AS)
    with Path("/proc/self/statm").open(encoding="ascii") as statm:
        taken = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + 256 * MEBIBYTE, before[1]))
    held = []
    try:
        while True:
            held.append(np.ones(16 * MEBIBYTE, dtype=np.uint8))
    finally:
        held.clear()
        resource.setrlimit(resource.RLIMIT_AS, before)


def cut_the_line(_: Call) -> Picture:
    with socket.socket(fileno=os.dup(_socket())) as line:
        line.shutdown(socket.SHUT_RDWR)
    time.sleep(LONG)
    raise AssertionError


class SlowPicture(Picture):
    def wait(self) -> None:
        while not (self.request.out_dir / "go").exists():
            time.sleep(0.01)


def encode_slowly(call: Call) -> Picture:
    return SlowPicture(call.request)


def talk(call: Call) -> Picture:
    sys.stdout.write("to standard output\n")
    sys.stdout.flush()
    sys.stderr.write("to standard error \u00e4\n")
    os.write(2, b"not text \xff\n")
    return Picture(call.request)


def flood(call: Call) -> Picture:
    for number in range(MANY):
        sys.stdout.write(f"{number} {'x' * 100}\n")
    sys.stdout.write("y" * 100_000)
    sys.stdout.flush()
    return Picture(call.request)


def pollute(call: Call) -> Picture:
    os.environ["POLLUTED"] = "yes"
    os.chdir("/")
    warnings.simplefilter("ignore")
    random.seed(5)
    sys.path.append("/nowhere")
    return Picture(call.request)


def flood_at_length(call: Call) -> Picture:
    for _ in range(FLOOD_MEBIBYTES):
        os.write(1, b"z" * (MEBIBYTE - 1) + b"\n")
    return Picture(call.request)


def look_around(call: Call) -> Picture:
    folder = Path("/proc/self/fd")
    links = []
    for entry in os.listdir(folder):  # noqa: PTH208 - no descriptor of its own stays open
        try:
            links.append(str((folder / entry).readlink()))
        except OSError:
            continue
    seen = {
        "environment": dict(os.environ),
        "descriptors": links,
        "arguments": sys.argv,
        "folder": str(Path.cwd()),
        "filters": repr(warnings.filters),
        "number": random.random(),  # noqa: S311 - drawn to be seen
        "path": sys.path,
    }
    return Picture(call.request, json.dumps(seen).encode())


def _write_frame(payload: bytes) -> None:
    os.write(_socket(), struct.pack("!i", len(payload)) + payload)


def _socket() -> int:
    return int(sys.argv[sys.argv.index("--fd") + 1])


def _launch() -> str:
    return sys.argv[sys.argv.index("--launch") + 1]


def write_garbage(_: Call) -> Picture:
    _write_frame(b"\x00\xffgarbage")
    time.sleep(LONG)
    raise AssertionError


def announce_a_huge_frame(_: Call) -> Picture:
    os.write(_socket(), struct.pack("!iQ", -1, 2**62))
    time.sleep(LONG)
    raise AssertionError


def speak_wrongly(_: Call) -> Picture:
    body = {"job": "x", "phase": "denoising", "step": "one", "steps": 2}
    _write_frame(json.dumps({"v": VERSION, "launch": _launch(), "kind": "Progress", "body": body}).encode())
    time.sleep(LONG)
    raise AssertionError


def show_too_much(call: Call) -> Picture:
    preview = {"media_type": "image/jpeg", "data": "A" * 100_000, "width": 96, "height": 96}
    _say("Progress", call, phase="denoising", step=1, steps=2, preview=preview)
    time.sleep(LONG)
    raise AssertionError


def speak_for_the_dead(call: Call) -> Picture:
    # A late word of another launch: it would end this job, were it believed.
    body = {"job": Path(call.request.out_dir).name, "code": "late", "message": "", "retryable": False, "stack": ""}
    _write_frame(json.dumps({"v": VERSION, "launch": "0" * 16, "kind": "Failed", "body": body}).encode())
    return Picture(call.request)


def count_without_end(call: Call) -> Picture:
    _say("Progress", call, phase="denoising", step=1, steps=10**400)
    time.sleep(LONG)
    raise AssertionError


def have_files_before_the_end(call: Call) -> Picture:
    _say("Done", call, results=[{"artifacts": [], "timings": {}, "receipt": {}}])
    time.sleep(LONG)
    raise AssertionError


def die_by_a_nameless_signal(_: Call) -> Picture:
    os.kill(os.getpid(), signal.SIGRTMIN + 5)
    raise AssertionError


def _say(kind: str, call: Call, **body: object) -> None:
    body["job"] = Path(call.request.out_dir).name
    _write_frame(json.dumps({"v": VERSION, "launch": _launch(), "kind": kind, "body": body}).encode())


DEEDS: Final = {
    deed.__name__: deed
    for deed in (
        *(paint, fail, fail_unprintably, fail_at_length, refuse, run_out_of_memory, leave, leave_at_once),
        *(kill_itself, segfault, kill_itself_but_leave_a_child, hang, hang_deaf, hang_with_the_lock),
        *(take_many_small_steps, dream, return_nothing, return_no_results, fail_to_encode, encode_slowly),
        *(make_a_smaller_one, make_one_of_another_seed, write_nothing, write_elsewhere, return_a_link, return_nan),
        *(return_small_pixels, return_too_many, break_the_device, break_the_device_later, leave_no_way_back),
        *(allocate_without_end, cut_the_line, flood_at_length, pollute),
        *(count_without_end, have_files_before_the_end, die_by_a_nameless_signal),
        *(talk, flood, look_around, write_garbage, announce_a_huge_frame, speak_wrongly, speak_for_the_dead),
        *(show, show_what_is_no_picture, show_too_much),
    )
}
