from __future__ import annotations

import hmac
import json
from typing import TYPE_CHECKING, Final

import pytest

from shared.auth import keys
from shared.auth.keys import KeyRing, generate_key, hash_key, key_record, load_keyring
from shared.domain.errors import ConfigurationError
from shared.domain.task import Lane

if TYPE_CHECKING:
    from pathlib import Path

PEPPER: Final = "pepper"


def ring(*known: str, pepper: str = PEPPER) -> KeyRing:
    records = [keys.KeyRecord.model_validate(key_record(key, pepper=PEPPER, tenant_id="acme")) for key in known]
    return KeyRing(tuple(records), pepper)


def test_a_known_key_tells_its_owner_and_lane() -> None:
    key = generate_key()
    record = key_record(key, pepper=PEPPER, tenant_id="acme", lane=Lane.VIP, name="laptop")
    principal = KeyRing((keys.KeyRecord.model_validate(record),), PEPPER).authenticate(key)
    assert principal is not None
    assert (principal.tenant_id, principal.lane, principal.key_prefix) == ("acme", Lane.VIP, key.split("_")[1])


def test_generated_keys_have_the_form_of_keys_and_differ() -> None:
    made = {generate_key() for _ in range(50)}
    assert len(made) == 50
    assert all(key_record(key, pepper=PEPPER, tenant_id="acme") for key in made)


def test_a_record_holds_neither_the_key_nor_its_secret_part() -> None:
    key = generate_key()
    text = json.dumps(key_record(key, pepper=PEPPER, tenant_id="acme"))
    assert key.split("_", 2)[2] not in text
    assert PEPPER not in text


def test_a_hash_depends_on_every_character_of_the_key_and_on_the_pepper() -> None:
    key = generate_key()
    changed = key[:-1] + ("a" if key[-1] != "a" else "b")
    assert len({hash_key(key, PEPPER), hash_key(changed, PEPPER), hash_key(key, "other")}) == 3


def test_the_right_prefix_with_a_wrong_secret_is_nobody() -> None:
    key = generate_key()
    wrong = f"atl_{key.split('_')[1]}_{'x' * 43}"
    assert ring(key).authenticate(wrong) is None


def test_the_right_key_under_another_pepper_is_nobody() -> None:
    key = generate_key()
    assert ring(key, pepper="other").authenticate(key) is None


@pytest.mark.parametrize(
    "text", ["", "atl_", "atl_0123456_" + "a" * 43, "ATL_01234567_" + "a" * 43, "atl_01234567_short", "x" * 10_000]
)
def test_what_has_not_the_form_of_a_key_is_nobody_and_gets_no_record(text: str) -> None:
    assert ring(generate_key()).authenticate(text) is None
    with pytest.raises(ValueError, match="not an API key") as failure:
        key_record(text, pepper=PEPPER, tenant_id="acme")
    assert str(failure.value) == "not an API key"


def test_a_key_with_more_after_it_is_nobody() -> None:
    key = generate_key()
    assert ring(key).authenticate(key + "\n") is None
    assert ring(key).authenticate(key + " ") is None


def test_known_and_unknown_prefixes_take_the_same_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []

    def compare(given: str, expected: str) -> bool:
        compared.append(len(given) == len(expected) == 64)
        return hmac_compare(given, expected)

    hmac_compare = hmac.compare_digest
    monkeypatch.setattr("shared.auth.keys.hmac.compare_digest", compare)
    known, unknown = generate_key(), generate_key()
    checked = ring(known)
    assert checked.authenticate(known)
    assert checked.authenticate(unknown) is None
    assert compared == [True, True]


@pytest.mark.parametrize(
    "entry", [{"prefix": "zz"}, {"hash": "12"}, {"tenant_id": "A B"}, {"lane": "fast"}, {"more": 1}]
)
def test_a_broken_keys_file_is_named_without_its_content(tmp_path: Path, entry: dict[str, object]) -> None:
    path = tmp_path / "keys.json"
    record: dict[str, object] = {**key_record(generate_key(), pepper=PEPPER, tenant_id="acme"), **entry}
    path.write_text(json.dumps({"keys": [record]}))
    with pytest.raises(
        ConfigurationError, match=rf"keys\.json: not a keys file \(keys\.0\.{next(iter(entry))}\)"
    ) as failure:
        load_keyring(path, PEPPER)
    assert str(record["hash"]) not in str(failure.value)
    assert failure.value.__cause__ is None


def test_a_missing_keys_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"gone\.json"):
        load_keyring(tmp_path / "gone.json", PEPPER)


def test_a_change_while_the_file_is_first_read_is_not_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, key = tmp_path / "keys.json", generate_key()
    path.write_text('{"keys": []}')

    def load_then_change(path: Path, pepper: str) -> KeyRing:
        monkeypatch.setattr(keys, "load_keyring", load_keyring)
        made = load_keyring(path, pepper)
        new = path.with_suffix(".new")
        new.write_text(json.dumps({"keys": [key_record(key, pepper=PEPPER, tenant_id="acme")]}))
        new.replace(path)
        return made

    monkeypatch.setattr(keys, "load_keyring", load_then_change)
    seconds = iter(range(0, 100, 10))
    ring = keys.KeysFile(path, PEPPER, clock=lambda: next(seconds))
    assert ring.authenticate(key) is not None
