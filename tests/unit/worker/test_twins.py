"""The same work is done once, whoever asks for it and however often."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from services.worker.errors import ReportedError
from services.worker.fakes import Part
from shared.contracts.base import encode
from shared.contracts.cache import Lead, Sameness, cache_key
from shared.domain.task import TaskState
from shared.ids import new_task_id
from shared.storage.work_index import WorkIndex
from tests.support.builders import MODEL, NOW, REVISION, make_outcome, make_params, make_task

if TYPE_CHECKING:
    from shared.contracts.task import TaskMessage
    from tests.support.worker import WorkerWorld

SCOPE = "tenant/acme"


def key(sameness: Sameness = Sameness.SEED, **changes: object) -> str:
    return cache_key(SCOPE, MODEL, REVISION, make_params(**changes), sameness)


def twin(sameness: Sameness = Sameness.SEED, seed: int = 7, **changes: object) -> TaskMessage:
    fields = {"task_id": new_task_id(), "params": make_params(seed=seed), "cache_key": key(sameness, seed=seed)}
    return make_task(**fields | changes)


def test_the_second_gets_what_the_first_made(world: WorkerWorld) -> None:
    first, second = world.submit(twin()), world.submit(twin())
    world.settle()
    made, outcome = world.outcome(first.task_id), world.outcome(second.task_id)
    assert len(world.runner.requests) == 1
    assert outcome.state is TaskState.SUCCEEDED
    assert outcome.artifacts == made.artifacts
    assert outcome.receipt["made_by"] == first.task_id
    assert [event.task_id for event in world.ended_events()] == [first.task_id, second.task_id]
    assert world.consumer.unsettled == 0


def test_one_whose_twin_is_at_it_waits_without_burning_an_attempt(world: WorkerWorld) -> None:
    first, second = world.submit(twin()), world.submit(twin())
    world.runner.ensure_ready()
    running = world.worker.handler.handle(world.take())
    assert running is not None
    assert world.worker.handler.handle(world.take()) is None
    (waiting,) = world.waiting(5)
    assert waiting.message_id == second.task_id
    world.worker.finisher.submit(running)
    world.worker.finisher.wait()
    world.worker = world.new_worker()
    world.settle()
    assert len(world.runner.requests) == 1
    assert world.outcome(second.task_id).artifacts == world.outcome(first.task_id).artifacts
    assert world.outcome(second.task_id).attempt == 1


def test_if_the_first_fails_the_next_one_runs(world: WorkerWorld) -> None:
    first, second, third = (world.submit(twin()) for _ in range(3))
    world.runner.parts = [Part(computing=ReportedError("bug", "x", retryable=False, tier=""))]
    world.settle()
    assert world.outcome(first.task_id).state is TaskState.FAILED
    assert world.outcome(second.task_id).state is TaskState.SUCCEEDED
    assert world.outcome(third.task_id).artifacts == world.outcome(second.task_id).artifacts
    assert len(world.runner.requests) == 2


def test_a_retry_of_the_leader_does_not_wait_for_itself(world: WorkerWorld) -> None:
    first, second = world.submit(twin()), world.submit(twin())
    world.runner.parts = [Part(computing=ReportedError("flaky", "x", retryable=True, tier=""))]
    world.settle()
    assert world.outcome(first.task_id).attempt == 2
    assert world.outcome(second.task_id).artifacts == world.outcome(first.task_id).artifacts
    assert len(world.runner.requests) == 2


def test_one_that_has_waited_for_half_of_its_time_computes_by_itself(world: WorkerWorld) -> None:
    first, second = twin(), twin(start_deadline=NOW + timedelta(seconds=20))
    WorkIndex(world.quiet_records()).lead(key(), first.task_id, NOW)
    world.submit(second)
    world.run()
    assert len(world.waiting(5)) == 1
    world.settle()
    assert world.outcome(second.task_id).state is TaskState.SUCCEEDED
    assert len(world.runner.requests) == 1


def test_a_result_of_one_seed_serves_those_who_take_any(world: WorkerWorld) -> None:
    first, second = world.submit(twin(seed=3)), world.submit(twin(Sameness.ANY, seed=4))
    world.settle()
    outcome = world.outcome(second.task_id)
    assert len(world.runner.requests) == 1
    assert outcome.artifacts == world.outcome(first.task_id).artifacts
    assert outcome.task.params.seed == 3


def test_those_who_take_any_are_served_once(world: WorkerWorld) -> None:
    for seed in (3, 4, 5):
        world.submit(twin(Sameness.ANY, seed=seed))
    world.settle()
    assert len(world.runner.requests) == 1


def test_a_key_that_is_not_of_this_work_is_left_alone(world: WorkerWorld) -> None:
    stale = cache_key(SCOPE, MODEL, "another revision", make_params(), Sameness.SEED)
    for cache in (stale, "nonsense", None):
        world.submit(twin(cache_key=cache))
    world.run()
    assert len(world.runner.requests) == 3
    assert list(world.store.keys("cache/")) == []


def test_an_index_that_cannot_be_read_costs_the_sharing_and_not_the_task(world: WorkerWorld) -> None:
    world.quiet_records().store.put(f"cache/{key()}/000001.json", b"{", media_type="text/plain")
    task = world.submit(twin())
    world.run()
    assert world.outcome(task.task_id).state is TaskState.SUCCEEDED


def test_a_task_that_ended_meanwhile_keeps_its_own_end(world: WorkerWorld) -> None:
    first, second = twin(), twin()
    world.submit(first)
    world.run()
    cancelled = world.quiet_records().commit(make_outcome(task=second, state=TaskState.CANCELLED))
    world.submit(second)
    world.run()
    assert world.outcome(second.task_id) == cancelled


def test_a_lead_says_which_task_and_when(world: WorkerWorld) -> None:
    task = world.submit(twin())
    world.run()
    lead = Lead(task_id=task.task_id, at=NOW)
    for sameness in Sameness:
        assert world.store.get(f"cache/{key(sameness)}/000001.json") == encode(lead)
