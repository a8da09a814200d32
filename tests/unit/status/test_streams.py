"""Streams over fakes: the server's part is played by reading piece by piece, the hub looks when it is told to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from services.status.errors import StreamsFullError
from services.status.streams.mailbox import HEARTBEAT, MOST_WAITING
from services.status.streams.registry import POLL
from services.status.streams.stream import RECHECK_SECONDS, STALL_SECONDS
from shared.auth.keys import prefix_of
from shared.auth.plans import load_plans
from shared.auth.store.ports import TenantState
from shared.contracts.event import Preview, Progress, progress_event
from shared.domain.plans import ANONYMOUS_PREFIX
from shared.domain.task import EventType, Phase
from shared.ids import new_task_id
from tests.support.builders import NOW, TASK_ID, TENANT, make_event, make_outcome, make_task
from tests.support.status_api import LIMITS, OPERATOR_KEY, WHOLE, StatusApiWorld, assert_problem
from tests.support.streams import names, sent
from tests.support.tenants import plans_with_anonymous

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from werkzeug.test import TestResponse

TASK = f"{WHOLE}/events"
ALL = "/api/v1/events"


class World(StatusApiWorld):
    """A status API whose streams are read by hand."""

    def open(self, path: str = TASK, key: str = "", **headers: str) -> Stream:
        headers = {"Authorization": f"Bearer {key or self.key}", **headers}
        response = self.client.get(path, headers=headers, buffered=False)
        assert response.status_code == 200, response.data
        return Stream(response)

    def tell(self, *kinds: EventType, task_id: str = TASK_ID, tenant_id: str = TENANT) -> None:
        """Events are applied, and the hub looks."""
        self.apply(*(make_event(kind, make_task(task_id=task_id, tenant_id=tenant_id)) for kind in kinds))
        self.look()

    def tend(self, seconds: float) -> None:
        """So long after the server has come for the next piece of every stream, it is tended."""
        for stream in self.streams._open:
            stream._writing = False
        self.seconds += seconds
        self.tenants.seconds += seconds
        self.streams.tend()

    def look(self) -> None:
        if self.hub._place is not None:  # asleep it would wait until somebody listens
            self.hub.look()

    def step(self, number: int) -> None:
        progress = Progress(phase=Phase.DENOISING, step=number, steps=1000)
        self.apply(progress_event(make_task(), progress, sequence=number + 1, at=NOW))


class Stream:
    """A client that reads a piece when it is told to."""

    def __init__(self, response: TestResponse) -> None:
        self.response = response
        self.pieces: Iterator[bytes] = iter(response.response)  # type: ignore[arg-type]

    def read(self) -> bytes:
        return next(self.pieces)

    def rest(self) -> bytes:
        return b"".join(self.pieces)

    def close(self) -> None:
        self.response.close()


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    assert not world.streams._open, "a test left a stream open"
    assert not world.hub._listeners, "somebody listens still"
    assert not world.streams._taken


def metric(world: World, name: str, **labels: str) -> float:
    return world.registry.get_sample_value(name, labels) or 0.0


def test_a_stream_is_what_browsers_and_proxies_expect(world: World) -> None:
    world.tell(EventType.SUCCEEDED)
    stream = world.open()
    headers = stream.response.headers
    assert headers["Content-Type"].startswith("text/event-stream")
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Accel-Buffering"] == "no"
    assert stream.rest().startswith(b"retry: 2000\n")
    stream.close()


def test_a_task_is_shown_and_then_followed_to_its_end(world: World) -> None:
    world.tell(EventType.QUEUED)
    stream = world.open()
    (snapshot,) = sent(stream.read())
    assert snapshot.name == "snapshot"
    assert snapshot.data == world.json(WHOLE)
    world.tell(EventType.STARTED, EventType.PROGRESS)
    assert names(stream.read()) == ["started", "progress"]
    world.tell(EventType.SUCCEEDED)
    (last,) = sent(stream.rest())
    assert last.name == "succeeded"
    assert last.data == {
        "task_id": TASK_ID,
        "type": "succeeded",
        "state": "succeeded",
        "client_state": "done",
        "attempt": 1,
        "at": "2026-01-05T12:00:03Z",
        "model": "simulated",
        "artifacts": [f"{WHOLE}/artifacts/0"],
    }
    stream.close()
    assert metric(world, "atelier_streams_ended_total", reason="finished") == 1
    assert metric(world, "atelier_stream_events_sent_total") == 3


def test_progress_is_told_with_its_picture(world: World) -> None:
    world.tell(EventType.QUEUED)
    stream = world.open()
    stream.read()
    preview = Preview(media_type="image/webp", data="AAAA", width=8, height=4)
    progress = Progress(phase=Phase.DENOISING, step=2, steps=4, preview=preview)
    world.apply(progress_event(make_task(), progress, sequence=2, at=NOW))
    world.look()
    (event,) = sent(stream.read())
    assert event.data["progress"] == {
        "phase": "denoising",
        "step": 2,
        "steps": 4,
        "fraction": 0.475,
        "preview": {"media_type": "image/webp", "data": "AAAA", "width": 8, "height": 4},
    }
    assert "preview" not in (world.json(WHOLE)["progress"])
    stream.close()


def test_nobody_is_told_whose_task_it_is_but_operators(world: World) -> None:
    world.tell(EventType.QUEUED)
    task, tenant, operator = world.open(), world.open(ALL), world.open(ALL, OPERATOR_KEY)
    for stream in (task, tenant, operator):
        stream.read()
    world.tell(EventType.STARTED)
    for stream, named in ((task, False), (tenant, False), (operator, True)):
        (event,) = sent(stream.read())
        assert (event.data.get("tenant_id") == TENANT) is named
        stream.close()


def test_a_task_that_has_ended_is_shown_with_its_end(world: World) -> None:
    world.tell(EventType.QUEUED, EventType.FAILED)
    stream = world.open()
    snapshot, last = sent(stream.rest())
    assert (snapshot.name, snapshot.data["state"]) == ("snapshot", "failed")
    assert (last.name, last.data["error"]["code"]) == ("failed", "backend_error")
    assert last.id == snapshot.id
    stream.close()


def test_a_task_that_only_the_bucket_knows_is_shown_with_its_end(world: World) -> None:
    world.records.commit(make_outcome())
    stream = world.open()
    assert names(stream.rest()) == ["snapshot", "succeeded"]
    stream.close()


def test_who_comes_again_after_the_end_need_not(world: World) -> None:
    world.tell(EventType.QUEUED, EventType.SUCCEEDED)
    stream = world.open()
    last = sent(stream.rest())[-1]
    stream.close()
    response = world.get(TASK, **{"Last-Event-ID": last.id})
    assert (response.status_code, response.data) == (204, b"")
    assert "Content-Type" not in response.headers


def test_who_comes_again_is_told_what_came_meanwhile_and_goes_on(world: World) -> None:
    world.tell(EventType.QUEUED)
    stream = world.open()
    place = sent(stream.read())[-1].id
    stream.close()
    world.tell(EventType.STARTED)
    again = world.open(**{"Last-Event-ID": place})
    assert again.read() == b"retry: 2000\n"
    assert names(again.read()) == ["started"]
    world.tell(EventType.PROGRESS, EventType.SUCCEEDED)
    assert names(again.rest()) == ["progress", "succeeded"]
    again.close()


@pytest.mark.parametrize(
    "place", ["x", "", "0123456789abcdef-1", "{epoch}-99", "{epoch}--1", "{epoch}-0x1", "{epoch}-"]
)
def test_a_place_that_means_nothing_here_begins_anew(world: World, place: str) -> None:
    world.tell(EventType.QUEUED)
    given = {"Last-Event-ID": place.format(epoch=world.views.epoch())}
    task, tenant = world.open(**given), world.open(ALL, **given)
    assert names(task.read()) == ["snapshot"]
    assert names(tenant.read()) == ["resync"]
    task.close()
    tenant.close()


def test_a_place_whose_news_is_no_longer_kept_begins_anew(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.tell(EventType.QUEUED, EventType.STARTED, EventType.PROGRESS)
    monkeypatch.setattr(world.views, "oldest", lambda: 3)
    epoch = world.views.epoch()
    late, just_in_time = (world.open(ALL, **{"Last-Event-ID": f"{epoch}-{position}"}) for position in (1, 2))
    assert names(late.read()) == ["resync"]
    just_in_time.read()
    assert names(just_in_time.read()) == ["progress"]
    late.close()
    just_in_time.close()


def test_a_snapshot_holds_what_is_logged_behind_it_and_no_step_comes_twice(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.tell(EventType.QUEUED)
    earlier = world.views.latest()
    world.tell(EventType.STARTED)
    # As if the start had been applied between the look at the log and the look at the view.
    monkeypatch.setattr(world.views, "latest", lambda: earlier)
    stream = world.open()
    monkeypatch.undo()
    (snapshot,) = sent(stream.read())
    assert snapshot.data["state"] == "running"
    world.tell(EventType.PROGRESS)
    assert names(stream.read()) == ["progress"]
    stream.close()


def test_a_tenant_follows_all_its_tasks_and_no_others(world: World) -> None:
    stream = world.open(ALL)
    (ready,) = sent(stream.read())
    assert (ready.name, ready.data) == ("ready", {})
    other, second = new_task_id(), new_task_id()
    world.tell(EventType.QUEUED, task_id=other, tenant_id="other")
    world.tell(EventType.QUEUED)
    world.tell(EventType.QUEUED, EventType.SUCCEEDED, task_id=second)
    events = sent(stream.read())
    assert [(event.data["task_id"], event.name) for event in events] == [
        (TASK_ID, "queued"),
        (second, "queued"),
        (second, "succeeded"),
    ]
    stream.close()


def test_an_operator_follows_everything(world: World) -> None:
    stream = world.open(ALL, OPERATOR_KEY)
    stream.read()
    world.tell(EventType.QUEUED)
    world.tell(EventType.QUEUED, task_id=new_task_id(), tenant_id="other")
    assert [event.data["tenant_id"] for event in sent(stream.read())] == [TENANT, "other"]
    stream.close()


def test_a_long_replay_comes_whole_and_in_order(world: World) -> None:
    world.tell(EventType.QUEUED)
    stream = world.open(ALL)
    place = sent(stream.read())[0].id
    stream.close()
    for number in range(1, 1001):
        world.step(number)
    again = world.open(**{"Last-Event-ID": place})
    steps: list[int] = []
    again.read()
    while len(steps) < 1000:
        steps += [event.data["progress"]["step"] for event in sent(again.read())]
    assert steps == list(range(1, 1001))
    world.tell(EventType.SUCCEEDED)
    assert names(again.rest()) == ["succeeded"]
    again.close()


def test_who_does_not_keep_up_is_dropped_and_misses_nothing_when_it_comes_again(world: World) -> None:
    world.tell(EventType.QUEUED)
    stream = world.open()
    place = sent(stream.read())[-1].id
    world.step(1)
    world.look()
    (first,) = sent(stream.read())
    for number in range(2, MOST_WAITING + 3):
        world.step(number)
    world.look()
    assert stream.rest() == b""
    stream.close()
    assert metric(world, "atelier_streams_ended_total", reason="slow") == 1
    assert first.id != place
    again = world.open(**{"Last-Event-ID": first.id})
    steps: list[int] = []
    again.read()
    while len(steps) < MOST_WAITING + 1:
        steps += [event.data["progress"]["step"] for event in sent(again.read())]
    assert steps == list(range(2, MOST_WAITING + 3))
    again.close()


class Wire:
    """A connection that only notes that it was cut."""

    def __init__(self) -> None:
        self.cuts = 0

    def watch(self, gone: Any) -> None:  # noqa: ANN401 - see Connection
        self.gone = gone

    def cut(self) -> None:
        self.cuts += 1

    def release(self) -> None:
        pass


def test_a_socket_that_takes_nothing_is_cut(world: World) -> None:
    world.tell(EventType.QUEUED)
    stream = world.open(ALL)
    (open_stream,) = world.streams._open
    open_stream.attach(wire := Wire())
    stream.read()
    world.seconds += STALL_SECONDS - 1
    world.streams.tend()
    assert wire.cuts == 0
    world.seconds += 1
    world.streams.tend()
    assert wire.cuts == 1
    stream.close()
    assert metric(world, "atelier_streams_ended_total", reason="stalled") == 1


def test_silence_is_broken_by_a_comment(world: World) -> None:
    stream = world.open(ALL)
    stream.read()
    world.tend(LIMITS.heartbeat_seconds - 1)
    world.tend(1)
    world.tend(0)
    assert stream.read() == HEARTBEAT
    stream.close()


@pytest.mark.parametrize("how", ["revoke", "suspend"])
def test_a_key_that_is_no_longer_in_force_ends_its_stream(world: World, how: str) -> None:
    stream, other = world.open(ALL), world.open(ALL, world.other_key)
    stream.read()
    other.read()
    if how == "revoke":
        world.tenants.operator.revoke_key(prefix_of(world.key) or "")
    else:
        world.tenants.operator.set_state(TENANT, TenantState.SUSPENDED)
    world.tend(RECHECK_SECONDS)
    assert stream.rest() == b""
    stream.close()
    assert metric(world, "atelier_streams_ended_total", reason="revoked") == 1
    assert metric(world, "atelier_streams_open", kind="tenant") == 1
    other.close()


def test_while_nobody_can_tell_a_key_counts_as_good(world: World) -> None:
    stream = world.open(ALL)
    stream.read()
    world.tenants.store.available = False
    world.tend(1000)
    world.tell(EventType.QUEUED)
    assert names(stream.read()) == ["queued"]
    stream.close()


def test_a_tenant_has_only_so_many_streams(world: World) -> None:
    streams = [world.open(ALL) for _ in range(LIMITS.per_tenant)]
    refused = world.get(ALL)
    assert_problem(refused, 429, "too_many_streams")
    assert int(refused.headers["Retry-After"]) > 0
    streams.append(world.open(ALL, world.other_key))
    assert_problem(world.client.get(ALL, headers={"X-API-Key": world.other_key}), 503, "streams_full")
    streams.pop(0).close()
    streams.append(world.open(ALL))
    assert metric(world, "atelier_streams_open", kind="tenant") == LIMITS.all
    assert metric(world, "atelier_streams_refused_total", code="too_many_streams") == 1
    for stream in streams:
        stream.close()
    assert metric(world, "atelier_streams_open", kind="tenant") == 0


def test_long_polls_are_counted_apart_and_strangers_leave_room(world: World) -> None:
    registry = world.streams
    slots = [registry.take(kind, TENANT) for kind in ("task", POLL) for _ in range(2)]
    with pytest.raises(StreamsFullError):
        registry.take(POLL, "other")
    for slot in slots:
        slot.give_back()
    stranger = registry.take(POLL, f"{ANONYMOUS_PREFIX}1")
    with pytest.raises(StreamsFullError):
        registry.take("task", f"{ANONYMOUS_PREFIX}2")
    stranger.give_back()
    registry.take("task", f"{ANONYMOUS_PREFIX}2").give_back()


def test_a_long_poll_gives_its_place_back(world: World) -> None:
    world.tell(EventType.QUEUED)
    for _ in range(LIMITS.all + 1):
        assert world.get(f"{WHOLE}?wait=0.01").status_code == 200


@pytest.mark.parametrize("path", [TASK, ALL])
def test_head_opens_nothing(world: World, path: str) -> None:
    world.tell(EventType.QUEUED)
    response = world.client.head(path, headers={"X-API-Key": world.key})
    assert (response.status_code, response.data) == (200, b"")
    response.close()


def test_what_cannot_be_opened_takes_no_place(world: World) -> None:
    for _ in range(LIMITS.all + 1):
        assert_problem(world.get(TASK), 503, "status_lagging")
    world.views.available = False
    for path in (TASK, ALL):
        assert_problem(world.get(path), 503, "view_store_error")


def test_another_tenants_task_is_not_found(world: World) -> None:
    world.tell(EventType.QUEUED)
    assert_problem(world.client.get(TASK, headers={"X-API-Key": world.other_key}), 404, "task_not_found")


def test_strangers_follow_a_task_by_its_id_and_nothing_else(tmp_path: Path) -> None:
    world = World(load_plans(plans_with_anonymous(tmp_path)))
    world.tell(EventType.SUCCEEDED, tenant_id=f"{ANONYMOUS_PREFIX}{'0' * 32}")
    response = world.client.get(TASK)
    assert names(response.data) == ["snapshot", "succeeded"]
    assert ANONYMOUS_PREFIX.encode() not in response.data
    assert_problem(world.client.get(ALL), 401, "unauthorized")


def test_a_database_that_goes_away_is_waited_for(world: World) -> None:
    world.tell(EventType.QUEUED)
    live = world.open(ALL)
    live.read()
    coming = world.open(**{"Last-Event-ID": f"{world.views.epoch()}-{world.views.latest()}"})
    coming.read()
    world.views.available = False
    world.look()
    assert coming.read() == HEARTBEAT
    world.views.available = True
    world.tell(EventType.STARTED)
    assert names(live.read()) == names(coming.read()) == ["started"]
    live.close()
    coming.close()


def test_another_database_ends_every_stream_so_that_all_begin_anew(world: World) -> None:
    stream = world.open(ALL)
    place = sent(stream.read())[0].id
    world.tell(EventType.QUEUED)
    stream.read()
    world.views._epoch = "another"
    world.seconds += 10
    world.look()
    assert stream.rest() == b""
    stream.close()
    assert metric(world, "atelier_streams_ended_total", reason="reset") == 1
    again = world.open(ALL, **{"Last-Event-ID": place})
    assert names(again.read()) == ["resync"]
    again.close()
