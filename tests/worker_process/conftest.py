from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.logs import captured_lines
from tests.support.runner import RealRunner

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def real(tmp_path: Path) -> Iterator[RealRunner]:
    """A supervisor of a real child process."""
    made = RealRunner(tmp_path)
    yield made
    made.close()


@pytest.fixture
def logged() -> Iterator[Callable[[], list[dict[str, Any]]]]:
    with captured_lines() as lines:
        yield lines
