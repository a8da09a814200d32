"""Bursts on one worker beside the ideal first-come schedule, and the worker's busy share with a backlog."""

from __future__ import annotations

import math
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

from bench.report import Row, at_least, at_most, plain

if TYPE_CHECKING:
    from bench.servers import Bench

JOB_SECONDS: Final = 1.0
_STEP_SECONDS: Final = 0.05


def run(bench: Bench, *, quick: bool) -> list[Row]:
    """Targets: all succeed, mean response <= 1.02 of the ideal, where the i-th task ends after i jobs; busy share."""
    sizes = (10,) if quick else (10, 50, 100)
    burst(bench, 16, _STEP_SECONDS)  # connections and first imports are paid once, not per burst
    bursts = [burst(bench, size, JOB_SECONDS) for size in sizes]
    rows = [row for done in bursts for row in (_beside_ideal(done), _of_forecasts(done))]
    return [*rows, busy_share(bench, sizes[-1], JOB_SECONDS, 0.98)]


@dataclass(frozen=True, slots=True)
class Burst:
    """How many of so many tasks succeeded, and the seconds from the first submit to each one's end.

    ``forecasts``: seconds from a task's submit to its end, as the answer to the submit said and as they were.
    """

    size: int
    job_seconds: float
    succeeded: int
    responses: list[float]
    forecasts: list[tuple[float | None, float]]


def burst(bench: Bench, size: int, job_seconds: float) -> Burst:
    """Submit so many tasks at once, and wait for all of them."""
    with bench.client() as client, ThreadPoolExecutor(16) as pool:
        client.get("/healthz").raise_for_status()
        began = time.time()
        body = {"model": "simulated", "prompt": "a lake", "steps": round(job_seconds / _STEP_SECONDS)}
        # Without a seed each request is a task of its own, however soon it comes after an equal one.
        answers = list(pool.map(lambda _: client.post("/api/v1/generate", json=body), range(size)))
        told = [answer.raise_for_status().json() for answer in answers]
        views = [_final(bench, each["task_id"], size * job_seconds) for each in told]
    succeeded = sum(view["state"] == "succeeded" for view in views)
    ended = [_seconds(view, "ended_at") - began for view in views]
    took = [_seconds(view, "ended_at") - _seconds(view, "created_at") for view in views]
    forecasts = [(each["eta_seconds"], actual) for each, actual in zip(told, took, strict=True)]
    return Burst(size, job_seconds, succeeded, ended, forecasts)


def _seconds(view: dict[str, object], field: str) -> float:
    return datetime.fromisoformat(str(view[field])).timestamp()


def _beside_ideal(done: Burst) -> Row:
    mean, ideal = sum(done.responses) / done.size, done.job_seconds * (done.size + 1) / 2
    counts = f"{done.succeeded} of {done.size} succeeded"
    detail = f"{counts}; mean {mean:.3f} s, ideal {ideal:.3f} s; {done.job_seconds:g} s jobs"
    bound = 1.02 if done.succeeded == done.size else 0.0
    return at_most(f"bursts.{done.size}", mean / ideal, "ratio", bound, detail)


def _of_forecasts(done: Burst) -> Row:
    known = [(told, actual) for told, actual in done.forecasts if told is not None]
    errors = sorted(abs(told - actual) / actual for told, actual in known)
    if not errors:
        return plain(f"eta.{done.size}_error_p50", math.nan, "of the time", "no forecast was made")
    detail = f"p95 {errors[int(0.95 * (len(errors) - 1))]:.3f}; {len(known)} of {done.size} tasks with a forecast"
    return plain(f"eta.{done.size}_error_p50", statistics.median(errors), "of the time", detail)


def _final(bench: Bench, task_id: str, seconds: float) -> dict[str, object]:
    deadline = time.monotonic() + seconds * 2 + 30
    with bench.client() as client:
        while time.monotonic() < deadline:
            view: dict[str, object] = client.get(f"/api/v1/tasks/{task_id}", params={"wait": 30}).json()
            if view.get("ended_at"):
                return view
    message = f"{task_id} did not end"
    raise TimeoutError(message)


def busy_share(bench: Bench, count: int, job_seconds: float, bound: float) -> Row:
    """Of the last burst: model seconds over the time from its first start to its last stored picture."""
    started = [_time(record) for record in bench.logged("worker-simulated", "task_started")][-count:]
    stored = [_time(record) for record in bench.logged("worker-simulated", "artifacts_stored")][-count:]
    elapsed, detail = stored[-1] - started[0], f"{count} jobs of {job_seconds:g} s"
    return at_least(f"worker.busy_share_{job_seconds:g}s", count * job_seconds, elapsed, "s", bound, detail)


def _time(record: dict[str, str]) -> float:
    return datetime.fromisoformat(record["@timestamp"]).timestamp()
