"""Worker processes that are started again whenever they end, each behind connections that a test can break."""

from __future__ import annotations

import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import psutil

from shared.clock import utc_now
from shared.lifecycle import ExitCode
from tests.chaos.mixture import changed_card
from tests.support.proxy import TcpProxy
from tests.support.waiting import until

if TYPE_CHECKING:
    import subprocess
    from datetime import datetime
    from pathlib import Path

    from tests.support.rabbit import RabbitServer
    from tests.support.s3 import S3Server
    from tests.support.worker_process import WorkerSite

# A broker's two missed heartbeats are a lost connection; with the usual 30 s no run would see one.
HEARTBEAT_SECONDS: Final = 4
DRAIN_SECONDS: Final = "0.5"
# Killed, told to stop (perhaps before it could listen), or without a store at its start. Anything else is a bug.
EXPECTED_EXITS: Final = frozenset({-signal.SIGKILL, -signal.SIGTERM, ExitCode.OK, ExitCode.DEPENDENCY})
# As a supervisor does; a worker that finds no store ends at once.
_RESTART_SECONDS: Final = 0.5


@dataclass(slots=True)
class Hand:
    """One worker, over all of its processes; ``kills`` and ``drains`` are when its parent was told to end."""

    name: str
    broker: TcpProxy
    store: TcpProxy
    process: subprocess.Popen[bytes] | None = None
    ended_at: float = 0.0
    kills: list[datetime] = field(default_factory=list)
    drains: list[datetime] = field(default_factory=list)


class Crew:
    """Starts workers, keeps them going as a supervisor does, and ends them."""

    def __init__(self, site: WorkerSite, rabbit: RabbitServer, s3: S3Server, size: int) -> None:
        self._site = site
        self._models = site.models(changed_card)
        store_port = urlsplit(s3.endpoint).port
        assert store_port is not None
        self._broker_port = rabbit.port
        self._url = rabbit.url("worker", heartbeat=HEARTBEAT_SECONDS)
        self.hands = [
            Hand(f"worker-{number}", TcpProxy(rabbit.port), TcpProxy(store_port)) for number in range(1, size + 1)
        ]
        self.exits: Counter[int] = Counter()

    def start(self) -> None:
        """Start all of them."""
        for hand in self.hands:
            self._launch(hand)
        for hand in self.hands:
            self._site.await_line("model_loaded", hand.name)

    def keep(self) -> None:
        """Start again whoever has ended."""
        for hand in self.hands:
            status = hand.process.poll() if hand.process is not None else None
            if status is not None:
                self.exits[status] += 1
                hand.process, hand.ended_at = None, time.monotonic()
            if hand.process is None and time.monotonic() >= hand.ended_at + _RESTART_SECONDS:
                self._launch(hand)

    def kill_parent(self, hand: Hand) -> bool:
        """``kill -9`` to the worker alone; its child must notice by itself."""
        if hand.process is None:
            return False
        hand.kills.append(utc_now())
        hand.process.kill()
        return True

    def kill_child(self, hand: Hand) -> bool:
        """``kill -9`` to the process that runs the model; false when there is none now."""
        if hand.process is None:
            return False
        try:
            children = psutil.Process(hand.process.pid).children()
            for child in children:
                child.kill()
        except psutil.NoSuchProcess:
            return False
        return bool(children)

    def drain(self, hand: Hand) -> bool:
        """SIGTERM."""
        if hand.process is None:
            return False
        hand.drains.append(utc_now())
        hand.process.terminate()
        return True

    def stop(self) -> None:
        """End all of them well."""
        processes = [hand.process for hand in self.hands if hand.process is not None]
        for process in processes:
            process.terminate()
        for process in processes:
            self.exits[process.wait(60)] += 1

    def close(self) -> None:
        """End the proxies."""
        for hand in self.hands:
            hand.broker.close()
            hand.store.close()

    def leftovers(self) -> list[Path]:
        """What lies in the workers' folders beside their children's own homes."""
        folders = (self._site.folder / "work" / hand.name for hand in self.hands)
        return [path for folder in folders if folder.is_dir() for path in folder.iterdir() if path.name != ".child"]

    def _launch(self, hand: Hand) -> None:
        hand.process = self._site.start(
            hand.name,
            AMQP_URL=self._url.replace(f":{self._broker_port}/", f":{hand.broker.port}/"),
            S3_ENDPOINT=f"http://127.0.0.1:{hand.store.port}",
            MODELS_DIR=str(self._models),
            DRAIN_SECONDS=DRAIN_SECONDS,
        )


def await_idle(crew: Crew, seconds: float) -> None:
    """Wait until no sandbox is left, starting again whoever ends meanwhile."""

    def idle() -> bool:
        crew.keep()
        return not crew.leftovers()

    until(idle, seconds, "empty sandboxes")
