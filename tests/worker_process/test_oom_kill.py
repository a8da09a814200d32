"""The kernel's own out-of-memory kill, in a control group of the test, against other ways to die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from services.worker.host_memory import HostMemory, OomWatch, unshared_mb
from tests.support.cgroup import LimitedGroup, limited_group

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMIT_MB = 96
# Says what it did, and waits to be told how much more it shall hold.
HUNGRY = """
import sys
held = []
print("ready", flush=True)
for line in sys.stdin:
    held.append(b"x" * (int(line) * 2**20))
    print("holds", flush=True)
"""


class Hungry:
    """A process in the group that allocates when told."""

    def __init__(self, group: LimitedGroup) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HUNGRY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.says() == "ready"
        group.add(self.process.pid)
        self.watch = OomWatch.of(self.process.pid)

    def says(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def eat(self, mb: int) -> str:
        """What it says then; nothing when it died of it."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{mb}\n")
        self.process.stdin.flush()
        return self.says()

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def group() -> Iterator[LimitedGroup]:
    with limited_group(LIMIT_MB) as made:
        yield made


@pytest.fixture
def hungry(group: LimitedGroup) -> Iterator[Hungry]:
    made = Hungry(group)
    yield made
    made.close()


def test_a_process_that_the_kernel_kills_for_its_memory_is_counted(hungry: Hungry) -> None:
    before = hungry.watch.count()
    assert hungry.eat(4 * LIMIT_MB) == ""
    assert hungry.process.wait(30) == -signal.SIGKILL
    assert hungry.watch.count() == before + 1


def test_a_process_that_somebody_else_kills_is_not(hungry: Hungry) -> None:
    before = hungry.watch.count()
    os.kill(hungry.process.pid, signal.SIGKILL)
    assert hungry.process.wait(30) == -signal.SIGKILL
    assert hungry.watch.count() == before


def test_the_groups_limit_and_what_is_left_of_it_are_seen(group: LimitedGroup, hungry: Hungry) -> None:
    assert hungry.eat(40) == "holds"
    held = unshared_mb(hungry.process.pid)
    assert held >= 40
    total, free = _seen_from_within(group)
    assert total == LIMIT_MB
    # What the process used before it was moved into the group is not charged to it, what the reader uses is.
    assert 0 < free < LIMIT_MB - 40


def _seen_from_within(group: LimitedGroup) -> tuple[float, float]:
    code = (
        "import sys; sys.stdin.readline()\n"
        "from services.worker.host_memory import HostMemory\n"
        "print(*HostMemory().read_mb())\n"
    )
    assert HostMemory().read_mb()[0] > LIMIT_MB
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as it:
        group.add(it.pid)
        out, _ = it.communicate("go\n", timeout=30)
    total, free = map(float, out.split())
    return total, free
