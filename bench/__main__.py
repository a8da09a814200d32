"""``python -m bench [--only NAME] [--quick]``: benchmarks on a stack of their own, as ratios within one run."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench import (
    bad_input,
    bursts,
    cancels,
    endurance,
    latency,
    shares,
    status_events,
    status_reads,
    streams,
    submit,
)
from bench.fairness import rows as fairness
from bench.report import print_table, write
from bench.servers import Bench

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.report import Row

# Adding one: a module with ``run(bench, quick=...) -> list[Row]``, and a line here.
BENCHMARKS: Final[dict[str, Callable[..., list[Row]]]] = {
    "latency": latency.run,
    "bursts": bursts.run,
    "cancels": cancels.run,
    "endurance": endurance.run,
    "shares": shares.run,
    "bad_input": bad_input.run,
    "submit": submit.run,
    "streams": streams.run,
    "fairness": fairness.run,
    "status_events": status_events.run,
    "status_reads": status_reads.run,
}


def main(arguments: list[str]) -> int:
    """Run and report. Returns 1 when a target is missed."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--only", choices=sorted(BENCHMARKS), help="one of them")
    parser.add_argument("--quick", action="store_true", help="shorter runs, wider spread")
    options = parser.parse_args(arguments)
    names = [options.only] if options.only else list(BENCHMARKS)
    rows: list[Row] = []
    try:
        _run_all(names, rows, quick=options.quick)
    finally:  # what one of them spoils is not lost with it
        print_table(rows)
        print(f"\nwritten to {write(rows, 'latest' if len(names) > 1 else names[0])}")
    return int(any(row.ok is False for row in rows))


def _run_all(names: list[str], rows: list[Row], *, quick: bool) -> None:
    with tempfile.TemporaryDirectory(prefix="atelier-bench-") as folder:
        bench = Bench(Path(folder))
        with bench.stack:
            for name in names:
                print(f"bench: {name}", flush=True)
                rows += BENCHMARKS[name](bench, quick=quick)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
