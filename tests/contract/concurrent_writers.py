"""Several consumers over one status database at once, on every database that has transactions."""

from __future__ import annotations

import random
import threading
from collections import Counter
from contextlib import closing
from typing import TYPE_CHECKING

from services.status.store.database import open_database
from shared.domain.task import EventType, TaskState
from shared.ids import new_task_id
from tests.support.builders import NOW, make_event, make_task
from tests.support.views import replayed

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.status.news import LoggedNews
    from shared.contracts.event import TaskEvent

KINDS = (EventType.QUEUED, EventType.STARTED, EventType.PROGRESS, EventType.SUCCEEDED)
TASKS = 40
BATCH = 7


class ConcurrentWritersContract:
    def test_two_that_share_the_events_lose_none_and_readers_see_positions_in_order(self, url: str) -> None:
        lives = {task_id: [make_event(kind, make_task(task_id=task_id)) for kind in KINDS] for task_id in ids()}
        shares: list[list[TaskEvent]] = [[], []]
        chance = random.Random(7)  # noqa: S311 - not a secret
        for number in range(len(KINDS)):
            for life in lives.values():  # each event reaches one of the two, some reach both
                for share in chance.sample(shares, chance.choice((1, 1, 2))):
                    share.append(life[number])
        with closing(open_database(url)) as database:
            done = threading.Event()
            seen: list[LoggedNews] = []
            follower = threading.Thread(target=follow, args=(url, seen, done))
            follower.start()
            try:
                in_threads([writer(url, share) for share in shares])
            finally:
                done.set()
                follower.join()
            assert [one.position for one in seen] == list(range(1, database.news.latest() + 1))
            for task_id, life in lives.items():
                assert database.views.get(task_id) == replayed(life)
                [attempt] = database.views.attempts(task_id)
                assert (attempt.state, attempt.worker) == (TaskState.SUCCEEDED, "worker-1")
            told = Counter(one.news.task_id for one in seen if one.news.type is EventType.SUCCEEDED)
            assert told == Counter(list(lives))
            changes = [change.position for change in database.work.changes(0, 10_000)]
            # A task whose end one of the two applied before anything else of it was never work.
            assert 0 < len(set(changes)) == len(changes) <= TASKS
            assert max(changes) == database.work.latest_change()

    def test_writers_of_one_task_lose_nothing_of_each_other(self, url: str) -> None:
        with closing(open_database(url)) as database:
            life = [make_event(kind) for kind in KINDS]
            in_threads([writer(url, [event] * 5, batch=1) for event in life])
            assert database.views.get(life[0].task_id) == replayed(life)
            assert database.news.latest() <= len(life)


def ids() -> list[str]:
    return [new_task_id() for _ in range(TASKS)]


def writer(url: str, events: list[TaskEvent], batch: int = BATCH) -> Callable[[], None]:
    def write() -> None:
        with closing(open_database(url)) as database:
            for begin in range(0, len(events), batch):
                database.views.apply_events(events[begin : begin + batch], seen_until=NOW)

    return write


def follow(url: str, seen: list[LoggedNews], done: threading.Event) -> None:
    """Read on from the last position until the writers are done and nothing is left."""
    with closing(open_database(url)) as database:
        while True:
            last_look = done.is_set()
            found = database.news.after(seen[-1].position if seen else 0, 10)
            seen.extend(found)
            if last_look and not found:
                return


def in_threads(calls: list[Callable[[], None]]) -> None:
    """Run all at once; the first error is the test's."""
    errors: list[BaseException] = []

    def guarded(call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as exc:  # noqa: BLE001 - it is raised again below
            errors.append(exc)

    threads = [threading.Thread(target=guarded, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
