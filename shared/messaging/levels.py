"""What a broker makes of a task's level, and the AMQP priority that the level becomes on it.

Ten strict levels are what fair share rests on (docs/fairness.md). A classic queue has them in every version. A quorum
queue has them from RabbitMQ 4.3 on; 4.0 to 4.2 know high (5 and up) and normal and serve them 2:1, 3.13 and older know
none (docs/decisions/0017).
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from shared.logging import get_logger
from shared.messaging.topology import QueueType

if TYPE_CHECKING:
    from collections.abc import Mapping

log = get_logger(__name__)

_FIRST_WITH_TWO: Final = (4, 0)
_FIRST_STRICT: Final = (4, 3)
# From here on a level is served as high: who has nothing outstanding, a VIP within its head start, and whose turn has
# come. A lower bound would let everybody's second and third tasks stand beside a VIP's; a higher one VIPs alone.
_LEAST_HIGH_LEVEL: Final = 8
_HIGHEST_NORMAL_PRIORITY: Final = 4


class Levels(StrEnum):
    """How a broker serves priorities."""

    STRICT = "strict"
    TWO = "two"
    NONE = "none"


def levels_of(queue_type: QueueType, broker_version: str) -> Levels:
    """The levels that work queues of this type have on a broker of this version."""
    if queue_type is QueueType.CLASSIC:
        return Levels.STRICT
    found = re.match(r"(\d+)\.(\d+)", broker_version)
    version = (int(found[1]), int(found[2])) if found else (0, 0)
    if version >= _FIRST_STRICT:
        return Levels.STRICT
    return Levels.TWO if version >= _FIRST_WITH_TWO else Levels.NONE


def amqp_priority(level: int, levels: Levels) -> int:
    """The AMQP priority of a task's level: never a higher one for a lower level, and of a priority the same again.

    The same again, because a message that goes round is published with the priority that it came with.
    """
    if levels is not Levels.TWO or level >= _LEAST_HIGH_LEVEL:
        return level
    return min(level, _HIGHEST_NORMAL_PRIORITY)


class BrokerLevels:
    """The levels of the broker that a publisher is connected to. Says what is lost when it first meets one."""

    def __init__(self, queue_type: QueueType, connection: str) -> None:
        self._queue_type = queue_type
        self._connection = connection
        self._told: tuple[str, Levels] | None = None
        self._levels = Levels.STRICT

    def meet(self, server_properties: Mapping[str, object] | None) -> None:
        """A connection was made; these are the broker's words about itself."""
        said = (server_properties or {}).get("version", b"")
        version = said.decode(errors="replace") if isinstance(said, bytes) else str(said)
        self._levels = levels_of(self._queue_type, version)
        if self._told == (version, self._levels):
            return
        self._told = (version, self._levels)
        # A warning where tasks do not go in the order that their levels say.
        say = log.info if self._levels is Levels.STRICT else log.warning
        say(
            "queue_type",
            connection=self._connection,
            queue_type=self._queue_type,
            broker_version=version,
            priority_levels=self._levels,
        )

    def priority(self, level: int | None) -> int | None:
        """The AMQP priority for a level; none for what has none."""
        return None if level is None else amqp_priority(level, self._levels)
