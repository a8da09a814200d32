"""What a model can do to its child process, and what the parent makes of it."""

from __future__ import annotations

from concurrent.futures import wait
from typing import TYPE_CHECKING, Any

import pytest

from services.worker.errors import ReportedError, TaskCancelledError
from services.worker.job import Limits
from services.worker.protocol import PreviewPace
from services.worker.recycling import Recycling
from services.worker.supervisor import RunnerState
from shared.domain.errors import RunnerCrashedError, RunnerHungError
from shared.domain.task import Phase
from tests.support.runner import CONTEXT, UNLIMITED, wait_gone
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.runner import RealRunner

SHORT = Limits(silence_seconds=0.3, total_seconds=60)


def test_a_job_is_computed_and_its_files_are_written(real: RealRunner) -> None:
    encoded = real.run()
    (artifact,) = encoded.artifacts
    assert (real.folder / "job-1" / artifact.name).read_bytes() == b"picture"
    assert encoded.receipt["pid"] == real.supervisor.pid
    assert [(word.phase, word.step, word.steps) for word in real.progress] == [(Phase.DENOISING, 1, 3)]
    assert real.supervisor.receipt == {"device": "cpu", "tier": "resident"}
    assert real.supervisor.load_seconds == 0.01


@pytest.mark.parametrize(
    ("deed", "code", "message", "retryable"),
    [
        ("fail", "backend_error", "RuntimeError: the tensor is sad", True),
        ("fail_unprintably", "backend_error", "RuntimeError: no file ?", True),
        ("refuse", "invalid_parameter", "odd sizes are refused", False),
        ("run_out_of_memory", "out_of_memory", "The device's memory does not hold this request.", True),
        ("dream", "backend_error", "ValueError: 'dreaming' is not a valid Phase", True),
        ("return_nothing", "backend_error", "the model returned NoneType, which holds no results", True),
        ("return_no_results", "backend_error", "the model returned 0 results for 1 requests, or other things", True),
        ("fail_to_encode", "backend_error", "OSError: no space left on device", True),
    ],
)
def test_an_error_of_the_model_is_reported_and_the_child_goes_on(
    real: RealRunner, deed: str, code: str, message: str, retryable: bool
) -> None:
    with pytest.raises(ReportedError) as caught:
        real.run(deed)
    assert (caught.value.code, caught.value.message, caught.value.retryable) == (code, message, retryable)
    first = real.supervisor.pid
    assert real.run().receipt["pid"] == first


def test_previews_come_with_the_progress_at_their_pace(real: RealRunner) -> None:
    real.pace = PreviewPace(every_steps=3, every_seconds=0.0)
    real.supervise()
    real.run("show")
    shown = {word.step: word.preview for word in real.progress if word.preview is not None}
    assert list(shown) == [3, 6, 9]
    assert {(preview.media_type, preview.width, preview.height) for preview in shown.values()} == {
        ("image/jpeg", 96, 48)
    }
    assert len({preview.data for preview in shown.values()}) == 3


def test_where_no_pace_is_set_none_of_a_short_job_are_made(real: RealRunner) -> None:
    real.run("show")
    assert [word.step for word in real.progress] == [1, *range(1, 11)]
    assert not any(word.preview for word in real.progress)


def test_a_preview_that_cannot_be_made_does_not_fail_its_job(
    real: RealRunner, logged: Callable[[], list[dict[str, Any]]]
) -> None:
    real.pace = PreviewPace(every_steps=1, every_seconds=0.0)
    real.supervise()
    assert real.run("show_what_is_no_picture").artifacts
    assert [word.step for word in real.progress] == [1, *range(1, 11)]
    until(
        lambda: sum("no more previews" in line.get("line", "") for line in logged()) == 1, 10, "a line of the child's"
    )


def test_an_endless_error_text_is_cut(real: RealRunner) -> None:
    with pytest.raises(ReportedError) as caught:
        real.run("fail_at_length")
    assert len(caught.value.message) == 2000


