"""What the documents promise exists, and what is generated is current."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from infra.native.config import StackSettings
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
from shared.contracts import schemas
from shared.messaging import definitions
from tests.architecture.source import ROOT
from tests.support.compose import compose_variables

if TYPE_CHECKING:
    from pathlib import Path

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
SETTINGS = (
    GatewaySettings,
    LedgerSettings,
    StatusApiSettings,
    StatusConsumerSettings,
    StatusLifecycleSettings,
    StatusRebuildSettings,
    StatusRetentionSettings,
    StatusSweeperSettings,
    StatusWebhooksSettings,
    WorkerSettings,
)


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z0-9-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_make_target_that_a_document_names_exists(document: Path) -> None:
    code = re.findall(r"`([^`\n]+)`", document.read_text()) + re.findall(
        r"^    (.+)$", document.read_text(), re.MULTILINE
    )
    named = {match[1] for line in code if (match := re.match(r"make ([a-z][a-z0-9-]*)", line))}
    assert named - make_targets() == set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(document: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text())
    assert [link for link in links if not (document.parent / link).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_that_a_document_names_exists(document: Path) -> None:
    pattern = (
        r"`((?:shared|services|infra|tests|bench|models)/[A-Za-z0-9_./-]+\.(?:py|json|rng|toml|conf|template|sh))`"
    )
    named = set(re.findall(pattern, document.read_text()))
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_the_example_environment_lists_exactly_the_settings() -> None:
    listed = set(re.findall(r"^#?\s?(ATELIER_[A-Z0-9_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    known = {f"ATELIER_{name.upper()}" for kind in SETTINGS for name in kind.model_fields}
    known |= {f"ATELIER_NATIVE_{name.upper()}" for name in StackSettings.model_fields if name != "environment"}
    assert listed == known | set(compose_variables())


def test_checked_in_schemas_are_current() -> None:
    assert schemas.main(["--check"]) == 0


def test_checked_in_definitions_are_current() -> None:
    assert definitions.main(["--check"]) == 0


def test_no_promise_is_left_in_the_code() -> None:
    words = re.compile("|".join(("TO" + "DO", "FIX" + "ME", "X" + "XX")))
    sources = [
        path
        for folder in ("shared", "services", "infra", "tests", "bench", "models")
        for path in (ROOT / folder).rglob("*.py")
    ]
    assert [str(path) for path in sources if words.search(path.read_text())] == []
