"""The fault matrix, second part: loading, hanging, memory, disk. Each row has a worker of its own."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import pytest

from shared.domain.task import TaskState
from shared.lifecycle import ExitCode
from shared.messaging.topology import work_queue
from tests.support.builders import MODEL
from tests.support.cgroup import limited_group
from tests.support.matrix import OBEDIENT, TIERED, TIERS
from tests.support.mounts import small_disk
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from shared.contracts.task import TaskMessage
    from tests.support.matrix import FaultSite

WORK: Final = work_queue(MODEL)
FIVE_RESTARTS_AND_THE_FIRST: Final = 6
# With so many steps a task's budget leaves less than a second for each, and the floor below is what counts.
MANY_STEPS: Final = 240
SILENCE: Final = {"SILENCE_FLOOR_SECONDS": "2"}
LIMIT_MB: Final = 420


def safetensors(data_bytes: int) -> bytes:
    """A file whose header tells of 64 bytes."""
    header = json.dumps({"w": {"dtype": "F32", "shape": [16], "data_offsets": [0, 64]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(data_bytes)


def no_folder(folder: Path) -> str:
    (folder / "atelier.toml").unlink()
    folder.rmdir()
    return f"{folder} does not exist"


def no_card(folder: Path) -> str:
    (folder / "atelier.toml").rename(folder / "card.toml")
    return f"{folder / 'atelier.toml'} is missing"


def truncated(folder: Path) -> str:
    (folder / "weights.safetensors").write_bytes(safetensors(63))
    return f"{folder / 'weights.safetensors'} is not whole"


def a_pickle(folder: Path) -> str:
    (folder / "weights.bin").write_bytes(b"\x80\x04.")
    return "weights.bin is not safetensors"


def a_pickle_in_disguise(folder: Path) -> str:
    (folder / "weights.safetensors").write_bytes(b"\x80\x04" + b"x" * 100)
    return f"{folder / 'weights.safetensors'} is a pickle"


def a_link_out(folder: Path) -> str:
    (folder / "weights.safetensors").symlink_to("/etc/passwd")
    return f"{folder / 'weights.safetensors'} is a link out of the model's folder"


def code_from_afar(folder: Path) -> str:
    (folder / "config.json").write_text('{"auto_map": {"AutoModel": "evil.Model"}}')
    return "config.json asks for remote code"


FOLDERS: Final = (no_folder, no_card, truncated, a_pickle, a_pickle_in_disguise, a_link_out, code_from_afar)


def assert_left_alone(site: FaultSite, task: TaskMessage) -> None:
    """The task lies where it lay, no attempt of it was begun, and a sound worker does it at the first."""
    until(lambda: site.rabbit.depth(WORK) == 1, 30, "the message in its place")
    assert site.attempts(task) == []
    site.start("sound")
    outcome = site.outcome(task)
    assert (outcome.state, outcome.attempt, outcome.worker) == (TaskState.SUCCEEDED, 1, "sound")
    site.assert_well()


@pytest.mark.parametrize("spoil", FOLDERS, ids=lambda spoil: spoil.__name__)
def test_a_model_folder_that_is_wrong_ends_the_worker_by_name_and_leaves_its_tasks(
    fault_bench: FaultSite, spoil: Callable[[Path], str]
) -> None:
    models = fault_bench.card()
    message = spoil(fault_bench.model_dir)
    task = fault_bench.order()
    assert fault_bench.start(MODELS_DIR=str(models)).wait(60) == ExitCode.CONFIGURATION
    assert message in fault_bench.await_line("configuration_error")["error.message"]
    assert_left_alone(fault_bench, task)


@pytest.mark.parametrize(
    ("backend", "message"),
    [("newbie", "model_index.json is for 'OtherPipeline'"), ("nonesuch", "unknown backend 'nonesuch'")],
)
def test_a_model_of_the_wrong_class_ends_the_worker_by_name_and_leaves_its_tasks(
    fault_bench: FaultSite, backend: str, message: str
) -> None:
    models = fault_bench.card(backend)
    (fault_bench.model_dir / "model_index.json").write_text('{"_class_name": "OtherPipeline"}')
    task = fault_bench.order()
    assert fault_bench.start(MODELS_DIR=str(models)).wait(120) == ExitCode.CONFIGURATION
    assert message in fault_bench.await_line("runner_unavailable")["error.message"]
    assert_left_alone(fault_bench, task)


def test_a_model_that_raises_while_it_loads_ends_the_worker_at_once(fault_bench: FaultSite) -> None:
    models = fault_bench.card()
    (fault_bench.model_dir / "load").write_text("raise_in_load")
    task = fault_bench.order()
    assert fault_bench.start(MODELS_DIR=str(models)).wait(60) == ExitCode.CONFIGURATION
    assert "a tensor is missing" in fault_bench.await_line("runner_unavailable")["error.message"]
    assert len(fault_bench.lines("runner_started")) == 1
    assert_left_alone(fault_bench, task)


@pytest.mark.parametrize("how", ["exit_in_load", "segfault_in_load"])
def test_a_model_that_dies_while_it_loads_is_tried_again_within_a_budget(fault_bench: FaultSite, how: str) -> None:
    models = fault_bench.card()
    (fault_bench.model_dir / "load").write_text(how)
    task = fault_bench.order()
    assert fault_bench.start(MODELS_DIR=str(models)).wait(120) == ExitCode.RUNNER
    assert fault_bench.await_line("runner_unavailable")["error.code"] == "runner_unavailable"
    assert len(fault_bench.lines("runner_started")) == FIVE_RESTARTS_AND_THE_FIRST
    assert_left_alone(fault_bench, task)


def test_a_model_that_comes_up_at_last_serves_what_waited(fault_bench: FaultSite) -> None:
    models = fault_bench.card()
    order = fault_bench.model_dir / "load"
    order.write_text("exit_in_load")
    task = fault_bench.order()
    fault_bench.start(MODELS_DIR=str(models))
    fault_bench.await_line("runner_ended", count=2)
    order.unlink()
    assert fault_bench.outcome(task).attempt == 1
    fault_bench.assert_well()


@pytest.mark.parametrize(("deed", "lives"), [("hang", True), ("hang_deaf", False), ("hang_with_the_lock", False)])
def test_a_task_that_hangs_is_stopped_and_tried_again(fault_bench: FaultSite, deed: str, lives: bool) -> None:
    """One that listens keeps its child. The parent's leases and heartbeats go on, whoever holds the child's lock."""
    fault_bench.start(MODELS_DIR=str(fault_bench.card()), **SILENCE)
    child = fault_bench.assert_well().receipt["pid"]
    task = fault_bench.order(deed, steps=MANY_STEPS)
    assert fault_bench.waiting(task, 5).task.attempt == 2
    assert fault_bench.lines("attempt_failed")[-1]["error.code"] == "runner_hung"
    assert (fault_bench.assert_well().receipt["pid"] == child) is lives
    assert not fault_bench.lines("amqp_connection_lost")


def test_a_broken_device_costs_the_task_that_computes_beside_it_one_attempt_at_most(fault_bench: FaultSite) -> None:
    """Files of one task are written while the next computes in the same process."""
    fault_bench.start(MODELS_DIR=str(fault_bench.card()))
    fault_bench.await_line("model_loaded")
    breaking = fault_bench.order("break_the_device_later", max_attempts=1)
    beside = fault_bench.order("take_many_small_steps")
    assert fault_bench.failed(breaking) == ("backend_error", 1)
    assert fault_bench.letter(breaking).stack is not None
    outcome = fault_bench.outcome(beside)
    assert outcome.state is TaskState.SUCCEEDED
    assert outcome.attempt <= 2
    fault_bench.assert_well()


def test_a_child_that_eats_the_hosts_memory_dies_alone(fault_bench: FaultSite) -> None:
    with limited_group(LIMIT_MB) as group:
        worker = fault_bench.start(MODELS_DIR=str(fault_bench.card()), DEVICE_HEADROOM_MB="0")
        group.add(worker.pid)
        child = fault_bench.assert_well().receipt["pid"]
        task = fault_bench.order("take_all_memory")
        assert fault_bench.waiting(task, 30).task.attempt == 2
        assert fault_bench.lines("attempt_failed")[-1]["error.code"] == "host_out_of_memory"
        assert fault_bench.assert_well().receipt["pid"] != child
        assert worker.poll() is None
        fault_bench.kill()


def test_a_child_that_somebody_kills_is_no_want_of_memory(fault_bench: FaultSite) -> None:
    fault_bench.start(MODELS_DIR=str(fault_bench.card()))
    task = fault_bench.order("wait_for_go")
    fault_bench.await_line("task_started")
    fault_bench.child().kill()
    assert fault_bench.waiting(task, 5).task.attempt == 2
    assert fault_bench.lines("attempt_failed")[-1]["error.code"] == "runner_crashed"
    fault_bench.assert_well()


def test_an_idle_childs_death_costs_no_attempt(fault_bench: FaultSite) -> None:
    fault_bench.start(MODELS_DIR=str(fault_bench.card()))
    fault_bench.assert_well()
    fault_bench.child().kill()
    fault_bench.await_line("runner_ended")
    fault_bench.assert_well()


class TestTiers:
    """The prompt names the memory tiers at which the task does not fit."""

    def start(self, site: FaultSite) -> None:
        site.start(MODELS_DIR=str(site.card(TIERED, TIERS)))

    def made_at(self, site: FaultSite, task: TaskMessage) -> tuple[str, int]:
        outcome = site.outcome(task)
        assert outcome.state is TaskState.SUCCEEDED
        return site.store.get(outcome.artifacts[0].key).decode(), outcome.attempt

    def test_what_does_not_fit_is_made_one_tier_down_in_the_same_attempt(self, fault_bench: FaultSite) -> None:
        self.start(fault_bench)
        child = fault_bench.child().pid
        assert self.made_at(fault_bench, fault_bench.order("resident")) == ("tiled", 1)
        # The shape is remembered: it is not tried again where it did not fit.
        assert self.made_at(fault_bench, fault_bench.order("none")) == ("tiled", 1)
        assert fault_bench.assert_well().receipt["pid"] == child

    def test_what_does_not_fit_there_either_goes_on_further_down_half_a_minute_later(
        self, fault_bench: FaultSite
    ) -> None:
        self.start(fault_bench)
        task = fault_bench.order("resident,tiled")
        waits = fault_bench.waiting(task, 30)
        assert (waits.task.attempt, waits.priority) == (2, task.priority)
        assert fault_bench.lines("attempt_failed")[-1]["error.code"] == "out_of_memory"
        fault_bench.send(waits.task)
        assert self.made_at(fault_bench, task) == ("offload", 2)
        fault_bench.assert_well()

    def test_what_fits_nowhere_is_parked_after_its_attempts(self, fault_bench: FaultSite) -> None:
        self.start(fault_bench)
        task = fault_bench.order("resident,tiled,offload,sequential")
        for _ in range(2):
            fault_bench.send(fault_bench.waiting(task, 30).task)
        assert fault_bench.failed(task) == ("out_of_memory", 3)
        assert fault_bench.letter(task).reason == "out_of_memory"
        fault_bench.assert_well()


class TestDisk:
    def start(self, site: FaultSite, name: str = "worker-1", **settings: Any) -> None:  # noqa: ANN401 - any setting
        models = site.folder / "models"
        site.start(name, MODELS_DIR=str(models if models.exists() else site.card(OBEDIENT)), **settings)

    def test_a_disk_that_fills_up_fails_the_attempt_and_is_empty_again(self, fault_bench: FaultSite) -> None:
        with small_disk(fault_bench.folder / "work", 32):
            self.start(fault_bench, MIN_FREE_MIB="8")
            child = fault_bench.assert_well().receipt["pid"]
            task = fault_bench.order("fill_the_disk")
            assert fault_bench.waiting(task, 5).task.attempt == 2
            assert fault_bench.lines("attempt_failed")[-1]["error.code"] == "work_folder_unusable"
            assert fault_bench.assert_well().receipt["pid"] == child
            fault_bench.kill()

    def test_a_file_above_the_bound_fails_the_attempt(self, fault_bench: FaultSite) -> None:
        self.start(fault_bench, MAX_FILE_MIB="4")
        child = fault_bench.assert_well().receipt["pid"]
        task = fault_bench.order("fill_the_disk")
        assert fault_bench.waiting(task, 5).task.attempt == 2
        assert fault_bench.lines("attempt_failed")[-1]["error.code"] == "work_folder_unusable"
        assert fault_bench.assert_well().receipt["pid"] == child

    def test_many_files_that_pass_the_bound_together_end_the_task(self, fault_bench: FaultSite) -> None:
        self.start(fault_bench, MAX_WORK_MIB="8")
        task = fault_bench.order("write_many_files")
        assert fault_bench.failed(task) == ("work_folder_exceeded", 1)
        fault_bench.assert_well()

    def test_a_disk_without_room_starts_nothing_and_burns_nothing(self, fault_bench: FaultSite) -> None:
        self.start(fault_bench, MIN_FREE_MIB=str(2**40))
        task = fault_bench.order()
        fault_bench.await_line("delivery_failed", count=2)
        assert fault_bench.lines("delivery_failed")[-1]["error.code"] == "work_folder_unusable"
        assert fault_bench.attempts(task) == []
        self.start(fault_bench, "roomy")
        assert fault_bench.stop() == ExitCode.OK
        outcome = fault_bench.outcome(task)
        assert (outcome.attempt, outcome.worker) == (1, "roomy")
        fault_bench.assert_well()
