"""A real worker that is cancelled, drained, starved of memory and cut off from its broker."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from services.worker.gpu_fakes import FakeDevice, write_devices
from shared.clock import utc_now
from shared.contracts.control import Order
from shared.domain.task import EventType, TaskState
from shared.lifecycle import ExitCode
from shared.messaging.topology import retry_queue
from tests.support.builders import make_outcome, make_params
from tests.support.proxy import TcpProxy
from tests.support.waiting import until
from tests.support.worker_process import WorkerSite

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from shared.contracts.task import TaskMessage
    from tests.support.processes import ProcessGuard
    from tests.support.rabbit import RabbitServer
    from tests.support.s3 import S3Server

LONG = 1000  # steps, of 50 ms each


@pytest.fixture
def site(
    rabbit: RabbitServer, s3_server: S3Server, bucket: str, process_guard: ProcessGuard, tmp_path: Path
) -> Iterator[WorkerSite]:
    site = WorkerSite(rabbit, s3_server, bucket, process_guard, tmp_path)
    yield site
    site.close()


def cancel(site: WorkerSite, task: TaskMessage) -> None:
    """As the status service does it, without the order to the workers."""
    outcome = make_outcome(task=task, state=TaskState.CANCELLED, artifacts=(), execution="status", ended_at=utc_now())
    assert site.records.commit(outcome).state is TaskState.CANCELLED


def test_a_cancelled_task_stops_at_its_next_step_and_the_child_goes_on(site: WorkerSite) -> None:
    site.start()
    child = site.child()
    task = site.submit(steps=LONG)
    site.await_line("task_started")
    cancel(site, task)
    site.tell(Order.CANCEL, task_id=task.task_id)
    assert site.await_line("task_settled")["state"] == TaskState.CANCELLED
    following = site.submit()
    assert site.outcome(following).state is TaskState.SUCCEEDED
    site.await_rest()
    assert child.is_running()
    assert not list(site.store.keys(f"tasks/{task.task_id}/1-"))


def test_a_cancel_that_no_worker_heard_is_found_in_the_bucket(site: WorkerSite) -> None:
    site.start()
    task = site.submit(steps=LONG)
    site.await_line("task_started")
    cancel(site, task)
    assert site.await_line("job_interrupted")["error.code"] == "cancelled"
    site.await_rest()


def test_a_task_that_is_cancelled_while_it_waits_never_starts(site: WorkerSite) -> None:
    task = site.submit(steps=LONG)
    cancel(site, task)
    site.start()
    site.await_rest()
    assert not site.lines("task_started")
    assert EventType.CANCELLED in {event.type for event in site.events()}


def test_orders_for_others_and_nonsense_change_nothing(site: WorkerSite) -> None:
    site.start()
    task = site.submit(steps=20)
    site.await_line("task_started")
    site.tell(Order.DRAIN, worker="worker-9")
    site.tell(Order.CANCEL, task_id="019b8e1b-7800-7abc-8def-0123456789ab")
    assert site.outcome(task).state is TaskState.SUCCEEDED


def test_a_drained_worker_finishes_what_fits_and_ends_well(site: WorkerSite) -> None:
    worker = site.start(DRAIN_SECONDS="30")
    first, second = site.submit(steps=20), site.submit(steps=20)
    site.await_line("task_started")
    site.tell(Order.DRAIN, worker="worker-1")
    assert worker.wait(30) == ExitCode.OK
    assert site.outcome(first).attempt == 1
    assert site.records.outcome(second.task_id) is None
    site.start()
    assert site.outcome(second).attempt == 1


def test_a_worker_that_cannot_finish_in_time_hands_its_task_back_uncounted(site: WorkerSite) -> None:
    site.start(DRAIN_SECONDS="1")
    task = site.submit(steps=60, max_attempts=1)
    site.await_line("task_started")
    assert site.stop() == ExitCode.OK
    site.start()
    outcome = site.outcome(task)
    site.await_rest()
    assert (outcome.state, outcome.attempt, outcome.task.max_attempts) == (TaskState.SUCCEEDED, 2, 2)
    assert site.dead() == 0


def test_a_second_signal_ends_the_worker_at_once(site: WorkerSite) -> None:
    worker = site.start(DRAIN_SECONDS="60")
    child = site.child()
    task = site.submit(steps=60)
    site.await_line("task_started")
    worker.send_signal(signal.SIGTERM)
    site.await_line("stop_requested")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(20) == ExitCode.FORCED
    until(lambda: not child.is_running(), 20, "the end of the child")
    site.start()
    assert site.outcome(task).attempt == 2


def test_a_broken_connection_burns_no_attempt_and_computes_nothing_twice(site: WorkerSite) -> None:
    """Two workers: the second one is given the running task, and leaves it to the first."""
    proxy = TcpProxy(site.rabbit.port)
    url = site.rabbit.url("worker").replace(f":{site.rabbit.port}/", f":{proxy.port}/")
    site.start(AMQP_URL=url)
    task = site.submit(steps=160)
    site.await_line("task_started")
    site.start("worker-2")
    site.await_line("model_loaded", "worker-2")
    proxy.cut()
    assert site.await_line("claim_contested", "worker-2")["decision"] == "wait_for_copy"
    outcome = site.outcome(task)
    proxy.close()
    assert (outcome.state, outcome.attempt, outcome.worker) == (TaskState.SUCCEEDED, 1, "worker-1")
    assert not site.lines("task_started", "worker-2")


def test_a_worker_without_room_leaves_the_queue_to_others(site: WorkerSite) -> None:
    devices = site.folder / "devices.json"
    write_devices(devices, [FakeDevice(total_mb=16384, free_mb=100)])
    site.start(FAKE_DEVICE_FILE=str(devices))
    site.await_line("gate_shut")
    task = site.submit()
    site.start("worker-2")
    assert site.outcome(task).worker == "worker-2"
    site.stop("worker-2")
    following = site.submit()
    write_devices(devices, [FakeDevice(total_mb=16384, free_mb=16000)])
    outcome = site.outcome(following)
    assert outcome.worker == "worker-1"
    assert outcome.receipt["device_free_mb"] == 16000


def test_a_task_that_this_device_could_never_hold_is_left_to_larger_ones(site: WorkerSite) -> None:
    devices = site.folder / "devices.json"
    write_devices(devices, [FakeDevice(total_mb=16384, free_mb=16000)])
    models = site.models(lambda card: card.replace("vram_mb_per_megapixel = 0", "vram_mb_per_megapixel = 100000"))
    site.start(FAKE_DEVICE_FILE=str(devices), MODELS_DIR=str(models))
    assert site.outcome(site.submit()).state is TaskState.SUCCEEDED
    large = site.submit(params=make_params(width=512, height=512))
    until(lambda: site.rabbit.depth(retry_queue(30)) == 1, 30, "the task to be handed on")
    assert site.outcome(site.submit()).state is TaskState.SUCCEEDED
    assert site.records.find_claim(large.task_id, 1) is None


def test_a_device_that_stays_silent_ends_the_worker_with_a_code(site: WorkerSite) -> None:
    devices = site.folder / "devices.json"
    write_devices(devices, [FakeDevice(total_mb=16384, free_mb=16000)])
    worker = site.start(FAKE_DEVICE_FILE=str(devices))
    site.await_line("model_loaded")
    write_devices(devices, [FakeDevice(total_mb=16384, free_mb=16000)], error="the GPU fell off the bus")
    assert worker.wait(60) == ExitCode.DEPENDENCY


def test_the_model_is_loaded_anew_when_an_operator_says_so(site: WorkerSite) -> None:
    site.start()
    first = site.child().pid
    assert site.outcome(site.submit()).attempt == 1
    site.tell(Order.RELOAD)
    assert site.await_line("control_order")["order"] == "reload"
    site.await_line("runner_started", count=2)
    assert site.child().pid != first
