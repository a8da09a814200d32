"""Submits and cancels tasks while faults hit workers and their connections, at times that a seed decides."""

from __future__ import annotations

import heapq
import random
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

from shared.clock import utc_now
from shared.contracts.control import Order
from shared.contracts.event import queued_event
from shared.domain.errors import StorageError
from shared.domain.task import TaskState
from shared.messaging import messages
from tests.chaos.mixture import Kind, Wish
from tests.support.builders import make_outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from concurrent.futures import Future

    from shared.contracts.outcome import Outcome
    from shared.contracts.task import TaskMessage
    from tests.chaos.crew import Crew, Hand
    from tests.support.s3 import S3Server
    from tests.support.worker_process import WorkerSite

_TICK_SECONDS: Final = 0.02
_CANCEL_AGAIN_SECONDS: Final = 0.5
# The last tenth is calm enough for every submit to be made within the run.
_SUBMITTING: Final = 0.9


@dataclass(frozen=True, slots=True)
class Submitted:
    """A task of the run."""

    wish: Wish
    task: TaskMessage


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """How many tasks over how many seconds of faults, how far apart those are, and what the tasks are like."""

    tasks: int
    seconds: float
    gap_seconds: tuple[float, float]
    weights: Mapping[Kind, int]
    seed: int


@dataclass(slots=True)
class Diary:
    """What was done: the tasks, what became of their cancels, and which faults happened."""

    submitted: dict[str, Submitted] = field(default_factory=dict)
    cancels: dict[str, Outcome] = field(default_factory=dict)
    faults: Counter[str] = field(default_factory=Counter)


class Storm:
    """One run. All that is random is drawn before it begins."""

    def __init__(self, site: WorkerSite, crew: Crew, s3: S3Server, weather: Weather) -> None:
        self._site, self._crew, self._s3, self._weather = site, crew, s3, weather
        self._random = random.Random(weather.seed)  # noqa: S311 - a seed, so that a failure can be repeated
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        # Apart from each other: cancels wait for the store, so they must not be in the way of whoever starts it.
        self._cancels = ThreadPoolExecutor(max_workers=4, thread_name_prefix="cancel")
        self._starts = ThreadPoolExecutor(max_workers=1, thread_name_prefix="start")
        self._running: list[Future[None]] = []
        self._store_is_up = True
        self.diary = Diary()

    def rage(self) -> None:
        """Submit the tasks and cause the faults. Then everything is whole again."""
        began, weather = time.monotonic(), self._weather
        for _ in range(weather.tasks):
            wish = Wish.draw(self._random, weather.weights)
            self._plan(began + self._random.uniform(0, weather.seconds * _SUBMITTING), partial(self._submit, wish))
        at = began
        while (at := at + self._random.uniform(*weather.gap_seconds)) < began + weather.seconds:
            self._plan(at, self._draw_fault())
        while self._due:
            self._crew.keep()
            self._do_what_is_due()
            time.sleep(_TICK_SECONDS)
        self._starts.shutdown()
        self._cancels.shutdown()
        for each in self._running:
            each.result()

    def _plan(self, at: float, action: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._due, (at, self._number, action))

    def _later(self, seconds: float, action: Callable[[], None]) -> None:
        self._plan(time.monotonic() + seconds, action)

    def _do_what_is_due(self) -> None:
        while self._due and self._due[0][0] <= time.monotonic():
            heapq.heappop(self._due)[2]()
        for each in [each for each in self._running if each.done()]:
            self._running.remove(each)
            each.result()

    def _submit(self, wish: Wish) -> None:
        task = wish.task()
        self.diary.submitted[task.task_id] = Submitted(wish, task)
        queued = messages.event(queued_event(task))
        self._site.publisher.publish(messages.new_task(task, task.submitted_at), queued, timeout=10)
        if wish.kind is Kind.CANCELLED:
            self._later(wish.cancel_after, partial(self._cancel, task))

    def _cancel(self, task: TaskMessage) -> None:
        self._running.append(self._cancels.submit(self._cancel_aside, task))

    def _cancel_aside(self, task: TaskMessage) -> None:
        """As the status service does it: the outcome, then the order to the workers."""
        wanted = make_outcome(
            task=task, state=TaskState.CANCELLED, artifacts=(), execution=f"cancel-{task.task_id}", ended_at=utc_now()
        )
        while task.task_id not in self.diary.cancels:
            try:
                self.diary.cancels[task.task_id] = self._site.records.commit(wanted)
            except StorageError:
                time.sleep(_CANCEL_AGAIN_SECONDS)
        if self.diary.cancels[task.task_id].state is TaskState.CANCELLED:
            self._site.tell(Order.CANCEL, task_id=task.task_id)

    def _draw_fault(self) -> Callable[[], None]:
        name = self._random.choices(list(_FAULTS), [weight for weight, _ in _FAULTS.values()])[0]
        hand = self._random.choice(self._crew.hands)
        return partial(self._fault, name, hand, self._random.random())

    def _fault(self, name: str, hand: Hand, share: float) -> None:
        """Cause it; ``share`` is how much of its longest duration it lasts."""
        if _FAULTS[name][1](self, hand, share):
            self.diary.faults[name] += 1

    def kill_parent(self, hand: Hand, _share: float) -> bool:
        return self._crew.kill_parent(hand)

    def kill_child(self, hand: Hand, _share: float) -> bool:
        return self._crew.kill_child(hand)

    def drain(self, hand: Hand, _share: float) -> bool:
        return self._crew.drain(hand)

    def cut_broker(self, hand: Hand, _share: float) -> bool:
        hand.broker.cut()
        return True

    def hold_broker(self, hand: Hand, share: float) -> bool:
        hand.broker.hold()
        self._later(1 + 14 * share, hand.broker.release)
        return True

    def refuse_broker(self, hand: Hand, share: float) -> bool:
        hand.broker.refuse()
        self._later(6 * share, partial(hand.broker.refuse, refuse=False))
        return True

    def cut_store(self, hand: Hand, _share: float) -> bool:
        hand.store.cut()
        return True

    def refuse_store(self, hand: Hand, share: float) -> bool:
        hand.store.refuse()
        self._later(10 * share, partial(hand.store.refuse, refuse=False))
        return True

    def kill_store(self, _hand: Hand, share: float) -> bool:
        if not self._store_is_up:
            return False
        self._store_is_up = False
        self._s3.kill()
        self._later(5 * share, lambda: self._running.append(self._starts.submit(self._start_store)))
        return True

    def _start_store(self) -> None:
        self._s3.start()
        self._store_is_up = True


_FAULTS: Final[dict[str, tuple[int, Callable[[Storm, Hand, float], bool]]]] = {
    "kill_parent": (16, Storm.kill_parent),
    "kill_child": (18, Storm.kill_child),
    "drain": (5, Storm.drain),
    "cut_broker": (18, Storm.cut_broker),
    "hold_broker": (8, Storm.hold_broker),
    "refuse_broker": (8, Storm.refuse_broker),
    "cut_store": (15, Storm.cut_store),
    "refuse_store": (9, Storm.refuse_store),
    "kill_store": (3, Storm.kill_store),
}


def say(**figures: object) -> None:
    """For the record of the run."""
    sys.stderr.write("\n" + "\n".join(f"  {name}: {value}" for name, value in figures.items()) + "\n")
