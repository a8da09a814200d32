"""Streams over two status APIs and two consumers, as they are deployed."""

from __future__ import annotations

import socket
import sqlite3
from contextlib import closing
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from bench.crowd import Line
from shared.clock import utc_now
from shared.contracts.event import Preview
from shared.messaging.topology import EVENTS
from tests.support.builders import outbound
from tests.support.ports import LOOPBACK
from tests.support.status_replicas import OPERATOR_KEY, StatusSite, new_task, over, step
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx

    from tests.support.processes import ProcessGuard
    from tests.support.rabbit import RabbitServer
    from tests.support.s3 import S3Server

PATIENCE = 60.0


@pytest.fixture
def site(
    rabbit: RabbitServer, s3_server: S3Server, bucket: str, process_guard: ProcessGuard, tmp_path: Path
) -> Iterator[StatusSite]:
    site = StatusSite(rabbit, s3_server, bucket, process_guard, tmp_path)
    yield site
    site.stop()


def places(line: Line) -> list[int]:
    """The positions of what a line was told, without what greeted it."""
    greetings = {"snapshot", "ready", "resync"}
    return [int(place.partition("-")[2]) for place, name in line.events if name not in greetings]


def positions(site: StatusSite, task_id: str | None = None, behind: int = 0) -> list[int]:
    return [logged.position for logged in site.logged(task_id) if logged.position > behind]


def names(line: Line) -> list[str]:
    return [name for _, name in line.events]


def test_every_one_of_500_streams_is_told_everything_once_and_in_order(site: StatusSite) -> None:
    site.start(max_streams_per_tenant=1000)
    tasks = [new_task(tenant) for tenant in site.tenants for _ in range(5)]
    site.begin(*tasks)
    before = len(site.logged())
    of_tasks = [(task, site.of_task(task)) for task in tasks * 20]
    of_tenants = [(tenant, site.of_tenant(tenant)) for tenant in site.tenants * 25]
    lines = [line for _, line in (*of_tasks, *of_tenants)]
    with site.crowd(site.front, *lines) as crowd:
        assert [line.status for line in lines] == [200] * 500
        shares = [site.metric(number, 'atelier_streams_open{kind="task"}') for number in range(2)]
        assert min(shares) > 100, "one process has them all"
        for number in range(1, 11):
            site.publish(*(step(task, number) for task in tasks))
        site.publish(*map(over, tasks))
        crowd.run(PATIENCE, lambda: all(line.hung_up or names(line).count("succeeded") == 5 for line in lines))
    log = [logged for logged in site.logged() if logged.position > before]
    for task, line in of_tasks:
        assert line.hung_up, "it ends with its task"
        assert places(line) == [logged.position for logged in log if logged.news.task_id == task.task_id]
    for tenant, line in of_tenants:
        assert not line.hung_up
        assert places(line) == [logged.position for logged in log if logged.news.tenant_id == tenant]
    for number in range(2):
        until(lambda number=number: site.metric(number, 'atelier_streams_open{kind="tenant"}') == 0)  # type: ignore[misc] # mypy cannot infer a lambda with a default


def test_any_replica_answers_for_any_task_and_a_stream_goes_on_at_the_other(site: StatusSite) -> None:
    site.start()
    task, other = new_task(), new_task()
    site.begin(task, other)
    before = len(site.logged())
    for port in site.apis:
        with site.client(port) as client:
            for task_id in (task.task_id, other.task_id):
                assert client.get(f"/api/v1/tasks/{task_id}").json()["state"] == "running"
            assert [each["task_id"] for each in client.get("/api/v1/tasks").json()["tasks"]] == [
                other.task_id,
                task.task_id,
            ]
    told: list[int] = []
    last = ""
    for turn in range(6):
        line = site.of_task(task, last)
        with site.crowd(site.apis[turn % 2], line) as crowd:
            site.publish(step(task, 2 * turn + 1))
            expected = 2 if turn else 1  # the one of the meantime, too
            crowd.run(PATIENCE, lambda line=line, expected=expected: len(places(line)) == expected)  # type: ignore[misc] # mypy cannot infer a lambda with a default
        told += places(line)
        last = line.events[-1][0]
        meantime = step(task, 2 * turn + 2)
        site.publish(meantime)
        until(lambda meantime=meantime: site.logged(task.task_id)[-1].news.sequence == meantime.sequence)  # type: ignore[misc] # mypy cannot infer a lambda with a default
    site.publish(over(task))
    line = site.of_task(task, last)
    with site.crowd(site.apis[0], line) as crowd:
        crowd.run(PATIENCE)
    assert line.hung_up
    assert told + places(line) == positions(site, task.task_id, behind=before)
    again = site.of_task(task, line.events[-1][0])
    with site.crowd(site.apis[1], again):
        assert again.status == 204


