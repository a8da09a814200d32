"""RabbitMQ in a container."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from shared.messaging.definitions import DEFAULT_MODELS
from shared.messaging.topology import QueueType
from tests.support.containers import ServerContainer, local_images
from tests.support.ports import free_port
from tests.support.rabbit import ERLANG_OPTIONS, RabbitServer
from tests.support.server_choice import RABBIT, VARIABLE, Mode, asked_mode
from tests.support.servers import ContainedServer
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.support.processes import ProcessGuard

_PORT: Final = 5672
_START_SECONDS: Final = 90
_DEFINITIONS: Final = "/etc/rabbitmq/atelier.json"


def require_image(image: str = RABBIT.image) -> None:
    """Skip the test where no engine has the image; fail it where ``TEST_SERVERS=containers`` promises it."""
    mode = asked_mode()
    if mode is Mode.LOCAL:
        pytest.skip(f"{VARIABLE}={mode}")
    if image not in (local_images() or {}):
        message = f"no engine has {image}"
        if mode is Mode.CONTAINERS:
            pytest.fail(message)
        pytest.skip(message)


class RabbitContainer(ContainedServer, RabbitServer):
    """The broker of an image."""

    def __init__(
        self,
        folder: Path,
        guard: ProcessGuard,
        models: Sequence[str] = DEFAULT_MODELS,
        queue_type: QueueType = QueueType.CLASSIC,
    ) -> None:
        self.models = tuple(models)
        self.queue_type = queue_type
        self.folder = folder
        self.port = free_port()
        self.container = ServerContainer(RABBIT.image, guard, {_PORT: self.port})
        self.write_configuration(_DEFINITIONS)
        self.container.configure(
            [],
            {"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": ERLANG_OPTIONS},
            {
                _DEFINITIONS: folder / "definitions.json",
                "/etc/rabbitmq/conf.d/90-tests.conf": folder / "rabbitmq.conf",
                "/etc/rabbitmq/enabled_plugins": folder / "enabled_plugins",
            },
        )

    def start(self) -> None:
        """Start the broker and wait until it takes connections; what was persisted is there again."""
        self.container.start()
        until(self._started, _START_SECONDS, f"RabbitMQ on port {self.port}")

    def lose_everything(self) -> None:
        """``kill -9``, a new disk, and start: the topology is there again, and no message."""
        self.container.remove()
        self.start()

    def ctl(self, *arguments: str) -> str:
        """Run rabbitmqctl (about a second) and return what it printed."""
        status, output = self.container.run("rabbitmqctl", *arguments)
        if status != 0:
            message = f"rabbitmqctl {' '.join(arguments)}: {output}"
            raise AssertionError(message)
        return output

    def _started(self) -> bool:
        self.container.must_run()
        return self.answers()
