"""What is rendered for one server needs no secret of another, and is what the others are given as well."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from infra.compose import prepare, prepare_one
from infra.seaweedfs.server import key_names

if TYPE_CHECKING:
    from pathlib import Path

NEEDS = {"redis": ("redis",), "seaweedfs": key_names()}
FILES = {"redis": "redis/redis.conf", "seaweedfs": "seaweedfs/identities.json"}


@pytest.mark.parametrize("server", sorted(NEEDS))
def test_one_server_is_rendered_from_its_own_secrets(server: str, tmp_path: Path) -> None:
    for name in NEEDS[server]:
        (tmp_path / name).write_text(f"{name}-word\n", encoding="utf-8")
    out = tmp_path / "out"
    assert prepare_one.main([server, f"--secrets={tmp_path}", f"--out={out}"]) == 0
    for user in prepare.BROKER_USERS:
        (tmp_path / f"amqp-{user}").write_text("word", encoding="utf-8")
    for names in NEEDS.values():
        for name in names:
            (tmp_path / name).write_text(f"{name}-word\n", encoding="utf-8")
    everything = dict(prepare.Stack(models=("model",), secrets=tmp_path).files())
    assert out.read_text(encoding="utf-8") == everything[FILES[server]]
    assert out.stat().st_mode & 0o007 == 0
