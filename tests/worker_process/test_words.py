"""What the child says of tiers, memory and its own end."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from services.worker.protocol import Cancel, Computed, Done, Failed, Progress, Ready, Stop
from tests.support.runner import BACKENDS, OBEDIENT
from tests.support.waiting import until
from tests.worker_process.direct import Dialogue, computed, failed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

TIERED = f"{BACKENDS}.tiered:TieredBackend"
RELOADED = f"{BACKENDS}.tiered:ReloadedBackend"


@pytest.fixture
def talk(tmp_path: Path) -> Iterator[Callable[..., Dialogue]]:
    opened: list[Dialogue] = []

    def launch(backend: str = OBEDIENT, tier: str = "resident") -> Dialogue:
        opened.append(Dialogue(tmp_path, backend, tier))
        return opened[-1]

    yield launch
    for dialogue in opened:
        dialogue.close()


def test_a_loaded_child_says_its_tier_and_what_it_takes(talk: Callable[..., Dialogue]) -> None:
    ready = talk(TIERED, "tiled").one(Ready)
    assert ready.tier == "tiled"
    assert ready.memory.peak_mb >= ready.memory.rss_mb > 0


def test_a_model_that_does_not_fit_is_loaded_one_tier_down(talk: Callable[..., Dialogue], tmp_path: Path) -> None:
    (tmp_path / "too-big-resident").touch()
    dialogue = talk(TIERED)
    assert dialogue.one(Ready).tier == "tiled"
    assert computed(dialogue.run("")).tier == "tiled"


def test_a_model_that_fits_nowhere_is_out_of_memory_and_not_a_bug(
    talk: Callable[..., Dialogue], tmp_path: Path
) -> None:
    for tier in ("resident", "tiled"):
        (tmp_path / f"too-big-{tier}").touch()
    dialogue = talk(TIERED)
    word = dialogue.one(Failed)
    assert (word.job, word.code, word.retryable) == ("", "out_of_memory", True)
    assert dialogue.wait_end() == "exit status 1"


def test_a_job_is_computed_at_the_tier_that_is_asked_for_and_the_next_at_the_loaded_one(
    talk: Callable[..., Dialogue], tmp_path: Path
) -> None:
    dialogue = talk(TIERED)
    assert [computed(dialogue.run("", tier)).tier for tier in ("offload", "", "sequential", "resident")] == [
        "offload",
        "resident",
        "sequential",
        "resident",
    ]
    assert (tmp_path / "job-1" / "0.png").read_text() == "offload"


def test_a_job_that_does_not_fit_is_computed_one_tier_down_and_the_next_one_at_its_own(
    talk: Callable[..., Dialogue], tmp_path: Path
) -> None:
    dialogue = talk(TIERED)
    words = dialogue.run("resident")
    assert computed(words).tier == "tiled"
    assert [word.phase for word in words if isinstance(word, Progress)] == ["denoising", "loading", "denoising"]
    assert (tmp_path / "job-1" / "0.png").read_text() == "tiled"
    assert computed(dialogue.run("")).tier == "resident"


@pytest.mark.parametrize(
    ("prompt", "tier", "last"), [("resident,tiled", "", "tiled"), ("sequential", *["sequential"] * 2)]
)
def test_a_job_that_does_not_fit_one_tier_down_either_is_out_of_memory(
    talk: Callable[..., Dialogue], prompt: str, tier: str, last: str
) -> None:
    dialogue = talk(TIERED)
    word = failed(dialogue.run(prompt, tier))
    assert (word.code, word.retryable, word.tier, word.fatal) == ("out_of_memory", True, last, False)
    assert word.message == f"RuntimeError: cuDNN error: CUDNN_STATUS_ALLOC_FAILED at {last}"
    assert "tiered.py" in word.stack
    assert computed(dialogue.run("")).tier == "resident"


def test_a_tier_that_the_model_does_not_have_is_refused(talk: Callable[..., Dialogue]) -> None:
    word = failed(talk(OBEDIENT).run("paint", "offload"))
    assert (word.code, word.retryable) == ("configuration_error", False)


@pytest.mark.parametrize(
    ("deed", "code"),
    [
        ("break_the_device", "backend_error"),
        ("break_the_device_later", "backend_error"),
        ("leave_no_way_back", "state_lost"),
    ],
)
def test_a_child_that_can_work_no_more_says_so_and_ends(talk: Callable[..., Dialogue], deed: str, code: str) -> None:
    dialogue = talk()
    word = failed(dialogue.run(deed))
    assert (word.code, word.retryable, word.fatal) == (code, True, True)
    assert dialogue.wait_end() == "exit status 70"


def test_an_error_of_one_job_alone_is_not_fatal(talk: Callable[..., Dialogue]) -> None:
    assert not failed(talk().run("fail")).fatal


def test_a_child_whose_line_is_cut_ends(talk: Callable[..., Dialogue]) -> None:
    dialogue = talk()
    dialogue.begin("cut_the_line")
    assert dialogue.wait_end() in {"exit status 0", "signal SIGKILL"}


def test_policy_reload_loads_anew_after_every_job(talk: Callable[..., Dialogue], tmp_path: Path) -> None:
    dialogue = talk(RELOADED)
    for prompt in ("paint", "fail", "paint"):
        dialogue.run(prompt)
    until(lambda: len(list(tmp_path.glob("reload-*"))) == 3, 10, "three reloads")


def test_a_reload_that_fails_ends_the_child_and_not_the_job_before_it(
    talk: Callable[..., Dialogue], tmp_path: Path
) -> None:
    (tmp_path / "fail").touch()
    dialogue = talk(RELOADED)
    words = dialogue.run("paint")
    assert isinstance(words[-1], Done)
    word = dialogue.one(Failed)
    assert (word.job, word.code, word.fatal) == ("", "backend_error", True)
    assert dialogue.wait_end() == "exit status 70"


def test_what_a_job_leaves_in_the_process_is_gone_at_the_next(talk: Callable[..., Dialogue], tmp_path: Path) -> None:
    dialogue = talk()
    for prompt in ("look_around", "pollute", "look_around"):
        dialogue.run(prompt)
    first, third = (json.loads((tmp_path / job / "0.png").read_bytes()) for job in ("job-1", "job-3"))
    assert third == first


def test_a_stop_ends_the_running_job_at_its_next_step_and_then_the_child(talk: Callable[..., Dialogue]) -> None:
    dialogue = talk()
    name = dialogue.begin("hang")
    until(lambda: dialogue.of(name), 30, "the job at work")
    dialogue.child.say(Stop())
    word = dialogue.one(Failed)
    assert (word.job, word.code, word.retryable) == (name, "runner_stopped", True)
    assert dialogue.wait_end() == "exit status 0"


def test_a_stop_lets_files_be_written(talk: Callable[..., Dialogue], tmp_path: Path) -> None:
    dialogue = talk()
    name = dialogue.begin("encode_slowly")
    dialogue.one(Computed)
    dialogue.child.say(Stop())
    (tmp_path / name / "go").touch()
    assert dialogue.one(Done).job == name
    assert dialogue.wait_end() == "exit status 0"


def test_a_cancelled_job_is_cancelled_even_while_the_child_stops(talk: Callable[..., Dialogue]) -> None:
    dialogue = talk()
    name = dialogue.begin("hang")
    until(lambda: dialogue.of(name), 30, "the job at work")
    dialogue.child.say(Cancel(job=name))
    dialogue.child.say(Stop())
    assert dialogue.one(Failed).code == "cancelled"


def test_a_flood_of_a_hundred_mebibytes_holds_the_job_up_no_longer_than_it_is_read(
    talk: Callable[..., Dialogue],
) -> None:
    assert computed(talk().run("flood_at_length")).tier == "resident"
