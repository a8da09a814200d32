"""SeaweedFS in a container."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from tests.support.containers import ServerContainer
from tests.support.ports import free_port
from tests.support.s3 import IDENTITIES, SERVER_OPTIONS, S3Server
from tests.support.server_choice import S3
from tests.support.servers import ContainedServer
from tests.support.waiting import until

if TYPE_CHECKING:
    from tests.support.processes import ProcessGuard

_PORT: Final = 8333
_START_SECONDS: Final = 90
_IDENTITIES: Final = "/etc/seaweedfs/s3.json"


class S3Container(ContainedServer, S3Server):
    """The SeaweedFS of an image."""

    def __init__(self, guard: ProcessGuard) -> None:
        self.port = free_port()
        self.container = ServerContainer(S3.image, guard, {_PORT: self.port})
        options = ["-ip=127.0.0.1", "-ip.bind=0.0.0.0", f"-s3.port={_PORT}", f"-s3.config={_IDENTITIES}"]
        self.container.configure(
            ["server", *options, *SERVER_OPTIONS], files={_IDENTITIES: json.dumps(IDENTITIES).encode()}
        )

    def start(self) -> None:
        """Start the service and wait until it can store an object."""
        self.container.start()
        until(self._started, _START_SECONDS, f"SeaweedFS at {self.endpoint}")

    def _started(self) -> bool:
        self.container.must_run()
        return self.works()
