"""The command line over fakes: what it prints, what it refuses, and its exit status."""

from __future__ import annotations

import base64
import json
import logging
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from services.worker import ops
from services.worker.dead.bootstrap import operating_system_user
from shared.clock import utc_now
from shared.contracts.outcome import ErrorInfo
from shared.domain.errors import BrokerUnavailableError, ConfigurationError
from shared.lifecycle import ExitCode
from tests.support.builders import MODEL, TASK_ID, TENANT, make_dead_letter, make_params, make_task
from tests.support.dead import OTHER_MODEL, DeadWorld

if TYPE_CHECKING:
    from collections.abc import Iterator

    from services.worker.dead.config import OpsSettings
    from services.worker.dead.usecases import DeadLetters

PROMPT = "a secret garden behind the old wall"
ENVIRONMENT = {
    "ATELIER_AMQP_URL": "amqp://operator:password@127.0.0.1/atelier",
    "ATELIER_S3_ENDPOINT": "http://127.0.0.1:1",
    "ATELIER_S3_ACCESS_KEY": "a",
    "ATELIER_S3_SECRET_KEY": "s",
}


class Shell:
    """Runs commands in a world, and keeps what they wrote."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.world = DeadWorld()
        self.connected = 0
        self.err = ""
        self._capsys = capsys

    @contextmanager
    def connect(self, settings: OpsSettings) -> Iterator[DeadLetters]:
        assert settings.amqp_url.get_secret_value() == ENVIRONMENT["ATELIER_AMQP_URL"]
        self.connected += 1
        yield self.world.letters

    def run(self, *arguments: str, status: int = 0) -> list[str]:
        """The lines on standard output."""
        assert ops.main(["dead", *arguments], connect=self.connect) == status
        out, self.err = self._capsys.readouterr()
        return out.splitlines()

    def documents(self, *arguments: str, status: int = 0) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.run(*arguments, "--json", status=status)]

    def usage_error(self, *arguments: str) -> str:
        with pytest.raises(SystemExit) as failure:
            ops.main(["dead", *arguments], connect=self.connect)
        assert failure.value.code == 2
        assert self.connected == 0
        return self._capsys.readouterr().err


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield Shell(capsys)
    # A command configures logging for its whole process, which this one is not.
    root.handlers, root.level = handlers, level
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


# list


def test_the_list_has_a_line_for_each_with_what_identifies_it(shell: Shell) -> None:
    shell.world.park()
    shell.world.park_body(message_id="m-1")
    heading, first, second = shell.run("list")
    assert heading.split()[:2] == ["parked", "at"]
    assert first.split() == [
        *("2026-01-05T12:01:00Z", TASK_ID, TENANT, MODEL, "runner_crashed", "3/3", "the", "runner", "died")
    ]
    assert second.split()[:6] == ["2026-01-05T12:00:00Z", "m-1", "-", "-", "undecodable", "-"]


def test_an_empty_queue_lists_nothing_and_that_is_fine(shell: Shell) -> None:
    assert len(shell.run("list")) == 1
    assert shell.documents("list") == []


def test_the_list_as_json_is_one_document_a_line(shell: Shell) -> None:
    shell.world.park()
    assert shell.documents("list") == [
        {
            "id": TASK_ID,
            "form": "letter",
            "parked_at": "2026-01-05T12:01:00+00:00",
            "parked_by": "worker-1",
            "tenant_id": TENANT,
            "model": MODEL,
            "reason": "runner_crashed",
            "detail": "the runner died",
            "attempt": 3,
            "max_attempts": 3,
            "retry_of": None,
        }
    ]


def test_every_filter_is_understood_by_every_command(shell: Shell) -> None:
    now = utc_now()
    world = shell.world
    wanted = world.park_new(tenant_id="zeus", model=OTHER_MODEL, reason="hung", parked_at=now - timedelta(hours=3))
    assert wanted.task is not None
    task_id = wanted.task.task_id
    world.park_new(model=OTHER_MODEL, reason="hung", parked_at=now - timedelta(hours=3))
    world.park_new(tenant_id="zeus", reason="hung", parked_at=now - timedelta(hours=3))
    world.park_new(tenant_id="zeus", model=OTHER_MODEL, parked_at=now - timedelta(hours=3))
    world.park_new(tenant_id="zeus", model=OTHER_MODEL, reason="hung", parked_at=now - timedelta(minutes=1))
    world.park_new(tenant_id="zeus", model=OTHER_MODEL, reason="hung", parked_at=now - timedelta(days=2))
    filters = [
        *("--tenant", "zeus", "--model", OTHER_MODEL, "--reason", "hung"),
        *("--older-than", "2h", "--newer-than", "1d"),
    ]
    for command in (["list"], ["show", task_id], ["replay", "--all", "--dry-run"], ["drop", "--yes", "--dry-run"]):
        assert [found["id"] for found in shell.documents(*command, *filters)] == [task_id]
        assert [found["id"] for found in shell.documents(*command, "--task", task_id)] == [task_id]


@pytest.mark.parametrize(
    ("age", "seconds"),
    [("90s", 90), ("15m", 900), ("2h", 7200), ("7d", 604_800), ("0s", 0), ("999999d", 3_153_600_000)],
)
def test_an_age_is_a_number_with_a_unit(age: str, seconds: int) -> None:
    assert ops._age(age).total_seconds() == seconds


@pytest.mark.parametrize("age", ["", "2", "h", "-1h", "1.5h", "2 h", "2w", "1h30m", "1234567d", "²h"])
def test_anything_else_is_no_age(shell: Shell, age: str) -> None:
    assert "is no age" in shell.usage_error("list", f"--older-than={age}")


def test_an_age_before_all_time_matches_nothing_and_is_no_crash(shell: Shell) -> None:
    shell.world.park()
    assert shell.documents("list", "--older-than", "999999d") == []
    assert len(shell.documents("list", "--newer-than", "999999d")) == 1


@pytest.mark.parametrize("limit", ["0", "-1", "x", "1.5", "²"])
def test_a_limit_is_a_number_from_one(shell: Shell, limit: str) -> None:
    assert "is no number" in shell.usage_error("list", f"--limit={limit}")


def test_a_limit_is_kept(shell: Shell) -> None:
    for _ in range(3):
        shell.world.park_new()
    assert len(shell.documents("list", "--limit", "2")) == 2


# show


def test_everything_is_shown_of_one_with_its_stack_and_without_its_prompt(shell: Shell) -> None:
    params = make_params(prompt=PROMPT, negative_prompt="a very ugly thing")
    error = ErrorInfo(code="backend_error", message=f"no such token in {PROMPT!r}")
    stack = f'Traceback (most recent call last):\n  File "b.py", line 1\nValueError: {PROMPT}'
    letter = make_dead_letter(task=make_task(params=params), last_error=error, detail=error.message, stack=stack)
    shell.world.park(letter)
    text = "\n".join(shell.run("show", TASK_ID))
    for part in ('File "b.py"', "ValueError", "worker: worker-1", "attempt 3", "steps: 4", "callback", TENANT):
        assert (part in text) == (part != "callback")
    for command in (["show", TASK_ID], ["show", TASK_ID, "--json"], ["list"], ["list", "--json"]):
        text = "\n".join(shell.run(*command))
        assert PROMPT not in text
        assert "ugly" not in text
    for command in (["show", TASK_ID, "--prompt"], ["show", TASK_ID, "--prompt", "--json"]):
        assert PROMPT in "\n".join(shell.run(*command))


def test_a_prompt_of_several_lines_is_not_shown_in_its_escaped_form_either(shell: Shell) -> None:
    prompt = "line one of it\nline two of it"
    stack = f"ValueError: {prompt!r}"
    shell.world.park(make_dead_letter(task=make_task(params=make_params(prompt=prompt)), stack=stack))
    assert "line two" not in "\n".join([*shell.run("show", TASK_ID), *shell.run("show", TASK_ID, "--json")])


def test_all_that_is_known_is_in_the_json_form(shell: Shell) -> None:
    letter = shell.world.park()
    (document,) = shell.documents("show", TASK_ID)
    assert document["stack"] == letter.stack
    assert document["attempts"] == [each.model_dump(mode="json") for each in letter.attempts]
    assert document["last_error"] == {"code": "runner_crashed", "message": "the runner died"}
    assert document["task"]["params"]["prompt"] == "(20 characters, shown with --prompt)"
    assert document["task"]["params"]["steps"] == 4


def test_raw_bytes_are_shown_by_size_and_digest_and_whole_on_demand(shell: Shell) -> None:
    body = f"{{broken: {PROMPT}".encode()
    shell.world.park_body(body, message_id="m-1")
    (document,) = shell.documents("show", "m-1")
    assert (document["body"]["bytes"], len(document["body"]["sha256"])) == (len(body), 64)
    assert set(document["body"]) == {"bytes", "sha256"}
    assert document["origin"] == {"exchange": "atelier.returned", "routing_key": MODEL, "message_id": "m-1"}
    (document,) = shell.documents("show", "m-1", "--prompt")
    assert base64.b64decode(document["body"]["base64"]) == body


def test_a_task_that_was_parked_twice_is_shown_twice(shell: Shell) -> None:
    shell.world.park()
    shell.world.park(state=None)
    assert len(shell.documents("show", TASK_ID)) == 2


@pytest.mark.parametrize("command", [["list"], ["show", TASK_ID]])
def test_nothing_of_a_message_reaches_the_terminal_as_a_command(shell: Shell, command: list[str]) -> None:
    evil = "\x1b]0;owned\x07\x9b31m\u202egnp.\r\nfake line"
    shell.world.park(make_dead_letter(detail=evil, reason=evil, stack=evil))
    text = "".join(shell.run(*command))
    assert all(char.isprintable() for char in text)
    assert "\\x1b]0;owned" in text


# replay and drop


def test_a_replay_by_id_says_in_one_line_what_it_made(shell: Shell) -> None:
    shell.world.park()
    shell.world.park_new()
    (line,) = shell.run("replay", TASK_ID)
    (task,) = shell.world.tasks()
    assert line == f"replayed {TASK_ID} as {task.task_id}"
    assert (task.retry_of, shell.world.left()) == (TASK_ID, 1)


def test_replaying_again_finds_nothing_more(shell: Shell) -> None:
    shell.world.park()
    shell.run("replay", TASK_ID)
    assert shell.run("replay", TASK_ID, status=1) == []
    assert "not_found" in shell.err
    assert len(shell.world.tasks()) == 1


def test_a_replay_of_all_goes_on_past_what_it_must_refuse(shell: Shell) -> None:
    shell.world.park_body(message_id="m-1")
    shell.world.park()
    refused, replayed = shell.documents("replay", "--all", status=3)
    assert (refused["id"], refused["fate"], refused["retried_as"]) == ("m-1", "refused", None)
    assert "no task that can be read" in refused["why"]
    assert (replayed["id"], replayed["fate"]) == (TASK_ID, "replayed")
    assert shell.world.left() == 1


def test_an_undecodable_message_named_by_its_id_is_refused_with_the_reason(shell: Shell) -> None:
    shell.world.park_body(message_id="m-1")
    (line,) = shell.run("replay", "m-1", status=3)
    assert line.startswith("refused m-1: the parked message is no task that can be read")
    assert shell.world.left() == 1


def test_a_dry_run_says_what_would_be_done(shell: Shell) -> None:
    shell.world.park()
    (would,) = shell.run("replay", "--all", "--dry-run")
    (dropped,) = shell.run("drop", "--yes", "--dry-run")
    (did,) = shell.run("replay", "--all")
    assert would == f"would {did.replace('replayed', 'replay')}"
    assert dropped == f"would drop {TASK_ID}"


def test_all_of_nothing_is_done_without_complaint(shell: Shell) -> None:
    assert shell.run("replay", "--all") == []
    assert shell.run("drop", "--yes") == []


@pytest.mark.parametrize("command", [["replay"], ["replay", "--model", MODEL], ["drop"], ["drop", "--tenant", TENANT]])
def test_more_than_one_is_touched_only_with_consent(shell: Shell, command: list[str]) -> None:
    shell.world.park()
    assert "needs one id, or --" in shell.usage_error(*command)
    assert shell.world.left() == 1


def test_two_different_ids_are_a_mistake(shell: Shell) -> None:
    shell.usage_error("drop", TASK_ID, "--task", "another")


def test_dropping_one_leaves_the_others(shell: Shell) -> None:
    shell.world.park()
    shell.world.park_new()
    assert shell.run("drop", TASK_ID) == [f"dropped {TASK_ID}"]
    assert shell.world.left() == 1


def test_dropping_by_filters_takes_consent_and_drops_those(shell: Shell) -> None:
    shell.world.park_new(model=OTHER_MODEL)
    shell.world.park()
    assert len(shell.run("drop", "--model", OTHER_MODEL, "--yes")) == 1
    assert [each.ident for each in shell.world.seen()] == [TASK_ID]


@pytest.mark.parametrize("command", ["show", "replay", "drop"])
def test_an_id_that_is_not_there_is_said_so(shell: Shell, command: str) -> None:
    assert shell.run(command, "nobody", status=1) == []
    assert "nobody" in shell.err


# Around


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_audit_events_are_logged_apart_from_the_output_whatever_the_log_level(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, level: str
) -> None:
    monkeypatch.setenv("ATELIER_LOG_LEVEL", level)
    shell.world.park()
    (line,) = shell.run("drop", TASK_ID)
    assert "audit" not in line
    audits = [json.loads(each) for each in shell.err.splitlines() if '"audit"' in each]
    assert [(each["action"], each["phase"], each["actor"]) for each in audits] == [
        ("dead_letter_drop", "begin", "olga"),
        ("dead_letter_drop", "done", "olga"),
    ]


def test_the_actor_is_the_user_that_the_process_runs_as_and_not_what_the_environment_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = operating_system_user()
    for name in ("USER", "LOGNAME", "USERNAME", "LNAME"):
        monkeypatch.setenv(name, "somebody-else")
    assert operating_system_user() == before != "somebody-else"


def test_a_missing_setting_is_named(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ATELIER_AMQP_URL")
    shell.run("list", status=ExitCode.CONFIGURATION)
    assert "ATELIER_AMQP_URL" in shell.err
    assert shell.connected == 0


def test_a_broker_or_a_bucket_that_is_away_has_an_exit_status_of_its_own(shell: Shell) -> None:
    shell.world.park()
    shell.world.store.available = False
    shell.run("replay", "--all", status=ExitCode.DEPENDENCY)
    assert "storage_error" in shell.err
    shell.world.broker.available = False
    shell.run("list", status=ExitCode.DEPENDENCY)
    assert BrokerUnavailableError.code in shell.err


@pytest.mark.parametrize(
    ("raised", "status"),
    [(KeyboardInterrupt(), 130), (ConfigurationError("no"), 78)],
)
def test_other_ends_have_their_status(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, raised: BaseException, status: int
) -> None:
    def fails(*_: object) -> int:
        raise raised

    monkeypatch.setattr(shell.world.letters, "each", fails)
    shell.run("list", status=status)


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["show"], ["list", "an-id"]])
def test_wrong_usage_connects_nowhere(shell: Shell, arguments: list[str]) -> None:
    shell.usage_error(*arguments)
