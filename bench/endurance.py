"""What a worker is like over many tasks: the busy share with long jobs, and the memory of its parent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import psutil

from bench.bursts import burst, busy_share
from bench.report import Row, at_most

if TYPE_CHECKING:
    from bench.servers import Bench

_LONG_SECONDS: Final = 10.0
_STEP_SECONDS: Final = 0.05
_BATCH: Final = 100
_WORKER: Final = "worker-simulated"


def run(bench: Bench, *, quick: bool) -> list[Row]:
    """Targets: busy share >= 0.995 at 10 s jobs; the parent grows by 2 MB at most and stays below 120 MB."""
    return [_long_jobs(bench, 3 if quick else 6), *_memory(bench, 300 if quick else 1000)]


def _long_jobs(bench: Bench, count: int) -> Row:
    burst(bench, count, _LONG_SECONDS)
    return busy_share(bench, count, _LONG_SECONDS, 0.995)


def _memory(bench: Bench, count: int) -> list[Row]:
    # A new process, so that what other benchmarks made it learn has no part in it.
    bench.stack.restart(_WORKER)
    parent = psutil.Process(bench.stack.pid(_WORKER))
    sizes = []
    for _ in range(count // _BATCH):
        burst(bench, _BATCH, _STEP_SECONDS)
        sizes.append(parent.memory_info().rss / 1e6)
    detail = f"{_BATCH} tasks: {sizes[0]:.1f} MB, {count}: {sizes[-1]:.1f} MB, most {max(sizes):.1f} MB"
    return [
        at_most("memory.worker_parent_growth", sizes[-1] - sizes[0], "MB", 2, detail),
        at_most(f"memory.worker_parent_after_{count}", max(sizes), "MB", 120),
    ]
