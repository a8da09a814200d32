"""Who submits what and when, what is measured, and what it shall be. Lengths and times in usual jobs."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from bench.fairness.jobs import Job, Result, jain
from bench.fairness.ledger import POLICY, Pace
from shared.domain.task import Lane

if TYPE_CHECKING:
    from collections.abc import Callable

SEED: Final = 20261124
# Predictions are off by this much (sigma of the logarithm), as measured on tasks that were not learnt from.
PREDICTION_ERROR: Final = 0.15
START_WITHIN: Final = 3600.0
LIGHTS: Final = 11


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A bound on a figure."""

    least: float | None = None
    most: float | None = None

    def __str__(self) -> str:
        return f">= {self.least:g}" if self.most is None else f"<= {self.most:g}"

    def met(self, value: float) -> bool:
        """Whether the figure holds it."""
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """``live`` and ``quick`` are how long the run on the real broker lasts, in job lengths; 0 where there is none.

    ``live_targets`` stand in place of the others there, where the machine's own noise is in a figure.
    """

    name: str
    about: str
    jobs: Callable[[Source], None]
    figures: Callable[[Result], dict[str, float]]
    targets: dict[str, Target] = field(default_factory=dict)
    live_targets: dict[str, Target] | None = None
    pace: Pace = field(default_factory=Pace)
    horizon: float
    live: float = 0.0
    quick: float = 0.0


class Source:
    """Makes jobs, the same ones each time."""

    def __init__(self, horizon: float, error: float = PREDICTION_ERROR, scale: int = 1) -> None:
        self.jobs: list[Job] = []
        self._horizon = horizon
        self._error = error
        self._scale = scale
        self._random = random.Random(SEED)  # noqa: S311 - repeatable predictions

    def one(self, tenant: str, arrives: float, lane: Lane = Lane.STANDARD, **more: float | None) -> Job:
        """A job. ``more``: work, weight, start_within."""
        work = more.get("work") or 1.0
        job = Job(
            name=f"{tenant}-{len(self.jobs)}",
            tenant=tenant,
            share=POLICY.share(lane, more.get("weight")),
            arrives=arrives,
            work=work,
            predicted=work * self._random.lognormvariate(0, self._error),
            start_within=more.get("start_within") or START_WITHIN,
        )
        self.jobs.append(job)
        return job

    def burst(self, tenant: str, count: int, lane: Lane = Lane.STANDARD, **more: float | None) -> list[Job]:
        """So many at the beginning."""
        return [self.one(tenant, 0.0, lane, **more) for _ in range(count * self._scale)]

    def steady(self, tenant: str, load: float, lane: Lane = Lane.STANDARD, **more: float | None) -> None:
        """Poisson arrivals of so much work in each job length."""
        rate = self._scale * load / (more.get("work") or 1.0)
        arrivals = random.Random(f"{SEED} {tenant}")  # noqa: S311 - the same whatever the horizon and the others
        moment = arrivals.expovariate(rate)
        while moment < self._horizon:
            self.one(tenant, moment, lane, **more)
            moment += arrivals.expovariate(rate)


def make(
    scenario: Scenario, horizon: float | None = None, *, error: float = PREDICTION_ERROR, scale: int = 1
) -> list[Job]:
    """The jobs of a scenario in the order of their arrival; ``scale`` times as many for as many more workers."""
    source = Source(horizon or scenario.horizon, error, scale)
    scenario.jobs(source)
    return sorted(source.jobs, key=lambda job: job.arrives)


def _light(tenant: str) -> bool:
    return tenant.startswith("light")


def _fairness(result: Result) -> dict[str, float]:
    """Over the time in which everybody has a backlog, and in the worst fifth of it."""
    end = result.contention(result.tenants)
    fifths = [jain(result.weighted(result.tenants, part * end / 5, (part + 1) * end / 5)) for part in range(5)]
    return {"jain": jain(result.weighted(result.tenants, 0, end)), "jain_worst_fifth": min(fifths)}


