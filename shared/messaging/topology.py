"""Every exchange, queue, binding and policy of the broker, as data, declared in this one place.

``infra/rabbitmq/definitions.json`` is generated from it and loaded by the broker at its start; services declare nothing
durable. Why it looks like this is in docs/architecture.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from shared.domain.settle import RETRY_DELAYS_SECONDS
from shared.domain.task import EventType

if TYPE_CHECKING:
    from collections.abc import Sequence

VHOST: Final = "atelier"

TASKS: Final = "atelier.tasks"
REQUEUE: Final = "atelier.requeue"
EVENTS: Final = "atelier.events"
CONTROL: Final = "atelier.control"
RETURNED: Final = "atelier.returned"
DEAD: Final = "atelier.dead"
WORKERS: Final = "atelier.workers"

STATUS_EVENTS: Final = "status.events"
GATEWAY_LEDGER: Final = "gateway.ledger"
STATUS_RETURNED: Final = "status.returned"
TASKS_DEAD: Final = "tasks.dead"

MAX_PRIORITY: Final = 10

# How often a quorum queue delivers a message before it drops it: more than will ever be. RabbitMQ 4 gives up after 20
# of its own accord; -1, which is "never" to it, is "after the first return" to 3.10. With a limit of any size 3.10 also
# puts what is returned back to its place and not to the tail.
DELIVERY_LIMIT: Final = 1_000_000


class QueueType(StrEnum):
    """What durable queues are kept in: on one node with strict priorities, or on several (docs/decisions/0017)."""

    CLASSIC = "classic"
    QUORUM = "quorum"


def work_queue(model: str) -> str:
    """The queue that holds a model's tasks."""
    return f"tasks.{model}"


def retry_exchange(seconds: int) -> str:
    """The exchange whose messages come back to their work queue after so many seconds."""
    return f"atelier.retry.{seconds}"


def retry_queue(seconds: int) -> str:
    """The queue in which they wait."""
    return f"tasks.retry.{seconds}"


@dataclass(frozen=True, slots=True)
class Exchange:
    """A durable exchange."""

    name: str
    type: str


