from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.status.projection import apply, apply_to, concerned
from shared.contracts.event import Progress, TaskEvent, ended_event, progress_event, retrying_event, started_event
from shared.contracts.outcome import ErrorInfo
from shared.domain.task import FINAL_STATES, STATE_AFTER, EventType, Phase, TaskState
from tests.support.builders import NOW, TASK_ID, TENANT, make_artifact, make_event, make_outcome, make_task
from tests.support.views import replayed

if TYPE_CHECKING:
    from services.status.view import TaskView

ENDED = (EventType.SUCCEEDED, EventType.FAILED, EventType.CANCELLED, EventType.EXPIRED)
CARRIES_TASK = (EventType.QUEUED, EventType.STARTED, EventType.RETRYING, *ENDED)


def view_of(*events: TaskEvent) -> TaskView:
    return replayed(events)


def started(attempt: int = 1, *, seconds: float = 1, worker: str = "worker-1") -> TaskEvent:
    task = make_task(attempt=attempt)
    return started_event(task, worker=worker, execution="e", at=NOW + timedelta(seconds=seconds))


def progress(step: int, *, attempt: int = 1) -> TaskEvent:
    news = Progress(phase=Phase.DENOISING, step=step, steps=4)
    return progress_event(make_task(attempt=attempt), news, sequence=1 + step, at=NOW + timedelta(seconds=1 + step))


def retrying(attempt: int) -> TaskEvent:
    error = ErrorInfo(code="runner_crashed", message="the runner died")
    at = NOW + timedelta(seconds=10 * attempt)
    return retrying_event(make_task(attempt=attempt), error, delay_seconds=5, at=at)


@pytest.mark.parametrize("event_type", list(EventType))
def test_any_event_can_be_the_first_and_sets_the_state(event_type: EventType) -> None:
    event = make_event(event_type)
    view = view_of(event)
    assert view.state is STATE_AFTER[event_type]
    assert (view.attempt, view.sequence, view.updated_at) == (event.attempt, event.sequence, event.at)
    assert view.tenant_id == TENANT


@pytest.mark.parametrize("event_type", CARRIES_TASK)
def test_every_event_that_carries_the_task_tells_what_was_asked_for(event_type: EventType) -> None:
    task = make_task()
    view = view_of(make_event(event_type, task))
    assert view.submission is not None
    assert view.submission.params == task.params
    assert view.submission.submitted_at == task.submitted_at
    assert view.submission.traceparent == task.traceparent
    assert (view.max_attempts, view.priority) == (3, 5)


@pytest.mark.parametrize("end", ENDED)
@pytest.mark.parametrize("later", list(EventType))
def test_an_end_is_final_whatever_comes_after_it(end: EventType, later: EventType) -> None:
    ended = view_of(make_event(end))
    assert apply(ended, make_event(later, make_task(attempt=2))).state is ended.state


@pytest.mark.parametrize("end", ENDED)
def test_an_end_of_an_earlier_attempt_ends_a_task_whose_next_attempt_runs(end: EventType) -> None:
    assert view_of(started(2), make_event(end)).state is STATE_AFTER[end]


def test_an_end_carries_everything() -> None:
    outcome = make_outcome()
    view = view_of(ended_event(outcome))
    assert view.artifacts == (make_artifact(),)
    assert (view.ended_at, view.timings, view.receipt) == (outcome.ended_at, outcome.timings, outcome.receipt)
    assert view.start is not None
    assert (view.start.at, view.start.worker) == (outcome.started_at, outcome.worker)


@pytest.mark.parametrize("late", [EventType.QUEUED, EventType.STARTED])
def test_late_news_fills_in_what_progress_did_not_know(late: EventType) -> None:
    before = view_of(progress(2))
    assert before.submission is None
    after = apply(before, make_event(late))
    assert after.submission is not None
    assert (after.state, after.progress, after.sequence) == (before.state, before.progress, before.sequence)


def test_a_late_start_fills_in_when_an_outcome_does_not_know_it() -> None:
    ended = view_of(make_event(EventType.QUEUED), ended_event(make_outcome(state="failed", started_at=None)))
    assert ended.start is None
    late = apply(ended, started())
    assert late.start is not None
    assert late.start.at == NOW + timedelta(seconds=1)
    assert late.state is TaskState.FAILED


def test_the_start_shown_is_that_of_the_latest_attempt() -> None:
    view = view_of(started(2, seconds=60, worker="b"), started(1, seconds=1, worker="a"))
    assert view.start is not None
    assert (view.start.worker, view.attempt) == ("b", 2)


def test_progress_that_comes_late_does_not_go_back() -> None:
    view = view_of(started(), progress(3), progress(2))
    assert view.progress is not None
    assert view.progress.step == 3


def test_a_retry_clears_the_progress_and_tells_why() -> None:
    view = view_of(started(), progress(3), retrying(2), progress(4))
    assert view.state is TaskState.RETRYING
    assert view.progress is None
    assert view.error is not None
    assert view.error.code == "runner_crashed"
    assert view.attempt == 2


