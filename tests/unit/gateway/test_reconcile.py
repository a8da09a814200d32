from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, cast

import pytest

from services.gateway.admission.redis_ledger import LedgerUnavailableError, Note, RedisLedger
from services.gateway.config import LedgerSettings
from services.gateway.ledger.notes import note_of, note_of_open
from services.gateway.ledger.open_tasks import OpenTasksUnavailableError
from services.gateway.ledger.reconcile import Reconciler
from shared.config import load_settings
from shared.contracts.open_tasks import OpenTask
from shared.domain.errors import ConfigurationError
from shared.domain.task import EventType, TaskState
from shared.ids import first_task_id, is_task_id, new_task_id, task_id_seconds
from tests.support.builders import NOW, TASK_ID, make_event, make_task

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from shared.domain.errors import AtelierError


class FakeLedger:
    """What the reconciler sees of Redis."""

    def __init__(self) -> None:
        self.mark: str | None = None
        self.notes: list[Note] = []
        self.failure: AtelierError | None = None

    def is_whole(self) -> bool:
        if self.failure is not None:
            raise self.failure
        return self.mark == "whole"

    def begin_reconcile(self) -> None:
        self.mark = "begun"

    def end_reconcile(self) -> None:
        self.mark = "whole" if self.mark is not None else None

    def note(self, notes: Sequence[Note]) -> None:
        self.notes += notes


class World:
    def __init__(self) -> None:
        self.ledger, self.seconds, self.asked = FakeLedger(), 0.0, 0
        self.all_pages: list[list[OpenTask]] = [[open_task()]]
        self.failure: AtelierError | None = None
        self.lose_everything = False
        self.reconciler = Reconciler(
            cast("RedisLedger", self.ledger), self, 600.0, now=lambda: NOW, clock=lambda: self.seconds
        )

    def pages(self) -> Iterator[list[OpenTask]]:
        self.asked += 1
        for page in self.all_pages:
            if self.failure is not None:
                raise self.failure
            yield page
            if self.lose_everything:
                self.ledger.mark, self.lose_everything = None, False


def open_task(**changes: object) -> OpenTask:
    task = make_task()
    fields: dict[str, object] = {
        "task_id": TASK_ID,
        "tenant_id": task.tenant_id,
        "model": task.model,
        "state": TaskState.QUEUED,
        "attempt": 1,
        "priority": task.priority,
        "gpu_seconds": task.predicted.gpu_seconds,
        "finish_deadline": task.finish_deadline,
    }
    return OpenTask.model_validate(fields | changes)


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.parametrize(
    ("event_type", "state", "attempt"),
    [
        (EventType.QUEUED, TaskState.QUEUED, 1),
        (EventType.STARTED, TaskState.RUNNING, 1),
        (EventType.RETRYING, TaskState.RETRYING, 2),
    ],
)
def test_an_open_task_is_noted_as_its_event_is(event_type: EventType, state: TaskState, attempt: int) -> None:
    assert note_of_open(open_task(state=state, attempt=attempt)) == note_of(make_event(event_type), NOW)


def test_a_missing_mark_is_followed_by_every_page_and_then_set(world: World) -> None:
    world.all_pages = [[open_task(), open_task(task_id=new_task_id())], [], [open_task(task_id=new_task_id())]]
    world.reconciler.look()
    assert len(world.ledger.notes) == 3
    assert (world.ledger.mark, world.reconciler.problem) == ("whole", None)
    world.reconciler.look()
    assert world.asked == 1


def test_it_is_done_anew_after_ten_minutes(world: World) -> None:
    world.reconciler.look()
    world.seconds += 599
    world.reconciler.look()
    assert world.asked == 1
    world.seconds += 1
    world.reconciler.look()
    assert world.asked == 2


def test_a_loss_in_the_middle_is_a_loss(world: World) -> None:
    world.lose_everything = True
    world.reconciler.look()
    assert not world.ledger.is_whole()
    world.reconciler.look()
    assert world.ledger.is_whole()
    assert world.asked == 2


@pytest.mark.parametrize("error", [OpenTasksUnavailableError("away"), LedgerUnavailableError("away")])
def test_while_either_side_is_away_it_says_so_and_tries_again(world: World, error: AtelierError) -> None:
    failing = world if isinstance(error, OpenTasksUnavailableError) else world.ledger
    failing.failure = error
    world.reconciler.look()
    assert "away" in str(world.reconciler.problem)
    assert world.ledger.mark != "whole"
    failing.failure = None
    world.reconciler.look()
    assert world.ledger.is_whole()
    recovered: str | None = world.reconciler.problem
    assert recovered is None


def test_what_is_past_its_finish_deadline_is_left_out(world: World) -> None:
    world.all_pages = [[open_task(finish_deadline=NOW - timedelta(seconds=1))]]
    world.reconciler.look()
    assert world.ledger.notes == []


@pytest.mark.parametrize("variable", ["ATELIER_STATUS_URL", "ATELIER_OPERATOR_KEY"])
def test_an_address_without_its_key_is_a_wrong_setting_and_so_the_other_way(variable: str) -> None:
    environ = {"ATELIER_AMQP_URL": "amqp://x", "ATELIER_REDIS_URL": "redis://x", variable: "http://x"}
    with pytest.raises(ConfigurationError, match="belong together"):
        load_settings(LedgerSettings, environ)


def test_the_first_id_of_a_time_is_below_every_id_made_then() -> None:
    made = new_task_id()
    first = first_task_id(task_id_seconds(made))
    assert is_task_id(first)
    assert first[:13] == made[:13]
    assert first < made < first_task_id(task_id_seconds(made) + 0.001)
