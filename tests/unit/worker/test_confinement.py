"""What the confinement asks of the kernel, without asking it: rights by version, the filter's decisions, the paths."""

from __future__ import annotations

import errno
import struct
import sys
from pathlib import Path

import pytest

from services.worker import confine as confine_module
from services.worker import landlock, seccomp
from services.worker.confine import Confinement, ConfinementPlan, child_folders, confine, grants
from shared.domain.errors import ConfigurationError

MACHINES = sorted(seccomp.MACHINES)
AF_UNIX, AF_INET, AF_NETLINK, AF_VSOCK = 1, 2, 16, 40


def decide(name: str, number: int, first: int = 0, audit: int | None = None) -> int:
    """Run the filter as the kernel would: what becomes of this call?"""
    machine = seccomp.MACHINES[name]
    data = struct.pack("<IIQ6Q", number, audit or machine.audit_number, 0, first, 0, 0, 0, 0, 0)
    code = seccomp.program(machine)
    at = accumulator = 0
    while True:
        operation, if_true, if_false, value = struct.unpack_from("<HBBI", code, at * 8)
        at += 1
        if operation == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, value)
        elif operation == 0x15:
            at += if_true if accumulator == value else if_false
        elif operation == 0x35:
            at += if_true if accumulator >= value else if_false
        else:
            assert operation == 0x06
            return int(value)


@pytest.mark.parametrize("name", MACHINES)
@pytest.mark.parametrize(
    ("family", "action"),
    [
        (AF_UNIX, seccomp.ALLOW),
        (AF_INET, seccomp.REFUSE),
        (AF_NETLINK, seccomp.REFUSE),
        (AF_VSOCK, seccomp.REFUSE),
        (0, seccomp.REFUSE),
    ],
)
def test_only_local_sockets_are_made(name: str, family: int, action: int) -> None:
    assert decide(name, seccomp.MACHINES[name].socket, family) == action


@pytest.mark.parametrize("name", MACHINES)
def test_a_family_in_the_upper_half_of_the_argument_deceives_nobody(name: str) -> None:
    # The kernel looks at the lower 32 bits only.
    assert decide(name, seccomp.MACHINES[name].socket, 7 << 32 | AF_INET) == seccomp.REFUSE
    assert decide(name, seccomp.MACHINES[name].socket, 7 << 32 | AF_UNIX) == seccomp.ALLOW


@pytest.mark.parametrize("name", MACHINES)
def test_the_named_calls_are_refused_and_all_others_pass(name: str) -> None:
    machine = seccomp.MACHINES[name]
    refused = {number for number in range(600) if decide(name, number, AF_UNIX) != seccomp.ALLOW}
    assert refused == set(machine.refused.values())
    assert decide(name, machine.refused["connect"]) == seccomp.REFUSE
    assert seccomp.REFUSE & 0xFFFF == errno.EACCES


@pytest.mark.parametrize(("name", "other"), [("x86_64", 0x40000003), ("aarch64", 0x40000028)])
def test_calls_of_another_architecture_are_refused(name: str, other: int) -> None:
    assert decide(name, 0, audit=other) == seccomp.REFUSE


def test_the_second_numbering_of_x86_is_refused() -> None:
    assert decide("x86_64", 0x40000000 | seccomp.MACHINES["x86_64"].socket, AF_UNIX) == seccomp.REFUSE


def test_an_unknown_machine_has_no_filter() -> None:
    with pytest.raises(OSError, match="no filter for pdp11"):
        seccomp.install("pdp11")


@pytest.mark.parametrize(
    ("version", "files", "fields"),
    [(1, 0x1FFF, 1), (2, 0x3FFF, 1), (3, 0x7FFF, 1), (4, 0x7FFF, 2), (5, 0xFFFF, 2), (6, 0xFFFF, 3), (7, 0xFFFF, 3)],
)
def test_a_kernel_is_asked_for_what_its_version_knows(version: int, files: int, fields: int) -> None:
    attributes = landlock.ruleset_attributes(version)
    assert attributes[0] == landlock.handled_files(version) == files
    assert len(attributes) == fields
    assert set(attributes[1:]) <= {0b11}


def plan(folder: Path, **changes: object) -> ConfinementPlan:
    fields = {"work": folder / "work", "model_dir": folder / "model", "device": "cpu", "backend": "newbie", **changes}
    return ConfinementPlan(**fields)  # type: ignore[arg-type] # a builder for tests


def test_a_plan_survives_its_way_to_the_child(tmp_path: Path) -> None:
    made = plan(tmp_path, mode="require", read=(tmp_path / "a b", tmp_path / "ä"), most_file_mib=7)
    assert ConfinementPlan.from_argument(made.to_argument()) == made


