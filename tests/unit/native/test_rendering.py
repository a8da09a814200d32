"""What a stack writes before it starts: nothing secret where others can read it."""

from __future__ import annotations

import configparser
import json
import re
import shlex
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from infra.native import supervisor
from infra.native.config import StackSettings
from infra.native.credentials import read_demo_info
from infra.native.errors import StackError
from infra.native.program import Program, Stage, system_program
from infra.native.stack import Stack
from shared.auth.bootstrap import key_store
from shared.config import AuthSettings, load_settings
from tests.support.tenants import PLANS


def _pretend_installed(name: str, path: str) -> str:
    assert path.startswith("/usr")
    return f"/usr/bin/{Path(name).name}"


@pytest.fixture
def stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stack:
    # The programs need not be installed where their configurations are looked at.
    monkeypatch.setattr("infra.native.program.shutil.which", _pretend_installed)
    monkeypatch.setattr("infra.native.seaweedfs.weed_program", lambda: "/usr/bin/weed")
    return Stack(StackSettings(run_dir=tmp_path / "run", workers=("simulated", "simulated"), gateways=3))


def test_the_programs_start_in_stages(stack: Stack) -> None:
    names = {stage: [each.name for each in stack.programs() if each.stage is stage] for stage in Stage}
    assert names == {
        Stage.NAMES: ["epmd"],
        Stage.STORES: ["rabbitmq", "redis", "seaweedfs"],
        Stage.SERVICES: [
            *("gateway-1", "gateway-2", "gateway-3", "gateway-ledger"),
            *("status-api-1", "status-api-2", "status-consumer", "status-sweeper", "status-webhooks"),
            *("worker-simulated", "worker-simulated-2"),
        ],
        Stage.ENTRANCE: ["nginx"],
    }


def test_secrets_are_readable_by_the_owner_alone_and_nowhere_else(stack: Stack) -> None:
    stack.render()
    layout = stack.site.layout
    assert layout.secrets.stat().st_mode & 0o777 == 0o700
    files = [*layout.secrets.iterdir(), layout.demo_file]
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    secret = re.compile("|".join(re.escape(file.read_text()) for file in files if len(file.read_text()) == 32))
    for name in ("amqp-gateway", "key-pepper", "redis", "s3-worker-secret-key"):
        assert secret.fullmatch((layout.secrets / name).read_text())
    for file in layout.conf.iterdir():
        assert not secret.search(file.read_text()), file


def test_rendering_again_keeps_secrets_and_keys(stack: Stack) -> None:
    stack.render()
    before = {file.name: file.read_text() for file in stack.site.layout.secrets.iterdir()}
    keys = stack.demo_info.keys
    stack.render()
    after = {file.name: file.read_text() for file in stack.site.layout.secrets.iterdir()}
    salted = "rabbitmq-definitions.json"
    assert before.keys() == after.keys()
    assert {name for name in before if before[name] != after[name]} <= {salted}
    assert stack.demo_info.keys == keys


def test_the_demo_keys_open_the_services_key_store(stack: Stack) -> None:
    stack.render()
    keys = key_store(load_settings(AuthSettings, stack.environment_of("gateway-1")), PLANS, CollectorRegistry())
    info = stack.demo_info
    assert info.base_url == "http://127.0.0.1:8080"
    owners = {name: keys.authenticate(key) for name, key in info.keys.items()}
    assert {name: owner.plan.name for name, owner in owners.items() if owner} == {"standard": "standard", "vip": "vip"}
    database = stack.site.layout.data("tenants") / "tenants.db"
    assert not any(key.encode() in database.read_bytes() for key in info.keys.values())
    assert database.parent.stat().st_mode & 0o777 == 0o700


