"""Thousands of open streams over a few dozen tasks: what each costs, and how late its events are."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import psutil

from bench.report import Row, at_most, percentile, plain
from bench.servers import HOST
from shared.clock import utc_now
from shared.config import BrokerSettings, load_settings
from shared.contracts.event import Preview, Progress, ended_event, progress_event, started_event
from shared.contracts.outcome import Outcome
from shared.contracts.task import Params, Predicted, TaskMessage
from shared.domain.task import Lane, Phase, TaskState
from shared.ids import new_execution_id, new_task_id
from shared.messaging import messages
from shared.messaging.publisher import ThreadedPublisher

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bench.servers import Bench
    from shared.contracts.event import TaskEvent

_TASKS: Final = 50
_STEP_SECONDS: Final = 1.0
_PUBLISH_SECONDS: Final = 10.0
_SETTLE_SECONDS: Final = 3.0
_PATIENCE_SECONDS: Final = 60.0
_APIS: Final = ("status-api-1", "status-api-2")


@dataclass(frozen=True, slots=True)
class Usage:
    """What the status APIs hold and have spent."""

    rss: int
    cpu_seconds: float


@dataclass(frozen=True, slots=True)
class Load:
    """So many streams, over tasks that each make so many steps with a preview of so many characters."""

    streams: int
    steps: int
    preview: int = 0


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds from each event to each of its arrivals, seconds until all streams were open, and usages: before the
    streams, with them, and after the events.
    """

    lags: list[float]
    opening: float
    usages: tuple[Usage, Usage, Usage]


