from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import CollectorRegistry

from services.gateway.admin import main
from shared.auth import administration
from shared.auth.bootstrap import key_store
from shared.auth.errors import KeyRevokedError
from shared.auth.webhook_secrets import secret_bytes
from shared.config import AuthSettings, load_settings
from shared.domain.task import EventType, Lane
from tests.support.logs import captured_lines
from tests.support.tenants import PLANS, PLANS_FILE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from shared.auth.ports import Principal

PEPPER = "the-pepper"


class Operator:
    """The command line, its answers, and what a fresh service makes of a key afterwards."""

    def __init__(self, capsys: pytest.CaptureFixture[str], folder: Path) -> None:
        self._capsys = capsys
        self.database = folder / "tenants.db"
        self.errors = ""

    def run(self, *arguments: str, status: int = 0) -> str:
        assert main(arguments) == status
        said = self._capsys.readouterr()
        self.errors = said.err
        return said.out.strip()

    def json(self, *arguments: str) -> Any:  # noqa: ANN401 - JSON of any shape
        return json.loads(self.run(*arguments, "--json"))

    def key(self, tenant: str = "acme", plan: str = "standard") -> str:
        return self.run("key", "create", "--tenant", tenant, "--plan", plan)

    def owner(self, key: str) -> Principal | None:
        return key_store(load_settings(AuthSettings), PLANS, CollectorRegistry()).authenticate(key)

    def audits(self) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.errors.splitlines()]
        return [line for line in lines if line["message"] == "audit"]


@pytest.fixture
def operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Operator]:
    monkeypatch.setenv("ATELIER_TENANTS_URL", f"sqlite:///{tmp_path}/tenants.db")
    monkeypatch.setenv("ATELIER_PLANS_FILE", str(PLANS_FILE))
    monkeypatch.setenv("ATELIER_KEY_PEPPER", PEPPER)
    with captured_lines():  # puts logging back as it was
        yield Operator(capsys, tmp_path)


def test_a_created_key_opens_and_is_stored_as_a_hash_only(operator: Operator) -> None:
    key = operator.key(plan="vip")
    assert key not in operator.errors
    principal = operator.owner(key)
    assert principal is not None
    assert (principal.tenant_id, principal.lane) == ("acme", Lane.VIP)
    for path in operator.database.parent.iterdir():
        assert key[13:].encode() not in path.read_bytes()


def test_a_key_hashed_with_another_pepper_does_not_open(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    key = operator.key()
    monkeypatch.setenv("ATELIER_KEY_PEPPER", "another")
    assert operator.owner(key) is None


def test_a_revoked_key_is_refused_and_others_stay(operator: Operator) -> None:
    first, second = operator.key(), operator.key("zeus")
    assert operator.run("key", "revoke", first[4:12]) == f"{first[4:12]}  revoked   acme"
    with pytest.raises(KeyRevokedError):
        operator.owner(first)
    assert operator.owner(second)


def test_a_rotated_key_works_beside_its_successor_for_its_grace(operator: Operator) -> None:
    old = operator.key()
    new = operator.json("key", "rotate", old[4:12], "--grace", "1h")
    assert operator.owner(old)
    assert operator.owner(new["key"])
    states = {each["prefix"]: each["state"] for each in operator.json("key", "list", "--tenant", "acme")}
    assert states == {old[4:12]: "expiring", new["prefix"]: "active"}


def test_no_hash_is_ever_shown(operator: Operator) -> None:
    key = operator.key()
    (shown,) = operator.json("key", "list")
    assert (shown["prefix"], shown["tenant_id"], shown["state"]) == (key[4:12], "acme", "active")
    assert "hash" not in shown
    assert key[13:] not in operator.run("key", "list")


def test_a_tenant_gets_another_plan_with_values_of_its_own(operator: Operator) -> None:
    operator.run("tenant", "create", "acme", "--plan", "free", "--name", "Acme")
    shown = operator.json("tenant", "set-plan", "acme", "batch", "--set", "queued=7", "--set", "lane=vip")
    assert (shown["plan"], shown["overrides"], shown["name"]) == ("batch", {"queued": 7, "lane": "vip"}, "Acme")
    assert operator.json("tenant", "list") == [shown]
    principal = operator.owner(operator.run("key", "create", "--tenant", "acme"))
    assert principal is not None
    assert (principal.plan.name, principal.plan.queued, principal.lane) == ("batch", 7, Lane.VIP)


def test_a_tenant_is_suspended_and_resumed(operator: Operator) -> None:
    operator.key()
    assert operator.json("tenant", "suspend", "acme")["state"] == "suspended"
    assert operator.json("tenant", "resume", "acme")["state"] == "active"


def test_every_change_leaves_an_audit_line_with_who_did_it(operator: Operator) -> None:
    key = operator.key()
    assert [line["action"] for line in operator.audits()] == ["tenant_created", "key_created"]
    commands = {
        "tenant_plan_set": ("tenant", "set-plan", "acme", "vip"),
        "tenant_suspended": ("tenant", "suspend", "acme"),
        "tenant_resumed": ("tenant", "resume", "acme"),
        "key_rotated": ("key", "rotate", key[4:12]),
        "key_revoked": ("key", "revoke", key[4:12]),
    }
    for action, command in commands.items():
        operator.run(*command)
        (line,) = operator.audits()
        assert (line["action"], line["tenant_id"]) == (action, "acme")
        assert line["actor"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("tenant", "create", "Not A Tenant", "--plan", "free"), "Not A Tenant"),
        (("tenant", "create", "acme", "--plan", "free"), "acme already"),
        (("tenant", "create", "zeus", "--plan", "gold"), "'gold'"),
        (("tenant", "create", "zeus", "--plan", "anonymous"), "'anonymous'"),
        (("tenant", "create", "anonymous-zeus", "--plan", "vip"), "'anonymous-zeus'"),
        (("tenant", "set-plan", "acme", "vip", "--set", "queud=5"), "queud"),
        (("tenant", "set-plan", "zeus", "vip"), "no tenant zeus"),
        (("tenant", "suspend", "zeus"), "no tenant zeus"),
        (("key", "create", "--tenant", "zeus"), "no tenant zeus"),
        (("key", "create", "--tenant", "acme", "--plan", "vip"), "has plan standard"),
        (("key", "revoke", "00000000"), "00000000"),
        (("key", "rotate", "00000000"), "00000000"),
    ],
)
@pytest.mark.exhaustive
def test_what_makes_no_sense_is_refused_and_named(operator: Operator, arguments: tuple[str, ...], named: str) -> None:
    operator.key()
    operator.run(*arguments, status=1)
    assert named in operator.errors
    assert [each["plan"] for each in operator.json("tenant", "list")] == ["standard"]


