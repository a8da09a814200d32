"""Ended tasks as files in the bucket: JSON lines, compressed, under the day on which the tasks were submitted."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

import orjson

from shared.ids import task_id_seconds

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from services.status.attempts import Attempt
    from services.status.store.ports import EndedTask

MEDIA_TYPE: Final = "application/gzip"


def by_day(tasks: Sequence[EndedTask]) -> Iterator[list[EndedTask]]:
    """Tasks in the order of their ids, apart by the day (UTC) of their submit."""
    for _, found in groupby(tasks, key=lambda task: _day(task.task_id)):
        yield list(found)


def archive_key(tasks: Sequence[EndedTask]) -> str:
    """Where these tasks of one day are kept."""
    first, last = tasks[0].task_id, tasks[-1].task_id
    return f"archive/tasks/{_day(first)}/{first}-{last}.jsonl.gz"


def archive_body(tasks: Sequence[EndedTask]) -> bytes:
    """One line for each; the same tasks give the same bytes."""
    lines = b"".join(orjson.dumps(_document(task), option=orjson.OPT_APPEND_NEWLINE) for task in tasks)
    return gzip.compress(lines, mtime=0)


def _day(task_id: str) -> str:
    return datetime.fromtimestamp(task_id_seconds(task_id), UTC).strftime("%Y/%m/%d")


def _document(task: EndedTask) -> dict[str, Any]:
    return {
        "task_id": task.task_id,
        "tenant_id": task.tenant_id,
        "view": _view(task.view),
        "attempts": [_attempt(attempt) for attempt in task.attempts],
    }


def _view(document: str) -> Any:  # noqa: ANN401 - JSON, or what stood in its place
    try:
        return orjson.loads(document)
    except orjson.JSONDecodeError:
        return document


def _attempt(attempt: Attempt) -> dict[str, Any]:
    return {
        "attempt": attempt.attempt,
        "state": attempt.state,
        "worker": attempt.worker,
        "execution": attempt.execution,
        "started_at": attempt.started_at,
        "ended_at": attempt.ended_at,
        "error_code": attempt.error_code,
    }
