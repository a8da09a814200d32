"""One thread that owns one blocking AMQP connection, keeps its heartbeats going and reconnects it.

pika's connections belong to one thread; ``add_callback_threadsafe`` is the only call that others may make. Everybody
else hands this thread small functions and waits for their results. Where the address names several nodes, each attempt
to connect goes to the next.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TYPE_CHECKING, Final, TypeVar

import pika
from pika.exceptions import AMQPError, ChannelClosedByBroker

from shared.domain.errors import BrokerUnavailableError, PublishUnknownError
from shared.logging import get_logger
from shared.messaging.addresses import BrokerAddresses
from shared.messaging.wire import connect_failure

if TYPE_CHECKING:
    from collections.abc import Callable

    from pika.adapters.blocking_connection import BlockingChannel, BlockingConnection

T = TypeVar("T")
log = get_logger(__name__)

_FIRST_BACKOFF_SECONDS: Final = 0.1
_LONGEST_BACKOFF_SECONDS: Final = 5.0
_POLL_SECONDS: Final = 1.0


class ConnectionThread:
    """A connection with one channel. ``epoch`` counts connections: what belongs to an older one is stale."""

    def __init__(self, url: str, name: str, on_channel: Callable[[BlockingChannel, int], None] | None = None) -> None:
        self._addresses = BrokerAddresses(url, name)
        self._name = name
        self._on_channel = on_channel
        self._connection: BlockingConnection | None = None
        self._channel: BlockingChannel | None = None
        self._ready = threading.Event()
        self._stopping = threading.Event()
        self._waiting: set[Future[object]] = set()
        self._waiting_lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=f"amqp-{name}", daemon=True)
        self._trouble: str | None = None
        self.epoch = 0

    def start(self) -> None:
        """Begin to connect, in the background."""
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """Close the connection and end the thread."""
        self._stopping.set()
        connection = self._connection
        if connection is not None and self._ready.is_set():
            # A connection that broke a moment ago refuses the wake-up; its thread is on its way out then.
            try:
                connection.add_callback_threadsafe(lambda: None)
            except AMQPError as exc:
                log.debug("amqp_stop_wakeup_refused", error_message=repr(exc))
        self._thread.join(timeout)

    @property
    def connected(self) -> bool:
        """Whether the connection is open."""
        return self._ready.is_set()

    def wait_connected(self, timeout: float) -> bool:
        """Wait for the connection to open."""
        return self._ready.wait(timeout)

    def call(self, function: Callable[[BlockingChannel], T], timeout: float) -> T:
        """Run a function with the channel, in the connection's thread, and return what it returns.

        Raises BrokerUnavailableError when there is no connection within ``timeout`` seconds, PublishUnknownError when
        the answer does not come, or whatever the function raises.
        """
        if not self._ready.wait(timeout):
            message = ": ".join(filter(None, (f"no connection to the broker within {timeout:g} s", self._trouble)))
            raise BrokerUnavailableError(message)
        future: Future[T] = Future()
        with self._waiting_lock:
            self._waiting.add(future)  # type: ignore[arg-type] # only failed through this set
        try:
            self._submit(function, future)
            return future.result(timeout)
        except FutureTimeoutError as exc:
            message = f"no answer from the broker within {timeout:g} s"
            raise PublishUnknownError(message) from exc
        finally:
            with self._waiting_lock:
                self._waiting.discard(future)

    def _submit(self, function: Callable[[BlockingChannel], T], future: Future[T]) -> None:
        def run() -> None:
            if not future.set_running_or_notify_cancel() or self._channel is None:
                return
            try:
                result = function(self._channel)
            except Exception as exc:  # noqa: BLE001 - the caller's to handle; here it would end everybody's connection
                _fail(future, exc)
            else:
                if not future.done():
                    future.set_result(result)

        connection = self._connection
        try:
            if connection is None:
                message = "the connection to the broker was lost"
                raise BrokerUnavailableError(message)
            connection.add_callback_threadsafe(run)
        except AMQPError as exc:
            message = "the connection to the broker was lost"
            raise BrokerUnavailableError(message) from exc

    def _run(self) -> None:
        backoff = _FIRST_BACKOFF_SECONDS
        while not self._stopping.is_set():
            try:
                self._connect()
                backoff = _FIRST_BACKOFF_SECONDS
                self._pump()
            except (AMQPError, OSError) as exc:
                if not self._stopping.is_set():
                    self._trouble = connect_failure(exc)
                    log.warning("amqp_connection_lost", connection=self._name, error_message=self._trouble)
            except Exception:
                # The boundary of what is called back: a mistake there costs a connection, not all further ones.
                log.exception("amqp_connection_broken", connection=self._name)
            finally:
                self._forget()
            self._stopping.wait(backoff)
            backoff = min(backoff * 2, _LONGEST_BACKOFF_SECONDS)

    def _connect(self) -> None:
        self._connection = pika.BlockingConnection(self._addresses.following())
        self._channel = channel = self._connection.channel()
        # A queue that was deleted under its consumer: nothing would come any more, and nobody would notice.
        channel.add_on_cancel_callback(lambda _frame: channel.close())
        self.epoch += 1
        if self._on_channel is not None:
            self._on_channel(channel, self.epoch)
        self._trouble = None
        self._ready.set()
        log.info("amqp_connected", connection=self._name, epoch=self.epoch)

    def _pump(self) -> None:
        connection, channel = self._connection, self._channel
        while connection is not None and channel is not None and not self._stopping.is_set():
            connection.process_data_events(time_limit=_POLL_SECONDS)
            if not channel.is_open:
                # The broker closes a channel on a protocol error only; a fresh connection is the simplest cure.
                message = "the channel was closed"
                raise ChannelClosedByBroker(0, message)

    def _forget(self) -> None:
        self._ready.clear()
        connection, self._connection, self._channel = self._connection, None, None
        with self._waiting_lock:
            for future in self._waiting:
                _fail(future, PublishUnknownError("the connection to the broker was lost"))
        if connection is not None and connection.is_open:
            try:
                connection.close()
            except AMQPError as exc:
                log.debug("amqp_close_failed", connection=self._name, error_message=_text(exc))


def _fail(future: Future[T], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
