"""How fast events reach the status database, beside a bare ``executemany`` of the rows that they become."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from bench.report import Row, at_least, plain, spread
from bench.status_databases import databases
from bench.status_stream import stream
from services.status.applying import Kept, apply_all
from services.status.consumer.events import BATCH_EVENTS
from services.status.store.database import open_database
from services.status.store.news_sql import news_row
from services.status.store.rows import attempt_row, view_row, work_row
from shared.contracts.base import decode, encode
from shared.contracts.event import TaskEvent
from shared.lifecycle import settle_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.servers import Bench
    from bench.status_databases import NewDatabase
    from services.status.store.database import Database

    Rows = dict[str, list[dict[str, Any]]]

ROUNDS: Final = 5
LEAST_RATIO: Final = 0.4
LEAST_PER_SECOND: Final = 2000
# Tables and what makes a row of them the same row.
KEYS: Final = {"tasks": ("task_id",), "work": ("task_id",), "attempts": ("task_id", "attempt"), "events": ()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """The same events in every form in which they are measured, in batches."""

    count: int
    batches: list[list[TaskEvent]]
    bodies: list[list[bytes]]
    rows: list[Rows]
    last_rows: list[Rows]


def run(bench: Bench, *, quick: bool) -> list[Row]:
    """Targets: at least 0.4 of the bare rows that the events become, one after the other, and 2,000 events a second."""
    events = stream(5_000 if quick else 20_000)
    batches = [events[begin : begin + BATCH_EVENTS] for begin in range(0, len(events), BATCH_EVENTS)]
    work = Work(
        count=len(events),
        batches=batches,
        bodies=[[encode(event) for event in batch] for batch in batches],
        rows=_rows_of(batches, each=True),
        last_rows=_rows_of(batches, each=False),
    )
    settle_memory()  # as the consumer does: what is measured with is not to be walked through
    with databases(bench.folder) as kinds:
        return [row for kind, new in kinds.items() for row in _measure(kind, new, work)]


def _measure(kind: str, new: NewDatabase, work: Work) -> list[Row]:
    runs: dict[str, Callable[[], float]] = {
        "applied": lambda: _seconds_of_events(new(), work.batches),
        "bare": lambda: _seconds_of_rows(new(), work.rows),
        "decoded": lambda: _seconds_of_bodies(new(), work.bodies),
        "bare last": lambda: _seconds_of_rows(new(), work.last_rows),
    }
    speeds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, seconds in runs.items():
            speeds[name].append(work.count / seconds())
    applied, bare, decoded, last = (statistics.median(speeds[name]) for name in runs)
    detail = f"{work.count} events in batches of {BATCH_EVENTS}; {spread(speeds['applied'])}"
    name = f"status.events_per_second.{kind}"
    collapsed = f"beside bare rows of which each batch writes only the last of a key: ratio {applied / last:.3f}"
    return [
        at_least(name, applied, float(LEAST_PER_SECOND), "ev/s", 1.0, f"the baseline is the target; {detail}"),
        at_least(f"{name}.to_bare", applied, bare, "ev/s", LEAST_RATIO, f"each event's rows; {spread(speeds['bare'])}"),
        plain(f"{name}.to_bare_last", last, "ev/s", collapsed),
        plain(f"{name}.decoded", decoded, "ev/s", "decoded from JSON first, as the consumer does"),
    ]


def _rows_of(batches: Sequence[list[TaskEvent]], *, each: bool) -> list[Rows]:
    """The rows that each batch becomes; with ``each`` those of every event, without only the last of each key."""
    kept = Kept()
    places = iter(range(1, 1_000_000_000))
    written: list[Rows] = []
    for batch in batches:
        rows: Rows = {table: [] for table in KEYS}
        for part in [[event] for event in batch] if each else [batch]:
            changes = apply_all(part, kept)
            kept.views.update(changes.kept.views)
            kept.work.update(changes.kept.work)
            kept.attempts.update(changes.kept.attempts)
            rows["tasks"] += [view_row(view) for view in changes.kept.views.values()]
            rows["work"] += [{**work_row(work), "changed": next(places)} for work in changes.kept.work.values()]
            rows["attempts"] += [attempt_row(attempt) for attempt in changes.kept.attempts.values()]
            rows["events"] += [news_row(next(places), news) for news in changes.news]
        written.append(rows)
    return written


def _seconds_of_events(url: str, batches: Sequence[list[TaskEvent]]) -> float:
    database = open_database(url)
    began = time.perf_counter()
    for batch in batches:
        database.views.apply_events(batch, seen_until=batch[-1].at)
    return _closed(database, began)


def _seconds_of_bodies(url: str, bodies: Sequence[list[bytes]]) -> float:
    database = open_database(url)
    began = time.perf_counter()
    for batch in bodies:
        events = [decode(TaskEvent, body) for body in batch]
        database.views.apply_events(events, seen_until=events[-1].at)
    return _closed(database, began)


def _seconds_of_rows(url: str, rows: Sequence[Rows]) -> float:
    """By the driver alone, in transactions of the same size, into the same tables."""
    database = open_database(url)
    mark = ":{}" if url.startswith("sqlite") else "%({})s"
    connection = database.engine.raw_connection()
    cursor = connection.cursor()
    began = time.perf_counter()
    for batch in rows:
        if url.startswith("sqlite"):
            cursor.execute("BEGIN IMMEDIATE")
        for table, found in batch.items():
            if found:
                cursor.executemany(_upsert(table, list(found[0]), mark), found)
        connection.commit()
    seconds = time.perf_counter() - began
    connection.close()
    database.close()
    return seconds


def _upsert(table: str, columns: Sequence[str], mark: str) -> str:
    values = ", ".join(mark.format(column) for column in columns)
    text = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({values})"  # noqa: S608 - our own names
    keys = KEYS[table]
    if not keys:
        return text
    changes = ", ".join(f"{column} = excluded.{column}" for column in columns if column not in keys)
    return f"{text} ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {changes}"


def _closed(database: Database, began: float) -> float:
    seconds = time.perf_counter() - began
    database.close()
    return seconds
