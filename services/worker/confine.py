"""What the model's child gives up before any of the model's code is imported. Standard library only.

The child writes below its worker's folder and nowhere else, reads what it needs to run and its model, has no network,
and cannot reach into other processes. What a kernel cannot hold is left out and said: see ``Confinement``.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import platform
import resource
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final, Literal

from services.worker import landlock, seccomp
from shared.domain.errors import ConfigurationError

_PR_SET_NO_NEW_PRIVS: Final = 38
_CAPABILITY_VERSION_3: Final = 0x20080522
_MEBIBYTE: Final = 1 << 20
_CODE_ROOT: Final = Path(__file__).parents[2]
_OWN_PACKAGES: Final = ("services", "shared")

_SYSTEM: Final = ("/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/opt", "/proc", "/sys")
# One by one, because services' secrets are often kept in /etc as well.
_ETC: Final = (
    *("alternatives", "crypto-policies", "fonts", "glvnd", "group", "ld.so.cache", "ld.so.conf", "ld.so.conf.d"),
    *("ld.so.preload", "localtime", "mime.types", "nsswitch.conf", "nvidia", "OpenCL", "os-release", "passwd"),
    *("ssl/openssl.cnf", "ssl/certs", "timezone", "vulkan"),
)
_DEVICES: Final = ("null", "zero", "full", "random", "urandom")
_CUDA_DEVICES: Final = ("nvidia*", "dri", "kfd", "dxg", "shm")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfinementPlan:
    """What the parent decides; it travels to the child as one argument. ``read`` is what an operator adds."""

    mode: Literal["require", "try", "off"] = "try"
    work: Path
    model_dir: Path
    device: str
    backend: str
    read: tuple[Path, ...] = ()
    most_file_mib: int = 0  # the largest file that the child may write; 0 for no bound

    def to_argument(self) -> str:
        """The plan as text."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_argument(cls, text: str) -> ConfinementPlan:
        """Read what ``to_argument`` wrote."""
        values = json.loads(text)
        values |= {name: Path(values[name]) for name in ("work", "model_dir")}
        return cls(**{**values, "read": tuple(map(Path, values["read"]))})


@dataclass(frozen=True, slots=True, kw_only=True)
class Confinement:
    """What is in force: how each part is held, or ``none: <why>``."""

    filesystem: str
    network: str
    processes: str
    privileges: str
    files: str = field(default="no bound")

    def lacking(self) -> list[str]:
        """The parts that are not held, with their reasons."""
        return [f"{name} {value}" for name, value in asdict(self).items() if value.startswith("none")]


def child_folders(home: Path) -> dict[str, str]:
    """The child's variables that lead libraries with a cache or a temporary file into a folder of its own."""
    return {
        "HOME": str(home),
        "TMPDIR": str(home),
        **{
            name: str(home / folder)
            for name, folder in (
                ("XDG_CACHE_HOME", "cache"),
                ("XDG_CONFIG_HOME", "config"),
                ("XDG_DATA_HOME", "data"),
                ("HF_HOME", "huggingface"),
                ("TORCH_HOME", "torch"),
                ("TORCHINDUCTOR_CACHE_DIR", "inductor"),
                ("TRITON_CACHE_DIR", "triton"),
                ("CUDA_CACHE_PATH", "cuda"),
                ("MPLCONFIGDIR", "matplotlib"),
                ("NUMBA_CACHE_DIR", "numba"),
            )
        },
    }


