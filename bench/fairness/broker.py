"""The same scenarios on a real RabbitMQ: a real priority queue, real deliveries, and workers that sleep instead."""

from __future__ import annotations

import math
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Final

import pika

from bench.fairness.jobs import Result
from bench.fairness.ledger import POLICY, Ledger
from shared.messaging.topology import MAX_PRIORITY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pika.adapters.blocking_connection import BlockingChannel

    from bench.fairness.jobs import Job
    from bench.fairness.ledger import Pace

QUEUE: Final = "fairness"
_POLL_SECONDS: Final = 0.05
_SETTLE_SECONDS: Final = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """Real time in job lengths."""

    job_seconds: float
    began: float

    def now(self) -> float:
        """Job lengths since the beginning."""
        return (time.monotonic() - self.began) / self.job_seconds

    def sleep_until(self, moment: float) -> None:
        """Wait for a moment that may have passed."""
        time.sleep(max(0.0, self.began + moment * self.job_seconds - time.monotonic()))


class _Run:
    """What the threads share."""

    def __init__(self, url: str, jobs: list[Job], pace: Pace) -> None:
        self.jobs = {job.name: job for job in jobs}
        self.pace = pace
        self.lifts = 0
        self.over = threading.Event()
        self.gaps: list[float] = []
        self._url = url
        self._ledger = Ledger(POLICY, pace)
        self._lock = threading.Lock()

    @contextmanager
    def channel(self) -> Iterator[BlockingChannel]:
        """A connection of its own: pika's are for one thread."""
        with pika.BlockingConnection(pika.URLParameters(self._url)) as connection:
            yield connection.channel()

    def submit(self, channel: BlockingChannel, job: Job) -> None:
        """Price and publish, as a gateway does."""
        with self._lock:
            job.level = self._ledger.admit(job)
        self._publish(channel, job)

    def look(self, channel: BlockingChannel, now: float) -> None:
        """One pass of the sweeper."""
        with self._lock:
            lifted = self._ledger.lifts(now)
            for job, level in lifted:
                job.level = level
                job.copies += 1
        self.lifts += len(lifted)
        for job, _ in lifted:
            self._publish(channel, job)

    def start(self, job: Job, now: float) -> bool:
        """Claim a job; False for a copy of one that has started."""
        with self._lock:
            if job.started is not None:
                return False
            self._ledger.started(job)
            job.started = now
            return True

    def end(self, job: Job, now: float) -> None:
        """The worker is done with it."""
        with self._lock:
            job.ended = now
            self._ledger.ended(job)

    def _publish(self, channel: BlockingChannel, job: Job) -> None:
        properties = pika.BasicProperties(priority=job.level, delivery_mode=2)
        channel.basic_publish("", QUEUE, job.name.encode(), properties)


def on_broker(url: str, jobs: list[Job], pace: Pace, horizon: float, job_seconds: float) -> Result:
    """Serve the jobs until the horizon. What arrives at the beginning is queued before the first worker starts."""
    run = _Run(url, jobs, pace)
    waiting = [job for job in jobs if job.arrives == 0.0]
    with run.channel() as channel:
        channel.queue_delete(QUEUE)
        channel.queue_declare(QUEUE, durable=True, arguments={"x-max-priority": MAX_PRIORITY})
        for job in waiting:
            run.submit(channel, job)
        _settle(channel, len(waiting))
        clock = Clock(job_seconds=job_seconds, began=time.monotonic())
        targets = [_worker] * pace.workers + [_sweeper]
        threads = [threading.Thread(target=target, args=(run, clock), daemon=True) for target in targets]
        with ExitStack() as stack:
            for thread in threads:
                thread.start()
                stack.callback(thread.join, _SETTLE_SECONDS)
            stack.callback(run.over.set)
            for job in jobs[len(waiting) :]:
                if job.arrives > horizon:
                    break
                clock.sleep_until(job.arrives)
                run.submit(channel, job)
            clock.sleep_until(horizon)
        channel.queue_delete(QUEUE)
    return Result(jobs, horizon, run.lifts, fmean(run.gaps))


def _settle(channel: BlockingChannel, count: int) -> None:
    deadline = time.monotonic() + _SETTLE_SECONDS
    while channel.queue_declare(QUEUE, passive=True).method.message_count < count:
        if time.monotonic() > deadline:
            message = f"the broker did not take {count} messages in {_SETTLE_SECONDS:g} s"
            raise TimeoutError(message)
        time.sleep(_POLL_SECONDS)


def _worker(run: _Run, clock: Clock) -> None:
    with run.channel() as channel:
        channel.basic_qos(prefetch_count=1)
        free_since = math.inf
        for method, _, body in channel.consume(QUEUE, inactivity_timeout=_POLL_SECONDS):
            if run.over.is_set():
                break
            if method is None or method.delivery_tag is None or body is None:
                continue
            job = run.jobs[body.decode()]
            began = clock.now()
            if run.start(job, began):
                if job.arrives < free_since < math.inf:
                    run.gaps.append(began - free_since)
                free_since = began + job.work
                clock.sleep_until(free_since)
                run.end(job, clock.now())
            channel.basic_ack(method.delivery_tag)


def _sweeper(run: _Run, clock: Clock) -> None:
    with run.channel() as channel:
        moment = run.pace.interval
        while not run.over.is_set():
            clock.sleep_until(moment)
            run.look(channel, clock.now())
            moment += run.pace.interval
