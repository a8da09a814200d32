"""What both pika adapters share: connection parameters, message properties, deliveries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pika
from pika.exceptions import IncompatibleProtocolError

from shared.domain.errors import ConfigurationError
from shared.messaging.ports import Delivery
from shared.tls.addresses import split_amqp_address
from shared.tls.contexts import client_context
from shared.tls.problems import named

if TYPE_CHECKING:
    from pika.adapters.blocking_connection import BlockingChannel
    from pika.spec import Basic, BasicProperties

    from shared.messaging.ports import OutboundMessage

HEARTBEAT_SECONDS: Final = 30
# An alarm blocks publishers without a word to a waiting call; past this the connection is given up.
BLOCKED_TIMEOUT_SECONDS: Final = 15
PERSISTENT: Final = 2
_VARIABLE: Final = "ATELIER_AMQP_URL"


def connection_parameters(url: str, name: str) -> pika.URLParameters:
    """Parameters of a connection that the broker's tools show under ``name``. The URL may override the heartbeat.

    Raises ConfigurationError for what is no AMQP URL.
    """
    try:
        url, ca_file = split_amqp_address(url)
        parameters = pika.URLParameters(url)
    except (ValueError, IndexError):
        message = f"{_VARIABLE}: not amqp://user:password@host:port/vhost (percent-encode what is special in a URL)"
        raise ConfigurationError(message) from None  # the cause repeats a part of the URL, at worst of its password
    if parameters.ssl_options is not None:
        parameters.ssl_options = pika.SSLOptions(client_context(ca_file), parameters.host)
    if "heartbeat=" not in url:
        parameters.heartbeat = HEARTBEAT_SECONDS
    parameters.blocked_connection_timeout = BLOCKED_TIMEOUT_SECONDS
    parameters.socket_timeout = 5
    parameters.stack_timeout = 10
    parameters.client_properties = {"connection_name": name}
    return parameters


def connect_failure(error: BaseException) -> str:
    """Why there is no connection, for the log."""
    text = named(_VARIABLE, error, f"{type(error).__name__}: {error}")
    if isinstance(error, IncompatibleProtocolError):
        text = f"{_VARIABLE}: the server broke off; is it one for amqps://? {text}"
    return text


def server_properties(channel: BlockingChannel) -> dict[str, object] | None:
    """What the broker says about itself on a channel's connection; pika's blocking adapter hides it."""
    properties: dict[str, object] | None = channel._impl.connection.server_properties  # type: ignore[attr-defined] # noqa: SLF001 - see above
    return properties


def properties_of(message: OutboundMessage, priority: int | None) -> BasicProperties:
    """The AMQP properties of a message, persistent always; ``priority`` is what its level is on this broker."""
    return pika.BasicProperties(
        content_type="application/json",
        delivery_mode=PERSISTENT,
        priority=priority,
        # The broker counts TTL in whole milliseconds, as text.
        expiration=None if message.expiration_ms is None else str(message.expiration_ms),
        message_id=message.message_id,
        type=message.type,
        headers=dict(message.headers) or None,
    )


def delivery_of(method: Basic.Deliver | Basic.GetOk, properties: BasicProperties, body: bytes, epoch: int) -> Delivery:
    """A delivery as the rest of the code sees it."""
    return Delivery(
        body=body,
        exchange=method.exchange or "",
        routing_key=method.routing_key or "",
        redelivered=bool(method.redelivered),
        headers=dict(properties.headers or {}),
        message_id=properties.message_id,
        type=properties.type,
        priority=properties.priority or 0,
        tag=method.delivery_tag or 0,
        epoch=epoch,
    )
