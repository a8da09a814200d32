"""How fast tasks are read when the status database holds a million of them."""

from __future__ import annotations

import http.client
import random
import threading
import time
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from bench.report import Row, at_most, percentile, plain
from bench.servers import gunicorn
from bench.status_databases import databases
from bench.status_stream import MODELS, life, make_task
from services.status.projection import apply
from services.status.store.database import open_database
from services.status.store.ports import TaskFilter
from shared.domain.task import TaskState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.servers import Bench
    from services.status.store.database import Database
    from services.status.view import TaskView

TASKS: Final = 1_000_000
TENANTS: Final = 50
PER_SECOND: Final = 200
CLIENTS: Final = 16
_FIRST_MS: Final = 1_760_000_000_000
# A row for each number; the id is a UUIDv7 of one task each 100 ms. Ids, tenants and states as `task_of` says.
_FILL: Final = {
    "sqlite": """
        WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < :last),
        h(i, ms, low) AS (SELECT i, printf('%012x', :first + i * 100), printf('%012x', i) FROM n),
        t(i, id) AS (SELECT i, substr(ms, 1, 8) || '-' || substr(ms, 9) || '-7000-8000-' || low FROM h)
        INSERT INTO tasks (task_id, tenant_id, model, state, updated_at, view)
        SELECT id, printf('tenant-%02d', i % 50),
               CASE i % 3 WHEN 0 THEN 'newbie' WHEN 1 THEN 'tiny-newbie' ELSE 'simulated' END,
               CASE WHEN i % 20 > 0 THEN 'succeeded' WHEN i % 60 = 0 THEN 'failed'
                    WHEN i % 60 = 20 THEN 'cancelled' ELSE 'expired' END,
               (:first + i * 100) * 1000,
               replace(replace(:view, :id, id), 'tenant-xx', printf('tenant-%02d', i % 50)) FROM t""",
    "postgres": """
        INSERT INTO tasks (task_id, tenant_id, model, state, updated_at, view)
        SELECT id, 'tenant-' || lpad((i %% 50)::text, 2, '0'),
               CASE i %% 3 WHEN 0 THEN 'newbie' WHEN 1 THEN 'tiny-newbie' ELSE 'simulated' END,
               CASE WHEN i %% 20 > 0 THEN 'succeeded' WHEN i %% 60 = 0 THEN 'failed'
                    WHEN i %% 60 = 20 THEN 'cancelled' ELSE 'expired' END,
               (%(first)s + i * 100) * 1000,
               replace(replace(%(view)s::text, %(id)s::text, id), 'tenant-xx',
                       'tenant-' || lpad((i %% 50)::text, 2, '0'))
        FROM (SELECT i, left(ms, 8) || '-' || right(ms, 4) || '-7000-8000-' || lpad(to_hex(i), 12, '0') AS id
              FROM (SELECT i, lpad(to_hex(%(first)s + i * 100), 12, '0') AS ms
                    FROM generate_series(0::bigint, %(last)s) AS i) AS h) AS t""",
}


def run(bench: Bench, *, quick: bool) -> list[Row]:
    """GET at 200 a second and lists, on both databases; no targets of their own."""
    count = TASKS // 20 if quick else TASKS
    rows: list[Row] = []
    key = bench.key_of("tenant-00", "standard")
    with databases(bench.folder) as kinds:
        for kind, new in kinds.items():
            url = new()
            database = open_database(url)
            print(f"bench: filling {kind} with {count} tasks", flush=True)
            fill(database, kind, count)
            rows += lists(database, kind, count)
            database.close()
            rows += reads(bench, key, (kind, url), count, 10 if quick else 30)
    return rows


def task_id_of(number: int) -> str:
    """The id of the row with this number."""
    text = f"{_FIRST_MS + number * 100:012x}"
    return f"{text[:8]}-{text[8:]}-7000-8000-{number:012x}"


