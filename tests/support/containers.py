"""Servers in containers of a local Docker engine: published on loopback, gone when the test run is."""

from __future__ import annotations

import secrets
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import docker
from docker.errors import DockerException
from requests.exceptions import RequestException
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer

from tests.support.ports import LOOPBACK

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.processes import ProcessGuard

_ENGINE_SECONDS: Final = 60
_LOG_LINES: Final = 40


@cache
def local_images() -> dict[str, str] | None:
    """The tags that a local engine has, each with its image's id; nothing where no engine answers."""
    try:
        client = docker.from_env(timeout=_ENGINE_SECONDS)
        try:
            # What another machine's engine publishes is not on this one's loopback.
            if not client.api.base_url.startswith("http+docker://"):
                return None
            # The plain list: asking for each image by itself fails when another's goes in between.
            return {tag: image["Id"] for image in client.api.images() for tag in image["RepoTags"] or ()}
        finally:
            client.close()
    except (DockerException, RequestException):
        return None


def run_once(image: str, *command: str) -> str:
    """What a program of an image prints. The container is removed."""
    client = docker.from_env(timeout=_ENGINE_SECONDS)
    try:
        output: bytes = client.containers.run(
            image, list(command[1:]), entrypoint=command[0], remove=True, network_mode="none"
        )
    finally:
        client.close()
    return output.decode(errors="replace")


class _Published(DockerContainer):
    """Its ports are published on loopback alone."""

    def publish(self, port: int, host_port: int) -> None:
        """Publish one port of the container."""
        # The library's type knows no address, its engine does.
        self.ports[f"{port}/tcp"] = (LOOPBACK, host_port)  # type: ignore[assignment]


class ServerContainer:
    """One container with what tests do to it. ``kill`` and ``start`` keep its file system, volumes and ports."""

    def __init__(self, image: str, guard: ProcessGuard, ports: dict[int, int]) -> None:
        """``ports``: a port of the container, and where it is published on loopback."""
        self.image = image
        self._guard = guard
        self._ports = ports
        self._command: list[str] = []
        self._environment: dict[str, str] = {}
        self._files: dict[str, bytes | Path] = {}
        self._container: _Published | None = None
        self.name = ""

    def configure(
        self,
        command: list[str],
        environment: dict[str, str] | None = None,
        files: dict[str, bytes | Path] | None = None,
    ) -> None:
        """What the next container that is made runs, with which files in it."""
        self._command, self._environment, self._files = command, environment or {}, files or {}

    def start(self) -> None:
        """Start it; a new one where there is none."""
        if self._container is not None:
            self._wrapped().start()
            return
        # Our guard does what Ryuk would do, and needs no image of its own.
        testcontainers_config.ryuk_disabled = True
        self.name = f"atelier-test-{secrets.token_hex(6)}"
        container = _Published(self.image, docker_client_kw={"timeout": _ENGINE_SECONDS})
        container.with_name(self.name).with_envs(**self._environment).with_kwargs(network="bridge")
        if self._command:
            container.with_command(self._command)
        for port, host_port in self._ports.items():
            container.publish(port, host_port)
        for path, content in self._files.items():
            container.with_copy_into_container(content, path)
        # Before it exists: whoever is killed between the two leaves nothing behind either.
        self._guard.watch_container(self.name)
        self._container = container
        container.start()

    def kill(self) -> None:
        """``kill -9``, and wait for its end."""
        if self.running():
            self._wrapped().kill()
            self._wrapped().wait(timeout=_ENGINE_SECONDS)

    def freeze(self) -> None:
        """Stop every process in it where it is."""
        self._wrapped().pause()

    def thaw(self) -> None:
        """Let them go on."""
        self._wrapped().unpause()

    def remove(self) -> None:
        """End it and remove it with all that it holds."""
        if self._container is not None:
            self._container.stop(force=True, delete_volume=True)
            self._container = None
            self._guard.forget_container(self.name)

    def run(self, *command: str) -> tuple[int, str]:
        """Run a program inside; its exit status and what it printed."""
        status, (output, errors) = self._wrapped().exec_run(list(command), demux=True)
        text = (output or b"") if status == 0 else (output or b"") + (errors or b"")
        return int(status), text.decode(errors="replace")

    def running(self) -> bool:
        """Whether its first process lives."""
        if self._container is None:
            return False
        wrapped = self._wrapped()
        wrapped.reload()
        return bool(wrapped.status in {"running", "paused"})

    def must_run(self) -> None:
        """Fail with its last words where it has ended."""
        if not self.running():
            words = "" if self._container is None else self._wrapped().logs(tail=_LOG_LINES).decode(errors="replace")
            message = f"the container of {self.image} ended while starting: {words}"
            raise AssertionError(message)

    def _wrapped(self) -> Any:  # noqa: ANN401 - the engine's library has no types
        if self._container is None:
            message = f"no container of {self.image} was made"
            raise AssertionError(message)
        return self._container.get_wrapped_container()