@pytest.mark.parametrize("how", ["killed", "told to stop"])
def test_what_dies_is_taken_over_and_nothing_is_missed(site: StatusSite, how: str) -> None:
    site.start()
    task = new_task()
    site.begin(task)
    before = len(site.logged())
    stays, breaks = site.of_task(task), site.of_tenant("acme")
    with site.crowd(site.apis[0], stays) as staying, site.crowd(site.apis[1], breaks) as breaking:
        site.publish(step(task, 1))
        breaking.run(PATIENCE, lambda: bool(places(breaks)))
        for name in ("api-1", "consumer-0"):
            if how == "killed":
                site.kill(name)
            else:
                site.processes[name].terminate()
        site.publish(*(step(task, number) for number in range(2, 11)))
        breaking.run(PATIENCE)
        assert breaks.hung_up
        resumed = site.of_tenant("acme", breaks.events[-1][0])
        with site.crowd(site.apis[0], resumed) as resuming:
            site.publish(over(task))
            staying.run(PATIENCE)
            resuming.run(PATIENCE, lambda: "succeeded" in names(resumed))
    expected = positions(site, task.task_id, behind=before)
    assert places(stays) == expected
    assert places(breaks) + places(resumed) == expected
    assert names(resumed)[-1] == "succeeded"


def test_odd_events_break_no_stream(site: StatusSite) -> None:
    site.start()
    task = new_task()
    site.begin(task)
    line, operator = site.of_task(task), Line("/api/v1/events", OPERATOR_KEY)
    with site.crowd(site.front, line, operator) as crowd:
        site.publisher.publish(outbound(EVENTS, "progress.acme", b"\xff not json"), timeout=10)
        site.publisher.publish(outbound(EVENTS, "progress.acme", b'{"schema": 99, "mood": "good"}'), timeout=10)
        tomorrow = {"at": utc_now() + timedelta(days=1)}
        site.publish(step(task, 1).model_copy(update=tomorrow))
        crowd.run(PATIENCE, lambda: len(places(operator)) == 1)
        with closing(sqlite3.connect(site.database)) as database, database:
            # As a later version may write it.
            database.execute("UPDATE positions SET position = position + 1 WHERE name = 'news'")
            database.execute(
                "INSERT INTO events SELECT position, ?, 'acme', 0, '{\"type\": \"dreamt\"}' FROM positions"
                " WHERE name = 'news'",
                (task.task_id,),
            )
        site.publish(step(task, 2))
        crowd.run(PATIENCE, lambda: len(places(operator)) == 2)
        site.publish(over(task))
        crowd.run(PATIENCE, lambda: line.hung_up and len(places(operator)) == 3)
    assert names(line) == ["snapshot", "progress", "progress", "succeeded"]
    assert names(operator) == ["ready", "progress", "progress", "succeeded"]
    again = site.of_task(task, line.events[0][0])
    with site.crowd(site.front, again) as crowd:
        crowd.run(PATIENCE)
    assert names(again) == ["progress", "progress", "succeeded"]


