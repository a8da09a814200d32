"""A system call filter that leaves a process without a network and without a way into other processes.

Standard library only: it runs in the model's child. A refused call fails with EACCES, as if a firewall had said no.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from dataclasses import dataclass
from typing import Final

_SET_MODE_FILTER: Final = 1
_ALL_THREADS: Final = 1

_LOAD: Final = 0x20
_IF_EQUAL: Final = 0x15
_IF_AT_LEAST: Final = 0x35
_RETURN: Final = 0x06
_NUMBER_AT: Final = 0  # offsets in struct seccomp_data
_ARCHITECTURE_AT: Final = 4
_FIRST_ARGUMENT_AT: Final = 16

ALLOW: Final = 0x7FFF0000
REFUSE: Final = 0x00050000 | errno.EACCES
_AF_UNIX: Final = 1


@dataclass(frozen=True, slots=True)
class Machine:
    """What the filter must know of an architecture. ``x32`` marks the calls of a second ABI on the same machine."""

    audit_number: int
    seccomp: int
    socket: int
    refused: dict[str, int]
    x32: int | None = None


# io_uring can open sockets past this filter. connect: a local socket may lead to a service that trusts its user, such
# as a supervisor's or a container engine's. Then what reads or changes other processes, and the keys of the kernel.
_EVERYWHERE: Final = {"io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "pidfd_getfd": 438}
MACHINES: Final = {
    "x86_64": Machine(
        audit_number=0xC000003E,
        seccomp=317,
        socket=41,
        refused={
            "connect": 42,
            "ptrace": 101,
            "process_vm_readv": 310,
            "process_vm_writev": 311,
            "add_key": 248,
            "request_key": 249,
            "keyctl": 250,
            "perf_event_open": 298,
            "bpf": 321,
            "userfaultfd": 323,
            **_EVERYWHERE,
        },
        x32=0x40000000,
    ),
    "aarch64": Machine(
        audit_number=0xC00000B7,
        seccomp=277,
        socket=198,
        refused={
            "connect": 203,
            "ptrace": 117,
            "process_vm_readv": 270,
            "process_vm_writev": 271,
            "add_key": 217,
            "request_key": 218,
            "keyctl": 219,
            "perf_event_open": 241,
            "bpf": 280,
            "userfaultfd": 282,
            **_EVERYWHERE,
        },
    ),
}


def program(machine: Machine) -> bytes:
    """The filter in the kernel's classic BPF: eight bytes an instruction."""
    refuse = _instruction(_RETURN, REFUSE)
    lines = [
        _instruction(_LOAD, _ARCHITECTURE_AT),
        # Calls of another architecture (32 bit programs) have other numbers: all refused.
        *(_instruction(_IF_EQUAL, machine.audit_number, 1, 0), refuse),
        _instruction(_LOAD, _NUMBER_AT),
    ]
    if machine.x32 is not None:
        lines += [_instruction(_IF_AT_LEAST, machine.x32, 0, 1), refuse]
    for number in machine.refused.values():
        lines += [_instruction(_IF_EQUAL, number, 0, 1), refuse]
    lines += [
        _instruction(_IF_EQUAL, machine.socket, 0, 3),
        _instruction(_LOAD, _FIRST_ARGUMENT_AT),
        *(_instruction(_IF_EQUAL, _AF_UNIX, 1, 0), refuse),
        _instruction(_RETURN, ALLOW),
    ]
    return b"".join(lines)


def install(machine_name: str) -> None:
    """Filter the calls of every thread of this process, for good. Needs no_new_privs. Raises OSError."""
    machine = MACHINES.get(machine_name)
    if machine is None:
        raise OSError(errno.ENOSYS, f"no filter for {machine_name}")
    code = program(machine)
    buffer = ctypes.create_string_buffer(code, len(code))
    # struct sock_fprog: a count, padding, a pointer
    header = struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    result = libc.syscall(
        *(ctypes.c_long(number) for number in (machine.seccomp, _SET_MODE_FILTER, _ALL_THREADS)), header
    )
    if result != 0:
        code_of_error = ctypes.get_errno() if result < 0 else errno.EBUSY
        raise OSError(code_of_error, os.strerror(code_of_error))


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("<HBBI", code, if_true, if_false, value)
