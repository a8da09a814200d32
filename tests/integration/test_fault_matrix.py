"""The fault matrix, first part: what a model does while it generates. One worker serves all of these rows."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

import pytest

from shared.domain.task import TaskState
from tests.support.matrix import fault_site
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.matrix import FaultSite
    from tests.support.processes import ProcessGuard
    from tests.support.rabbit import RabbitServer
    from tests.support.s3 import S3Server

# A fault that may pass: how the model provokes it, the error's code, the retry queue, whether the child lives on.
MAY_PASS: Final = {
    "fail": ("backend_error", 5, True),
    "return_nothing": ("backend_error", 5, True),
    "return_no_results": ("backend_error", 5, True),
    "fail_to_encode": ("backend_error", 5, True),
    "run_out_of_memory": ("out_of_memory", 30, True),
    "allocate_without_end": ("out_of_memory", 30, True),
    "leave": ("runner_crashed", 5, False),
    "leave_at_once": ("runner_crashed", 5, False),
    "kill_itself": ("runner_crashed", 5, False),
    "kill_itself_but_leave_a_child": ("runner_crashed", 5, False),
    "segfault": ("runner_crashed", 5, False),
    "cut_the_line": ("runner_crashed", 5, False),
    "write_garbage": ("runner_crashed", 5, False),
    "break_the_device": ("backend_error", 5, False),
    "break_the_device_later": ("backend_error", 5, False),
}
# What the user's own parameters or seed would bring about again.
FOR_GOOD: Final = {
    "refuse": "invalid_parameter",
    "return_nan": "invalid_output",
    "return_small_pixels": "invalid_output",
    "return_too_many": "invalid_output",
    "make_one_of_another_seed": "invalid_output",
    "write_nothing": "invalid_output",
    "write_an_empty_file": "invalid_output",
    "write_elsewhere": "invalid_output",
    "return_a_link": "invalid_output",
    "return_a_pipe": "invalid_output",
    "give_a_file_two_names": "invalid_output",
}


@pytest.fixture(scope="module")
def shared_site(
    rabbit_server: RabbitServer,
    s3_server: S3Server,
    process_guard: ProcessGuard,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[FaultSite]:
    with fault_site(rabbit_server, s3_server, process_guard, tmp_path_factory.mktemp("matrix")) as site:
        site.start(MODELS_DIR=str(site.card()))
        site.await_line("model_loaded")
        yield site


@pytest.fixture
def site(shared_site: FaultSite) -> FaultSite:
    shared_site.rabbit.purge()
    return shared_site


@pytest.mark.parametrize("deed", list(MAY_PASS))
def test_a_fault_that_may_pass_is_tried_again_later_and_parked_at_last(site: FaultSite, deed: str) -> None:
    code, delay, stays = MAY_PASS[deed]
    child = site.assert_well().receipt["pid"]
    task = site.order(deed)
    for attempt, seconds in ((1, delay), (2, 30)):
        waits = site.waiting(task, seconds)
        # Priority and deadlines are those it was submitted with, in the message and for the broker.
        assert waits.task == task.model_copy(update={"attempt": attempt + 1})
        assert waits.priority == task.priority
        assert 0 < int(waits.expires or 0) <= 30 * 60 * 1000
        assert len(site.attempts(task)) == attempt
        assert site.records.outcome(task.task_id) is None
        site.send(waits.task)
    assert site.failed(task) == (code, 3)
    letter = site.letter(task)
    assert (letter.reason, letter.last_error) == (code, site.outcome(task).error)
    assert [each.number for each in letter.attempts] == [1, 2, 3]
    assert not site.artifacts(task)
    assert (site.assert_well().receipt["pid"] == child) is stays


@pytest.mark.parametrize("deed", list(FOR_GOOD))
def test_a_fault_that_would_come_again_ends_the_task_at_once(site: FaultSite, deed: str) -> None:
    child = site.assert_well().receipt["pid"]
    task = site.order(deed)
    assert site.failed(task) == (FOR_GOOD[deed], 1)
    assert not site.artifacts(task)
    assert site.assert_well().receipt["pid"] == child


@pytest.mark.parametrize("deed", ["flood", "flood_at_length", "talk"])
def test_a_model_that_prints_much_holds_nothing_up_and_its_lines_name_the_task(site: FaultSite, deed: str) -> None:
    task = site.order(deed)
    assert site.outcome(task).state is TaskState.SUCCEEDED
    until(lambda: any(line.get("task_id") == task.task_id for line in site.lines("runner_output")), 30, "its lines")
    site.assert_well()


def test_a_task_that_changes_the_process_leaves_nothing_of_it_to_the_next(site: FaultSite) -> None:
    def seen() -> dict[str, object]:
        outcome = site.outcome(site.order("look_around"))
        assert outcome.state is TaskState.SUCCEEDED
        found: dict[str, object] = json.loads(site.store.get(outcome.artifacts[0].key))
        return {name: found[name] for name in ("environment", "folder", "filters", "path")}

    before = seen()
    assert site.outcome(site.order("pollute")).state is TaskState.SUCCEEDED
    assert seen() == before


def test_a_task_that_leaves_closed_folders_links_and_programs_is_cleared_away(site: FaultSite) -> None:
    assert site.outcome(site.order("litter")).state is TaskState.SUCCEEDED
    site.assert_well()


def test_the_same_seed_is_as_bad_at_every_attempt_and_is_tried_once(site: FaultSite) -> None:
    task = site.order("return_nan", max_attempts=3)
    assert site.failed(task) == ("invalid_output", 1)
    assert site.attempts(task) == ["claim-1.json"]


def test_the_worker_has_lived_through_all_of_it(site: FaultSite) -> None:
    assert len(site.lines("worker_starting")) == 1
    assert not site.lines("worker_stopped")
    site.await_rest()
