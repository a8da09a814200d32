"""What is rendered for one server needs no secret of another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from infra.compose import prepare

if TYPE_CHECKING:
    from pathlib import Path


def test_one_server_is_rendered_from_its_own_secrets(tmp_path: Path) -> None:
    secrets, out = tmp_path / "secrets", tmp_path / "out"
    secrets.mkdir()
    (secrets / "redis").write_text("a-word", encoding="utf-8")
    assert prepare.main(["--only", "redis", f"--secrets={secrets}", f"--out={out}"]) == 0
    assert [str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()] == ["redis/redis.conf"]
    assert "requirepass a-word\n" in (out / "redis" / "redis.conf").read_text(encoding="utf-8")


def test_the_broker_s_needs_models(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        prepare.main(["--only", "rabbitmq", f"--secrets={tmp_path}", f"--out={tmp_path}"])
