from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from services.gateway.admin import main
from shared.auth.keys import load_keyring
from shared.domain.task import Lane

if TYPE_CHECKING:
    from pathlib import Path

PEPPER = "the-pepper"


@pytest.fixture
def keys_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "keys.json"
    monkeypatch.setenv("ATELIER_KEYS_FILE", str(path))
    monkeypatch.setenv("ATELIER_KEY_PEPPER", PEPPER)
    return path


def created(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["key", "create", *arguments]) == 0
    return capsys.readouterr().out.strip()


def test_a_created_key_opens_and_is_stored_as_a_hash_only(keys_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = created(capsys, "--tenant", "acme", "--lane", "vip", "--name", "laptop")
    principal = load_keyring(keys_file, PEPPER).authenticate(key)
    assert principal is not None
    assert (principal.tenant_id, principal.lane) == ("acme", Lane.VIP)
    assert key not in keys_file.read_text()
    assert key.split("_", 2)[2] not in keys_file.read_text()


def test_a_key_hashed_with_another_pepper_does_not_open(keys_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = created(capsys, "--tenant", "acme")
    assert load_keyring(keys_file, "other").authenticate(key) is None


def test_a_revoked_key_is_gone_and_others_stay(keys_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = created(capsys, "--tenant", "acme"), created(capsys, "--tenant", "zeus")
    assert main(["key", "revoke", first[4:12]]) == 0
    ring = load_keyring(keys_file, PEPPER)
    assert ring.authenticate(first) is None
    assert ring.authenticate(second) is not None


def test_keys_are_listed_by_prefix_without_hashes(keys_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = created(capsys, "--tenant", "acme", "--name", "laptop")
    assert main(["key", "list"]) == 0
    line = capsys.readouterr().out
    assert key[4:12] in line
    assert "acme" in line
    assert json.loads(keys_file.read_text())["keys"][0]["hash"] not in line


def test_mistakes_are_reported(keys_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["key", "create", "--tenant", "Not A Tenant"]) == 2
    assert "--tenant" in capsys.readouterr().err
    assert main(["key", "revoke", "00000000"]) == 1
    keys_file.write_text("{broken")
    assert main(["key", "list"]) == 78
    assert str(keys_file) in capsys.readouterr().err
