"""What several integration tests start from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.matrix import fault_site

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.matrix import FaultSite
    from tests.support.processes import ProcessGuard
    from tests.support.rabbit import RabbitServer
    from tests.support.s3 import S3Server


@pytest.fixture
def fault_bench(
    rabbit_server: RabbitServer, s3_server: S3Server, process_guard: ProcessGuard, tmp_path: Path
) -> Iterator[FaultSite]:
    """A site for one test of the fault matrix; no worker runs yet."""
    with fault_site(rabbit_server, s3_server, process_guard, tmp_path) as site:
        yield site
