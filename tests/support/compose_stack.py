"""A whole stack of containers for tests: the repository's own Compose file, with a project name and port of its own."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
from typing import TYPE_CHECKING, Any, Final, Self

import httpx

from infra.native.config import CHECKOUT
from tests.support.ports import LOOPBACK, free_port

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType

_UP_SECONDS: Final = 900  # the images may have to be built first
_SECONDS: Final = 120
# Of the services that share an image the one that builds it; those of a test share, too.
_BUILT: Final = ("gateway", "status-api", "worker", "prepare-configuration")
_HTTP_SECONDS: Final = 40.0
# Takes the stack down when its standard input closes, which happens even when pytest is killed with -9.
_GUARD: Final = 'cat >/dev/null; exec docker compose "$@" down --volumes --remove-orphans --timeout 5'


class ComposeStack:
    """A stack of containers, seen from outside and through the engine. ``more``: a Compose file that comes on top."""

    def __init__(self, folder: Path, more: Mapping[str, Any], **variables: str) -> None:
        self.project = f"atelier-test-{secrets.token_hex(4)}"
        self.secrets = folder / "secrets"
        self._more = folder / "more.json"
        self._more.write_text(json.dumps(more))
        self.base_url = f"http://{LOOPBACK}:{(port := free_port())}"
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": os.environ.get("HOME", "/root"),
            "COMPOSE_PROJECT_NAME": self.project,
            "COMPOSE_PROGRESS": "quiet",
            "COMPOSE_DISABLE_ENV_FILE": "true",  # a person's own .env must not decide what a test sees
            "ATELIER_SECRETS_DIR": str(self.secrets),
            "ATELIER_PUBLIC_PORT": str(port),
            **variables,
        }
        self.key = ""
        self._guard: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", _GUARD, "sh", *self._files()],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=self._environment,
            cwd=CHECKOUT,
            start_new_session=True,
        )
        try:
            self._run(["infra/compose/make-secrets.sh"], _SECONDS)
            self.compose("build", "--quiet", *_BUILT, seconds=_UP_SECONDS)
            self.compose("up", "--detach", "--no-build", "--wait", seconds=_UP_SECONDS)
            self.key = self.new_key("tests", "standard")
        except BaseException as exc:
            exc.add_note(self.compose("logs", "--no-color", "--tail", "15")[-20_000:])
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Take everything down, volumes included."""
        if self._guard is not None and self._guard.stdin is not None:
            self._guard.stdin.close()
            self._guard.wait(_SECONDS)

    def compose(self, *arguments: str, seconds: float = _SECONDS) -> str:
        """``docker compose`` for this stack; returns what it printed. Fails the test when it fails."""
        return self._run(["docker", "compose", *self._files(), *arguments], seconds)

    def new_key(self, tenant: str, plan: str) -> str:
        """An API key of a new tenant."""
        admin = ("run", "--rm", "--no-TTY", "admin")
        self.compose(*admin, "tenant", "create", tenant, "--plan", plan)
        made = self.compose(*admin, "key", "create", "--tenant", tenant, "--json")
        return str(json.loads(made)["key"])

    def client(self) -> httpx.Client:
        """A client of the tenant of these tests, through the published port."""
        headers = {"Authorization": f"Bearer {self.key}"}
        return httpx.Client(base_url=self.base_url, headers=headers, timeout=_HTTP_SECONDS)

    def services(self) -> list[str]:
        """The services that run, in no order."""
        return sorted({container["Config"]["Labels"]["com.docker.compose.service"] for container in self.containers()})

    def containers(self, service: str | None = None) -> list[dict[str, Any]]:
        """What the engine knows of the running containers, of all services or of one."""
        names = self.compose("ps", "--quiet", *([service] if service else [])).split()
        found: list[dict[str, Any]] = json.loads(self._run(["docker", "inspect", *names], _SECONDS)) if names else []
        return found

    def inside(self, service: str, *command: str, index: int = 1) -> subprocess.CompletedProcess[str]:
        """Run a command in a container of a service, as its user."""
        prefix = ["docker", "compose", *self._files(), "exec", "--no-TTY", f"--index={index}", service]
        return subprocess.run(
            [*prefix, *command],
            env=self._environment,
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )

    def events(self, container: str) -> list[dict[str, Any]]:
        """The log lines of a container that are JSON."""
        return [
            json.loads(line)
            for line in self._run(["docker", "logs", container], _SECONDS).splitlines()
            if line.startswith("{")
        ]

    def events_of(self, service: str, message: str) -> list[dict[str, Any]]:
        """The log lines of one kind of a service's containers; ``container`` is which of them wrote it."""
        ids = [container["Id"] for container in self.containers(service)]
        return [{**line, "container": each} for each in ids for line in self.events(each) if line["message"] == message]

    def _files(self) -> list[str]:
        return ["--file", "docker-compose.yml", "--file", str(self._more)]

    def _run(self, command: list[str], seconds: float) -> str:
        done = subprocess.run(
            command,
            env=self._environment,
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        if done.returncode:
            message = f"{' '.join(command)}: {done.stdout[-4000:]}{done.stderr[-4000:]}"
            raise AssertionError(message)
        return done.stdout