def test_a_database_that_is_away_is_waited_for_with_open_streams(site: StatusSite) -> None:
    site.start(stream_heartbeat_seconds=1)
    task = new_task()
    site.begin(task)
    before = len(site.logged())
    lines = [site.of_task(task), site.of_tenant("acme")]
    with site.crowd(site.front, *lines) as crowd:
        site.publish(step(task, 1))
        crowd.run(PATIENCE, lambda: all(places(line) for line in lines))
        with closing(sqlite3.connect(site.database)) as database:
            database.execute("ALTER TABLE events RENAME TO elsewhere")
            until(lambda: "news_unavailable" in (site.folder / "api-0.log").read_text())
            with site.client(site.front) as client:
                refused = client.get("/api/v1/events", headers={"Last-Event-ID": lines[0].events[-1][0]})
            assert refused.json()["code"] == "view_store_error"
            database.execute("ALTER TABLE elsewhere RENAME TO events")
        site.publish(step(task, 2), over(task))
        crowd.run(PATIENCE, lambda: all("succeeded" in names(line) for line in lines))
    for line in lines:
        assert places(line) == positions(site, task.task_id, behind=before)


def test_a_thousand_connections_of_one_key_are_refused_and_leave_room_for_others(site: StatusSite) -> None:
    site.start()
    greedy = [site.of_tenant("acme") for _ in range(1000)]
    with site.crowd(site.apis[0], *greedy):
        statuses = [line.status for line in greedy]
        assert (statuses.count(200), statuses.count(429)) == (100, 900)
        others = [site.of_tenant("other") for _ in range(10)]
        with site.crowd(site.apis[0], *others):
            assert [line.status for line in others] == [200] * 10
    until(lambda: site.metric(0, 'atelier_streams_open{kind="tenant"}') == 0, what="every place to be free again")


@pytest.mark.parametrize("through", ["nginx", "the service itself"])
def test_a_client_that_goes_away_frees_its_place(site: StatusSite, through: str) -> None:
    site.start(max_streams_per_tenant=1, max_streams=2)
    port = site.front if through == "nginx" else site.apis[0]
    for _ in range(3):
        with site.client(port) as client:
            until(lambda client=client: _is_accepted(client), what="a free place")  # type: ignore[misc] # mypy cannot infer a lambda with a default


def _is_accepted(client: httpx.Client) -> bool:
    with client.stream("GET", "/api/v1/events") as answer:
        if answer.status_code == 429:
            assert answer.headers["Retry-After"] == "10"
            return False
        next(answer.iter_bytes())
        return answer.status_code == 200


def test_who_does_not_read_is_dropped_while_all_others_go_on_and_comes_again_without_a_gap(site: StatusSite) -> None:
    del site.consumers[1]  # two that work side by side leave out a step that one of them has passed
    site.start()
    task = new_task()
    site.begin(task)
    before = len(site.logged())
    reads, slow = site.of_task(task), site.of_task(task)
    with site.crowd(site.apis[0], reads) as crowd, socket.socket() as sleeper:
        sleeper.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sleeper.connect((LOOPBACK, site.apis[0]))
        sleeper.sendall(slow.request())
        slow.feed(sleeper.recv(4096), 0.0)
        preview = Preview(media_type="image/webp", data="A" * 12_000, width=64, height=64)
        number = 0
        while not site.metric(0, 'atelier_streams_ended_total{reason="slow"}'):
            site.publish(*(step(task, number := number + 1, preview) for _ in range(50)))
            crowd.run(PATIENCE, lambda: len(places(reads)) == number)
            assert number < 5000, "it is buffered without bound"
        sleeper.settimeout(20)
        while not slow.over:
            try:
                slow.feed(sleeper.recv(65536), 0.0)
            except ConnectionError:
                break
        again = site.of_task(task, slow.events[-1][0])
        with site.crowd(site.apis[1], again) as resuming:
            site.publish(over(task))
            resuming.run(PATIENCE)
            crowd.run(PATIENCE)
    expected = positions(site, task.task_id, behind=before)
    assert places(reads) == expected
    assert places(slow) + places(again) == expected
    assert len(places(slow)) < number
