"""The sender of callbacks over a real database and real receivers, who check signatures with their own library."""

from __future__ import annotations

import itertools
import signal
import sqlite3
import threading
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING

import orjson
import pytest

from services.status.webhooks import schedule
from services.status.webhooks.crowd import Limits
from services.status.webhooks.deliveries import DeliveryState
from shared.clock import utc_now
from shared.http.outbound import Patience
from tests.support.callbacks import CallbackSite, named
from tests.support.receiver import Receiver, answer, drip, flood, silent
from tests.support.waiting import until

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.processes import ProcessGuard
    from tests.support.receiver import Received

IMPATIENT = Patience(connect=0.5, whole=0.5)
OK = b"HTTP/1.1 200 OK\r\n"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[CallbackSite]:
    site = CallbackSite(tmp_path)
    yield site
    site.close()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries follow each other at once."""
    monkeypatch.setattr(schedule, "DELAYS", (0.05,) * len(schedule.DELAYS))


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


def test_a_callback_arrives_signed_and_tells_the_tasks_end(site: CallbackSite, receiver: Receiver) -> None:
    with site.sending():
        (task_id,) = site.owe(receiver.url)
        delivery = site.ended(task_id)
    assert (delivery.state, delivery.tries, delivery.attempts[0].status) == (DeliveryState.DELIVERED, 1, 200)
    (received,) = receiver.received
    assert received.verifies(site.secret)
    assert received.webhook_id == delivery.notice.webhook_id
    assert received.headers["content-type"] == "application/json"
    body = orjson.loads(received.body)
    assert (body["type"], body["data"]["task_id"], body["data"]["state"]) == ("task.succeeded", task_id, "succeeded")
    assert body["data"]["artifacts"][0]["url"] == f"/api/v1/tasks/{task_id}/artifacts/0"


@pytest.mark.usefixtures("quick")
def test_a_receiver_that_fails_is_asked_again_with_the_same_id(site: CallbackSite) -> None:
    with Receiver(answer(500), answer(404), answer(302, Location="http://127.0.0.1/"), answer(200)) as receiver:
        (task_id,) = site.owe(receiver.url)
        with site.sending():
            delivery = site.ended(task_id)
        assert [attempt.status for attempt in delivery.attempts] == [500, 404, 302, 200]
        assert set(receiver.ids()) == {delivery.notice.webhook_id}
        assert all(received.verifies(site.secret) for received in receiver.received)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("behaviour", "error"),
    [
        (silent, "timed_out"),
        (drip(OK), "timed_out"),
        (drip(b"x", first=OK + b"X-Long: "), "timed_out"),
        (flood(b"", 0), "connection_failed"),
        (flood(OK, 10_000, b"X: " + b"y" * 1000 + b"\r\n"), "invalid_answer"),
    ],
    ids=["silent", "dripping head", "dripping field", "hanging up", "endless head"],
)
def test_a_receiver_that_does_not_answer_is_asked_again(site: CallbackSite, behaviour: object, error: str) -> None:
    with Receiver(behaviour, answer(200)) as receiver, site.sending(patience=IMPATIENT):  # type: ignore[arg-type]
        (task_id,) = site.owe(receiver.url)
        delivery = site.ended(task_id)
    assert [(attempt.status, attempt.error) for attempt in delivery.attempts] == [(None, error), (200, None)]


@pytest.mark.parametrize(
    "behaviour",
    [flood(OK + b"Content-Length: 1000000000\r\n\r\n", 16_000), drip(b"x", first=OK + b"Content-Length: 99\r\n\r\n")],
    ids=["a gigabyte", "a dripping body"],
)
def test_what_follows_a_2xx_does_not_matter(site: CallbackSite, behaviour: object) -> None:
    with Receiver(behaviour) as receiver, site.sending(patience=IMPATIENT):  # type: ignore[arg-type]
        (task_id,) = site.owe(receiver.url)
        assert site.ended(task_id).state is DeliveryState.DELIVERED
        assert receiver.connections == 1


@pytest.mark.usefixtures("quick")
def test_a_redirect_to_loopback_leads_nowhere(site: CallbackSite) -> None:
    with Receiver() as inside, Receiver(answer(307, Location=inside.url), answer(200)) as receiver:
        (task_id,) = site.owe(receiver.url)
        with site.sending():
            assert [attempt.status for attempt in site.ended(task_id).attempts] == [307, 200]
        assert inside.connections == 0


@pytest.mark.usefixtures("quick")
def test_a_name_that_turns_inwards_is_refused_from_then_on(site: CallbackSite) -> None:
    addresses = iter([["127.0.0.1"]])
    with Receiver(answer(500)) as receiver, site.sending(resolver=lambda _name: next(addresses, ["10.0.0.1"])):
        (task_id,) = site.owe(named("turning.invalid", receiver.url))
        until(lambda: len(site.delivery(task_id).attempts) >= 3, what="three tries")
    attempts = [(attempt.status, attempt.error) for attempt in site.delivery(task_id).attempts[:3]]
    assert attempts == [(500, None), (None, "address_refused"), (None, "address_refused")]
    assert receiver.connections == 1


@pytest.mark.usefixtures("quick")
def test_patience_that_a_receiver_asks_for_is_had(site: CallbackSite) -> None:
    with Receiver(answer(503, retry_after="1"), answer(200)) as receiver, site.sending():
        (task_id,) = site.owe(receiver.url)
        first, second = site.ended(task_id).attempts
    assert second.at - first.at >= timedelta(seconds=1)


@pytest.mark.usefixtures("quick")
def test_a_receiver_that_is_gone_gets_nothing_more_until_a_replay(site: CallbackSite) -> None:
    with Receiver(answer(410), answer(200)) as receiver, site.sending():
        (first,) = site.owe(receiver.url)
        assert site.ended(first).state is DeliveryState.DISABLED
        (second,) = site.owe(receiver.url)
        delivery = site.ended(second)
        assert (delivery.state, delivery.attempts[-1].error) == (DeliveryState.DISABLED, "gone")
        assert receiver.connections == 1
        for task_id in (second, first):
            site.deliveries.replay(site.delivery(task_id).notice.webhook_id, "acme", utc_now())
            assert site.ended(task_id).state is DeliveryState.DELIVERED
        assert receiver.ids() == [site.delivery(task_id).notice.webhook_id for task_id in (first, second, first)]


@pytest.mark.usefixtures("quick")
def test_a_callback_that_nobody_takes_is_given_up_and_can_be_asked_for_again(site: CallbackSite) -> None:
    with Receiver(answer(500)) as receiver, site.sending(limits=Limits(failures=1000)):
        (task_id,) = site.owe(receiver.url)
        assert (site.ended(task_id).state, receiver.connections) == (DeliveryState.GIVEN_UP, schedule.MOST_TRIES)
        receiver.last = answer(204)
        site.deliveries.replay(site.delivery(task_id).notice.webhook_id, "acme", utc_now())
        assert site.ended(task_id).state is DeliveryState.DELIVERED
        assert len(set(receiver.ids())) == 1


def test_a_dead_host_delays_no_other_of_the_same_tenant(site: CallbackSite, receiver: Receiver) -> None:
    over = threading.Event()

    def hang(_connection: socket.socket, _received: Received) -> None:
        over.wait(60)

    with Receiver(hang) as dead:
        site.owe(*[named("dead.invalid", dead.url)] * 200)
        live = site.owe(*[named("live.invalid", receiver.url)] * 40)
        # Fewer places than the dead host would take.
        with site.sending(limits=Limits(slots=6, tenant=6, host=6), patience=Patience(connect=60, whole=60)):
            for task_id in live:
                assert site.ended(task_id).state is DeliveryState.DELIVERED
            assert dead.connections == Limits().line
            assert len(receiver.received) == 40
            over.set()


@pytest.mark.usefixtures("quick")
def test_a_host_that_keeps_failing_is_left_alone_and_comes_back(site: CallbackSite) -> None:
    with Receiver(answer(503)) as receiver:
        ids = site.owe(*[named("failing.invalid", receiver.url)] * 30)
        limits = Limits(slots=8, tenant=8, host=8, failures=5, pause=0.5, longest_pause=0.5)
        with site.sending(limits=limits) as metrics:
            until(lambda: metrics.left_alone._value.get() == 1, what="a line that is left alone")
            # Those that were under way when the fifth failed, and nobody else.
            assert receiver.connections <= limits.failures + limits.line
            receiver.last = answer(200)
            for task_id in ids:
                assert site.ended(task_id).state is DeliveryState.DELIVERED
            until(lambda: metrics.left_alone._value.get() == 0)


def test_another_tenants_failures_on_a_host_are_its_own(site: CallbackSite, receiver: Receiver) -> None:
    site.add_tenant("zeus")

    def by_path(connection: socket.socket, received: Received) -> None:
        answer(500 if received.path == "/broken" else 200)(connection, received)

    receiver.last = by_path
    host = named("shared.invalid", receiver.url)
    site.owe(*[host.replace("/hook", "/broken")] * 20, tenant_id="zeus")
    with site.sending(limits=Limits(failures=2, pause=600.0)) as metrics:
        until(lambda: metrics.left_alone._value.get() == 1, what="the line of zeus")
        for task_id in site.owe(*[host] * 5):
            assert site.ended(task_id).state is DeliveryState.DELIVERED


def test_while_secrets_are_rotated_both_verify(site: CallbackSite, receiver: Receiver) -> None:
    new = site.operator.create_webhook_secret("acme", overlap=timedelta(hours=1)).text
    with site.sending():
        (task_id,) = site.owe(receiver.url)
        site.ended(task_id)
    (received,) = receiver.received
    assert new != site.secret
    assert received.verifies(site.secret)
    assert received.verifies(new)


def test_a_tenant_without_a_secret_is_told_so_and_not_called(site: CallbackSite, receiver: Receiver) -> None:
    (secret,) = site.operator.webhook_secrets("acme")
    site.operator.revoke_webhook_secret(secret.id)
    with site.sending():
        (task_id,) = site.owe(receiver.url)
        delivery = site.ended(task_id)
    assert (delivery.state, delivery.attempts[0].error) == (DeliveryState.DISABLED, "no_webhook_secret")
    assert receiver.connections == 0


def test_a_sender_that_dies_between_sending_and_noting_it_sends_the_same_again(
    site: CallbackSite, process_guard: ProcessGuard
) -> None:
    sender = site.spawn(process_guard)
    with Receiver() as receiver:
        tries = itertools.count()

        def kill_first(connection: socket.socket, received: Received) -> None:
            if next(tries) == 0:
                sender.kill()
            answer(200)(connection, received)

        receiver.last = kill_first
        (task_id,) = site.owe(receiver.url)
        until(lambda: sender.process.poll() == -signal.SIGKILL, what="the sender's death")
        until(lambda: len(receiver.received) == 1)
        assert site.delivery(task_id).state is DeliveryState.PENDING
        successor = site.spawn(process_guard, "successor")
        assert site.ended(task_id).state is DeliveryState.DELIVERED
        successor.kill()
        assert receiver.ids() == [site.delivery(task_id).notice.webhook_id] * 2
        assert all(received.verifies(site.secret) for received in receiver.received)


def test_two_senders_share_the_work_and_double_nothing(site: CallbackSite, process_guard: ProcessGuard) -> None:
    senders = [site.spawn(process_guard, name) for name in ("one", "two")]
    with Receiver() as receiver:
        ids = site.owe(*[f"{receiver.url}/{number % 3}" for number in range(200)])
        for task_id in ids:
            assert site.ended(task_id).state is DeliveryState.DELIVERED
        assert Counter(receiver.ids()) == Counter(site.delivery(task_id).notice.webhook_id for task_id in ids)
        tries = [sender.metric("atelier_webhooks_tries_total") for sender in senders]
        assert sum(tries) == 200
        assert min(tries) > 0
    for sender in senders:
        sender.kill()


def test_a_sender_that_is_told_to_stop_finishes_what_is_under_way(
    site: CallbackSite, process_guard: ProcessGuard
) -> None:
    sender = site.spawn(process_guard, ATELIER_WEBHOOK_TIMEOUT_SECONDS="10")
    with Receiver() as receiver:

        def stop_first(connection: socket.socket, received: Received) -> None:
            sender.process.terminate()
            until(lambda: "stop_requested" in (site.folder / "sender.log").read_text(), what="the signal's log line")
            answer(200)(connection, received)

        receiver.last = stop_first
        (task_id,) = site.owe(receiver.url)
        assert sender.process.wait(30) == 0
        assert site.delivery(task_id).state is DeliveryState.DELIVERED


def test_a_database_that_is_locked_for_a_while_loses_and_doubles_nothing(
    site: CallbackSite, receiver: Receiver, tmp_path: Path
) -> None:
    writer = sqlite3.connect(tmp_path / "status.db", isolation_level=None, check_same_thread=False)

    def lock_first(connection: socket.socket, received: Received) -> None:
        writer.execute("BEGIN IMMEDIATE")
        answer(200)(connection, received)

    receiver.last = lock_first
    with site.sending():
        (task_id,) = site.owe(receiver.url)
        until(lambda: len(receiver.received) == 1)
        assert site.delivery(task_id).state is DeliveryState.PENDING
        writer.execute("ROLLBACK")
        assert site.ended(task_id).state is DeliveryState.DELIVERED
    writer.close()
    assert receiver.connections == 1
