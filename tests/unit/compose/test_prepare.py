"""Secrets that are made once, and configurations that are rendered from them."""

from __future__ import annotations

import base64
import json
import re
import stat
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from infra.compose.prepare import BROKER_USERS, main
from shared.messaging.definitions import password_hash
from tests.support.compose import ROOT, document

if TYPE_CHECKING:
    from pathlib import Path


def make_secrets(folder: Path) -> dict[str, str]:
    script = ROOT / "infra" / "compose" / "make-secrets.sh"
    subprocess.run(["/bin/sh", script, folder], check=True, capture_output=True)
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("secrets") / "secrets"
    make_secrets(path)
    return path


def rendered(folder: Path, out: Path, models: str = "tiny-newbie,simulated") -> dict[str, str]:
    assert main(["--models", models, "--secrets", str(folder), "--out", str(out)]) == 0
    return {str(path.relative_to(out)): path.read_text() for path in out.rglob("*") if path.is_file()}


def test_every_secret_that_the_compose_file_names_is_made_and_no_other(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == document()["secrets"].keys()


def test_secrets_are_random_and_kept(folder: Path) -> None:
    before = {path.name: path.read_text() for path in folder.iterdir()}
    plain = [value for name, value in before.items() if not name.endswith(".url")]
    assert len(set(plain)) == len(plain)
    assert all(len(value) == 32 and value.isalnum() for value in plain)
    (folder / "redis").unlink()
    after = make_secrets(folder)
    assert {name for name in after if after[name] != before[name]} == {"redis", "redis.url"}
    assert after["redis"] in after["redis.url"]


def test_only_the_owner_gets_into_the_folder_whose_files_containers_can_read(folder: Path) -> None:
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o444}


def test_each_server_gets_its_own_file_and_nothing_of_the_others(folder: Path, tmp_path: Path) -> None:
    files = rendered(folder, tmp_path)
    assert files.keys() == {
        "nginx/nginx.conf",
        "rabbitmq/definitions.json",
        "redis/redis.conf",
        "seaweedfs/identities.json",
    }
    secrets = {path.name: path.read_text() for path in folder.iterdir()}
    holders = {name: {file for file, text in files.items() if value in text} for name, value in secrets.items()}
    assert holders.pop("redis") == {"redis/redis.conf"}
    s3 = {name for name in holders if name.startswith("s3-")}
    assert all(holders[name] == {"seaweedfs/identities.json"} for name in s3)
    # Of the broker's passwords only hashes are written.
    assert {name for name, where in holders.items() if where and name not in s3} == set()


def test_the_broker_knows_each_service_by_its_password(folder: Path, tmp_path: Path) -> None:
    definitions: dict[str, Any] = json.loads(rendered(folder, tmp_path)["rabbitmq/definitions.json"])
    hashes = {user["name"]: user["password_hash"] for user in definitions["users"]}
    assert hashes.keys() == set(BROKER_USERS)
    for user, found in hashes.items():
        password = (folder / f"amqp-{user}").read_text()
        assert found == password_hash(password, base64.b64decode(found)[:4])
    assert {"tasks.tiny-newbie", "tasks.simulated"} <= {queue["name"] for queue in definitions["queues"]}


def test_the_queues_are_of_the_type_that_the_services_are_told(folder: Path, tmp_path: Path) -> None:
    (setting,) = [each for each in document()["services"]["prepare-configuration"]["command"] if "queue-type" in each]
    assert setting == "--queue-type=${ATELIER_QUEUE_TYPE:-classic}"
    arguments = ["--models", "tiny-newbie", "--secrets", str(folder), "--out", str(tmp_path)]
    assert main([*arguments, "--queue-type", "quorum"]) == 0
    queues = json.loads((tmp_path / "rabbitmq" / "definitions.json").read_text())["queues"]
    assert {queue["arguments"]["x-queue-type"] for queue in queues} == {"quorum"}


def test_the_entrance_asks_for_the_services_by_name(folder: Path, tmp_path: Path) -> None:
    text = rendered(folder, tmp_path)["nginx/nginx.conf"]
    assert "resolver 127.0.0.11 valid=1s ipv6=off;" in text
    assert "set $gateways gateway:8000;" in text
    assert "set $status_apis status-api:8000;" in text
    assert re.search(r"^\s*upstream ", text, re.MULTILINE) is None
    assert re.search(r"@@[A-Z_]+@@", text) is None
