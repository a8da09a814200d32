"""``python -m bench.fairness [--live] [--quick]``: the simulation, and with ``--live`` a broker of its own as well.

``make bench ONLY=fairness`` does the same on the broker of a whole stack.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from bench.fairness.rows import live_rows, on_the_broker, quorum_rows, sensitivity_rows, simulation_rows
from bench.report import print_table, write

if TYPE_CHECKING:
    from bench.fairness.jobs import Result


def main(arguments: list[str]) -> int:
    """Run, print and, when everything ran, record. Returns 1 when a target is missed."""
    parser = argparse.ArgumentParser(prog="bench.fairness", description=__doc__)
    parser.add_argument("--live", action="store_true", help="on a real broker too, about two and a half minutes")
    parser.add_argument("--quick", action="store_true", help="fewer scenarios on the broker, and shorter")
    options = parser.parse_args(arguments)
    live = _on_a_broker(quick=options.quick) if options.live else {}
    extra = [] if options.quick else [*quorum_rows(), *sensitivity_rows()]
    rows = [*simulation_rows(), *extra, *(live_rows(live) if live else [])]
    print_table(rows)
    if live and not options.quick:
        from bench.fairness.plots import draw  # noqa: PLC0415 - matplotlib takes a second to load

        print(f"\ndrawn: {', '.join(path.name for path in draw(live))}; written to {write(rows, 'fairness')}")
    return int(any(row.ok is False for row in rows))


def _on_a_broker(*, quick: bool) -> dict[str, Result]:
    from tests.support.processes import ProcessGuard  # noqa: PLC0415 - the simulation needs no test tools
    from tests.support.rabbit import RabbitProcess  # noqa: PLC0415

    guard = ProcessGuard()
    with tempfile.TemporaryDirectory(prefix="atelier-fairness-") as folder:
        server = RabbitProcess(Path(folder) / "rabbitmq", guard)
        try:
            server.start()
            return on_the_broker(server.url("admin"), quick=quick)
        finally:
            server.stop()
            guard.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
