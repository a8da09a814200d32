"""One row for each figure, as a table for people and as JSON for the record."""

from __future__ import annotations

import json
import platform
import statistics
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

RESULTS: Final = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A figure. ``ratio`` is value / baseline, measured in the same run; ``ok`` is None where there is no target."""

    name: str
    value: float
    unit: str
    baseline: float | None = None
    ratio: float | None = None
    target: str = ""
    ok: bool | None = None
    detail: str = ""


def at_least(name: str, value: float, baseline: float, unit: str, bound: float, detail: str = "") -> Row:
    """A throughput beside its baseline; the ratio shall not fall below ``bound``."""
    ratio = value / baseline
    return _row(name, (value, unit, baseline, ratio), f"ratio >= {bound}", ratio >= bound, detail)


def at_most(name: str, value: float, unit: str, bound: float, detail: str = "") -> Row:
    """A figure that shall not exceed ``bound``."""
    return _row(name, (value, unit, None, None), f"<= {bound:g} {unit}", value <= bound, detail)


def share_at_least(name: str, value: float, bound: float, detail: str = "") -> Row:
    """A share of 0 to 1 that shall not fall below ``bound``."""
    return _row(name, (value, "", None, None), f">= {bound:g}", value >= bound, detail)


def plain(name: str, value: float, unit: str, detail: str = "") -> Row:
    """A figure without a target."""
    return Row(name=name, value=round(value, 4), unit=unit, detail=detail)


def _row(
    name: str,
    figures: tuple[float, str, float | None, float | None],
    target: str,
    ok: bool,  # noqa: FBT001 - private
    detail: str,
) -> Row:
    value, unit, baseline, ratio = figures
    return Row(
        name=name,
        value=round(value, 4),
        unit=unit,
        baseline=None if baseline is None else round(baseline, 4),
        ratio=None if ratio is None else round(ratio, 4),
        target=target,
        ok=ok,
        detail=detail,
    )


def percentile(values: Sequence[float], share: float) -> float:
    """The nearest-rank percentile."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]


def spread(values: Sequence[float]) -> str:
    """Minimum, median and maximum of the rounds, as text."""
    return f"rounds {min(values):.0f}/{statistics.median(values):.0f}/{max(values):.0f}"


def print_table(rows: Sequence[Row]) -> None:
    """The table that a person reads."""
    print(f"\n{'name':<38}{'value':>11} {'unit':<8}{'baseline':>11}{'ratio':>9}  {'target':<16}{'ok':<5}detail")
    for row in rows:
        baseline = "" if row.baseline is None else f"{row.baseline:g}"
        ratio = "" if row.ratio is None else f"{row.ratio:.3f}"
        ok = {True: "yes", False: "NO", None: ""}[row.ok]
        print(
            f"{row.name:<38}{row.value:>11g} {row.unit:<8}{baseline:>11}{ratio:>9}  {row.target:<16}{ok:<5}{row.detail}"
        )


def write(rows: Sequence[Row], name: str = "latest") -> Path:
    """Write ``bench/results/<name>.json``, and the machine beside it."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    cpu = next((line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), "unknown")
    machine = {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": cpu,
        "cores": sum(line.startswith("processor") for line in _cpuinfo()),
        "python": platform.python_version(),
        "kernel": platform.release(),
    }
    (RESULTS / "machine.json").write_text(json.dumps(machine, indent=2) + "\n")
    return path


def _cpuinfo() -> list[str]:
    return Path("/proc/cpuinfo").read_text().splitlines()
