"""What must hold after a storm, and the figures that are only told."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import TYPE_CHECKING, Final

from services.status.store.sql import open_store
from shared.contracts.base import decode
from shared.contracts.event import TaskEvent
from shared.contracts.outcome import Claim, Outcome
from shared.domain.settle import ClaimMark
from shared.domain.task import TaskState
from shared.messaging.topology import EVENTS
from tests.chaos.mixture import MAX_ATTEMPTS
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.chaos.crew import Crew
    from tests.chaos.storm import Diary
    from tests.support.rabbit import RabbitServer
    from tests.support.worker_process import WorkerSite

WITNESS: Final = "chaos.witness"


class Witness:
    """A queue of its own that hears every event, while the status consumer takes those of the service's queue."""

    def __init__(self, rabbit: RabbitServer) -> None:
        self._rabbit = rabbit
        with rabbit.connect() as connection:
            channel = connection.channel()
            channel.queue_declare(WITNESS, durable=True)
            channel.queue_bind(WITNESS, EVENTS, "#")

    def close(self) -> list[TaskEvent]:
        """Every event; the queue is gone then."""
        events = []
        with self._rabbit.connect() as connection:
            channel = connection.channel()
            while (taken := channel.basic_get(WITNESS, auto_ack=True))[0] is not None:
                events.append(decode(TaskEvent, taken[2] or b""))
            channel.queue_delete(WITNESS)
        return events


class Bucket:
    """What lies in the bucket, read once."""

    def __init__(self, site: WorkerSite) -> None:
        store = site.store
        self.outcomes: dict[str, Outcome] = {}
        self.claims: dict[str, Claim] = {}
        self.artifacts: set[str] = set()
        for key in store.keys("tasks/"):
            _, task_id, name, *below = key.split("/")
            if below:
                self.artifacts.add(key)
            elif name == "outcome.json":
                self.outcomes[task_id] = decode(Outcome, store.get(key))
            else:
                claim = decode(Claim, store.get(key))
                self.claims[claim.execution] = claim

    @property
    def used(self) -> set[str]:
        """The artifacts that outcomes name."""
        return {artifact.key for outcome in self.outcomes.values() for artifact in outcome.artifacts}


def ended(site: WorkerSite) -> set[str]:
    """The ids of tasks that have an outcome."""
    return {key.split("/")[1] for key in site.store.keys("tasks/") if key.endswith("/outcome.json")}


def assert_one_right_end(site: WorkerSite, diary: Diary, bucket: Bucket) -> None:
    """Every task has its outcome, of the right kind, and its pictures are there."""
    assert set(bucket.outcomes) == set(diary.submitted)
    for task_id, outcome in bucket.outcomes.items():
        wish, cancel = diary.submitted[task_id].wish, diary.cancels.get(task_id)
        if cancel is not None:
            assert outcome == cancel, "an outcome was replaced"
        if cancel is None or cancel.state is not TaskState.CANCELLED:
            assert wish.allows(outcome), (wish, outcome.state, outcome.error)
        for artifact in outcome.artifacts:
            assert hashlib.sha256(site.store.get(artifact.key)).hexdigest() == artifact.sha256


def assert_told_once(events: list[TaskEvent], bucket: Bucket) -> None:
    """Every end was told, as often as may be, and never another one than the bucket's."""
    told: dict[str, list[Outcome]] = {}
    for event in events:
        if event.data.outcome is not None:
            told.setdefault(event.task_id, []).append(event.data.outcome)
    assert set(told) == set(bucket.outcomes)
    for task_id, outcomes in told.items():
        assert all(outcome == bucket.outcomes[task_id] for outcome in outcomes), task_id


def assert_view_agrees(database_url: str, bucket: Bucket, go_on: Callable[[], None], seconds: float) -> None:
    """The status service shows every end, and nothing as running."""
    store = open_store(database_url)
    try:
        for task_id, outcome in bucket.outcomes.items():

            def agrees(task_id: str = task_id, outcome: Outcome = outcome) -> bool:
                go_on()
                view = store.get(task_id)
                return view is not None and view.state == outcome.state and view.artifacts == outcome.artifacts

            until(agrees, seconds, f"the end of {task_id} in the view")
    finally:
        store.close()


def unexplained(crew: Crew, bucket: Bucket) -> tuple[set[str], set[str]]:
    """Artifacts that no outcome names: those that a killed worker could not take back, and all others."""
    kills = {hand.name: hand.kills for hand in crew.hands}
    left: set[str] = set()
    orphans = bucket.artifacts - bucket.used
    for key in orphans:
        claim = bucket.claims.get(key.split("/")[2].partition("-")[2])
        if claim is not None and any(at >= claim.at for at in kills[claim.worker]):
            left.add(key)
    return left, orphans - left


def burnt_for_nothing(site: WorkerSite, crew: Crew, bucket: Bucket) -> set[tuple[str, int]]:
    """Attempts that were taken for lost though they did not fail and their worker neither died nor had to end."""
    claims = {(claim.task_id, claim.attempt): claim for claim in bucket.claims.values()}
    ends = {hand.name: hand.kills + hand.drains for hand in crew.hands}
    explained = _seen(site, crew, "attempt_failed") | _seen(site, crew, "finish_failed")
    explained |= {key for key, claim in claims.items() if any(at >= claim.at for at in ends[claim.worker])}
    return _seen(site, crew, "task_retrying", "worker_lost") - explained


def figures(site: WorkerSite, crew: Crew, diary: Diary, bucket: Bucket, events: list[TaskEvent]) -> dict[str, object]:
    """What is told of a run."""
    run = [claim for claim in bucket.claims.values() if claim.mark is ClaimMark.RUN]
    starts = Counter(task_id for task_id, _ in _seen(site, crew, "task_started"))
    computed = Counter(task_id for task_id, _ in _seen(site, crew, "artifacts_stored"))
    reasons = Counter(line["error.code"] for hand in crew.hands for line in site.lines("task_retrying", hand.name))
    # A drain hands the attempt back with one more allowed.
    burnt = sum(
        outcome.attempt - 1 - (outcome.task.max_attempts - MAX_ATTEMPTS) for outcome in bucket.outcomes.values()
    )
    return {
        "tasks": dict(Counter(each.wish.kind.value for each in diary.submitted.values())),
        "ends": dict(Counter(outcome.state.value for outcome in bucket.outcomes.values())),
        "faults": dict(diary.faults),
        "worker exits": dict(crew.exits),
        "claims": len(run),
        "tasks started more than once": sum(count > 1 for count in starts.values()),
        "tasks computed and stored more than once": sum(count > 1 for count in computed.values()),
        "attempts burnt": burnt,
        "next attempts because of": dict(reasons),
        "events": len(events),
    }


def _seen(site: WorkerSite, crew: Crew, message: str, code: str | None = None) -> set[tuple[str, int]]:
    """The (task, attempt) pairs of a log event, of those with an error code only if one is given."""
    return {
        (line["task_id"], line["attempt"])
        for hand in crew.hands
        for line in site.lines(message, hand.name)
        if code in {None, line.get("error.code")}
    }
