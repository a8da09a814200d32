from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from services.gateway import admin
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


def test_the_option_goes_before_the_variable_and_a_list_needs_no_pepper(
    keys_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other.json"
    key = created(capsys, "--tenant", "acme", "--keys-file", str(other))
    assert not keys_file.exists()
    monkeypatch.delenv("ATELIER_KEYS_FILE")
    monkeypatch.delenv("ATELIER_KEY_PEPPER")
    assert main(["key", "list", "--keys-file", str(other)]) == 0
    assert key[4:12] in capsys.readouterr().out


@pytest.mark.parametrize("missing", ["ATELIER_KEYS_FILE", "ATELIER_KEY_PEPPER"])
def test_a_missing_setting_is_named(
    keys_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.delenv(missing)
    assert main(["key", "create", "--tenant", "acme"]) == 78
    assert missing in capsys.readouterr().err
    assert not keys_file.exists()


def test_a_folder_that_is_not_there_is_named(
    tmp_path: Path, keys_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    del keys_file
    path = tmp_path / "nowhere" / "keys.json"
    assert main(["key", "create", "--tenant", "acme", "--keys-file", str(path)]) == 78
    assert str(path.parent) in capsys.readouterr().err


def test_keys_made_at_the_same_time_are_all_kept(keys_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda n: main(["key", "create", "--tenant", f"tenant-{n}"]), range(24))) == {0}
    keys = capsys.readouterr().out.split()
    ring = load_keyring(keys_file, PEPPER)
    assert all(ring.authenticate(key) for key in keys)
    assert len(json.loads(keys_file.read_text())["keys"]) == len(keys) == 24


def test_a_key_never_takes_the_prefix_of_another(
    keys_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = created(capsys, "--tenant", "acme")
    drawn = iter([first[:13] + "B" * 43, "atl_ffffffff_" + "C" * 43])
    monkeypatch.setattr(admin, "generate_key", lambda: next(drawn))
    assert created(capsys, "--tenant", "zeus").startswith("atl_ffffffff_")
    assert load_keyring(keys_file, PEPPER).authenticate(first) is not None


def test_the_file_keeps_its_rights_and_a_link_stays_a_link(
    keys_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    real = tmp_path / "elsewhere.json"
    real.write_text('{"keys": []}')
    real.chmod(0o640)
    keys_file.symlink_to(real)
    key = created(capsys, "--tenant", "acme")
    assert keys_file.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o640
    assert load_keyring(real, PEPPER).authenticate(key) is not None
