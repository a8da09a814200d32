"""Bursts on one worker beside the ideal first-come schedule, and the worker's busy share with a backlog."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import TYPE_CHECKING, Final

from bench.report import Row, at_most, plain

if TYPE_CHECKING:
    from bench.servers import Bench

JOB_SECONDS: Final = 1.0
_STEP_SECONDS: Final = 0.05


def run(bench: Bench, *, quick: bool) -> list[Row]:
    """Target: all succeed, mean response <= 1.02 of the ideal, in which the i-th task ends after i jobs."""
    rows = [_burst(bench, size) for size in ((10,) if quick else (10, 50, 100))]
    return [*rows, _busy_share(bench, 10 if quick else 100)]


def _burst(bench: Bench, size: int) -> Row:
    with bench.client() as client, ThreadPoolExecutor(16) as pool:
        client.get("/healthz").raise_for_status()
        began = time.time()
        body = {"model": "simulated", "prompt": "a lake", "steps": round(JOB_SECONDS / _STEP_SECONDS)}
        answers = list(pool.map(lambda seed: client.post("/api/v1/generate", json={**body, "seed": seed}), range(size)))
        ids = [answer.raise_for_status().json()["task_id"] for answer in answers]
        views = [_final(bench, task_id, size) for task_id in ids]
    succeeded = sum(view["state"] == "succeeded" for view in views)
    ended = [datetime.fromisoformat(str(view["ended_at"])).timestamp() - began for view in views]
    mean, ideal = sum(ended) / size, JOB_SECONDS * (size + 1) / 2
    detail = f"{succeeded} of {size} succeeded; mean {mean:.3f} s, ideal {ideal:.3f} s; {JOB_SECONDS:g} s jobs"
    return at_most(f"bursts.{size}", mean / ideal, "ratio", 1.02 if succeeded == size else 0.0, detail)


def _final(bench: Bench, task_id: str, size: int) -> dict[str, object]:
    deadline = time.monotonic() + size * JOB_SECONDS * 2 + 30
    with bench.client() as client:
        while time.monotonic() < deadline:
            view: dict[str, object] = client.get(f"/api/v1/tasks/{task_id}", params={"wait": 30}).json()
            if view.get("ended_at"):
                return view
    message = f"{task_id} did not end"
    raise TimeoutError(message)


def _busy_share(bench: Bench, count: int) -> Row:
    """Of the last burst: model seconds over the time from its first start to its last settled task."""
    started = [_time(record) for record in bench.logged("worker-simulated", "task_started")][-count:]
    stored = [_time(record) for record in bench.logged("worker-simulated", "artifacts_stored")][-count:]
    share = count * JOB_SECONDS / (stored[-1] - started[0])
    return plain("worker.busy_share", share, "share", f"{count} jobs of {JOB_SECONDS:g} s; 0.98 is aimed at")


def _time(record: dict[str, str]) -> float:
    return datetime.fromisoformat(record["@timestamp"]).timestamp()