def test_the_child_writes_below_its_worker_s_folder_and_reads_its_model_and_the_code(tmp_path: Path) -> None:
    root = Path(confine_module.__file__).parents[2]
    given = grants(plan(tmp_path, read=(tmp_path / "more",)))
    assert given.write == (tmp_path / "work", Path("/proc/self/clear_refs"))
    assert {tmp_path / "model", tmp_path / "more", root / "services", root / "shared"} <= set(given.read)
    assert {Path(sys.prefix), Path(sys.base_prefix)} <= set(given.read)
    assert Path("/dev/null") in given.devices


def test_neither_the_checkout_nor_the_whole_of_etc_nor_anybody_s_home_is_readable(tmp_path: Path) -> None:
    root = Path(confine_module.__file__).parents[2]
    given = grants(plan(tmp_path))
    assert {Path("/"), Path("/etc"), Path("/run"), Path("/var"), Path.home(), root, tmp_path} & set(given.read) == set()
    assert root in given.listed


def test_a_backend_named_by_its_class_is_readable(tmp_path: Path) -> None:
    given = grants(plan(tmp_path, backend="tests.worker_process.backends.obedient:ObedientBackend"))
    assert Path(__file__).parents[2] in given.read
    json_folder = grants(plan(tmp_path, backend="json.decoder:JSONDecoder")).read
    assert any(path.name == "json" for path in json_folder)
    assert grants(plan(tmp_path, backend="no_such_module:Thing")).read == grants(plan(tmp_path)).read


def test_shared_memory_is_for_devices_that_need_it(tmp_path: Path) -> None:
    assert Path("/dev/shm") not in grants(plan(tmp_path)).devices  # noqa: S108 - the device folder, no temporary file
    assert Path("/dev/shm") in grants(plan(tmp_path, device="cuda:0")).devices  # noqa: S108 - likewise


def test_every_cache_of_the_child_lies_in_its_own_folder(tmp_path: Path) -> None:
    folders = child_folders(tmp_path)
    assert folders["HOME"] == folders["TMPDIR"] == str(tmp_path)
    assert {"XDG_CACHE_HOME", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "MPLCONFIGDIR"} <= set(folders)
    assert all(Path(folder).is_relative_to(tmp_path) for folder in folders.values())


def test_no_confinement_is_said_as_such(tmp_path: Path) -> None:
    found = confine(plan(tmp_path, mode="off"))
    assert found.filesystem == found.network == "off"
    assert found.lacking() == []


def test_what_is_not_held_is_named() -> None:
    found = Confinement(filesystem="none: landlock: nope", network="seccomp", processes="none: no", privileges="x")
    assert found.lacking() == ["filesystem none: landlock: nope", "processes none: no"]


@pytest.fixture
def old_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel with neither Landlock nor filters; nothing is given up in this process."""

    def nothing(*_: object) -> int:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(landlock, "restrict", nothing)
    monkeypatch.setattr(seccomp, "install", nothing)
    monkeypatch.setattr(confine_module, "_drop_privileges", lambda: "dropped")
    monkeypatch.setattr("resource.setrlimit", lambda *_: None)
    monkeypatch.setattr("os.listdir", lambda _: ["1"])


@pytest.mark.usefixtures("old_kernel")
def test_a_kernel_that_holds_nothing_is_described_or_refused(tmp_path: Path) -> None:
    found = confine(plan(tmp_path))
    assert found.filesystem == "none: landlock: Function not implemented"
    assert found.network == "none: seccomp: Function not implemented"
    assert found.processes == "none: seccomp: Function not implemented"
    with pytest.raises(ConfigurationError, match=r"cannot confine the model's process: filesystem none: .*network"):
        confine(plan(tmp_path, mode="require"))


@pytest.mark.usefixtures("old_kernel")
@pytest.mark.parametrize(
    ("version", "network", "processes"),
    [
        (1, "seccomp", "seccomp ptrace, landlock ptrace"),
        (4, "seccomp, landlock tcp", "seccomp ptrace, landlock ptrace"),
        (6, "seccomp, landlock tcp", "seccomp ptrace, landlock ptrace, landlock signals"),
        (9, "seccomp, landlock tcp", "seccomp ptrace, landlock ptrace, landlock signals"),
    ],
)
def test_each_kernel_is_described_by_what_it_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int, network: str, processes: str
) -> None:
    monkeypatch.setattr(landlock, "restrict", lambda _: version)
    monkeypatch.setattr(seccomp, "install", lambda _: None)
    found = confine(plan(tmp_path, mode="require", most_file_mib=5))
    assert found.filesystem == f"landlock abi {version}"
    assert (found.network, found.processes, found.files) == (network, processes, "5 MiB each")


def test_threads_that_run_already_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.listdir", lambda _: ["1", "2"])
    with pytest.raises(RuntimeError, match="would keep their rights"):
        confine(plan(tmp_path))
