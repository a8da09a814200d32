from __future__ import annotations

import json
import stat
from typing import TYPE_CHECKING

import pytest

from shared.messaging import definitions
from shared.messaging.topology import DELIVERY_LIMIT, MAX_PRIORITY, PERMISSIONS, QueueType, topology, work_queue

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def passwords(tmp_path: Path) -> Path:
    for permission in PERMISSIONS:
        (tmp_path / f"amqp-{permission.user}").write_text(f"{permission.user}-secret\n")
    return tmp_path


def test_a_broker_s_definitions_hold_its_users_and_none_of_their_passwords(passwords: Path) -> None:
    file = passwords / "definitions.json"
    arguments = ["--render", str(file), "--models", "one, two", "--queue-type", "quorum", "--passwords", str(passwords)]
    assert definitions.main(arguments) == 0
    document = json.loads(file.read_text())
    assert {user["name"] for user in document["users"]} == {permission.user for permission in PERMISSIONS}
    assert "secret" not in file.read_text()
    assert {row["user"] for row in document["permissions"]} == {permission.user for permission in PERMISSIONS}
    work = {queue["name"]: queue["arguments"] for queue in document["queues"] if queue["name"] == "tasks.one"}
    assert work == {"tasks.one": {"x-queue-type": "quorum"}}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_salt_makes_every_hash_another(passwords: Path) -> None:
    hashes = set()
    for name in ("a.json", "b.json"):
        definitions.main(["--render", str(passwords / name), "--passwords", str(passwords)])
        hashes |= {user["password_hash"] for user in json.loads((passwords / name).read_text())["users"]}
    assert len(hashes) == 2 * len(PERMISSIONS)


def test_a_file_that_others_could_read_is_theirs_no_more(passwords: Path) -> None:
    file = passwords / "definitions.json"
    file.write_text("old")
    file.chmod(0o644)
    definitions.main(["--render", str(file), "--passwords", str(passwords)])
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_every_durable_queue_is_of_the_type_that_was_asked_for() -> None:
    for queue in topology(["m"], QueueType.QUORUM).queues:
        assert queue.arguments["x-queue-type"] == "quorum"
        assert "x-max-priority" not in queue.arguments  # RabbitMQ 3.10 to 4.2 refuse it
    for queue in topology(["m"]).queues:
        assert "x-queue-type" not in queue.arguments
    (work,) = [queue for queue in topology(["m"]).queues if queue.name == work_queue("m")]
    assert work.arguments == {"x-max-priority": MAX_PRIORITY}


def test_what_a_quorum_queue_passes_on_it_keeps_until_it_has_arrived() -> None:
    policies = {policy.name: policy.definition for policy in topology(["m"], QueueType.QUORUM).policies}
    for name in ("returned", "retried"):
        assert policies[name]["dead-letter-strategy"] == "at-least-once"
        assert policies[name]["overflow"] == "reject-publish"  # without it the strategy is not in force
    assert {policy["delivery-limit"] for policy in policies.values()} == {DELIVERY_LIMIT}
