"""``python -m bench.cluster [--rounds 5]``: the leader's node of a three-node broker is lost under confirmed submits.

It needs a container engine with the broker's image. Three submitters with the gateway's own publisher; in each round
the node that leads the work queue is killed, or stopped where it is, and comes back afterwards. What counts is the
longest time without a confirmed submit, from the last one before the loss on; and that none is lost.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench.report import Row, at_most, plain, print_table, write

if TYPE_CHECKING:
    from tests.chaos.node_loss import Round

SECONDS: Final = {"killed": 8.0, "frozen": 30.0}


def main(arguments: list[str]) -> int:
    """Run, print and record. Returns 1 when a confirmed submit was lost."""
    parser = argparse.ArgumentParser(prog="bench.cluster", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="how often a node is killed, and how often frozen")
    options = parser.parse_args(arguments)
    rows = _rows(_played(options.rounds))
    print_table(rows)
    print(f"\nwritten to {write(rows, 'cluster')}")
    return int(any(row.ok is False for row in rows))


def _played(rounds: int) -> list[Round]:
    from tests.chaos.node_loss import play  # noqa: PLC0415 - tests' tools, for this one alone
    from tests.support.rabbit_cluster import RabbitCluster  # noqa: PLC0415 - as above

    with tempfile.TemporaryDirectory(prefix="atelier-cluster-") as folder:
        cluster = RabbitCluster(Path(folder))
        try:
            cluster.start()
            kinds = [kind for kind in SECONDS for _ in range(rounds)]
            return [play(cluster, Path(folder), kind=kind, seconds=SECONDS[kind]) for kind in kinds]
        finally:
            cluster.stop()


def _rows(played: list[Round]) -> list[Row]:
    rows = []
    for kind in SECONDS:
        mine = [each for each in played if each.kind == kind]
        detail = f"{len(mine)} rounds, {sum(each.confirmed for each in mine)} confirmed"
        lost = sum(len(each.lost) for each in mine)
        rows.append(at_most(f"cluster.{kind}.confirmed_lost", lost, "submits", 0, detail))
        rows.append(plain(f"cluster.{kind}.queued_twice", sum(each.twice for each in mine), "tasks"))
        for moved, where in ((False, "stayed"), (True, "reconnected")):
            gaps = [seen.gap_seconds for each in mine for seen in each.submitters if seen.reconnected is moved]
            if gaps:
                detail = f"{len(gaps)} submitters whose connection {where}"
                rows.append(plain(f"cluster.{kind}.{where}.gap_p50", statistics.median(gaps), "s", detail))
                rows.append(plain(f"cluster.{kind}.{where}.gap_max", max(gaps), "s", detail))
        rows.append(
            plain(f"cluster.{kind}.not_resumed", sum(not s.resumed for e in mine for s in e.submitters), "submitters")
        )
        refused = sum(sum(seen.refused.values()) for each in mine for seen in each.submitters)
        rows.append(plain(f"cluster.{kind}.not_confirmed", refused, "submits", "answered 503 by a gateway"))
    return rows


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
