"""Fair share as tenants meet it: through Nginx, two gateways, Redis, the broker, the sweeper and one worker.

``bench/fairness`` measures the rules over more scenarios, in simulation and on a broker of its own.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import TYPE_CHECKING, Final

import httpx

from bench.fairness.jobs import jain
from bench.report import Row, at_least, at_most, percentile

if TYPE_CHECKING:
    from bench.servers import Bench

_STEP_SECONDS: Final = 0.05
_STEPS: Final = 5
JOB_SECONDS: Final = _STEPS * _STEP_SECONDS
_END_SECONDS: Final = 300.0


def run(bench: Bench, *, quick: bool) -> list[Row]:
    """Targets: under another's flood a light tenant waits <= 2 job lengths at p95, a VIP <= 1.5; two floods share."""
    flood, each = (60, 10) if quick else (200, 40)
    return [*_under_a_flood(bench, flood, each), _two_floods(bench, flood // 2)]


def _under_a_flood(bench: Bench, flood: int, each: int) -> list[Row]:
    keys = {name: bench.key_of(f"shares-{name}", plan) for name, plan in _TENANTS.items()}
    _submit_many(bench, keys["flooder"], flood)
    told: dict[str, list[tuple[str, float]]] = {"light": [], "vip": []}
    for number in range(each):
        for name, tasks in told.items():
            tasks.append(_submit(bench, keys[name]))
            time.sleep(JOB_SECONDS * (1.7 + 0.1 * (number % 7)))
    began = _started(bench, flood + 2 * each)
    waits = {name: [(began[task] - at) / JOB_SECONDS for task, at in tasks] for name, tasks in told.items()}
    detail = f"{each} tasks, one at a time, while {flood} of another tenant wait; {JOB_SECONDS:g} s jobs; p50 "
    return [
        at_most(f"shares.{name}_wait_p95", percentile(waits[name], 0.95), "jobs", most, f"{detail}{_p50(waits[name])}")
        for name, most in (("light", 2.0), ("vip", 1.5))
    ]


_TENANTS: Final = {"flooder": "standard", "light": "standard", "vip": "vip"}


def _two_floods(bench: Bench, smaller: int) -> Row:
    keys = {name: bench.key_of(f"shares-{name}", "standard") for name in ("more", "less")}
    counts = {"more": 2 * smaller, "less": smaller}
    tasks: dict[str, set[str]] = {}

    def flood(name: str) -> None:
        tasks[name] = _submit_many(bench, keys[name], counts[name])

    floods = [threading.Thread(target=flood, args=(name,)) for name in counts]
    for each in floods:
        each.start()
    for each in floods:
        each.join()
    began = _started(bench, sum(counts.values()), among=set().union(*tasks.values()))
    # Shares are owed while both have something waiting.
    until = min(max(began[task] for task in mine) for mine in tasks.values())
    served = {name: sum(began[task] <= until for task in mine) for name, mine in tasks.items()}
    detail = f"floods of {counts['more']} and {counts['less']}; served while both wait: {served}"
    return at_least("shares.two_floods_jain", jain([float(count) for count in served.values()]), 1.0, "", 0.95, detail)


def _p50(waits: list[float]) -> str:
    return f"{percentile(waits, 0.5):.2f}"


def _submit_many(bench: Bench, key: str, count: int) -> set[str]:
    with ThreadPoolExecutor(8) as pool:
        return {task for task, _ in pool.map(lambda _: _submit(bench, key), range(count))}


def _submit(bench: Bench, key: str) -> tuple[str, float]:
    """The task's id, and when it was asked for."""
    began = time.time()
    body = {"model": "simulated", "prompt": "a lake", "steps": _STEPS}
    headers = {"Authorization": f"Bearer {key}"}
    answer = httpx.post(f"{bench.url}/api/v1/generate", json=body, headers=headers, timeout=30).raise_for_status()
    return str(answer.json()["task_id"]), began


def _started(bench: Bench, count: int, among: set[str] | None = None) -> dict[str, float]:
    """When each task started, once the work queue is empty."""
    deadline = time.monotonic() + _END_SECONDS
    while bench.depths()["tasks.simulated"]:
        if time.monotonic() > deadline:
            message = f"{bench.depths()['tasks.simulated']} of {count} tasks still wait"
            raise TimeoutError(message)
        time.sleep(0.5)
    began = {
        record["task_id"]: datetime.fromisoformat(record["@timestamp"]).timestamp()
        for record in bench.logged("worker-simulated", "task_started")
        if among is None or record["task_id"] in among
    }
    if len(began) < count:
        message = f"{len(began)} of {count} tasks started"
        raise RuntimeError(message)
    return began