def _flooder(source: Source) -> None:
    source.burst("flooder", 200)
    for n in range(5):
        source.steady(f"light{n}", 0.02)


def _two_floods(source: Source) -> None:
    source.burst("first", 200)
    source.burst("second", 100)


def _weighted_floods(source: Source) -> None:
    source.burst("one", 200)
    source.burst("double", 200, weight=2.0)


def _steady_floods(source: Source) -> None:
    source.steady("first", 2.0)
    source.steady("second", 0.8)


def _vip_in_flood(source: Source) -> None:
    for n in range(4):
        source.burst(f"flooder{n}", 250)
    source.steady("vip", 0.05, Lane.VIP)


def _vip_in_crowd(source: Source) -> None:
    for n in range(1000):
        source.burst(f"somebody{n}", 1)
    source.steady("vip", 0.05, Lane.VIP)


def _vip_bursts(source: Source) -> None:
    for n in range(1000):
        source.burst(f"somebody{n}", 1)
    for n in range(8):
        for _ in range(8):
            source.one("vip", 50.5 + 100.0 * n, Lane.VIP)


def _vip_flood(source: Source) -> None:
    source.steady("vip", 1.5, Lane.VIP)
    source.steady("standard", 0.6)


def _crowd(source: Source) -> None:
    for n in range(50):
        source.steady(f"light{n}", 0.8 / 50)


def _video_beside_images(source: Source) -> None:
    source.burst("video", 60, work=30.0)
    source.burst("images", 900)
    for n in range(5):
        source.steady(f"light{n}", 0.02)


def _starved(source: Source) -> None:
    for job in source.burst("backlog", 200, start_within=1200.0):
        job.forced_level = 0
    for n in range(LIGHTS):
        source.steady(f"light{n}", 1.1 / LIGHTS, start_within=1200.0)


def _starved_batch(source: Source) -> None:
    source.burst("backlog", 200, Lane.BATCH, start_within=1400.0)
    for n in range(LIGHTS):
        source.steady(f"light{n}", 1.1 / LIGHTS)


def _light_waits(result: Result) -> dict[str, float]:
    return {"light_p50": result.wait(_light, 0.5), "light_p95": result.wait(_light)}


def _vip_waits(result: Result) -> dict[str, float]:
    return {"vip_p50": result.wait("vip".__eq__, 0.5), "vip_p95": result.wait("vip".__eq__)}


def _of_entitlement(result: Result) -> dict[str, float]:
    """The standard tenant's part of what its weight entitles it to, from its first arrival on, and what it lacks."""
    begin = min(job.arrives for job in result.jobs if job.tenant == "standard")
    entitled = result.served_to_all(begin, result.horizon) / (1.0 + POLICY.share(Lane.VIP).weight)
    served = result.served("standard", begin, result.horizon)
    return {
        "standard_of_share": served / entitled,
        "standard_lacks_jobs": entitled - served,
        "vip_p95": result.wait("vip".__eq__),
    }


def _video_and_images(result: Result) -> dict[str, float]:
    floods = ["images", "video"]
    end = result.contention(floods)
    return {
        "jain": jain(result.weighted(floods, 0, end)),
        "image_gpu_seconds_of_half": result.served("images", 0, end)
        / (sum(result.served(tenant, 0, end) for tenant in floods) / 2),
        **_light_waits(result),
    }


def _backlog_shares(result: Result, begin: float) -> dict[str, float]:
    """What the backlog gets of its weighted share: in all, and in the worst of the fifths."""
    share = next(job.share for job in result.jobs if job.tenant == "backlog")
    end = min(result.contention(["backlog"]), result.horizon)
    part = share.weight / (share.weight + LIGHTS)
    width = max((end - begin) / 5, 1.0)
    edges = [(begin + n * width, begin + (n + 1) * width) for n in range(5)]
    fifths = [result.served("backlog", *edge) / (part * max(result.served_to_all(*edge), 1.0)) for edge in edges]
    return {"backlog_of_share": sum(fifths) / 5, "backlog_worst_fifth": min(fifths), **_light_waits(result)}


