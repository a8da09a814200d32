"""The user who reads figures has the least right there is, and is there only when it has a password."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from shared.messaging import definitions
from shared.messaging.definitions import render_definitions
from shared.messaging.topology import MONITOR, PERMISSIONS

if TYPE_CHECKING:
    from pathlib import Path


def users(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {user["name"]: user for user in document["users"]}


def test_the_monitor_reads_figures_and_nothing_else() -> None:
    document = render_definitions(["model"], {"worker": "word", "monitor": "another"})
    assert {name: user["tags"] for name, user in users(document).items()} == {"worker": [], "monitor": ["management"]}
    (rights,) = [each for each in document["permissions"] if each["user"] == "monitor"]
    assert (rights["configure"], rights["write"], rights["read"]) == ("^$", "^$", "^$")


def test_it_is_there_when_it_has_a_password(tmp_path: Path) -> None:
    for permission in PERMISSIONS:
        (tmp_path / f"amqp-{permission.user}").write_text("word\n", encoding="utf-8")
    services = {permission.user for permission in PERMISSIONS}
    assert set(users(_rendered(tmp_path))) == services
    (tmp_path / f"amqp-{MONITOR.user}").write_text("word\n", encoding="utf-8")
    assert set(users(_rendered(tmp_path))) == {*services, "monitor"}


def _rendered(folder: Path) -> dict[str, Any]:
    file = folder / "definitions.json"
    assert definitions.main([f"--render={file}", "--models=model", f"--passwords={folder}"]) == 0
    document: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return document
