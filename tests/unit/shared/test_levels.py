from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from shared.domain.priority import HIGHEST_LEVEL
from shared.messaging.levels import BrokerLevels, Levels, amqp_priority, levels_of
from shared.messaging.topology import QueueType

LEVELS = range(HIGHEST_LEVEL + 1)
VIP, FIRST_OF_A_STANDARD_TENANT, THIRD, BACKLOG = 9, 8, 6, 2
# From here on RabbitMQ 4.0 to 4.2 serve a message as high.
HIGH = 5


@pytest.mark.parametrize("version", ["3.10.8", "4.0.5", "4.3.1", "something"])
def test_classic_queues_are_strict_everywhere(version: str) -> None:
    assert levels_of(QueueType.CLASSIC, version) is Levels.STRICT


@pytest.mark.parametrize(
    ("version", "levels"),
    [
        ("3.10.8", Levels.NONE),
        ("3.13.7", Levels.NONE),
        ("4.0.5", Levels.TWO),
        ("4.2.1-rc.1", Levels.TWO),
        ("4.3.0", Levels.STRICT),
        ("4.10.0", Levels.STRICT),
        ("5.0", Levels.STRICT),
        ("something", Levels.NONE),
    ],
)
def test_quorum_queues_have_what_their_broker_s_version_has(version: str, levels: Levels) -> None:
    assert levels_of(QueueType.QUORUM, version) is levels


@pytest.mark.parametrize("levels", Levels)
def test_no_level_ever_passes_a_higher_one(levels: Levels) -> None:
    priorities = [amqp_priority(level, levels) for level in LEVELS]
    assert priorities == sorted(priorities)


@pytest.mark.parametrize("levels", Levels)
def test_a_message_that_goes_round_keeps_its_priority(levels: Levels) -> None:
    for level in LEVELS:
        priority = amqp_priority(level, levels)
        assert amqp_priority(priority, levels) == priority


def test_strict_levels_stay_as_they_are() -> None:
    assert [amqp_priority(level, Levels.STRICT) for level in LEVELS] == list(LEVELS)


def test_with_two_levels_a_vip_and_a_first_task_pass_every_backlog() -> None:
    for first in (VIP, FIRST_OF_A_STANDARD_TENANT):
        assert amqp_priority(first, Levels.TWO) >= HIGH
    for later in (THIRD, BACKLOG, 0):
        assert amqp_priority(later, Levels.TWO) < HIGH


def test_what_is_lost_is_said_once_for_each_broker() -> None:
    levels = BrokerLevels(QueueType.QUORUM, "gateway.1")
    with capture_logs() as lines:
        for version in (b"4.0.5", b"4.0.5", b"4.3.0"):
            levels.meet({"version": version})
    assert [(line["log_level"], line["event"], line["broker_version"], line["priority_levels"]) for line in lines] == [
        ("warning", "queue_type", "4.0.5", "two"),
        ("info", "queue_type", "4.3.0", "strict"),
    ]


def test_a_message_without_a_level_has_no_priority() -> None:
    levels = BrokerLevels(QueueType.QUORUM, "gateway.1")
    levels.meet({"version": "4.1.0"})
    assert levels.priority(None) is None
    assert levels.priority(7) == 4
