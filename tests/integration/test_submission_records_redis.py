"""Submission records on a real Redis."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from services.gateway.idempotency.errors import RecordsUnavailableError
from services.gateway.idempotency.ports import End, Held, InFlight
from services.gateway.idempotency.redis_records import PREFIX, RedisRecords
from services.gateway.redis_client import connect
from tests.contract.submission_records import ANSWER, FIRST, SECOND, SubmissionRecordsContract

if TYPE_CHECKING:
    from tests.support.redis_server import RedisServer


@pytest.fixture
def records(ledger_redis: RedisServer) -> RedisRecords:
    return RedisRecords(connect(ledger_redis.url, 2.0))


class TestRedisRecords(SubmissionRecordsContract):
    @pytest.fixture
    def records(self, ledger_redis: RedisServer) -> RedisRecords:
        return RedisRecords(connect(ledger_redis.url, 2.0))


def test_every_record_lapses_and_none_before_it_is_stale(records: RedisRecords, ledger_redis: RedisServer) -> None:
    client, name = ledger_redis.client(), PREFIX + FIRST.name
    brief = replace(FIRST, kept_seconds=100, stale_seconds=200)
    for change, least, most in (
        (lambda: records.leave(brief), 190_000, 200_000),
        (lambda: records.claim(brief), 190_000, 200_000),
        (lambda: records.settle(brief, "task-1", End.UNKNOWN), 190_000, 200_000),
        (lambda: records.settle(brief, "task-1", End.ACCEPTED, ANSWER), 90_000, 100_000),
    ):
        change()
        assert least < int(client.pttl(name)) <= most


def test_of_many_at_once_one_publishes(ledger_redis: RedisServer) -> None:
    """Sixteen connections, 64 requests, for a new record and for a stale one."""
    replicas = [RedisRecords(connect(ledger_redis.url, 5.0)) for _ in range(16)]
    for stale in (3600.0, 3600.0):
        claims = [replace(FIRST, task_id=f"task-{number}", stale_seconds=stale) for number in range(64)]
        with ThreadPoolExecutor(16) as pool:
            found = list(pool.map(lambda claim: replicas[hash(claim.task_id) % 16].claim(claim), claims))
        (held,) = (one for one in found if isinstance(one, Held))
        assert {one.task_id for one in found if isinstance(one, InFlight)} == {held.task_id}
        owner = next(claim for claim, one in zip(claims, found, strict=True) if one is held)
        replicas[0].settle(owner, held.task_id, End.UNKNOWN)


def test_records_that_are_lost_with_their_scripts_are_made_anew(
    records: RedisRecords, ledger_redis: RedisServer
) -> None:
    records.claim(FIRST)
    ledger_redis.client().flushall()
    ledger_redis.client().script_flush()
    assert records.claim(SECOND) == Held("task-2")


def test_a_redis_that_is_gone_or_slow_says_so(ledger_redis: RedisServer) -> None:
    nowhere = RedisRecords(connect(ledger_redis.url.replace(str(ledger_redis.port), "1"), 0.2))
    slow = RedisRecords(connect(ledger_redis.url, 0.1))
    ledger_redis.pause(1000)
    for records in (nowhere, slow):
        for call in (records.claim, records.leave):
            with pytest.raises(RecordsUnavailableError):
                call(FIRST)
