"""One stack with both models for all end-to-end tests of a session."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.native import NativeStack
from tests.support.processes import require
from tests.support.rabbit import PROGRAMS

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NativeStack]:
    """Everything native: the tiny NewBie model on one worker, the simulated one on another."""
    require(PROGRAMS / "rabbitmq-server", "rabbitmq-server")
    stack = NativeStack(tmp_path_factory.mktemp("stack"), ("tiny-newbie", "simulated"))
    stack.start()
    yield stack
    stack.stop()
