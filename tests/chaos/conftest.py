"""One stack with a simulated worker for all fault runs of a session."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.native import NativeStack
from tests.support.processes import require
from tests.support.rabbit import PROGRAMS

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def simulated_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NativeStack]:
    """Everything native, one worker with the simulated model."""
    require(PROGRAMS / "rabbitmq-server", "rabbitmq-server")
    stack = NativeStack(tmp_path_factory.mktemp("stack"), ("simulated",))
    stack.start()
    yield stack
    stack.stop()
