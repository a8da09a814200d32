"""``python -m bench.fairness``: the simulation alone. On a real broker as well: ``make bench ONLY=fairness``."""

from __future__ import annotations

import sys

from bench.fairness.rows import sensitivity_rows, simulation_rows
from bench.report import print_table


def main() -> int:
    """Run and print. Returns 1 when a target is missed."""
    rows = [*simulation_rows(), *sensitivity_rows()]
    print_table(rows)
    return int(any(row.ok is False for row in rows))


if __name__ == "__main__":
    sys.exit(main())
