from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.status.applying import Kept, apply_all
from services.status.attempts import Attempt, merged, told_attempt
from shared.contracts.event import Progress, TaskEvent, ended_event, progress_event, retrying_event, started_event
from shared.contracts.outcome import ErrorInfo
from shared.domain.task import FINAL_STATES, EventType, Phase, TaskState
from tests.support.builders import NOW, TASK_ID, make_event, make_outcome, make_task

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from services.status.webhooks.notices import Notice
    from shared.contracts.task import TaskMessage

CALLBACK = "https://client.example/hook"


@dataclass
class Row:
    """What a database would hold of the tasks."""

    kept: Kept = field(default_factory=Kept)
    owed: dict[str, Notice] = field(default_factory=dict)

    def apply(self, events: Sequence[TaskEvent]) -> None:
        changes = apply_all(events, self.kept)
        self.kept.views.update(changes.kept.views)
        self.kept.work.update(changes.kept.work)
        self.kept.attempts.update(changes.kept.attempts)
        for notice in changes.notices:
            self.owed.setdefault(notice.webhook_id, notice)

    @property
    def owed_ends(self) -> dict[str, Notice]:
        ends = {f"task.{state}" for state in FINAL_STATES}
        return {webhook_id: notice for webhook_id, notice in self.owed.items() if notice.type in ends}

    @property
    def attempts(self) -> list[Attempt]:
        return [attempt for _, attempt in sorted(self.kept.attempts.items())]


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def task_of(attempt: int = 1) -> TaskMessage:
    return make_task(attempt=attempt, callback=CALLBACK)


def started(attempt: int = 1, worker: str = "w") -> TaskEvent:
    return started_event(task_of(attempt), worker=worker, execution=f"e{attempt}", at=after(10 * attempt))


def retrying(attempt: int, code: str = "runner_crashed", seconds: float = 0) -> TaskEvent:
    error = ErrorInfo(code=code, message="the runner died")
    return retrying_event(task_of(attempt), error, delay_seconds=5, at=after(10 * attempt - 5 + seconds))


def ended(attempt: int = 1, state: TaskState = TaskState.SUCCEEDED, **changes: object) -> TaskEvent:
    return ended_event(make_outcome(task=task_of(attempt), state=state, **changes))


@st.composite
def lives(draw: st.DrawFn) -> list[TaskEvent]:
    """Every event of one task, in the order in which it happened; some retries are told by two."""
    attempts = draw(st.integers(1, 3))
    events: list[TaskEvent] = [make_event(EventType.QUEUED, task_of())]
    for attempt in range(1, attempts + 1):
        if attempt > 1:
            events.append(retrying(attempt))
            events += [retrying(attempt, "worker_lost", 1)] if draw(st.booleans()) else []
        events += [started(attempt)] if draw(st.booleans()) else []
        for step in range(1, draw(st.integers(1, 3))):
            news = Progress(phase=Phase.DENOISING, step=step, steps=4)
            events.append(progress_event(task_of(attempt), news, sequence=1 + step, at=after(10 * attempt + step)))
    if draw(st.booleans()):
        started_at = draw(st.sampled_from([None, after(10 * attempts)]))
        events.append(ended(attempts, draw(st.sampled_from(sorted(FINAL_STATES))), started_at=started_at))
    return events


@given(st.data())
def test_any_permutation_with_repeats_in_any_batches_keeps_the_same(data: st.DataObject) -> None:
    life = data.draw(lives())
    repeats = data.draw(st.lists(st.sampled_from(life), max_size=5))
    arrived = data.draw(st.permutations(life + repeats))
    once, row = Row(), Row()
    once.apply(life)
    while arrived:
        size = data.draw(st.integers(1, len(arrived)))
        row.apply(arrived[:size])
        arrived = arrived[size:]
    assert row.kept.views == once.kept.views
    assert row.attempts == once.attempts
    assert row.owed_ends == once.owed_ends


def test_what_changes_nothing_is_not_written_again() -> None:
    row = Row()
    life = [make_event(EventType.QUEUED, task_of()), started(), retrying(2), started(2), ended(2)]
    row.apply(life)
    again = apply_all(life, row.kept)
    assert (again.kept, again.news, again.notices) == (Kept(), [], [])


def test_each_attempt_tells_who_ran_it_and_how_it_ended() -> None:
    row = Row()
    row.apply([started(1, "a"), retrying(2, "out_of_memory"), started(2, "b"), ended(2, started_at=None)])
    first, second = row.attempts
    assert first == Attempt(
        task_id=TASK_ID,
        attempt=1,
        state=TaskState.RETRYING,
        worker="a",
        execution="e1",
        started_at=after(10),
        ended_at=after(15),
        error_code="out_of_memory",
    )
    assert (second.worker, second.state, second.error_code) == ("b", TaskState.SUCCEEDED, None)


def test_an_outcome_tells_a_start_that_no_event_told() -> None:
    row = Row()
    row.apply([ended()])
    [attempt] = row.attempts
    assert (attempt.worker, attempt.started_at) == ("worker-1", after(1))
    assert attempt.was_made


def test_an_end_without_a_start_was_no_attempt() -> None:
    told = told_attempt(ended(state=TaskState.EXPIRED, started_at=None))
    assert told is not None
    assert not told.was_made
    assert merged(told, _told(started())).was_made


@pytest.mark.parametrize("reverse", [False, True])
def test_the_tasks_end_stands_above_a_retry_of_the_same_attempt(reverse: bool) -> None:
    row = Row()
    events = [started(), retrying(2), ended(1, TaskState.CANCELLED, started_at=None)]
    row.apply(list(reversed(events)) if reverse else events)
    [attempt] = row.attempts
    assert (attempt.state, attempt.worker, attempt.ended_at) == (TaskState.CANCELLED, "w", after(3))


def test_progress_and_a_queued_task_tell_of_no_attempt() -> None:
    row = Row()
    row.apply([make_event(EventType.QUEUED, task_of()), make_event(EventType.PROGRESS, task_of())])
    assert row.attempts == []


def _told(event: TaskEvent) -> Attempt:
    told = told_attempt(event)
    assert told is not None
    return told
