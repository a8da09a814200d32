"""Pictures of the scenarios."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import matplotlib as mpl

from bench.fairness.compared import OURS, REFERENCE, SCHEDULERS, scenario_named, simulated
from bench.fairness.scenarios import LIGHTS

mpl.use("Agg")
from matplotlib import pyplot as plt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from bench.fairness.jobs import Result

FOLDER: Final = Path(__file__).parents[2] / "docs" / "plots"
LABELS: Final = {
    "fifo": "first come first served",
    "strict_lanes": "strict lanes",
    "equal_steps": "equal steps",
    "equal_steps_ageing": "equal steps, ageing",
    "frozen": "doubling steps, frozen",
    OURS: "fair share with lifting",
    REFERENCE: "optimum (full knowledge)",
}
COLOURS: Final = dict(
    zip(LABELS, ("#999999", "#b58900", "#cb4b16", "#d33682", "#6c71c4", "#268bd2", "#222222"), strict=True)
)
_DPI: Final = 110


def draw(live: dict[str, Result]) -> list[Path]:
    """All of them; where a scenario ran on the broker, that is shown beside the simulation."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    return [_waits(live), _floods(live), _starved(live)]


def _waits(live: dict[str, Result]) -> Path:
    panels = (
        ("flooder", "light_p95", "Light tenants under a flood of 200", 2.0),
        ("vip_in_flood", "vip_p95", "VIP while 1000 of four tenants wait", 1.5),
        ("vip_in_crowd", "vip_p95", "VIP while 1000 tenants wait", 1.5),
    )
    _, axes = plt.subplots(1, len(panels), figsize=(12, 3.4), sharey=True)
    for axis, (name, key, title, target) in zip(axes, panels, strict=True):
        scenario = scenario_named(name)
        bars = [
            (LABELS[which], scenario.figures(simulated(scenario, which))[key], COLOURS[which]) for which in SCHEDULERS
        ]
        if name in live:
            bars.append(("ours on RabbitMQ", scenario.figures(live[name])[key], "#2aa198"))
        axis.barh([bar[0] for bar in bars], [bar[1] for bar in bars], color=[bar[2] for bar in bars])
        axis.axvline(target, color="black", linestyle=":", linewidth=1)
        axis.set(xscale="log", xlim=(0.2, 1500), title=title, xlabel="wait, p95, in job lengths")
        axis.invert_yaxis()
    return _save("fairness-waits.png")


def _floods(live: dict[str, Result]) -> Path:
    scenario = scenario_named("two_floods")
    results = [(LABELS[which], simulated(scenario, which)) for which in ("equal_steps_ageing", "frozen", OURS)]
    if scenario.name in live:
        results.append(("ours on RabbitMQ", live[scenario.name]))
    _, axes = plt.subplots(1, len(results), figsize=(12, 3.2), sharey=True, squeeze=False)
    for axis, (title, result) in zip(axes[0], results, strict=True):
        for tenant, colour in (("first", "#cb4b16"), ("second", "#268bd2")):
            _cumulative(axis, result, tenant, label=f"{tenant} flood", colour=colour)
        axis.set(title=title, xlabel="time in job lengths")
    axes[0][0].set_ylabel("jobs served")
    axes[0][0].legend(loc="upper left", fontsize=8)
    return _save("fairness-floods.png")


def _starved(live: dict[str, Result]) -> Path:
    scenario = scenario_named("starved")
    _, axis = plt.subplots(figsize=(7.5, 4))
    for which in SCHEDULERS:
        if which not in {"fifo", "strict_lanes"}:
            _cumulative(axis, simulated(scenario, which), "backlog", label=LABELS[which], colour=COLOURS[which])
    if scenario.name in live:
        _cumulative(axis, live[scenario.name], "backlog", label="ours on RabbitMQ", colour="#2aa198")
    axis.plot(
        [0, scenario.horizon], [0, scenario.horizon / (LIGHTS + 1)], ":", color="black", label="its weighted share"
    )
    axis.set(
        title="200 tasks at the lowest level, eleven others submit 1.1 times the capacity",
        xlabel="time in job lengths",
        ylabel="jobs of the backlog served",
    )
    axis.legend(fontsize=8)
    return _save("fairness-starved.png")


def _cumulative(axis: Axes, result: Result, tenant: str, *, label: str, colour: str) -> None:
    moments: Sequence[float] = [result.horizon * n / 200 for n in range(201)]
    axis.plot(moments, [result.served(tenant, 0, moment) for moment in moments], label=label, color=colour)


def _save(name: str) -> Path:
    path = FOLDER / name
    plt.tight_layout()
    plt.savefig(path, dpi=_DPI, metadata={"Software": None})
    plt.close()
    return path
