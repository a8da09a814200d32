"""Submission records in Redis: a JSON text for each, changed by two scripts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import redis

from services.gateway.idempotency.errors import IdempotencyKeyReusedError, RecordsUnavailableError
from services.gateway.idempotency.ports import Answered, Held, InFlight
from services.gateway.redis_client import redis_failure

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.gateway.idempotency.ports import Claim, End

PREFIX: Final = "atelier:once:"
_FOLDER: Final = Path(__file__).parent


class RedisRecords:
    """SubmissionRecords over all gateways. Redis's clock tells what is stale."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._claim = client.register_script(_script("claim"))
        self._settle = client.register_script(_script("settle"))

    def claim(self, claim: Claim) -> Held | InFlight | Answered:
        """See SubmissionRecords."""
        ask = json.dumps(
            {
                "task": claim.task_id,
                "body": claim.digest,
                "stale_ms": _milliseconds(claim.stale_seconds),
                "open_ms": _milliseconds(claim.open_seconds),
            }
        )
        found, *rest = _run(lambda: self._claim(keys=[PREFIX + claim.name], args=[ask]))
        if found == "held":
            return Held(rest[0], again=bool(rest[1]))
        if found == "in_flight":
            return InFlight(rest[0], rest[1] / 1000)
        if found == "accepted":
            return Answered(*rest)
        raise IdempotencyKeyReusedError

    def leave(self, claim: Claim) -> None:
        """See SubmissionRecords. One plain command: most requests only leave their record."""
        record = {"task": claim.task_id, "owner": claim.task_id, "body": claim.digest, "state": "open"}
        kept = _milliseconds(claim.open_seconds)
        _run(lambda: self._client.set(PREFIX + claim.name, json.dumps(record | {"at": 0, "again": False}), px=kept))

    def settle(self, claim: Claim, task_id: str, end: End, answer: str = "") -> None:
        """See SubmissionRecords."""
        ask = json.dumps(
            {
                "owner": claim.task_id,
                "task": task_id,
                "body": claim.digest,
                "outcome": end,
                "answer": answer,
                "kept_ms": _milliseconds(claim.kept_seconds),
                "open_ms": _milliseconds(claim.open_seconds),
            }
        )
        _run(lambda: self._settle(keys=[PREFIX + claim.name], args=[ask]))


def _run(command: Callable[[], Any]) -> Any:  # noqa: ANN401 - redis-py's own typing of answers
    try:
        return command()
    except redis.RedisError as exc:
        message = redis_failure(exc)
        raise RecordsUnavailableError(message) from exc


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)


def _script(name: str) -> str:
    return (_FOLDER / f"{name}.lua").read_text(encoding="utf-8")