@dataclass(frozen=True, slots=True)
class Queue:
    """A durable queue and its declaration arguments."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Binding:
    """An exchange feeds a queue."""

    exchange: str
    queue: str
    routing_key: str = ""


@dataclass(frozen=True, slots=True)
class Policy:
    """Settings of queues by name; unlike arguments they can change on a live queue."""

    name: str
    pattern: str
    definition: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Topology:
    """The whole of it."""

    exchanges: tuple[Exchange, ...]
    queues: tuple[Queue, ...]
    bindings: tuple[Binding, ...]
    policies: tuple[Policy, ...]


def topology(models: Sequence[str], queue_type: QueueType = QueueType.CLASSIC) -> Topology:
    """The topology that serves these models."""
    kind = _Kind.of(queue_type)
    exchanges = [
        Exchange(TASKS, "direct"),
        Exchange(REQUEUE, "direct"),
        Exchange(EVENTS, "topic"),
        Exchange(CONTROL, "fanout"),
        Exchange(RETURNED, "fanout"),
        Exchange(DEAD, "fanout"),
        # Each gateway reads it through a queue of its own; a report that nobody reads is no loss.
        Exchange(WORKERS, "topic"),
    ]
    queues = [Queue(name, kind.arguments) for name in (STATUS_EVENTS, GATEWAY_LEDGER, STATUS_RETURNED, TASKS_DEAD)]
    bindings = [
        Binding(EVENTS, STATUS_EVENTS, "#"),
        # All but progress, which changes nobody's place.
        *(Binding(EVENTS, GATEWAY_LEDGER, f"{news}.#") for news in EventType if news is not EventType.PROGRESS),
        Binding(RETURNED, STATUS_RETURNED),
        Binding(DEAD, TASKS_DEAD),
    ]
    for model in models:
        # No max-length: a retry that expires into a full classic queue is silently lost. Admission bounds the queue.
        queues.append(Queue(work_queue(model), kind.of_work))
        bindings += [Binding(exchange, work_queue(model), model) for exchange in (TASKS, REQUEUE)]
    for seconds in RETRY_DELAYS_SECONDS:
        # One delay for each queue: only a queue's head expires, so mixed delays would block each other.
        arguments = {**kind.arguments, "x-message-ttl": seconds * 1000, "x-dead-letter-exchange": REQUEUE}
        exchanges.append(Exchange(retry_exchange(seconds), "topic"))
        queues.append(Queue(retry_queue(seconds), arguments))
        bindings.append(Binding(retry_exchange(seconds), retry_queue(seconds), "#"))
    return Topology(tuple(exchanges), tuple(queues), tuple(bindings), _policies(models, kind))


@dataclass(frozen=True, slots=True)
class _Kind:
    """What a type of queue means for each use: arguments, which stay, and policies, which may change."""

    arguments: dict[str, Any]
    of_work: dict[str, Any]
    kept: dict[str, Any]
    passed_on: dict[str, Any]

    @classmethod
    def of(cls, queue_type: QueueType) -> _Kind:
        if queue_type is QueueType.CLASSIC:
            return cls({}, {"x-max-priority": MAX_PRIORITY}, {}, {})
        arguments = {"x-queue-type": "quorum"}
        kept = {"delivery-limit": DELIVERY_LIMIT}
        # What is passed on stays in its queue until the next one has it. The broker demands the overflow setting for
        # that, which refuses nothing where there is no maximum length.
        passed_on = {**kept, "dead-letter-strategy": "at-least-once", "overflow": "reject-publish"}
        return cls(arguments, arguments, kept, passed_on)


def _policies(models: Sequence[str], kind: _Kind) -> tuple[Policy, ...]:
    work = f"^tasks\\.(?!retry\\.|dead$){_any_of(models)}$"
    returned = Policy("returned", work, {"dead-letter-exchange": RETURNED, **kind.passed_on})
    if not kind.kept:
        return (returned,)
    retried = Policy("retried", r"^tasks\.retry\.[0-9]+$", kind.passed_on)
    kept = Policy("kept", _any_of((STATUS_EVENTS, GATEWAY_LEDGER, STATUS_RETURNED, TASKS_DEAD), whole=True), kind.kept)
    return (returned, retried, kept)


def _any_of(names: Sequence[str], *, whole: bool = False) -> str:
    either = "(" + "|".join(name.replace(".", "\\.") for name in names) + ")"
    return f"^{either}$" if whole else either


@dataclass(frozen=True, slots=True)
class Permission:
    """What a service's user may configure, write and read: regular expressions over names."""

    user: str
    configure: str
    write: str
    read: str


_WORK: Final = r"tasks\.(?!retry\.|dead$).*"

# A queue that a service makes for itself is exclusive and carries a prefix of the service's own. Whoever counts what
# lies in work queues may write to them: RabbitMQ demands some right on a queue for that since 4.3, and this one allows
# to bind it to exchanges that the user may read, which adds nothing to what it may publish anyway.
PERMISSIONS: Final = (
    Permission(
        "gateway",
        configure=r"^gateway\.workers\..*$",
        write=rf"^(atelier\.(tasks|events)|gateway\.workers\..*|{_WORK})$",
        read=r"^(atelier\.workers|gateway\.workers\..*|gateway\.ledger)$",
    ),
    Permission(
        "worker",
        configure=r"^worker\..*$",
        write=r"^(atelier\.(requeue|retry\.[0-9]+|events|dead|workers)|worker\..*)$",
        read=rf"^({_WORK}|atelier\.control|worker\..*)$",
    ),
    # It sends what came back from a work queue round by the retry queues, when that must wait.
    Permission(
        "status",
        configure=r"^$",
        write=rf"^(atelier\.(requeue|retry\.[0-9]+|events|control|dead)|{_WORK})$",
        read=r"^status\.(events|returned)$",
    ),
    # People with services.worker.ops: look at what was given up, and submit it anew.
    Permission("operator", configure=r"^$", write=r"^atelier\.(tasks|events)$", read=r"^tasks\.dead$"),
)
# Whoever scales workers by the depth of their queues: it reads figures over HTTP, and no message.
MONITOR: Final = Permission("monitor", configure=r"^$", write=r"^$", read=r"^$")