def test_a_stack_is_logged_with_the_task_and_not_sent_to_the_client(
    real: RealRunner, logged: Callable[[], list[dict[str, Any]]]
) -> None:
    with pytest.raises(ReportedError) as caught:
        real.run("fail")
    (line,) = [line for line in logged() if line["message"] == "backend_raised"]
    assert line["task_id"] == CONTEXT["task_id"]
    assert "obedient.py" in line["error.stack_trace"]
    assert "obedient.py" in caught.value.stack  # for operators, should the task be given up
    assert "obedient.py" not in caught.value.message


@pytest.mark.parametrize(
    ("deed", "how"),
    [
        ("leave", "exit status 3"),
        ("leave_at_once", "exit status 4"),
        ("kill_itself", "signal SIGKILL"),
        ("segfault", "signal SIGSEGV"),
        ("kill_itself_but_leave_a_child", "signal SIGKILL"),
        ("write_garbage", "signal SIGKILL"),
        ("announce_a_huge_frame", "signal SIGKILL"),
        ("speak_wrongly", "signal SIGKILL"),
        ("show_too_much", "signal SIGKILL"),
        ("count_without_end", "signal SIGKILL"),
        ("die_by_a_nameless_signal", "signal 39"),
    ],
)
def test_a_child_that_dies_or_talks_nonsense_fails_its_job_and_the_next_one_gets_a_new_child(
    real: RealRunner, deed: str, how: str
) -> None:
    with pytest.raises(RunnerCrashedError, match=f"ended with {how}"):
        real.run(deed)
    assert real.supervisor.state is RunnerState.DEAD
    assert real.supervisor.pid is None
    assert real.run().artifacts


@pytest.mark.parametrize("deed", ["hang_deaf", "hang_with_the_lock"])
def test_a_job_without_a_sign_of_life_is_killed(real: RealRunner, deed: str) -> None:
    real.supervisor.ensure_ready()
    child = real.child()
    with pytest.raises(RunnerHungError, match="no progress: it was stopped"):
        real.run(deed, SHORT)
    wait_gone(child)
    assert real.run().artifacts


def test_a_job_that_listens_is_stopped_and_its_child_lives_on(real: RealRunner) -> None:
    real.supervisor.ensure_ready()
    first = real.supervisor.pid
    with pytest.raises(RunnerHungError, match="no progress: it was stopped"):
        real.run("hang", SHORT)
    assert real.run().receipt["pid"] == first


def test_a_job_that_makes_progress_may_take_longer_than_the_silence_limit(real: RealRunner) -> None:
    assert real.run("take_many_small_steps", SHORT).artifacts
    assert len(real.progress) == 31


def test_a_job_that_makes_progress_for_ever_meets_the_total_limit(real: RealRunner) -> None:
    with pytest.raises(RunnerHungError, match="time limit"):
        real.run("take_many_small_steps", Limits(silence_seconds=60, total_seconds=0.1))
    assert real.run().artifacts


def test_cancelling_stops_the_job_that_is_named_and_no_other(real: RealRunner) -> None:
    real.supervisor.ensure_ready()
    other, _ = real.begin("paint")
    real.supervisor.wait_computed(other, UNLIMITED)
    first = real.supervisor.pid
    job, _ = real.begin("hang")
    real.supervisor.interrupt(other, TaskCancelledError("not this one"))
    real.supervisor.interrupt(job, TaskCancelledError("this one"))
    with pytest.raises(TaskCancelledError, match="this one"):
        real.supervisor.wait_computed(job, UNLIMITED)
    assert real.supervisor.wait_encoded(other).artifacts
    assert real.run().receipt["pid"] == first


@pytest.mark.parametrize("deed", ["hang_deaf", "hang_with_the_lock"])
def test_a_job_that_does_not_listen_to_its_cancel_ends_with_its_child(real: RealRunner, deed: str) -> None:
    real.supervisor.ensure_ready()
    child = real.child()
    job, _ = real.begin(deed)
    real.supervisor.interrupt(job, TaskCancelledError("enough"))
    with pytest.raises(TaskCancelledError, match="enough"):
        real.supervisor.wait_computed(job, UNLIMITED)
    wait_gone(child)
    assert real.run().artifacts


def test_a_slow_job_that_makes_steady_progress_gets_the_time_it_needs(real: RealRunner) -> None:
    limits = Limits(silence_seconds=60, total_seconds=0.05, most_seconds=60)
    assert real.run("take_many_small_steps", limits).artifacts