def test_every_service_finds_its_settings_in_its_environment(stack: Stack) -> None:
    from services.gateway.config import GatewaySettings  # noqa: PLC0415 - only this test needs the services
    from services.status.config import (  # noqa: PLC0415 - as above
        StatusApiSettings,
        StatusConsumerSettings,
        StatusSweeperSettings,
        StatusWebhooksSettings,
    )
    from services.worker.config import WorkerSettings  # noqa: PLC0415 - as above

    stack.render()
    gateway = load_settings(GatewaySettings, stack.environment_of("gateway-3"))
    assert gateway.model_ids == ("simulated",)
    assert re.fullmatch(r"amqp://gateway:[^@]{32}@127.0.0.1:18150/atelier", gateway.amqp_url.get_secret_value())
    load_settings(StatusApiSettings, stack.environment_of("status-api-2"))
    consumer = load_settings(StatusConsumerSettings, stack.environment_of("status-consumer"))
    assert consumer.metrics_port == 18120
    sweeper = load_settings(StatusSweeperSettings, stack.environment_of("status-sweeper"))
    assert (sweeper.metrics_port, sweeper.sweep_seconds) == (18122, 5.0)
    webhooks = load_settings(StatusWebhooksSettings, stack.environment_of("status-webhooks"))
    assert (webhooks.metrics_port, webhooks.webhook_allowed_networks) == (18123, "")
    worker = load_settings(WorkerSettings, stack.environment_of("worker-simulated-2"))
    assert (worker.worker_id, worker.metrics_port) == ("worker-simulated-2", 18131)


def test_a_service_gets_no_other_service_s_secrets(stack: Stack) -> None:
    stack.render()
    named = {
        program.name: {Path(value).name for name, value in program.environment.items() if name.endswith("_FILE")}
        for program in stack.programs()
        if program.stage is Stage.SERVICES
    }
    own = {"s3-gateway-access-key", "s3-gateway-secret-key"}
    assert named["gateway-1"] == {"amqp-gateway.url", "redis.url", "plans.toml", "key-pepper", *own}
    bucket = {"s3-status-access-key", "s3-status-secret-key"}
    assert named["status-api-1"] == {"amqp-status.url", "plans.toml", "key-pepper", "operator-key", *bucket}
    assert named["gateway-ledger"] == {"amqp-gateway.url", "redis.url", "operator-key"}
    assert named["status-consumer"] == {"amqp-status.url", "s3-status-access-key", "s3-status-secret-key"}
    assert named["status-sweeper"] == named["status-consumer"] | {"plans.toml"}
    assert named["status-webhooks"] == set()
    assert named["worker-simulated"] == {"amqp-worker.url", "s3-worker-access-key", "s3-worker-secret-key"}


def test_a_variable_of_the_caller_never_replaces_one_of_the_stack(tmp_path: Path, stack: Stack) -> None:
    given = {"ATELIER_LOG_LEVEL": "debug", "ATELIER_MODELS": "other", "ATELIER_WORKER_ID": "mine"}
    settings = stack.settings.model_copy(update={"environment": given, "run_dir": tmp_path / "other"})
    environment = Stack(settings).environment_of("worker-simulated")
    assert environment["ATELIER_LOG_LEVEL"] == "debug"
    assert environment["ATELIER_MODELS"] == "simulated"
    assert environment["ATELIER_WORKER_ID"] == "worker-simulated"


def test_the_broker_s_definitions_serve_these_models_and_users(stack: Stack) -> None:
    stack.render()
    document = json.loads((stack.site.layout.secrets / "rabbitmq-definitions.json").read_text())
    queues = {queue["name"] for queue in document["queues"]}
    assert "tasks.simulated" in queues
    assert "tasks.tiny-newbie" not in queues
    assert {user["name"] for user in document["users"]} == {"gateway", "worker", "status", "operator", "admin"}
    assert {each["user"] for each in document["permissions"]} == {"gateway", "worker", "status", "operator", "admin"}


def test_the_supervisor_reads_commands_and_variables_as_they_were_meant(stack: Stack) -> None:
    odd = Program(
        name="odd",
        stage=Stage.SERVICES,
        command=("/bin/echo", "100%", "two words", 'a"quote'),
        probe=lambda: None,
        environment={"ATELIER_X": 'with, comma and "quote" and 100% and \\'},
    )
    parser = configparser.RawConfigParser(delimiters=("=",), inline_comment_prefixes=())
    parser.read_string(supervisor.config_text(stack.site, [odd]))
    section = parser["program:odd"]
    # supervisord expands %(...)s after the file is read, and splits both as a shell would.
    assert shlex.split(section["command"] % {}) == list(odd.command)
    assert shlex.split(section["environment"] % {}) == ['ATELIER_X=with, comma and "quote" and 100% and \\']


def test_a_stack_that_never_ran_has_no_demo_file(stack: Stack) -> None:
    with pytest.raises(StackError, match="make run"):
        read_demo_info(stack.site.layout)


def test_a_program_that_is_not_installed_is_named() -> None:
    with pytest.raises(StackError, match="no-such-program-here is not installed: run `make setup`"):
        system_program("no-such-program-here")
