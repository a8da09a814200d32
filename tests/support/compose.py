"""docker-compose.yml, compose.gpu.yml and the Dockerfiles, read as data."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).parents[2]
COMPOSE: Final = ROOT / "docker-compose.yml"
GPU: Final = ROOT / "compose.gpu.yml"
_VARIABLE: Final = re.compile(r"\$\{(ATELIER_[A-Z_]+):-([^}]*)\}")


@cache
def document(path: Path = COMPOSE) -> dict[str, Any]:
    """A Compose file, its anchors resolved."""
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found


def services() -> dict[str, dict[str, Any]]:
    """The services of docker-compose.yml."""
    found: dict[str, dict[str, Any]] = document()["services"]
    return found


def compose_variables() -> dict[str, str | None]:
    """The variables that the Compose files read, with their defaults."""
    return {name: default for path in (GPU, COMPOSE) for name, default in _VARIABLE.findall(path.read_text())}


def environment(service: dict[str, Any]) -> dict[str, str]:
    """What a service gets in its environment from the file itself."""
    return {name: str(value) for name, value in service.get("environment", {}).items()}


def megabytes(size: str) -> float:
    """A size as Compose and RabbitMQ write it."""
    number, unit = re.fullmatch(r"(\d+)\s*([a-zA-Z]+)", size).groups()  # type: ignore[union-attr] # a size that is none fails the test
    return float(number) * {"k": 2**10, "m": 2**20, "g": 2**30, "mb": 1e6, "gb": 1e9}[unit.lower()] / 2**20


def seconds(text: str) -> float:
    """A duration such as 45s."""
    assert text.endswith("s"), text
    return float(text[:-1])
