"""Which servers a test run takes: containers where an engine and the images are, else processes of this machine.

``TEST_SERVERS`` decides: ``auto``, ``containers`` (or fail) or ``local``. Nothing is ever pulled.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

import pytest

from tests.support.postgres import postgres_programs
from tests.support.rabbit import PROGRAMS
from tests.support.s3 import weed_program

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

VARIABLE: Final = "TEST_SERVERS"
_SECONDS: Final = 60


class Mode(StrEnum):
    """What the caller asks for."""

    AUTO = "auto"
    CONTAINERS = "containers"
    LOCAL = "local"


@dataclass(frozen=True)
class Offer:
    """A server that tests need: the image and the program that it can come from."""

    name: str
    image: str
    asked: tuple[str, ...]
    program: Callable[[], Path | str | None]

    def local_version(self) -> str:
        """What the program of this machine tells of itself."""
        program = self.program()
        if program is None or not os.path.exists(program):  # noqa: PTH110 - takes both kinds
            return "not installed"
        done = subprocess.run(
            [str(program), *self.asked[1:]], capture_output=True, text=True, timeout=_SECONDS, check=False
        )
        return _version(done.stdout)

    def contained_version(self) -> str:
        """What the program in the image tells of itself."""
        from tests.support.containers import run_once  # noqa: PLC0415 - the fast tests load no engine's library

        return _version(run_once(self.image, *self.asked))


RABBIT: Final = Offer("RabbitMQ", "rabbitmq:4-management", ("rabbitmqctl", "version"), lambda: PROGRAMS / "rabbitmqctl")
REDIS: Final = Offer("Redis", "redis:7-alpine", ("redis-server", "--version"), lambda: shutil.which("redis-server"))
POSTGRES: Final = Offer(
    "PostgreSQL",
    "postgres:16-alpine",
    ("postgres", "--version"),
    lambda: (programs := postgres_programs()) and programs / "postgres",
)
S3: Final = Offer("SeaweedFS", "chrislusf/seaweedfs:4.48", ("weed", "version"), weed_program)
OFFERS: Final = (RABBIT, REDIS, POSTGRES, S3)
# All images of others that a whole stack of containers is made of.
PUBLIC: Final = frozenset({*(offer.image for offer in OFFERS), "nginx:1.26-alpine", "python:3.11-slim-bookworm"})


@dataclass(frozen=True)
class Choice:
    """The images that containers are made of, by server; what is not in it is a process of this machine."""

    images: dict[str, str]
    why: str

    def contained(self, offer: Offer) -> bool:
        """Whether this server is a container."""
        return offer.name in self.images

    def lines(self, cache: pytest.Cache | None) -> list[str]:
        """The report's header: for each server what it is, and its version."""
        with ThreadPoolExecutor(len(OFFERS)) as pool:
            versions = pool.map(lambda offer: self._version(offer, cache), OFFERS)
            servers = [
                f"{offer.name} {version} ({f'container of {offer.image}' if self.contained(offer) else 'process'})"
                for offer, version in zip(OFFERS, versions, strict=True)
            ]
        return [f"servers: {self.why}", *(f"  {server}" for server in servers)]

    def _version(self, offer: Offer, cache: pytest.Cache | None) -> str:
        if not self.contained(offer):
            return offer.local_version()
        # An image is asked once: its id never means another one.
        key = f"servers/{self.images[offer.name].removeprefix('sha256:')}"
        known = cache and cache.get(key, None)
        if known is None:
            known = offer.contained_version()
            if cache:
                cache.set(key, known)
        return str(known)


def images_here() -> dict[str, str] | None:
    """The images of a local engine, by tag; nothing where none answers."""
    from tests.support.containers import local_images  # noqa: PLC0415 - the fast tests load no engine's library

    return local_images()


def choose(mode: Mode, look: Callable[[], dict[str, str] | None] = images_here) -> Choice:
    """What this machine allows. Raises ``pytest.UsageError`` where containers are demanded and cannot be had."""
    if mode is Mode.LOCAL:
        return Choice({}, "processes, as asked")
    there = look()
    if there is None:
        images, why = {}, "no Docker engine answers"
    else:
        images = {offer.name: there[offer.image] for offer in OFFERS if offer.image in there}
        missing = [offer.image for offer in OFFERS if offer.name not in images]
        why = f"not there as images: {', '.join(missing)}" if missing else "containers"
    if mode is Mode.CONTAINERS and len(images) < len(OFFERS):
        message = f"{VARIABLE}={mode}: {why}"
        raise pytest.UsageError(message)
    return Choice(images, why)


def asked_mode() -> Mode:
    """What the environment asks for."""
    asked = os.environ.get(VARIABLE, Mode.AUTO)
    if asked not in list(Mode):
        message = f"{VARIABLE} is one of {', '.join(Mode)}, not {asked!r}"
        raise pytest.UsageError(message)
    return Mode(asked)


def _version(text: str) -> str:
    found = re.search(r"\d+\.\d+(\.\d+)*", text)
    return found[0] if found else "of an unknown version"