def test_a_worn_out_child_is_replaced_once_its_files_are_written(real: RealRunner) -> None:
    real.supervise(recycling=Recycling(after_tasks=2))
    pids = [real.run().receipt["pid"] for _ in range(5)]
    assert [pids[0] == pids[1], pids[1] == pids[2], pids[2] == pids[3], pids[3] == pids[4]] == [
        True,
        False,
        True,
        False,
    ]


def test_a_child_is_replaced_when_somebody_says_so_and_that_is_no_death(real: RealRunner) -> None:
    real.supervise(restarts=0)
    first = real.run().receipt["pid"]
    for _ in range(3):
        real.supervisor.recycle("told to")
        assert real.run().receipt["pid"] != first


def test_the_next_job_computes_while_the_files_of_the_one_before_are_written(real: RealRunner) -> None:
    real.supervisor.ensure_ready()
    slow, folder = real.begin("encode_slowly")
    real.supervisor.wait_computed(slow, UNLIMITED)
    next_one, _ = real.begin("take_many_small_steps")
    real.supervisor.wait_computed(next_one, UNLIMITED)
    assert not slow.encoded.done()
    (folder / "go").touch()
    for job in (slow, next_one):
        assert real.supervisor.wait_encoded(job).artifacts


def test_files_that_are_never_written_are_given_up_and_the_child_with_them(real: RealRunner) -> None:
    real.supervise(encode=0.2)
    with pytest.raises(RunnerHungError, match="the files were not written in time"):
        real.run("encode_slowly")
    assert real.supervisor.state is RunnerState.DEAD
    assert real.run().artifacts


def test_a_death_fails_the_computing_job_and_the_one_whose_files_are_written(real: RealRunner) -> None:
    real.supervisor.ensure_ready()
    slow, _ = real.begin("encode_slowly")
    real.supervisor.wait_computed(slow, UNLIMITED)
    dying, _ = real.begin("kill_itself")
    with pytest.raises(RunnerCrashedError):
        real.supervisor.wait_computed(dying, UNLIMITED)
    with pytest.raises(RunnerCrashedError):
        real.supervisor.wait_encoded(slow)


def test_a_job_for_a_dead_child_fails_at_once(real: RealRunner) -> None:
    real.supervisor.ensure_ready()
    real.child().kill()
    until(lambda: real.supervisor.state is RunnerState.DEAD, 10, "the news of the death")
    job, _ = real.begin()
    with pytest.raises(RunnerCrashedError, match="not running"):
        real.supervisor.wait_computed(job, UNLIMITED)


def test_a_late_word_of_another_launch_is_dropped(real: RealRunner) -> None:
    assert real.run("speak_for_the_dead").artifacts


def test_what_the_model_prints_becomes_log_lines_of_its_task(
    real: RealRunner, logged: Callable[[], list[dict[str, Any]]]
) -> None:
    def printed() -> list[dict[str, Any]]:
        return [line for line in logged() if line["message"] == "runner_output"]

    real.run("talk")
    until(lambda: len(printed()) == 3, 10, "three lines")
    assert [line["line"] for line in printed()] == ["to standard output", "to standard error ä", "not text �"]
    assert {(line["task_id"], line["tenant_id"]) for line in printed()} == {("the-task", "acme")}


def test_a_flood_of_output_holds_nothing_up_and_its_lines_are_cut(
    real: RealRunner, logged: Callable[[], list[dict[str, Any]]]
) -> None:
    def printed() -> list[str]:
        return [line["line"] for line in logged() if line["message"] == "runner_output"]

    assert real.run("flood").artifacts
    assert real.run().artifacts
    real.close()
    until(lambda: sum(map(len, printed())) >= 5000 * 100 + 100_000, 10, "the whole flood")
    assert max(map(len, printed())) <= 2000


def test_nothing_of_a_finished_job_is_kept(real: RealRunner) -> None:
    real.supervisor.ensure_ready()
    jobs = [real.begin(deed)[0] for deed in ("paint", "fail", "fail_to_encode", "paint")]
    wait([job.encoded for job in jobs], 10)
    assert real.supervisor._jobs == {}