def run(bench: Bench, *, quick: bool) -> list[Row]:
    """Target: at 5,000 streams the 99th percentile of the lag is at most a second, with previews, too."""
    streams, steps = (1000, 10) if quick else (5000, 60)
    bare, pictures = Load(streams, steps), Load(streams, max(10, steps // 3), preview=8000)
    measured = _measure(bench, bare)
    return [*_rows(bare, measured), _lag_row("streams.lag_p99_previews", pictures, _measure(bench, pictures))]


def _measure(bench: Bench, load: Load) -> Measured:
    tasks = [_task(f"bench-streams-{number}") for number in range(_TASKS)]
    keys = {task.tenant_id: bench.key_of(task.tenant_id, "standard") for task in tasks}
    with _publisher(bench) as publisher, _crowd() as crowd:
        # Only what waits would be lifted by the sweeper, and then run.
        execution = new_execution_id()
        _publish(publisher, [started_event(task, worker="bench", execution=execution, at=utc_now()) for task in tasks])
        time.sleep(_SETTLE_SECONDS)
        before = _usage(bench)
        lines = [_line(tasks[number % _TASKS], number, keys) for number in range(load.streams)]
        address = {"host": HOST, "port": bench.stack.settings.public_port}
        opened = _tell(crowd, {**address, "lines": lines, "seconds": load.steps + _PATIENCE_SECONDS})
        assert opened["open"] == {"200": load.streams}, opened
        time.sleep(_SETTLE_SECONDS)
        idle = _usage(bench)
        _tell_all(publisher, tasks, load, execution)
        loaded = _usage(bench)
        report = json.loads(_read(crowd))
    expected = [*["progress"] * load.steps, "succeeded"]
    whole = sum(kinds[1:] == expected for kinds in report["events"])
    assert whole == load.streams, f"{load.streams - whole} streams missed events"
    return Measured(report["lags"], opened["seconds"], (before, idle, loaded))


def _rows(load: Load, measured: Measured) -> list[Row]:
    before, idle, loaded = measured.usages
    lags = [lag * 1000 for lag in measured.lags]
    busy = (loaded.cpu_seconds - idle.cpu_seconds) / (load.steps * _STEP_SECONDS)
    memory = (idle.rss - before.rss) / load.streams / 1000
    return [
        _lag_row("streams.lag_p99", load, measured),
        plain("streams.lag_p50", percentile(lags, 0.5), "ms", "from the event's time to its arrival, through Nginx"),
        plain("streams.lag_max", max(lags), "ms", "as above"),
        plain("streams.memory", memory, "kB", "of the status APIs, for each stream"),
        plain("streams.cpu", busy, "cores", "of both status APIs together"),
        plain("streams.opening", measured.opening, "s", f"until all {load.streams} are open"),
    ]


def _lag_row(name: str, load: Load, measured: Measured) -> Row:
    detail = f"{load.streams} streams, {_TASKS} tasks, an event a second each: {len(measured.lags)} arrivals"
    if load.preview:
        detail += f", with previews of {load.preview} characters"
    return at_most(name, percentile(measured.lags, 0.99) * 1000, "ms", 1000, detail)


def _tell_all(publisher: ThreadedPublisher, tasks: Sequence[TaskMessage], load: Load, execution: str) -> None:
    """Each task makes a step a second; their steps are spread over the second."""
    began = time.monotonic()
    for step in range(1, load.steps + 2):
        for number, task in enumerate(tasks):
            due = began + (step + number / len(tasks)) * _STEP_SECONDS
            time.sleep(max(0.0, due - time.monotonic()))
            _publish(publisher, [_event(task, step, load, execution)])


def _event(task: TaskMessage, step: int, load: Load, execution: str) -> TaskEvent:
    now = utc_now()
    if step <= load.steps:
        preview = Preview(media_type="image/webp", data="A" * load.preview, width=64, height=64)
        progress = Progress(
            phase=Phase.DENOISING, step=step, steps=load.steps, preview=preview if load.preview else None
        )
        return progress_event(task, progress, sequence=step + 1, at=now)
    fields = {"task": task, "state": TaskState.SUCCEEDED, "attempt": 1, "execution": execution, "ended_at": now}
    return ended_event(Outcome.model_validate({**fields, "worker": "bench"}))


def _task(tenant: str) -> TaskMessage:
    now = utc_now()
    return TaskMessage(
        task_id=new_task_id(),
        tenant_id=tenant,
        lane=Lane.STANDARD,
        model="simulated",
        params=Params(prompt="a lake", prompt_format="text", width=64, height=64, steps=60, guidance=1.0, seed=1),
        submitted_at=now,
        start_deadline=now + timedelta(hours=1),
        finish_deadline=now + timedelta(hours=2),
        predicted=Predicted(gpu_seconds=60.0, vram_mb=64),
    )


def _line(task: TaskMessage, number: int, keys: dict[str, str]) -> tuple[str, str]:
    """Every other stream is of the task, the others of all the tenant's tasks, which is that one."""
    of_task = number // _TASKS % 2 == 0
    return f"/api/v1/tasks/{task.task_id}/events" if of_task else "/api/v1/events", keys[task.tenant_id]


def _usage(bench: Bench) -> Usage:
    rss, seconds = 0, 0.0
    for name in _APIS:
        (process,) = psutil.Process(bench.stack.pid(name)).children()  # gunicorn's worker
        rss += process.memory_info().rss
        times = process.cpu_times()
        seconds += times.user + times.system
    return Usage(rss, seconds)


def _publish(publisher: ThreadedPublisher, events: Sequence[TaskEvent]) -> None:
    for event in events:
        publisher.publish(messages.event(event), timeout=_PUBLISH_SECONDS)


@contextmanager
def _publisher(bench: Bench) -> Iterator[ThreadedPublisher]:
    settings = load_settings(BrokerSettings, bench.environment("worker-simulated"))
    publisher = ThreadedPublisher(settings.amqp_url.get_secret_value(), "bench-streams")
    publisher.start()
    try:
        yield publisher
    finally:
        publisher.stop()


@contextmanager
def _crowd() -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.crowd"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _tell(crowd: subprocess.Popen[str], orders: dict[str, Any]) -> dict[str, Any]:
    assert crowd.stdin is not None
    print(json.dumps(orders), file=crowd.stdin, flush=True)
    answer: dict[str, Any] = json.loads(_read(crowd))
    return answer


def _read(crowd: subprocess.Popen[str]) -> str:
    assert crowd.stdout is not None
    return crowd.stdout.readline()
