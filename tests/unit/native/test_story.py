"""A task's story from the logs of many programs."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING

from infra.native.logs import story

if TYPE_CHECKING:
    from pathlib import Path

TASK = "01890a5d-ac96-774b-bcce-b302099a8057"
OTHER = "01890a5d-ac96-774b-bcce-b302099a8058"


def write(folder: Path, name: str, *records: dict[str, object] | str) -> None:
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    with (folder / name).open("a") as file:
        file.write("".join(f"{line}\n" for line in lines))


def event(at: str, message: str, **fields: object) -> dict[str, object]:
    return {"@timestamp": at, "message": message, "log.level": "info", "task_id": TASK, **fields}


def test_events_of_all_programs_come_in_the_order_of_time(tmp_path: Path) -> None:
    write(tmp_path, "worker-simulated.log.1", event("2026-01-01T00:00:00.500000Z", "task_started"))
    write(tmp_path, "worker-simulated.log", event("2026-01-01T00:00:02Z", "task_settled"))
    # nginx writes the machine's zone and milliseconds.
    write(tmp_path, "nginx.log", event("2026-01-01T02:00:00.100+02:00", "http_request"))
    events = [line.split()[1:4] for line in story(tmp_path, TASK)]
    assert events == [
        ["nginx", "info", "http_request"],
        ["worker-simulated", "info", "task_started"],
        ["worker-simulated", "info", "task_settled"],
    ]


def test_lines_of_other_tasks_and_lines_that_are_not_events_are_left_out(tmp_path: Path) -> None:
    write(
        tmp_path,
        "gateway-1.log",
        event("2026-01-01T00:00:00Z", "task_submitted"),
        {**event("2026-01-01T00:00:00Z", "task_submitted"), "task_id": OTHER, "retry_of": TASK},
        f"Traceback: {TASK}",
        f'{{"task_id": "{TASK}", broken',
        f'{{"task_id": "{TASK}"}}',
    )
    assert len(story(tmp_path, TASK)) == 1


def test_what_matters_comes_first_and_ids_come_last(tmp_path: Path) -> None:
    fields: dict[str, object] = {"request_id": "r-1", "tenant_id": "t-1", "attempt": 2, "reason": "out of memory"}
    write(tmp_path, "worker.log", event("2026-01-01T00:00:00Z", "task_retried", **fields, **{"log.logger": "x"}))
    (line,) = story(tmp_path, TASK)
    assert line.endswith('attempt=2 reason="out of memory" tenant_id=t-1 request_id=r-1')
    moment = datetime.fromisoformat("2026-01-01T00:00:00Z").astimezone()
    assert line.startswith(f"{moment:%H:%M:%S}.000000  worker")


def test_a_row_of_polls_is_one_line(tmp_path: Path) -> None:
    poll = {"http.request.method": "GET", "url.path": f"/status/{TASK}"}
    polls = [event(f"2026-01-01T00:00:0{second}Z", "request_handled", **poll) for second in (1, 2, 3, 5)]
    write(tmp_path, "status-api-1.log", *polls)
    write(tmp_path, "worker.log", event("2026-01-01T00:00:04Z", "task_settled"))
    lines = story(tmp_path, TASK)
    assert [line.split()[3] for line in lines] == ["request_handled", "task_settled", "request_handled"]
    assert "(and 2 more)" in lines[0]
    assert "more)" not in lines[2]


def test_each_program_that_saw_a_row_of_polls_tells_it_once(tmp_path: Path) -> None:
    poll = {"http.request.method": "GET", "url.path": f"/status/{TASK}"}
    for program, part in (("nginx", "0"), ("status-api-1", "5")):
        polls = [event(f"2026-01-01T00:00:0{second}.{part}Z", "request", **poll) for second in (1, 2, 3)]
        write(tmp_path, f"{program}.log", *polls)
    first, second = story(tmp_path, TASK)
    assert (first.split()[1], second.split()[1]) == ("nginx", "status-api-1")
    assert "(and 2 more)" in first
    assert "(and 2 more)" in second
