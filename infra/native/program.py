"""What a stack is made of: programs, in stages, on a site."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from typing import TYPE_CHECKING

from infra.native.config import SYSTEM_PATH
from infra.native.credentials import SecretStore
from infra.native.errors import StackError
from infra.native.layout import Layout
from infra.native.ports import Ports

if TYPE_CHECKING:
    from infra.native.config import StackSettings
    from infra.native.readiness import Probe


class Stage(IntEnum):
    """Programs start stage by stage, each when those before are ready, and stop in the opposite order."""

    NAMES = 0  # Erlang's port mapper, which the broker needs and which must outlive it
    STORES = 1
    SERVICES = 2
    ENTRANCE = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """One supervised process."""

    name: str
    stage: Stage
    command: tuple[str, ...]
    probe: Probe
    environment: dict[str, str] = field(default_factory=dict)
    stop_seconds: int = 15


@dataclass(frozen=True)
class Site:
    """Where one stack lives: its settings, and what follows from them."""

    settings: StackSettings

    @cached_property
    def layout(self) -> Layout:
        """Its folders."""
        return Layout(self.settings.run_dir)

    @cached_property
    def ports(self) -> Ports:
        """Its ports."""
        return Ports(self.settings)

    @cached_property
    def secrets(self) -> SecretStore:
        """Its secrets."""
        return SecretStore(self.layout.secrets)


def system_program(name: str, *candidates: str) -> str:
    """The path of a program of the distribution. Raises StackError that says how to get it."""
    for candidate in (*candidates, name):
        found = shutil.which(candidate, path=SYSTEM_PATH)
        if found:
            return found
    message = f"{name} is not installed: run `make setup`"
    raise StackError(message)