def test_the_next_start_forgets_why_the_last_attempt_failed() -> None:
    view = view_of(retrying(2), started(2))
    assert (view.state, view.error) == (TaskState.RUNNING, None)


def test_attempts_and_priority_keep_the_highest_that_any_event_named() -> None:
    raised = make_event(EventType.STARTED, make_task(max_attempts=4, priority=8))
    for events in ([raised, make_event()], [make_event(), raised]):
        view = view_of(*events)
        assert (view.max_attempts, view.priority) == (4, 8)


def test_a_repeated_event_changes_nothing_at_all() -> None:
    view = view_of(started())
    assert apply(view, started()) is view


@st.composite
def lives(draw: st.DrawFn) -> list[TaskEvent]:
    """Every event of one task, in the order in which it happened; some may never have been sent."""
    attempts = draw(st.integers(1, 3))
    events: list[TaskEvent] = []
    for attempt in range(1, attempts + 1):
        events.append(make_event() if attempt == 1 else retrying(attempt))
        if draw(st.booleans()):
            events.append(started(attempt, seconds=10 * attempt, worker=f"worker-{attempt}"))
            events += [progress(step, attempt=attempt) for step in range(1, draw(st.integers(1, 4)))]
    if draw(st.booleans()):
        state = draw(st.sampled_from(sorted(FINAL_STATES)))
        attempt = draw(st.integers(1, attempts))
        started_at = draw(st.sampled_from([None, NOW + timedelta(seconds=10 * attempt)]))
        task = make_task(attempt=attempt, max_attempts=draw(st.integers(3, 4)))
        events.append(ended_event(make_outcome(task=task, state=state, started_at=started_at)))
    kept = draw(st.lists(st.booleans(), min_size=len(events), max_size=len(events)))
    return [event for event, keep in zip(events, kept, strict=True) if keep] or events[-1:]


@given(st.data())
def test_any_permutation_with_repeats_gives_the_same_view(data: st.DataObject) -> None:
    life = data.draw(lives())
    repeats = data.draw(st.lists(st.sampled_from(life), max_size=5))
    arrived = data.draw(st.permutations(life + repeats))
    assert replayed(arrived) == replayed(life)


OLD = "019b8e1b-7800-7abc-8def-00000000000a"
TELLING = [event_type for event_type in EventType if event_type is not EventType.PROGRESS]


def views_of(*events: TaskEvent) -> dict[str, TaskView]:
    views: dict[str, TaskView] = {}
    for event in events:
        assert concerned(event) >= {event.task_id}
        apply_to(views, event)
    return views


def replay(event_type: EventType = EventType.QUEUED, **changes: object) -> TaskEvent:
    return make_event(event_type, make_task(retry_of=OLD, **changes))


def old(event_type: EventType = EventType.FAILED, **changes: object) -> TaskEvent:
    return make_event(event_type, make_task(task_id=OLD, **changes))


@pytest.mark.parametrize("event_type", TELLING)
def test_a_task_that_was_replayed_names_its_replay_and_is_otherwise_as_it_was(event_type: EventType) -> None:
    before = views_of(old())[OLD]
    views = views_of(old(), replay(event_type))
    assert concerned(replay(event_type)) == {OLD, TASK_ID}
    assert views[OLD] == before.model_copy(update={"retried_as": TASK_ID})
    submission = views[TASK_ID].submission
    assert submission is not None
    assert (submission.retry_of, views[TASK_ID].retried_as) == (OLD, None)


def test_a_replay_of_a_task_that_is_not_known_makes_no_row_of_it() -> None:
    assert set(views_of(replay())) == {TASK_ID}


def test_what_a_replay_told_too_early_its_next_news_tell_again() -> None:
    assert views_of(replay(), old(), replay(EventType.STARTED))[OLD].retried_as == TASK_ID


def test_a_replay_that_is_told_again_changes_nothing_at_all() -> None:
    views = views_of(old(), replay())
    before = dict(views)
    apply_to(views, replay())
    assert all(views[task_id] is before[task_id] for task_id in before)


def test_news_of_a_replay_leave_another_tenants_task_alone() -> None:
    assert views_of(old(tenant_id="zeus"), replay())[OLD].retried_as is None


def test_of_several_replays_the_latest_is_named_in_whatever_order_they_are_told() -> None:
    later = "019b8e1b-7801-7abc-8def-0123456789ab"
    for events in ([replay(), replay(task_id=later)], [replay(task_id=later), replay()]):
        assert views_of(old(), *events)[OLD].retried_as == later


@given(st.permutations([old(EventType.STARTED), old(), replay(), replay(EventType.STARTED), replay(EventType.FAILED)]))
def test_once_the_old_task_is_known_any_order_names_its_replay(events: list[TaskEvent]) -> None:
    views = views_of(old(EventType.QUEUED), *events)
    assert views == views_of(
        old(EventType.QUEUED), old(), replay(), replay(EventType.STARTED), replay(EventType.FAILED)
    )