def test_a_key_that_was_revoked_is_not_rotated_back_to_life(operator: Operator) -> None:
    key = operator.key()
    operator.run("key", "revoke", key[4:12])
    operator.run("key", "rotate", key[4:12], status=1)
    assert len(operator.json("key", "list")) == 1


@pytest.mark.parametrize("variable", ["ATELIER_TENANTS_URL", "ATELIER_PLANS_FILE", "ATELIER_KEY_PEPPER"])
def test_a_setting_that_is_missing_or_wrong_is_named(
    operator: Operator, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    operator.run("tenant", "create", "acme", "--plan", "free")
    monkeypatch.setenv(variable, "/nowhere" if variable == "ATELIER_PLANS_FILE" else "")
    operator.run("key", "create", "--tenant", "acme", status=1 if variable == "ATELIER_KEY_PEPPER" else 78)
    assert variable in operator.errors


def test_a_list_needs_no_pepper(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    key = operator.key()
    monkeypatch.delenv("ATELIER_KEY_PEPPER")
    assert key[4:12] in operator.run("key", "list")


def test_a_store_that_is_none_is_reported(operator: Operator) -> None:
    operator.database.write_bytes(b"no database at all" * 100)
    operator.run("key", "list", status=69)
    assert "not a database" in operator.errors


def test_keys_made_at_the_same_time_are_all_kept(operator: Operator) -> None:
    operator.run("migrate")
    with ThreadPoolExecutor(4) as pool:
        commands = [["key", "create", "--tenant", f"tenant-{n}", "--plan", "free"] for n in range(12)]
        assert set(pool.map(main, commands)) == {0}
    keys = operator.run("key", "list").splitlines()
    assert len([line for line in keys if "  active  " in line]) == 12


def test_a_key_never_takes_the_prefix_of_another(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    first = operator.key()
    drawn = iter([first[:13] + "B" * 43, "atl_ffffffff_" + "C" * 43])
    monkeypatch.setattr(administration, "generate_key", lambda: next(drawn))
    assert operator.key("zeus").startswith("atl_ffffffff_")
    assert operator.owner(first)


def test_a_new_tenant_comes_with_a_secret_that_is_shown_once(operator: Operator) -> None:
    line, secret = operator.run("tenant", "create", "acme", "--plan", "free").splitlines()
    assert line.startswith("acme")
    assert len(secret_bytes(secret)) == 32
    (listed,) = operator.json("webhook-secret", "list", "acme")
    assert (listed["tenant_id"], listed["state"]) == ("acme", "active")
    assert secret not in operator.run("webhook-secret", "list", "acme") + str(listed) + operator.errors
    assert operator.json("tenant", "create", "zeus", "--plan", "free")["webhook_secret"].startswith("whsec_")


def test_a_rotated_secret_signs_beside_its_successor_until_it_is_revoked(operator: Operator) -> None:
    operator.run("tenant", "create", "acme", "--plan", "free")
    new = operator.json("webhook-secret", "rotate", "acme", "--overlap", "1h")
    assert new["webhook_secret"].startswith("whsec_")
    old = next(each for each in operator.json("webhook-secret", "list", "acme") if each["id"] != new["id"])
    assert (old["state"], new["state"]) == ("expiring", "active")
    assert operator.run("webhook-secret", "revoke", old["id"]) == f"{old['id']}  revoked   acme"
    assert operator.run("webhook-secret", "revoke", "ffffffff", status=1) == ""
    assert operator.run("webhook-secret", "create", "nobody", status=1) == ""


def test_a_tenant_is_called_back_where_its_operator_says(operator: Operator) -> None:
    key = operator.key()
    operator.run("tenant", "set-callback", "acme", "https://example.com/hook", "--events", "failed", "task.started")
    owner = operator.owner(key)
    assert owner is not None
    assert (owner.callback_url, owner.callback_events) == (
        "https://example.com/hook",
        (EventType.FAILED, EventType.STARTED),
    )
    for arguments in (["https://10.0.0.1/"], ["https://example.com/", "--events", "queued"], ["--events", "failed"]):
        operator.run("tenant", "set-callback", "acme", *arguments, status=1)
    assert operator.json("tenant", "set-callback", "acme")["callback_url"] is None