def fill(database: Database, kind: str, count: int) -> None:
    """Make the rows inside the database, from one view as a template."""
    view = _template()
    values = {"view": view.model_dump_json(exclude_none=True), "id": view.task_id}
    values |= {"first": _FIRST_MS, "last": count - 1}  # type: ignore[dict-item] # numbers beside texts
    connection = database.engine.raw_connection()
    cursor = connection.cursor()
    if kind == "postgres":
        cursor.execute("SET LOCAL statement_timeout = 0")
    cursor.execute(_FILL[kind], values)
    connection.commit()
    cursor.execute("ANALYZE")
    connection.commit()
    connection.close()


def _template() -> TaskView:
    task = make_task(random.Random(1))  # noqa: S311 - not a secret
    view: TaskView | None = None
    for event in life(task):
        view = apply(view, event)
    assert view is not None
    return view.model_copy(update={"tenant_id": "tenant-xx"})


def lists(database: Database, kind: str, count: int) -> list[Row]:
    """What a page of twenty takes, by what is asked for, at places all over the table."""
    chance = random.Random(2)  # noqa: S311 - not a secret
    rare = frozenset({TaskState.EXPIRED})
    filters = {
        "all": TaskFilter(),
        "tenant": TaskFilter(tenant_id="tenant-07"),
        "tenant_state": TaskFilter(tenant_id="tenant-20", states=rare),
        "tenant_model": TaskFilter(tenant_id="tenant-07", model=MODELS[0]),
        "tenant_model_none": TaskFilter(tenant_id="tenant-07", model="no-such-model"),
        "state": TaskFilter(states=rare),
    }
    rows = []
    for name, wanted in filters.items():
        times = []
        for _ in range(200):
            before = task_id_of(chance.randrange(count))
            began = time.perf_counter()
            database.views.listed(wanted, before, 20)
            times.append((time.perf_counter() - began) * 1000)
        p50, p99 = percentile(times, 0.5), percentile(times, 0.99)
        rows.append(plain(f"status.list.{kind}.{name}", p50, "ms", f"p50 of 200 pages of 20, p99 {p99:.2f} ms"))
    return rows


def reads(bench: Bench, key: str, database: tuple[str, str], count: int, seconds: int) -> list[Row]:
    """Single tasks at a steady rate through gunicorn; latencies count from when a request was due."""
    kind, url = database
    environment = {**bench.environment("status-api-1"), "ATELIER_DATABASE_URL": url}
    chance = random.Random(3)  # noqa: S311 - not a secret
    ids = [task_id_of(chance.randrange(0, count, TENANTS)) for _ in range(PER_SECOND * seconds)]
    log = bench.folder / f"status-api-{kind}.log"
    with gunicorn("services.status.wsgi:build()", bench.free_port(), environment, log) as address:
        _read_all(address, key, ids[: PER_SECOND * 2])  # the process and the caches are warm
        times = _read_all(address, key, ids)
    detail = f"{len(times)} requests at {PER_SECOND}/s over {count} tasks, one gunicorn worker"
    return [
        plain(f"status.get_p50.{kind}", percentile(times, 0.5), "ms", detail),
        at_most(f"status.get_p99.{kind}", percentile(times, 0.99), "ms", 50, detail),
    ]


def _read_all(address: str, key: str, ids: Sequence[str]) -> list[float]:
    due = time.perf_counter() + 0.2
    times: list[float] = []
    failures: list[Any] = []

    def read(first: int) -> None:
        connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=30)
        for number in range(first, len(ids), CLIENTS):
            at = due + number / PER_SECOND
            time.sleep(max(0.0, at - time.perf_counter()))
            connection.request("GET", f"/api/v1/tasks/{ids[number]}", headers={"Authorization": f"Bearer {key}"})
            answer = connection.getresponse()
            body = answer.read()
            times.append((time.perf_counter() - at) * 1000)
            if answer.status != http.client.OK:
                failures.append((answer.status, body[:200]))
        connection.close()

    threads = [threading.Thread(target=read, args=(first,)) for first in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        message = f"{len(failures)} requests failed, the first with {failures[0]}"
        raise RuntimeError(message)
    return times
