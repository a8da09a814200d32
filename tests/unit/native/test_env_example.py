""".env.example names every variable, with the default that the code has."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from infra.native.config import CHECKOUT, PREFIX, StackSettings
from services.gateway.config import GatewaySettings, LedgerSettings
from services.status.config import (
    StatusApiSettings,
    StatusConsumerSettings,
    StatusLifecycleSettings,
    StatusRebuildSettings,
    StatusRetentionSettings,
    StatusSweeperSettings,
    StatusWebhooksSettings,
)
from services.worker.config import WorkerSettings
from shared import config as shared_config
from tests.support.compose import compose_variables

if TYPE_CHECKING:
    from pydantic import BaseModel

_LINE = re.compile(r"^# (?P<comment>.+\.)\n(?P<unset>#?)(?P<name>ATELIER_[A-Z0-9_]+)=(?P<value>.*)$", re.MULTILINE)
CLASSES = (
    LedgerSettings,
    GatewaySettings,
    StatusApiSettings,
    StatusConsumerSettings,
    StatusLifecycleSettings,
    StatusRebuildSettings,
    StatusRetentionSettings,
    StatusSweeperSettings,
    StatusWebhooksSettings,
    WorkerSettings,
)


def expected() -> dict[str, str | None]:
    """Each variable's default as text; None where there must be a value."""
    found: dict[str, str | None] = {}
    for kind in CLASSES:
        found |= {f"{shared_config.PREFIX}{name.upper()}": default for name, default in defaults(kind).items()}
    own = defaults(StackSettings)
    del own["environment"]  # not a variable: it is what other variables are gathered in
    own |= {"run_dir": ".run", "plans_file": "plans.toml"}
    found |= {f"{PREFIX}{name.upper()}": default for name, default in own.items()}
    return compose_variables() | found


def defaults(kind: type[BaseModel]) -> dict[str, str | None]:
    return {
        name: None if field.is_required() else as_text(field.default if field.default_factory is None else None)
        for name, field in kind.model_fields.items()
    }


def as_text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else ",".join(value) if isinstance(value, tuple) else str(value)


def test_every_variable_is_there_with_its_default_and_a_comment() -> None:
    text = (CHECKOUT / ".env.example").read_text()
    listed = {match["name"]: (match["value"] if match["unset"] else None) for match in _LINE.finditer(text)}
    assert listed == expected()


@pytest.mark.parametrize("kind", CLASSES)
def test_every_setting_says_what_it_is(kind: type[BaseModel]) -> None:
    assert [name for name, field in kind.model_fields.items() if not field.description] == []
