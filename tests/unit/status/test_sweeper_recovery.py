"""What was lost is made up for: news, workers, messages. All in memory, and a clock that is set by hand."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

import pytest

from shared.contracts.base import decode
from shared.contracts.event import started_event
from shared.contracts.outcome import Lease
from shared.contracts.task import TaskMessage
from shared.domain.settle import ClaimMark
from shared.domain.task import EventType, TaskState
from shared.messaging import messages
from shared.messaging.topology import TASKS_DEAD
from shared.storage.records import JSON, claim_key
from tests.support.builders import EXECUTION, FINISH_WITHIN, WORKER, make_claim, make_event, make_outcome
from tests.unit.status.sweeper_world import SILENT, WORK, World

if TYPE_CHECKING:
    from shared.contracts.outcome import Claim

SILENCE: Final = SILENT.total_seconds()
CERTAIN: Final = 1.5 * SILENCE
AGAIN: Final = 10 * SILENCE


@pytest.fixture
def world() -> World:
    return World()


def lose_messages(world: World) -> None:
    while world.broker.pop(WORK, 0) is not None:
        pass


def start(world: World, task: TaskMessage, *, told: bool = True) -> Claim:
    """A worker claims a task and begins."""
    claim = world.records.claim(make_claim(task_id=task.task_id, attempt=task.attempt, at=world.now))
    live(world)
    if told:
        world.tell(started_event(task, worker=claim.worker, execution=claim.execution, at=claim.at))
    return claim


def live(world: World, *executions: str) -> None:
    """The worker renews its lease, on which its executions are."""
    world.records.renew(Lease(worker=WORKER, at=world.now, executions=executions or (EXECUTION,)))


def pass_time(world: World, seconds: float, *, alive: bool = False) -> None:
    """Passes every 5 s."""
    for _ in range(int(seconds // 5)):
        if alive:
            live(world)
        world.sweep()


def queued(world: World) -> list[tuple[str, int]]:
    copies = [decode(TaskMessage, message.body) for message in world.broker.messages(WORK)]
    return [(task.task_id, task.attempt) for task in copies]


def test_a_task_that_the_empty_queue_must_have_held_is_published_again_once(world: World) -> None:
    task = world.submit()
    lose_messages(world)
    pass_time(world, SILENCE)
    assert queued(world) == []
    pass_time(world, CERTAIN + 15)
    assert queued(world) == [(task.task_id, 1)]
    lose_messages(world)
    pass_time(world, CERTAIN + 15)
    assert queued(world) == []
    assert world.count("atelier_sweeper_compared_total", fate="republished") == 1


def test_a_copy_that_is_lost_as_well_is_followed_by_another(world: World) -> None:
    task = world.submit(start_deadline=world.now + timedelta(hours=1), finish_deadline=world.now + timedelta(hours=2))
    lose_messages(world)
    pass_time(world, SILENCE + CERTAIN + 15)
    lose_messages(world)
    pass_time(world, AGAIN + 15)
    assert queued(world) == [(task.task_id, 1)]


def test_what_lies_in_the_queue_is_left_there(world: World) -> None:
    tasks = [world.submit() for _ in range(3)]
    pass_time(world, SILENCE + CERTAIN + 30)
    assert sorted(queued(world)) == sorted((task.task_id, 1) for task in tasks)
    assert world.count("atelier_sweeper_compared_total", fate="republished") == 0


def test_looks_at_an_empty_queue_count_when_the_view_has_caught_up(world: World) -> None:
    """The consumer is away: what waits by the view may long have been started."""
    world.submit()
    lose_messages(world)
    for _ in range(60):
        world.now += timedelta(seconds=5)
        world.sweeper.sweep(world.stop)  # and nobody applies anything
    assert queued(world) == []


def test_a_single_empty_look_is_no_proof_but_two_are_whatever_lay_between(world: World) -> None:
    task = world.submit()
    lose_messages(world)
    pass_time(world, SILENCE + 15)
    world.broker.publish(messages.next_attempt(task.model_copy(update={"attempt": 9}), world.now), timeout=1)
    pass_time(world, CERTAIN + 15)
    assert queued(world) == [(task.task_id, 9)], "the queue is not empty"
    lose_messages(world)
    pass_time(world, 15)
    assert queued(world) == [(task.task_id, 1)]


def test_one_that_was_passed_over_is_published_again_at_its_level_though_the_queue_is_never_empty(world: World) -> None:
    lost = world.submit(priority=5)
    lose_messages(world)
    world.now += SILENT
    later = world.submit(priority=5, submitted_at=world.now)
    world.submit(priority=1, submitted_at=world.now)
    start(world, later)
    pass_time(world, CERTAIN + 15, alive=True)
    copies = [message for message in world.broker.messages(WORK) if message.message_id == lost.task_id]
    assert [copy.priority for copy in copies] == [5]


@pytest.mark.parametrize(("level", "seconds"), [(6, 60), (5, 0)])
def test_one_that_was_started_from_above_or_earlier_has_passed_nobody(world: World, level: int, seconds: int) -> None:
    waiting = world.submit(priority=5, submitted_at=world.now)
    world.now += timedelta(seconds=seconds)
    other = world.submit(priority=level, submitted_at=world.now)
    start(world, other)
    pass_time(world, SILENCE + CERTAIN + 30, alive=True)
    copies = [task_id for task_id, _ in queued(world) if task_id == waiting.task_id]
    assert len(copies) == 1


def test_a_retry_that_never_came_back_is_published_again_with_its_attempt(world: World) -> None:
    task = world.submit()
    lose_messages(world)
    start(world, task)
    world.tell(make_event(EventType.RETRYING, task))
    pass_time(world, SILENCE + CERTAIN + 20)
    assert queued(world) == [(task.task_id, 2)]


def test_an_end_that_was_not_heard_of_is_told_again(world: World) -> None:
    task = world.submit()
    lose_messages(world)
    start(world, task)
    world.records.commit(make_outcome(task=task))
    pass_time(world, SILENCE)
    assert world.state(task) is TaskState.SUCCEEDED
    assert world.count("atelier_sweeper_compared_total", fate="repeated") == 1


def test_an_end_of_a_task_that_seems_to_wait_is_told_without_a_copy(world: World) -> None:
    task = world.submit()
    lose_messages(world)
    world.records.commit(make_outcome(task=task))
    pass_time(world, SILENCE + 15)
    assert world.state(task) is TaskState.SUCCEEDED
    assert queued(world) == []


def test_a_start_that_was_not_heard_of_is_told_again(world: World) -> None:
    task = world.submit()
    lose_messages(world)
    start(world, task, told=False)
    pass_time(world, SILENCE + CERTAIN + 15, alive=True)
    assert world.state(task) is TaskState.RUNNING
    assert queued(world) == []


def test_a_later_attempt_that_was_not_heard_of_is_told(world: World) -> None:
    task = world.submit()
    lose_messages(world)
    start(world, task)
    start(world, task.model_copy(update={"attempt": 2}), told=False)
    pass_time(world, SILENCE + 10, alive=True)
    view = world.store.get(task.task_id)
    assert view is not None
    assert (view.state, view.attempt) == (TaskState.RUNNING, 2)


def test_a_worker_that_computes_in_silence_is_left_alone(world: World) -> None:
    task = world.submit()
    lose_messages(world)
    start(world, task)
    pass_time(world, 2 * (SILENCE + CERTAIN), alive=True)
    assert (queued(world), world.state(task)) == ([], TaskState.RUNNING)
    assert world.count("atelier_sweeper_compared_total", fate="running") == 5


def test_of_a_dead_worker_the_broker_has_the_message_until_it_is_seen_to_have_not(world: World) -> None:
    task = world.submit()
    start(world, task)  # its message is delivered again and lies in the queue
    pass_time(world, SILENCE + CERTAIN + 30)
    assert queued(world) == [(task.task_id, 1)]
    lose_messages(world)
    pass_time(world, CERTAIN + 15)
    assert queued(world) == [(task.task_id, 2)]
    assert world.state(task) is TaskState.RETRYING


def test_of_the_last_attempt_of_a_dead_worker_the_task_is_given_up(world: World) -> None:
    task = world.submit(attempt=3)
    lose_messages(world)
    start(world, task)
    pass_time(world, SILENCE + CERTAIN + 30)
    outcome = world.outcome(task)
    assert outcome.error is not None
    assert (outcome.state, outcome.error.code) == (TaskState.FAILED, "attempts_exhausted")
    assert world.broker.depth(TASKS_DEAD) == 1


def test_a_running_task_past_its_finish_deadline_ends_when_nobody_works_on_it(world: World) -> None:
    task = world.submit()
    start(world, task)
    world.sweep(FINISH_WITHIN.total_seconds())
    outcome = world.outcome(task)
    assert outcome.error is not None
    assert (outcome.state, outcome.error.code) == (TaskState.FAILED, "deadline_exceeded")
    assert world.state(task) is TaskState.FAILED


def test_a_worker_that_is_at_it_ends_the_task_itself(world: World) -> None:
    task = world.submit()
    start(world, task)
    world.now += FINISH_WITHIN
    live(world)
    world.sweep(0)
    assert world.records.outcome(task.task_id) is None
    assert world.state(task) is TaskState.RUNNING


def test_an_end_between_our_look_and_ours_stands(world: World) -> None:
    task = world.submit()
    start(world, task)
    made = make_outcome(task=task)
    look = world.records.claimant

    def look_and_be_late(*arguments: object) -> object:
        found = look(*arguments)  # type: ignore[arg-type] # passed on as they come
        world.records.commit(made)
        return found

    world.records.claimant = look_and_be_late  # type: ignore[assignment,method-assign] # the race, made certain
    world.sweep(FINISH_WITHIN.total_seconds())
    assert world.outcome(task) == made
    assert world.state(task) is TaskState.SUCCEEDED


def test_a_worker_that_starts_while_a_copy_is_made_meets_no_second_start(world: World) -> None:
    task = world.submit()
    lose_messages(world)
    pass_time(world, SILENCE + CERTAIN)
    look = world.records.find_claim

    def look_and_be_late(task_id: str, attempt: int) -> Claim | None:
        found = look(task_id, attempt)
        world.records.claim(make_claim(task_id=task_id, attempt=attempt, at=world.now))
        return found

    world.records.find_claim = look_and_be_late  # type: ignore[method-assign] # the race, made certain
    pass_time(world, 15)
    assert queued(world) == [(task.task_id, 1)]
    assert world.records.claim(make_claim(task_id=task.task_id, execution="another")).execution == EXECUTION


def test_a_mark_of_expiry_is_completed(world: World) -> None:
    task = world.submit()
    start(world, task)
    world.records.claim(make_claim(task_id=task.task_id, attempt=2, mark=ClaimMark.EXPIRED))
    pass_time(world, SILENCE + 5)
    assert world.outcome(task).state is TaskState.FAILED


def test_what_cannot_be_read_holds_up_no_other(world: World) -> None:
    tasks = [world.submit() for _ in range(3)]
    for task in tasks:
        start(world, task)
        world.records.commit(make_outcome(task=task))
    world.objects.put(claim_key(tasks[0].task_id, 1), b"no claim", media_type=JSON)
    world.objects.delete(f"tasks/{tasks[0].task_id}/outcome.json")
    world.sweeper = world.another(tasks=1)
    pass_time(world, SILENCE + 30)
    assert [world.state(task) for task in tasks[1:]] == [TaskState.SUCCEEDED] * 2
    assert world.count("atelier_sweeper_failed_total", duty="recovery") >= 1


def test_a_broker_that_cannot_be_asked_proves_nothing(world: World) -> None:
    world.submit()
    lose_messages(world)
    world.broker.available = False
    pass_time(world, SILENCE + CERTAIN + 30)
    world.broker.available = True
    assert world.count("atelier_sweeper_failed_total", duty="recovery") > 0
    world.sweep()
    assert queued(world) == []


def test_a_pass_looks_at_no_more_than_it_may_and_ends_with_the_order_to_stop(world: World) -> None:
    tasks = [world.submit() for _ in range(5)]
    for task in tasks:
        start(world, task)
        world.records.commit(make_outcome(task=task))
    world.sweeper = world.another(tasks=2)
    world.sweep(SILENCE)
    assert [world.state(task).is_final for task in tasks] == [True, True, False, False, False]
    world.stop.request()
    world.sweep()
    assert [world.state(task).is_final for task in tasks] == [True, True, False, False, False]


@pytest.mark.parametrize(("tasks", "limit"), [(1, 1), (2, 2), (3, 2), (4, 2), (4, 3)])
def test_a_lost_backlog_comes_back_whole_however_it_falls_into_passes(world: World, tasks: int, limit: int) -> None:
    start, finish = world.now + timedelta(hours=3), world.now + timedelta(hours=4)
    lost = [world.submit(start_deadline=start, finish_deadline=finish) for _ in range(tasks)]
    lose_messages(world)
    world.sweeper = world.another(tasks=limit)
    found: set[str] = set()
    for _ in range(400):
        world.sweep()
        found |= {task_id for task_id, _ in queued(world)}
        lose_messages(world)  # a worker that is quick, and whose news does not come
    assert found == {task.task_id for task in lost}


def test_one_that_was_lifted_past_others_is_not_taken_for_lost(world: World) -> None:
    task = world.submit(priority=2)
    world.now += timedelta(seconds=120)
    start(world, world.submit(priority=4))
    world.store.raise_level(task.task_id, 1, 5, world.now)
    world.sweep(SILENCE)
    pass_time(world, 2 * CERTAIN, alive=True)
    assert world.count("atelier_sweeper_compared_total", fate="republished") == 0
