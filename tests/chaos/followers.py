"""Clients of event streams that come again, where they were, whenever a stream ends."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Final

import httpx
import orjson

if TYPE_CHECKING:
    from collections.abc import Iterator

_PAUSE_SECONDS: Final = 0.3


class TenantFollower:
    """Follows all tasks of a tenant in a thread of its own."""

    def __init__(self, base_url: str, key: str) -> None:
        self.events: list[tuple[str, str, str]] = []  # (id, type, task)
        self.connections = 0
        self.resyncs = 0
        self._url = f"{base_url}/api/v1/events"
        self._key = key
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="follower", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """It ends with the next thing that comes, or with the stack."""
        self._stopping.set()

    def ended(self) -> set[str]:
        """The tasks whose end it has heard of."""
        finals = {"succeeded", "failed", "cancelled", "expired"}
        return {task for _, kind, task in list(self.events) if kind in finals}

    def _run(self) -> None:
        while not self._stopping.is_set():
            # The replica went away, or has no database now: come again.
            with contextlib.suppress(httpx.HTTPError):
                self._follow()
            self._stopping.wait(_PAUSE_SECONDS)

    def _follow(self) -> None:
        headers = {"Authorization": f"Bearer {self._key}"}
        if self.events:
            headers["Last-Event-ID"] = self.events[-1][0]
        timeout = httpx.Timeout(10, read=20)
        with httpx.stream("GET", self._url, headers=headers, timeout=timeout, trust_env=False) as answer:
            if answer.status_code != httpx.codes.OK:
                return
            self.connections += 1
            for event in _events(answer.iter_lines()):
                if self._stopping.is_set():
                    return
                if event["event"] == "resync":
                    self.resyncs += 1
                if "task_id" in (data := orjson.loads(event["data"])):
                    self.events.append((event["id"], event["event"], data["task_id"]))


def _events(lines: Iterator[str]) -> Iterator[dict[str, str]]:
    event: dict[str, str] = {}
    for line in lines:
        if not line:
            if "data" in event:
                yield event
            event = {}
            continue
        name, _, value = line.partition(": ")
        if name:
            event[name] = value
