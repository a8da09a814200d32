"""What each service's user may do on the broker, tried with its own credentials: a table, and everything beside it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

import pytest
from pika.exceptions import ChannelClosedByBroker

from shared.domain.settle import RETRY_DELAYS_SECONDS
from shared.messaging.topology import (
    CONTROL,
    DEAD,
    EVENTS,
    GATEWAY_LEDGER,
    PERMISSIONS,
    REQUEUE,
    RETURNED,
    STATUS_EVENTS,
    STATUS_RETURNED,
    TASKS,
    TASKS_DEAD,
    WORKERS,
    retry_exchange,
    retry_queue,
    topology,
    work_queue,
)
from tests.integration.conftest import BROKERS_APART
from tests.support.builders import MODEL

if TYPE_CHECKING:
    from collections.abc import Callable

    from pika.adapters.blocking_connection import BlockingChannel

    from tests.support.rabbit import RabbitServer

WORK: Final = work_queue(MODEL)
RETRIES: Final = tuple(map(retry_exchange, RETRY_DELAYS_SECONDS))
RETRYING: Final = tuple(map(retry_queue, RETRY_DELAYS_SECONDS))
EXCHANGES: Final = ("", TASKS, REQUEUE, EVENTS, CONTROL, RETURNED, DEAD, WORKERS, *RETRIES)
QUEUES: Final = (WORK, STATUS_EVENTS, STATUS_RETURNED, GATEWAY_LEDGER, TASKS_DEAD, *RETRYING)
USERS: Final = tuple(permission.user for permission in PERMISSIONS)
OWN_PREFIX: Final = {"gateway": "gateway.workers", "worker": "worker"}
ACCESS_REFUSED: Final = 403

MAY_PUBLISH: Final = {
    "gateway": {TASKS, EVENTS},
    "worker": {REQUEUE, EVENTS, DEAD, WORKERS, *RETRIES},
    "status": {REQUEUE, EVENTS, DEAD, CONTROL, *RETRIES},
    "operator": {TASKS, EVENTS},
}
# Whoever may read a queue may purge it: the broker knows no difference.
MAY_CONSUME: Final = {
    "gateway": {GATEWAY_LEDGER},
    "worker": {WORK},
    "status": {STATUS_EVENTS, STATUS_RETURNED},
    "operator": {TASKS_DEAD},
}
MAY_HEAR: Final = {"gateway": {WORKERS}, "worker": {CONTROL}, "status": set[str](), "operator": set[str]()}


pytestmark = pytest.mark.parametrize("each_rabbit_server", BROKERS_APART, indirect=True, ids="-".join)


@pytest.fixture
def rabbit(each_rabbit: RabbitServer) -> RabbitServer:
    return each_rabbit


def allowed(rabbit: RabbitServer, user: str, act: Callable[[BlockingChannel], object]) -> bool:
    """Whether the broker lets a user do it; any answer but "access refused" is an error of the test."""
    with rabbit.connect(user) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        try:
            act(channel)
        except ChannelClosedByBroker as exc:
            if exc.reply_code != ACCESS_REFUSED:
                raise
            return False
        return True


def test_the_table_knows_every_exchange_queue_and_user(rabbit: RabbitServer) -> None:
    plan = topology(rabbit.models, rabbit.queue_type)
    assert set(EXCHANGES) == {"", *(exchange.name for exchange in plan.exchanges)}
    assert {*QUEUES, *map(work_queue, rabbit.models)} == {queue.name for queue in plan.queues}
    assert set(USERS) == set(MAY_PUBLISH) == set(MAY_CONSUME) == set(MAY_HEAR)


@pytest.mark.parametrize("user", USERS)
def test_a_user_publishes_where_it_must_and_nowhere_else(rabbit: RabbitServer, user: str) -> None:
    def publishes(exchange: str) -> bool:
        return allowed(rabbit, user, lambda channel: channel.basic_publish(exchange, MODEL, b"{}"))

    assert {exchange for exchange in EXCHANGES if publishes(exchange)} == MAY_PUBLISH[user]


@pytest.mark.parametrize("user", USERS)
def test_a_user_consumes_its_own_queues_and_no_others(rabbit: RabbitServer, user: str) -> None:
    def reads(queue: str) -> bool:
        got = allowed(rabbit, user, lambda channel: channel.basic_get(queue))
        consumed = allowed(rabbit, user, lambda channel: channel.basic_consume(queue, lambda *_: None))
        purged = allowed(rabbit, user, lambda channel: channel.queue_purge(queue))
        assert got == consumed == purged
        return got

    assert {queue for queue in QUEUES if reads(queue)} == MAY_CONSUME[user]


@pytest.mark.parametrize("user", USERS)
def test_a_user_changes_nothing_that_lasts(rabbit: RabbitServer, user: str) -> None:
    acts: dict[str, Callable[[BlockingChannel], object]] = {
        "declare a queue": lambda channel: channel.queue_declare("tasks.of-my-own", durable=True),
        "declare an exchange": lambda channel: channel.exchange_declare("atelier.mine", "fanout", durable=True),
        "bind an exchange": lambda channel: channel.exchange_bind(EVENTS, TASKS, "#"),
        **{f"delete {queue}": lambda channel, queue=queue: channel.queue_delete(queue) for queue in QUEUES},  # type: ignore[misc] # mypy cannot infer a lambda with a default
        **{
            f"delete {exchange}": lambda channel, exchange=exchange: channel.exchange_delete(exchange)  # type: ignore[misc] # as above
            for exchange in EXCHANGES
            if exchange
        },
    }
    assert [name for name, act in acts.items() if allowed(rabbit, user, act)] == []


@pytest.mark.parametrize("user", USERS)
def test_a_user_can_neither_reroute_work_nor_take_its_routes_away(rabbit: RabbitServer, user: str) -> None:
    routes = [(exchange, WORK) for exchange in (TASKS, REQUEUE)]
    routes += [(RETURNED, STATUS_RETURNED), (DEAD, TASKS_DEAD), *zip(RETRIES, RETRYING, strict=True)]
    for exchange, queue in routes:
        for act in ("queue_bind", "queue_unbind"):
            assert not allowed(
                rabbit,
                user,
                lambda channel, act=act, queue=queue, exchange=exchange: getattr(channel, act)(queue, exchange, MODEL),  # type: ignore[misc] # as above
            )


@pytest.mark.parametrize("user", USERS)
def test_a_user_hears_through_queues_of_its_own_what_it_must_and_nothing_else(rabbit: RabbitServer, user: str) -> None:
    name = f"{OWN_PREFIX.get(user, user)}.test"

    def hears(exchange: str) -> bool:
        def listen(channel: BlockingChannel) -> None:
            channel.queue_declare(name, exclusive=True, auto_delete=True)
            channel.queue_bind(name, exchange, "#")

        return allowed(rabbit, user, listen)

    assert {exchange for exchange in EXCHANGES if exchange and hears(exchange)} == MAY_HEAR[user]


@pytest.mark.parametrize("user", USERS)
def test_nobody_listens_under_the_name_of_another(rabbit: RabbitServer, user: str) -> None:
    others = {prefix for owner, prefix in OWN_PREFIX.items() if owner != user} | {"status", "tasks", "amq"}
    for prefix in others:
        assert not allowed(rabbit, user, lambda channel, p=prefix: channel.queue_declare(f"{p}.x", exclusive=True))  # type: ignore[misc] # as above


def test_dead_letters_are_no_way_around_the_right_to_publish(rabbit: RabbitServer) -> None:
    """A queue of one's own may dead-letter only to where one may publish."""

    def smuggle(exchange: str) -> Callable[[BlockingChannel], object]:
        arguments = {"x-dead-letter-exchange": exchange, "x-message-ttl": 0}
        return lambda channel: channel.queue_declare("worker.smuggler", exclusive=True, arguments=arguments)

    assert allowed(rabbit, "worker", smuggle(EVENTS))
    assert not allowed(rabbit, "worker", smuggle(TASKS))
    assert not allowed(rabbit, "worker", smuggle(CONTROL))


@pytest.mark.parametrize("user", ["gateway", "status"])
def test_who_counts_what_waits_may_do_so(rabbit: RabbitServer, user: str) -> None:
    """From RabbitMQ 4.3 on that takes some right on the queue; here it is that to write."""
    assert allowed(rabbit, user, lambda channel: channel.queue_declare(WORK, passive=True))
    (permission,) = [each for each in rabbit.listing("permissions") if each["user"] == user]
    assert "tasks" in permission["write"]


def test_users_have_no_other_virtual_host_and_no_tags(rabbit: RabbitServer) -> None:
    for row in rabbit.listing("users"):
        assert row["tags"] == []
        assert {each["vhost"] for each in _permissions_of(rabbit, row["user"])} == {"atelier"}
    assert {row["user"] for row in rabbit.listing("users")} == {*USERS, "admin"}


def _permissions_of(rabbit: RabbitServer, user: str) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = json.loads(rabbit.ctl("list_user_permissions", user, "--quiet", "--formatter", "json"))
    return rows
