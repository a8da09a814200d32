"""RabbitMQ from its official image, by testcontainers, with all that ``RabbitServer`` offers."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING, Final
from uuid import uuid4

import docker
import pytest
from docker.errors import DockerException
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer

from shared.messaging.definitions import DEFAULT_MODELS
from shared.messaging.topology import QueueType
from tests.support.ports import LOOPBACK
from tests.support.rabbit import RabbitServer
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from docker.models.containers import Container

    from tests.support.processes import ProcessGuard

IMAGE: Final = "rabbitmq:4-management"
# Set to "containers" where tests must find an engine and the images, as in CI.
REQUIRED: Final = os.environ.get("ATELIER_TEST_SERVERS") == "containers"
_START_SECONDS: Final = 90
_DEFINITIONS: Final = "/etc/atelier/definitions.json"
_SETTINGS: Final = "/etc/rabbitmq/conf.d/20-atelier.conf"
_STATE: Final = "/var/lib/rabbitmq"


def require_image(image: str = IMAGE) -> None:
    """Skip the test where there is no engine or image; fail it where ``ATELIER_TEST_SERVERS=containers``."""
    try:
        client = docker.from_env()
        try:
            client.images.get(image)
        finally:
            client.close()
    except DockerException as exc:
        message = f"no container of {image}: {type(exc).__name__}"
        if REQUIRED:
            pytest.fail(message)
        pytest.skip(message)


class RabbitContainer(RabbitServer):
    """One broker in a container that keeps its port and its disk over a kill."""

    def __init__(
        self,
        folder: Path,
        guard: ProcessGuard,
        models: Sequence[str] = DEFAULT_MODELS,
        queue_type: QueueType = QueueType.CLASSIC,
    ) -> None:
        super().__init__(folder, guard, models, queue_type)
        self._name = f"atelier-test-rabbit-{uuid4().hex[:12]}"
        self._wrapper: DockerContainer | None = None
        self._watch: subprocess.Popen[bytes] | None = None

    @property
    def container(self) -> Container:
        """The container itself."""
        assert self._wrapper is not None
        return self._wrapper.get_wrapped_container()

    def start(self) -> None:
        """Start the broker and wait until it takes connections; what was persisted is there again."""
        if self._wrapper is None:
            self._create()
        else:
            self.container.start()
        until(self._answers, _START_SECONDS, f"RabbitMQ in {self._name}")

    def kill(self) -> None:
        """``kill -9`` to every process of the container."""
        if self._wrapper is not None and self._runs():
            self.container.kill()
            self.container.wait()

    def lose_everything(self) -> None:
        """``kill -9``, a new disk, and start: the topology is there again, and no message."""
        self._remove()
        self.start()

    def stop(self) -> None:
        """End everything, without grace."""
        self._remove()
        if self._watch is not None:
            self._watch.communicate()  # its input ends, and so does it
            self._watch = None

    def freeze(self) -> None:
        """Stop every process in it where it is."""
        self.container.pause()

    def thaw(self) -> None:
        """Let them go on."""
        self.container.unpause()

    def _create(self) -> None:
        testcontainers_config.ryuk_disabled = True  # it is one image more, for what the next lines do
        if self._watch is None:
            # Removes the container however this process ends.
            self._watch = subprocess.Popen(
                ["/bin/sh", "-c", 'read -r _; docker rm --force --volumes "$0"', self._name],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        wrapper = DockerContainer(IMAGE, name=self._name, hostname="rabbit")
        wrapper.ports["5672/tcp"] = (LOOPBACK, self.port)  # type: ignore[assignment] # docker's own notation
        wrapper.with_volume_mapping(self.folder / "definitions.json", _DEFINITIONS)
        wrapper.with_volume_mapping(self.folder / "rabbitmq.conf", _SETTINGS)
        wrapper.with_volume_mapping(self.folder / "enabled_plugins", "/etc/rabbitmq/enabled_plugins")
        self._wrapper = wrapper.start()

    def _remove(self) -> None:
        wrapper, self._wrapper = self._wrapper, None
        if wrapper is not None:
            with suppress(docker.errors.NotFound):
                wrapper.stop()

    def _ctl_command(self) -> list[str]:
        return ["docker", "exec", self._name, "rabbitmqctl"]

    def _runs(self) -> bool:
        self.container.reload()
        return bool(self.container.status in {"running", "paused"})

    def _output(self) -> str:
        return str(self.container.logs(tail=30).decode(errors="replace"))

    def _settings(self, definitions: Path) -> str:
        del definitions  # as the container sees it
        return f"load_definitions = {_DEFINITIONS}\nlog.console.level = info\ndisk_free_limit.absolute = 50MB\n"
