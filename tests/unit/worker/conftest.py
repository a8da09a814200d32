from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.logs import captured_lines
from tests.support.worker import WorkerWorld

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def world(tmp_path: Path) -> WorkerWorld:
    return WorkerWorld(tmp_path)


@pytest.fixture
def logged() -> Iterator[Callable[[], list[dict[str, Any]]]]:
    with captured_lines() as lines:
        yield lines
