"""docs/reliability.md tells what the code does and what the tests show: nothing that is not, and all of the matrix."""

from __future__ import annotations

import ast
import re
from functools import cache
from typing import TYPE_CHECKING, Final

import pytest

import services.worker.runner  # noqa: F401 - defines one of the errors
from services.worker.backends.base import InvalidOutputError, InvalidParameterError, OutOfMemoryError
from services.worker.errors import ReportedError, WorkFolderError
from shared.domain.errors import TaskError
from shared.domain.settle import retry_delay_seconds
from shared.lifecycle import ExitCode
from tests.architecture.source import ROOT
from tests.integration.test_fault_matrix import FOR_GOOD, MAY_PASS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from shared.domain.errors import AtelierError

PAGE: Final = (ROOT / "docs" / "reliability.md").read_text()
NAMED: Final = re.findall(r"`(test_\w+\.py)::([\w:]+)(?:\[(\w+)\])?`", PAGE)


@cache
def defined_in(path: Path) -> frozenset[str]:
    """The tests of a file, those of a class as ``Class::test``."""
    tree = ast.parse(path.read_text())
    found = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    for group in (node for node in tree.body if isinstance(node, ast.ClassDef)):
        found |= {f"{group.name}::{node.name}" for node in group.body if isinstance(node, ast.FunctionDef)}
    return frozenset(name for name in found if name.rpartition("::")[2].startswith("test_"))


def rows(*cells: str) -> list[tuple[str, ...]]:
    """The rows of tables whose cells look like that."""
    return re.findall(r"^\| " + r" \| ".join(cells) + r" \|$", PAGE, re.MULTILINE)


def task_errors() -> Iterator[type[AtelierError]]:
    """Every error that can be why an attempt failed."""
    yield from (WorkFolderError, InvalidOutputError, InvalidParameterError, OutOfMemoryError)
    following: list[type[AtelierError]] = list(TaskError.__subclasses__())
    while following:
        kind = following.pop()
        following += kind.__subclasses__()
        if kind is not ReportedError:
            yield kind


@pytest.mark.parametrize(("file", "test", "row"), sorted(set(NAMED)))
def test_every_test_that_the_page_names_exists(file: str, test: str, row: str) -> None:
    paths = [path for path in (ROOT / "tests").rglob(file) if test in defined_in(path)]
    assert len(paths) == 1
    assert row in paths[0].read_text()


def test_every_test_of_the_matrix_is_on_the_page() -> None:
    named = {(file, test) for file, test, _ in NAMED}
    files = (ROOT / "tests" / "integration").glob("test_fault_matrix*.py")
    # Two that sum up others.
    within = {
        "test_the_worker_has_lived_through_all_of_it",
        "test_the_same_seed_is_as_bad_at_every_attempt_and_is_tried_once",
    }
    missing = {(path.name, test) for path in files for test in defined_in(path)} - named
    assert {test for _, test in missing} == within


def test_the_tables_of_faults_in_a_model_are_those_of_the_tests() -> None:
    passing = rows(r"`(\w+)`", r"[^|]+", r"`(\w+)`", r"(\d+) s", r"(stays|new)")
    assert {name: (code, int(wait), how == "stays") for name, code, wait, how in passing} == MAY_PASS
    for_good = rows(r"`(\w+)`", r"[^|]+", r"`(\w+)`")
    assert {row[0]: row[1] for row in for_good} == FOR_GOOD


def test_the_tables_wait_is_the_codes() -> None:
    for code, wait, _ in MAY_PASS.values():
        assert retry_delay_seconds(1, code) == wait


def test_the_exit_codes_are_all_there() -> None:
    assert {(int(code), name) for code, name in rows(r"(\d+)", r"`(\w+)`", r"[^|]+")} == {
        (code.value, code.name) for code in ExitCode
    }


def test_the_error_codes_are_all_there_with_what_follows() -> None:
    told = rows(r"`(\w+)`", r"(yes|no)", r"[^|]+")
    assert {row[0]: row[1] for row in told} == {kind.code: "yes" if kind.retryable else "no" for kind in task_errors()}


def test_all_complaints_are_answered() -> None:
    section = PAGE.partition("## What users of comparable systems complain of")[2]
    assert re.findall(r"^(\d+)\. \*\*", section, re.MULTILINE) == [str(number) for number in range(1, 25)]
