"""A round on a cluster: submitters at work, the node that leads the work queue is lost, and what became of it all."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Final

from shared.contracts.base import decode
from shared.contracts.task import TaskMessage
from shared.messaging.topology import GATEWAY_LEDGER, STATUS_EVENTS, work_queue
from tests.support.builders import MODEL

if TYPE_CHECKING:
    from typing import IO

    from tests.support.rabbit_cluster import RabbitCluster

ROOT: Final = Path(__file__).parents[2]
WORK: Final = work_queue(MODEL)
GREENLETS: Final = 8
_BEFORE_SECONDS: Final = 2.0
_END_SECONDS: Final = 60.0
_AT_REST_SECONDS: Final = 3.0


@dataclass(frozen=True, slots=True)
class Seen:
    """What one submitter saw. ``gap_seconds``: the longest time without a confirmed submit from the loss on."""

    confirmed: frozenset[str]
    refused: dict[str, int]
    gap_seconds: float
    resumed: bool
    reconnected: bool


@dataclass(frozen=True, slots=True)
class Round:
    """What became of one round."""

    kind: str
    node: str
    submitters: list[Seen]
    lost: frozenset[str]
    twice: int
    unconfirmed_but_queued: int

    @property
    def confirmed(self) -> int:
        """Confirmed submits of all submitters."""
        return sum(len(seen.confirmed) for seen in self.submitters)


class Submitter:
    """One process; see tests/chaos/submitter.py."""

    def __init__(self, url: str, log: Path) -> None:
        self._log = log
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.submitter", url, str(GREENLETS)],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        assert self._stdout.readline() == "ready\n", log.read_text()

    def end(self, lost_at: float) -> Seen:
        """Stop it and take what it says."""
        ended_at = time.monotonic()
        output, _ = self._process.communicate(timeout=_END_SECONDS)
        said = json.loads(output)
        times = [at for at, _ in said["confirmed"]]
        # From the last confirm before the loss: what was in flight then counts.
        since = sorted(at for at in times if lost_at <= at < ended_at)
        last_before = max((at for at in times if at < lost_at), default=lost_at)
        gap = max(after - before for before, after in pairwise([last_before, *since, ended_at]))
        return Seen(
            confirmed=frozenset(task_id for _, task_id in said["confirmed"]),
            refused=said["refused"],
            gap_seconds=gap,
            # For good: not only what was in flight at the loss.
            resumed=bool(since) and ended_at - since[-1] < _AT_REST_SECONDS,
            reconnected=self._log.read_text().count('"amqp_connected"') > 1,
        )

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.communicate()

    @property
    def _stdout(self) -> IO[str]:
        assert self._process.stdout is not None
        return self._process.stdout


def play(cluster: RabbitCluster, folder: Path, *, kind: str, submitters: int = 3, seconds: float = 8.0) -> Round:
    """``kind`` is killed or frozen; ``seconds`` is how long submits go on without the node."""
    for queue in (WORK, STATUS_EVENTS, GATEWAY_LEDGER):
        cluster.drain(queue)
    node = cluster.leader(WORK)
    crew = [Submitter(cluster.url("gateway"), folder / f"{kind}-{time.monotonic_ns()}.log") for _ in range(submitters)]
    try:
        time.sleep(_BEFORE_SECONDS)
        lost_at = time.monotonic()
        (cluster.kill if kind == "killed" else cluster.freeze)(node)
        time.sleep(seconds)
        seen = [each.end(lost_at) for each in crew]
    finally:
        for each in crew:
            each.kill()
        (cluster.restart if kind == "killed" else cluster.thaw)(node)
    cluster.wait_whole()
    return _judged(cluster, kind, node, seen)


def _judged(cluster: RabbitCluster, kind: str, node: str, seen: list[Seen]) -> Round:
    confirmed: frozenset[str] = frozenset().union(*(each.confirmed for each in seen))
    queued = [decode(TaskMessage, body).task_id for body in cluster.drain(WORK)]
    found = set(queued)
    return Round(
        kind=kind,
        node=node,
        submitters=seen,
        lost=confirmed - found,
        twice=len(queued) - len(found),
        unconfirmed_but_queued=len(found - confirmed),
    )