SCENARIOS: Final = (
    Scenario(
        name="flooder",
        about="one tenant submits 200 at once, five light tenants send one now and then",
        jobs=_flooder,
        figures=_light_waits,
        targets={"light_p95": Target(most=2.0)},
        horizon=230.0,
        live=230.0,
        quick=200.0,
    ),
    Scenario(
        name="two_floods",
        about="one tenant submits 200 at once, then another 100",
        jobs=_two_floods,
        figures=_fairness,
        targets={"jain": Target(least=0.95)},
        horizon=300.0,
        live=300.0,
        quick=120.0,
    ),
    Scenario(
        name="weighted_floods",
        about="200 each, the second with twice the weight",
        jobs=_weighted_floods,
        figures=_fairness,
        targets={"jain": Target(least=0.95)},
        horizon=400.0,
    ),
    Scenario(
        name="steady_floods",
        about="two tenants submit 2.0 and 0.8 times the capacity, all the time",
        jobs=_steady_floods,
        figures=_fairness,
        targets={"jain": Target(least=0.95)},
        horizon=200.0,
    ),
    Scenario(
        name="vip_in_flood",
        about="a VIP sends one now and then while 1000 of four tenants wait",
        jobs=_vip_in_flood,
        figures=_vip_waits,
        targets={"vip_p95": Target(most=1.5)},
        horizon=900.0,
        live=400.0,
        quick=250.0,
    ),
    Scenario(
        name="vip_in_crowd",
        about="the same while 1000 tenants wait with one each",
        jobs=_vip_in_crowd,
        figures=_vip_waits,
        targets={"vip_p95": Target(most=1.5)},
        horizon=900.0,
    ),
    Scenario(
        name="vip_bursts",
        about="a VIP sends 8 at once, eight times, while 1000 tenants wait with one each",
        jobs=_vip_bursts,
        figures=_vip_waits,
        targets={"vip_p95": Target(most=8.0)},
        horizon=900.0,
    ),
    Scenario(
        name="vip_flood",
        about="a VIP submits 1.5 times the capacity, a standard tenant 0.6 times",
        jobs=_vip_flood,
        figures=_of_entitlement,
        # A job is not divided, so that the share cannot be met more closely than this.
        targets={"standard_lacks_jobs": Target(most=1.01)},
        live_targets={"standard_of_share": Target(least=0.95)},
        horizon=800.0,
        live=400.0,
        quick=120.0,
    ),
    Scenario(
        name="crowd",
        about="fifty light tenants load the queue to 0.8",
        jobs=_crowd,
        figures=_light_waits,
        horizon=1000.0,
        live=400.0,
    ),
    Scenario(
        name="video_beside_images",
        about="a tenant with 60 videos of 30 job lengths, one with 900 pictures, five light ones; four workers",
        jobs=_video_beside_images,
        figures=_video_and_images,
        targets={"jain": Target(least=0.95)},
        pace=Pace(workers=4),
        horizon=450.0,
        live=450.0,
    ),
    Scenario(
        name="starved",
        about="200 of one tenant at the lowest level while eleven light tenants submit 1.1 times the capacity",
        jobs=_starved,
        figures=lambda result: _backlog_shares(result, 0.0),
        targets={"backlog_of_share": Target(least=0.8), "backlog_worst_fifth": Target(least=0.8)},
        live_targets={"backlog_of_share": Target(least=0.8)},
        horizon=1200.0,  # when the first would expire
        live=600.0,
    ),
    Scenario(
        name="starved_batch",
        about="the same with a tenant of the batch lane, from half its start_within (1400) on",
        jobs=_starved_batch,
        figures=lambda result: _backlog_shares(result, 700.0),
        targets={"backlog_of_share": Target(least=0.8)},
        horizon=1400.0,
    ),
)
