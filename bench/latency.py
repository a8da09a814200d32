"""How much time the suite adds to a task on an idle worker, and how much memory its processes hold afterwards."""

from __future__ import annotations

import statistics
import time
from datetime import datetime
from typing import TYPE_CHECKING

import psutil

from bench.report import Row, at_most, percentile, plain

if TYPE_CHECKING:
    import httpx

    from bench.servers import Bench


def run(bench: Bench, *, quick: bool) -> list[Row]:
    """Targets: submit to start p50 <= 20 ms, p99 <= 80 ms; the worker's parent <= 120 MB."""
    count = 60 if quick else 300
    submitted, answered, model_seconds = {}, {}, {}
    with bench.client() as client:
        for _ in range(count):
            began = time.time()
            task_id = _submit(client)
            submitted[task_id] = began
            view = client.get(f"/api/v1/tasks/{task_id}", params={"wait": 30}).json()
            answered[task_id] = time.time() - began
            timings = view["timings"]
            model_seconds[task_id] = sum(timings[phase] for phase in ("encode", "denoise", "decode"))
    started = {
        record["task_id"]: datetime.fromisoformat(record["@timestamp"]).timestamp()
        for record in bench.logged("worker-simulated", "task_started")
    }
    to_start = [(started[task_id] - began) * 1000 for task_id, began in submitted.items()]
    added = [(answered[task_id] - model_seconds[task_id]) * 1000 for task_id in submitted]
    detail = f"{count} tasks, one after the other, through Nginx; mean {statistics.mean(to_start):.1f} ms"
    return [
        at_most("latency.submit_to_start_p50", percentile(to_start, 0.5), "ms", 20, detail),
        at_most("latency.submit_to_start_p99", percentile(to_start, 0.99), "ms", 80, detail),
        plain("latency.end_to_end_added_p50", percentile(added, 0.5), "ms", "POST to the long poll's answer - model"),
        plain("latency.end_to_end_added_p99", percentile(added, 0.99), "ms", "as above"),
        *_memory(bench),
    ]


def _memory(bench: Bench) -> list[Row]:
    rows = []
    for program in ("worker-simulated", "gateway-1", "status-api-1", "status-consumer"):
        process = psutil.Process(bench.stack.pid(program))
        if program.startswith(("gateway", "status-api")):
            (process,) = process.children()  # gunicorn's worker
        memory = process.memory_full_info()
        detail = f"PSS {memory.pss / 1e6:.0f} MB"
        if program == "worker-simulated":
            rows.append(at_most("memory.worker_parent", memory.rss / 1e6, "MB", 120, detail))
        else:
            rows.append(plain(f"memory.{program}", memory.rss / 1e6, "MB", detail))
    return rows


def _submit(client: httpx.Client) -> str:
    # Without a seed: docs/performance.md says what the look for earlier results adds to a request with one.
    answer = client.post("/api/v1/generate", json={"model": "simulated", "prompt": "a lake"})
    answer.raise_for_status()
    return str(answer.json()["task_id"])
