"""Redis: limits, requests that are sent again, results. All of it may be lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def redis_conf(*, bind: str, port: int, folder: Path, password: str) -> str:
    """The server's configuration. It holds the password."""
    lines = (
        f"bind {bind}",
        f"port {port}",
        f"dir {folder}",
        f"requirepass {password}",
        "daemonize no",
        'logfile ""',
        # Nothing in it is the truth: limits and caches begin anew after a restart.
        'save ""',
        "appendonly no",
        "maxmemory 256mb",
        "maxmemory-policy volatile-lru",
    )
    return "\n".join(lines) + "\n"
