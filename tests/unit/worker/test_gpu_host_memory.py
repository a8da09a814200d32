from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from services.worker.gpu import DeviceUnavailableError
from services.worker.host_memory import HostMemory, OomWatch, rss_mb, unshared_mb
from services.worker.host_probe import HostProbe
from tests.support.host_tree import HostTree

if TYPE_CHECKING:
    from pathlib import Path

V2 = "0::{}\n"
V1 = "5:cpu,cpuacct:/elsewhere\n4:memory:{}\n0::/elsewhere\n"


@pytest.fixture
def tree(tmp_path: Path) -> HostTree:
    return HostTree(tmp_path)


def read(tree: HostTree) -> tuple[float, float]:
    return HostMemory(tree.root).read_mb()


def test_a_machine_without_control_groups_has_what_the_kernel_calls_available(tree: HostTree) -> None:
    assert read(tree) == (64_000, 32_000)


def test_a_group_without_a_limit_bounds_nothing(tree: HostTree) -> None:
    tree.process(V2.format("/worker"))
    tree.v2("/worker", limit=None, used=500)
    assert read(tree) == (64_000, 32_000)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_limit_leaves_what_is_not_used_and_files_count_as_free(tree: HostTree, version: str) -> None:
    tree.process((V1 if version == "v1" else V2).format("/worker"))
    (tree.v1 if version == "v1" else tree.v2)("/worker", limit=8_000, used=5_000, files=(1_000, 500))
    assert read(tree) == (8_000, 8_000 - (5_000 - 1_500))


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_the_tightest_of_all_groups_above_decides_each_figure(tree: HostTree, version: str) -> None:
    tree.process((V1 if version == "v1" else V2).format("/pod/box/worker"))
    group = tree.v1 if version == "v1" else tree.v2
    group("/pod/box/worker", limit=None, used=100)
    group("/pod/box", limit=4_000, used=100)
    group("/pod", limit=6_000, used=5_500)
    assert read(tree) == (4_000, 500)


def test_a_group_larger_than_the_machine_bounds_nothing(tree: HostTree) -> None:
    tree.process(V2.format("/worker"))
    tree.v2("/worker", limit=1_000_000)
    assert read(tree) == (64_000, 32_000)


def test_a_group_that_uses_more_than_its_limit_has_nothing_free(tree: HostTree) -> None:
    tree.process(V2.format("/worker"))
    tree.v2("/worker", limit=100, used=150)
    assert read(tree) == (100, 0)


def test_in_a_container_the_mount_is_the_group_though_the_path_is_the_hosts(tree: HostTree) -> None:
    tree.process(V1.format("/docker/0123abcd"))
    tree.v1("", limit=2_000, used=500)
    assert read(tree) == (2_000, 1_500)


def test_in_a_namespace_of_groups_the_root_of_the_mount_is_the_group(tree: HostTree) -> None:
    tree.process(V2.format("/"))
    tree.v2("", limit=2_000, used=500)
    assert read(tree) == (2_000, 1_500)


def test_a_path_that_leads_out_of_the_mount_stays_within(tree: HostTree) -> None:
    tree.process(V2.format("/../../worker"))
    tree.v2("/worker", limit=2_000, used=500)
    assert read(tree) == (2_000, 1_500)


def test_where_both_versions_are_mounted_the_one_that_lists_memory_counts(tree: HostTree) -> None:
    tree.process(V1.format("/worker"))
    tree.v1("/worker", limit=3_000, used=0)
    tree.v2("/elsewhere", limit=1, used=0)
    assert read(tree)[0] == 3_000


@pytest.mark.parametrize("meminfo", [None, "MemTotal: 5 kB\n"])
def test_a_host_that_does_not_tell_its_memory_is_unavailable(tmp_path: Path, meminfo: str | None) -> None:
    if meminfo is not None:
        HostTree(tmp_path).write("proc/meminfo", meminfo)
    with pytest.raises(DeviceUnavailableError):
        HostMemory(tmp_path).read_mb()


@pytest.mark.parametrize(
    ("cgroup", "file"),
    [
        (V2.format("/worker"), "sys/fs/cgroup/worker/memory.events"),
        (V1.format("/worker"), "sys/fs/cgroup/memory/worker/memory.oom_control"),
        (V1.format("/docker/0123"), "sys/fs/cgroup/memory/memory.oom_control"),
        (V2.format("/worker/without-memory-controller"), "sys/fs/cgroup/worker/memory.events"),
        (V2.format("/worker"), "proc/vmstat"),
    ],
)
def test_a_kill_by_the_kernel_is_counted_where_the_process_lives(tree: HostTree, cgroup: str, file: str) -> None:
    tree.process(cgroup, pid="4711")
    tree.write("proc/vmstat", "oom_kill 3\n")
    tree.write(file, "low 0\noom 9\noom_kill 3\n")
    watch = OomWatch.of(4711, tree.root)
    before = watch.count()
    tree.write(file, "low 0\noom 9\noom_kill 4\n")
    assert (before, watch.count()) == (3, 4)


def test_an_old_kernel_whose_group_does_not_count_leaves_the_machines_count(tree: HostTree) -> None:
    tree.process(V1.format("/worker"))
    tree.write("sys/fs/cgroup/memory/worker/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\n")
    tree.write("proc/vmstat", "pgfault 1\noom_kill 7\n")
    assert OomWatch.of(root=tree.root).count() == 7


def test_a_group_that_is_gone_counts_nothing(tree: HostTree) -> None:
    tree.process(V2.format("/worker"))
    tree.write("sys/fs/cgroup/worker/memory.events", "oom_kill 2\n")
    watch = OomWatch.of(root=tree.root)
    (tree.root / "sys/fs/cgroup/worker/memory.events").unlink()
    assert watch.count() == 0


def test_the_memory_of_a_process_is_what_is_resident_and_what_only_its_end_gives_back(tree: HostTree) -> None:
    tree.write(
        "proc/42/status", "Name: x\nVmRSS:\t 10240 kB\nRssAnon:\t 4096 kB\nRssFile: 5120 kB\nRssShmem: 1024 kB\n"
    )
    assert (rss_mb(42, tree.root), unshared_mb(42, tree.root)) == (10, 5)
    assert (rss_mb(43, tree.root), unshared_mb(43, tree.root)) == (0, 0)


@pytest.mark.parametrize(("load", "busy"), [(0.0, 0.0), (1.0, 0.25), (4.0, 1.0), (40.0, 1.0)])
def test_the_host_is_as_busy_as_its_load_for_each_core(tmp_path: Path, load: float, busy: float) -> None:
    probe = HostProbe(HostTree(tmp_path, load=load).root, cores=4)
    assert probe.sample(0).utilisation == busy


def test_a_host_whose_load_cannot_be_read_is_unavailable(tree: HostTree) -> None:
    tree.write("proc/loadavg", "\n")
    with pytest.raises(DeviceUnavailableError):
        HostProbe(tree.root).sample(0)