def confine(plan: ConfinementPlan) -> Confinement:
    """Give up everything that the plan does not leave. Call it before any thread and before the model's code.

    Raises ConfigurationError when the plan requires what this host cannot hold.
    """
    if plan.mode == "off":
        return Confinement(filesystem="off", network="off", processes="off", privileges="off", files="off")
    if len(os.listdir("/proc/self/task")) > 1:  # noqa: PTH208 - names suffice
        message = "threads that run already would keep their rights"
        raise RuntimeError(message)
    # A limit of 1 also keeps the kernel from handing the memory to a crash collector, which 0 does not.
    resource.setrlimit(resource.RLIMIT_CORE, (1, 1))
    if plan.most_file_mib:
        resource.setrlimit(resource.RLIMIT_FSIZE, (plan.most_file_mib * _MEBIBYTE,) * 2)
    granted = grants(plan)
    privileges = _drop_privileges()
    version, why_no_landlock = _restrict(granted)
    why_no_filter = _filter()
    confinement = Confinement(
        filesystem=why_no_landlock or f"landlock abi {version}",
        network=_network(version, why_no_filter),
        processes=_processes(version, why_no_filter),
        privileges=privileges,
        files=f"{plan.most_file_mib} MiB each" if plan.most_file_mib else "no bound",
    )
    if plan.mode == "require" and confinement.lacking():
        message = f"this host cannot confine the model's process: {'; '.join(confinement.lacking())}"
        raise ConfigurationError(message)
    return confinement


def grants(plan: ConfinementPlan) -> landlock.Grants:
    """The paths that stay open, and how far."""
    etc = (Path("/etc") / name for name in _ETC)
    prefixes = {Path(prefix) for prefix in (sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix)}
    prefixes.discard(Path("/"))
    devices = [Path("/dev") / name for name in _DEVICES]
    if plan.device != "cpu":
        devices += [path for pattern in _CUDA_DEVICES for path in sorted(Path("/dev").glob(pattern))]
    return landlock.Grants(
        read=(*map(Path, _SYSTEM), *etc, *sorted(prefixes), *_packages(plan.backend), plan.model_dir, *plan.read),
        # Resets the peak of the resident set, which a task is measured by.
        write=(plan.work, Path("/proc/self/clear_refs")),
        # The import system lists the folders of its path; of the checkout, the names are all that it gets.
        listed=(_CODE_ROOT, Path("/dev")),
        devices=tuple(devices),
    )


def _packages(backend: str) -> list[Path]:
    """The folders of our own packages, and of a backend that a model's card names by its class."""
    folders = [_CODE_ROOT / name for name in _OWN_PACKAGES]
    module, separator, _ = backend.partition(":")
    spec = importlib.util.find_spec(module.split(".", maxsplit=1)[0]) if separator and module else None
    if spec is not None and spec.submodule_search_locations:
        folders += map(Path, spec.submodule_search_locations)
    elif spec is not None and spec.origin:
        folders.append(Path(spec.origin))
    return folders


def _drop_privileges() -> str:
    """No program that is started later gains rights; the capabilities of a root user end here."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return f"none: {os.strerror(ctypes.get_errno())}"
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    nothing = (ctypes.c_uint32 * 6)()
    if libc.capset(ctypes.byref(header), ctypes.byref(nothing)) != 0:
        return f"none: capset: {os.strerror(ctypes.get_errno())}"
    return "no new ones, no capabilities"


def _restrict(granted: landlock.Grants) -> tuple[int, str]:
    try:
        return landlock.restrict(granted), ""
    except OSError as exc:
        return 0, f"none: landlock: {exc.strerror}"


def _filter() -> str:
    try:
        seccomp.install(platform.machine())
    except OSError as exc:
        return f"seccomp: {exc.strerror}"
    return ""


def _network(version: int, why_no_filter: str) -> str:
    held = [] if why_no_filter else ["seccomp"]
    if version >= landlock.ABI_OF_TCP:
        held.append("landlock tcp")
    # Landlock alone leaves UDP open: names are looked up and words are sent.
    return ", ".join(held) if not why_no_filter else f"none: {', '.join([why_no_filter, *held])}"


def _processes(version: int, why_no_filter: str) -> str:
    held = [] if why_no_filter else ["seccomp ptrace"]
    if version:
        held.append("landlock ptrace")
    if version >= landlock.ABI_OF_SCOPES:
        held.append("landlock signals")
    return ", ".join(held) or f"none: {why_no_filter}"
