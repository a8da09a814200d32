"""Confirmed, mandatory publishing from a gevent process: one connection, one channel, many publishes in flight.

Each greenlet waits for its own messages' confirms and times out alone. Broker rules that this rests on: delivery tags
count the publishes of a channel from 1; one confirm with ``multiple`` answers for every earlier tag; the return of an
unroutable message comes before its confirm (https://www.rabbitmq.com/docs/confirms).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import gevent
import pika
from gevent.event import Event
from pika.adapters.gevent_connection import (
    _GeventSelectorIOLoop,
    _GeventSelectorIOServicesAdapter,
)

from shared.domain.errors import BrokerUnavailableError, PublishUnknownError, UnroutableError
from shared.logging import get_logger
from shared.messaging.addresses import BrokerAddresses
from shared.messaging.gevent_connection import OneWriteConnection
from shared.messaging.levels import BrokerLevels
from shared.messaging.topology import QueueType
from shared.messaging.wire import connect_failure, properties_of
from shared.tls.problems import tls_problem

if TYPE_CHECKING:
    from pika.channel import Channel
    from pika.connection import Connection
    from pika.frame import Method
    from pika.spec import Basic, BasicProperties

    from shared.messaging.ports import OutboundMessage

log = get_logger(__name__)

_FIRST_BACKOFF_SECONDS: Final = 0.1
_LONGEST_BACKOFF_SECONDS: Final = 2.0
# A submit waits this long for a reconnect before it is refused.
RECONNECT_GRACE_SECONDS: Final = 1.0
# How much later than asked for an unanswered publish is given up.
_WATCH_SECONDS: Final = 0.05
# A node that owes an answer and says nothing for so long is left, where there is another. One that only waits for other
# nodes still sends heartbeats, at the latest after as many seconds as they were agreed on. It must not be left: before
# RabbitMQ takes a node for gone, it may send what comes on new connections there (measured on 4.0).
_HEARTBEAT_SECONDS: Final = 5
_SILENCE_SECONDS: Final = 8.0


@dataclass(slots=True)
class _Waiter:
    """One publish call: how many of its messages are unanswered, and what went wrong so far."""

    outstanding: int
    deadline: float
    done: Event = field(default_factory=Event)
    confirmed: int = 0
    refused: int = 0
    returned: list[OutboundMessage] = field(default_factory=list)
    lost: bool = False
    late: bool = False

    def answer(self, *, taken: bool) -> None:
        self.outstanding -= 1
        self.confirmed += taken
        self.refused += not taken
        if self.outstanding == 0:
            self.done.set()

    def lose(self) -> None:
        self.lost = True
        self.done.set()

    def give_up(self) -> None:
        self.late = True
        self.done.set()


class GeventPublisher:
    """A Publisher for gevent processes. Start it after the fork, in the process that uses it."""

    def __init__(self, url: str, name: str, queue_type: QueueType = QueueType.CLASSIC) -> None:
        self._addresses = BrokerAddresses(url, name, _HEARTBEAT_SECONDS)
        for node in self._addresses.nodes:
            # While an alarm lasts, submits are refused at once on the connection that knows of it. A new connection
            # would learn of the alarm only from its first publishes, which nobody could answer then.
            node.blocked_connection_timeout = None
        self._levels = BrokerLevels(queue_type, name)
        self._name = name
        self._channel: Channel | None = None
        self._connection: OneWriteConnection | None = None
        self._ready = Event()
        self._closed = Event()
        self._blocked: str | None = None
        self._trouble: str | None = None
        self._next_tag = 1
        self._by_tag: dict[int, _Waiter] = {}
        # How much was heard from the node, and when the last of it, or the first publish that is unanswered, was.
        self._heard, self._heard_at = 0, 0.0
        # More than one where a message is published again before its confirm; returns come in the order of publishes.
        self._by_message: dict[tuple[str, str], list[tuple[_Waiter, OutboundMessage]]] = {}
        self._greenlets: list[gevent.Greenlet[[], None]] = []
        self._stopping = False

    def start(self) -> None:
        """Begin to connect."""
        self._greenlets = [gevent.spawn(self._run), gevent.spawn(self._watch)]

    def stop(self) -> None:
        """Close the connection and end."""
        self._stopping = True
        if self._connection is not None and self._connection.is_open:
            self._connection.close()
            self._closed.wait(2)
        gevent.killall(self._greenlets)

    @property
    def problem(self) -> str | None:
        """Why a publish would fail now, or None."""
        if not self._ready.is_set():
            return "not connected" if self._trouble is None else f"not connected: {self._trouble}"
        return self._blocked

    def publish(self, *messages: OutboundMessage, timeout: float) -> None:
        """See Publisher. All messages go out at once and are awaited together."""
        if not self._ready.wait(RECONNECT_GRACE_SECONDS):
            message = "the broker is not connected"
            raise BrokerUnavailableError(message)
        if self._blocked is not None:
            message = f"the broker blocks publishers: {self._blocked}"
            raise BrokerUnavailableError(message)
        waiter = _Waiter(outstanding=len(messages), deadline=time.monotonic() + timeout)
        try:
            self._send(messages, waiter)
            waiter.done.wait()
        finally:
            for message_ in messages:
                self._forget_message(message_, waiter)
        _raise_for(waiter, messages)

    def _send(self, messages: tuple[OutboundMessage, ...], waiter: _Waiter) -> None:
        channel, connection = self._channel, self._connection
        if channel is None or connection is None:
            text = "the broker is not connected"
            raise BrokerUnavailableError(text)
        for message in messages:
            self._by_message.setdefault((message.exchange, message.message_id), []).append((waiter, message))
            if not self._by_tag:
                self._heard_at = time.monotonic()
            self._by_tag[self._next_tag] = waiter
            self._next_tag += 1
            if not channel.is_open:
                text = "the connection to the broker broke"
                raise PublishUnknownError(text)
            properties = properties_of(message, self._levels.priority(message.priority))
            connection.publish(channel.channel_number, message, properties)

    def _forget_message(self, message: OutboundMessage, waiter: _Waiter) -> None:
        key = (message.exchange, message.message_id)
        others = [entry for entry in self._by_message.get(key, ()) if entry[0] is not waiter]
        if others:
            self._by_message[key] = others
        else:
            self._by_message.pop(key, None)

    def _watch(self) -> None:
        # One look at all of them every now and then, in place of a timer for each.
        while True:
            gevent.sleep(_WATCH_SECONDS)
            now = time.monotonic()
            for waiter in list(self._by_tag.values()):
                if waiter.deadline <= now:
                    waiter.give_up()
            if self._addresses.are_many and self._connection is not None:
                self._listen_to_node(self._connection, now)

    def _listen_to_node(self, connection: OneWriteConnection, now: float) -> None:
        heard: int = connection.bytes_received  # type: ignore[attr-defined] # the stubs miss it
        if heard != self._heard or not self._by_tag:
            self._heard, self._heard_at = heard, now
        elif now - self._heard_at > _SILENCE_SECONDS and connection.is_open:
            log.warning("amqp_node_silent", connection=self._name)
            connection.give_up()

    def _run(self) -> None:
        # Each GeventConnection without a loop of its own leaks the two ends of a pipe; one loop serves them all.
        services = _GeventSelectorIOServicesAdapter(_GeventSelectorIOLoop(gevent.get_hub()))  # type: ignore[arg-type] # the stubs miss a type argument
        backoff = _FIRST_BACKOFF_SECONDS
        while not self._stopping:
            if self._open(services):
                backoff = _FIRST_BACKOFF_SECONDS
                self._closed.wait()
            self._forget()
            gevent.sleep(backoff)
            backoff = min(backoff * 2, _LONGEST_BACKOFF_SECONDS)

    def _open(self, services: _GeventSelectorIOServicesAdapter) -> bool:
        self._closed.clear()
        opened = Event()
        failures: list[BaseException] = []

        def on_error(_connection: Connection, error: BaseException) -> None:
            failures.append(error)
            opened.set()

        connection = OneWriteConnection(
            self._addresses.following(),
            on_open_callback=lambda _connection: opened.set(),
            on_open_error_callback=on_error,
            on_close_callback=self._on_close,
            custom_ioloop=services,
        )
        opened.wait()
        if failures:
            self._trouble = tls_problem(failures[0])
            log.warning("amqp_connect_failed", connection=self._name, error_message=connect_failure(failures[0]))
            return False
        if not connection.is_open:  # closed again before this greenlet had its turn
            return False
        self._connection = connection
        self._levels.meet(connection.server_properties)
        connection.add_on_connection_blocked_callback(self._on_blocked)
        connection.add_on_connection_unblocked_callback(self._on_unblocked)
        connection.channel(on_open_callback=self._on_channel)
        return True

    def _on_channel(self, channel: Channel) -> None:
        channel.add_on_return_callback(self._on_return)
        channel.add_on_close_callback(self._on_channel_close)
        channel.confirm_delivery(self._on_confirm, callback=lambda _frame: self._on_confirming(channel))

    def _on_confirming(self, channel: Channel) -> None:
        self._channel = channel
        self._next_tag = 1
        self._trouble = None
        self._ready.set()
        log.info("amqp_connected", connection=self._name)

    def _on_confirm(self, frame: Method[Any]) -> None:
        tag, taken = frame.method.delivery_tag, isinstance(frame.method, pika.spec.Basic.Ack)
        if frame.method.multiple:
            tags = []
            for waiting in self._by_tag:  # in the order of the tags: dicts keep insertion order
                if waiting > tag:
                    break
                tags.append(waiting)
        else:
            tags = [tag]
        for answered in tags:
            waiter = self._by_tag.pop(answered, None)
            if waiter is not None:
                waiter.answer(taken=taken)

    def _on_return(self, _channel: Channel, method: Basic.Return, properties: BasicProperties, _body: bytes) -> None:
        found = self._by_message.get((method.exchange or "", properties.message_id or ""))
        if found:
            waiter, message = found.pop(0)
            waiter.returned.append(message)

    def _on_blocked(self, _connection: Connection, frame: Method[Any]) -> None:
        self._blocked = frame.method.reason or "alarm"
        log.warning("amqp_blocked", connection=self._name, reason=self._blocked)
        # What is in flight now is read only after the alarm has cleared; nobody shall wait for that.
        self._lose_all()

    def _on_unblocked(self, _connection: Connection, _frame: Method[Any]) -> None:
        self._blocked = None
        log.info("amqp_unblocked", connection=self._name)

    def _on_channel_close(self, channel: Channel, reason: Exception) -> None:
        if channel.connection.is_open:
            log.warning("amqp_channel_closed", connection=self._name, error_message=repr(reason))
            # What is in flight on it is never answered, and nothing more can be published on it.
            self._ready.clear()
            self._lose_all()
            channel.connection.close()

    def _on_close(self, _connection: Connection, reason: BaseException) -> None:
        if not self._stopping:
            log.warning("amqp_connection_lost", connection=self._name, error_message=repr(reason))
        self._forget()
        self._closed.set()

    def _forget(self) -> None:
        self._ready.clear()
        self._channel = None
        self._connection = None
        self._blocked = None
        self._lose_all()

    def _lose_all(self) -> None:
        waiters, self._by_tag = self._by_tag, {}
        for waiter in waiters.values():
            waiter.lose()


def _raise_for(waiter: _Waiter, messages: tuple[OutboundMessage, ...]) -> None:
    if waiter.late and waiter.outstanding:
        text = "no confirm in time"
        raise PublishUnknownError(text)
    if waiter.lost or (waiter.refused and waiter.confirmed):
        text = "the broker went away, or blocked publishers, before it answered"
        raise PublishUnknownError(text)
    if waiter.returned:
        names = " or ".join(f"{message.exchange}/{message.routing_key}" for message in waiter.returned)
        text = f"no queue takes {names}"
        # Returned messages are confirmed, too; without the first one the others tell of something that is not there.
        raise UnroutableError(text) if messages[0] in waiter.returned else PublishUnknownError(text)
    if waiter.refused:
        text = "the broker refused the message"
        raise BrokerUnavailableError(text)
