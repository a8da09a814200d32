"""Admission over Redis: one script, one round trip, exact over any number of replicas."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson
import redis

from services.gateway.admission.gather import Gather
from services.gateway.admission.ports import Admitted, Place, Window
from services.gateway.admission.verdicts import drain_seconds, refusal
from services.gateway.redis_client import redis_failure
from shared.domain.errors import AtelierError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from services.gateway.admission.ports import Application

# A reservation lives so long without its queued event.
LEASE_SECONDS: Final = 30.0
_FOLDER: Final = Path(__file__).parent
ADMITTED: Final = "admitted"
_TASKS: Final = "atelier:ledger:tasks"
# Goes when Redis loses everything.
_MARK: Final = "atelier:ledger:whole"
_WHOLE, _BEGUN = "whole", "begun"


class LedgerUnavailableError(AtelierError):
    """Redis does not answer in time."""

    code = "ledger_unavailable"
    retryable = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """What an event says of a task. ``rank`` orders a task's notes, times are epoch milliseconds.

    ``level`` is the message's priority. ``state`` is waiting, running or ended; ``spent`` (GPU-seconds) and ``kept_ms``
    belong to an end.
    """

    task: str
    tenant: str
    model: str
    state: str
    rank: int
    seconds: float
    level: int
    expiry: int
    spent: float = 0.0
    kept_ms: int = 0


class RedisLedger:
    """Runs the scripts. Methods raise LedgerUnavailableError.

    Requests that come while one is being decided are then decided on together.
    """

    def __init__(self, client: redis.Redis, workers: Callable[[str], int] = lambda _model: 1) -> None:
        self._workers = workers
        self._client = client
        self._admit = client.register_script(_script("admit"))
        self._note = client.register_script(_script("note"))
        self._withdraw = client.register_script(_script("withdraw"))
        self._gather: Gather[bytes, bytes | str] = Gather(lambda asked: self._run(self._admit, asked))

    def admit(self, application: Application) -> Admitted:
        """See Admission."""
        answer: dict[str, Any] = orjson.loads(self._gather.ask(_asked(application)))
        found = Admitted(
            own_work=float(answer["own_work"]),
            model_work=float(answer["model_work"]),
            waiting=int(answer["waiting"]),
            place=_place(answer),
            windows=_windows(application, answer["windows"]),
            held=bool(answer["held"]),
        )
        if answer["code"] == ADMITTED:
            return found
        drain = drain_seconds(found, self._workers(application.model))
        raise refusal(answer["code"], application, found, wait=answer["wait_ms"] / 1000, drain=drain)

    def withdraw(self, task_id: str) -> None:
        """Free a reservation."""
        self._run(self._withdraw, [task_id])

    def owner(self, task_id: str) -> str | None:
        """See OpenTasks."""
        record = _ask(lambda: self._client.hget(_TASKS, task_id))
        return None if record is None else str(orjson.loads(record)["tenant"])

    def note(self, notes: Sequence[Note]) -> None:
        """Apply events, in their order; repeats and late ones change nothing."""
        if notes:
            self._run(self._note, [orjson.dumps(asdict(note)) for note in notes])

    def is_whole(self) -> bool:
        """Whether everything that a reconcile noted is still there."""
        return bool(_ask(lambda: self._client.get(_MARK)) == _WHOLE)

    def begin_reconcile(self) -> None:
        """The notes to come shall make the ledger whole."""
        _ask(lambda: self._client.set(_MARK, _BEGUN))

    def end_reconcile(self) -> None:
        """They are made; the ledger is whole unless Redis lost everything meanwhile."""
        _ask(lambda: self._client.set(_MARK, _WHOLE, xx=True))

    def _run(self, script: Any, arguments: Sequence[str | bytes]) -> Any:  # noqa: ANN401 - redis-py's own typing of scripts
        return _ask(lambda: script(args=arguments))


def _ask(call: Callable[[], Any]) -> Any:  # noqa: ANN401 - whatever Redis answers
    try:
        return call()
    except redis.RedisError as exc:
        message = redis_failure(exc)
        raise LedgerUnavailableError(message) from exc


def _asked(application: Application) -> bytes:
    return orjson.dumps(
        {
            "task": application.task_id,
            "tenant": application.tenant_id,
            "model": application.model,
            "seconds": application.gpu_seconds,
            "rates": [
                {"key": application.subject, "requests": rate.requests, "seconds": rate.seconds}
                for rate in application.rates
            ],
            "concurrency": application.concurrency,
            "queued": application.queued,
            "day_seconds": application.gpu_seconds_per_day,
            "bound": application.bound,
            "falls_at": application.falls_at,
            "again": application.again,
            "takes_place": application.takes_place,
            "lease_ms": int(LEASE_SECONDS * 1000),
        }
    )


def _place(answer: dict[str, Any]) -> Place:
    return Place(
        level=int(answer["level"]),
        ahead=int(answer["ahead"]),
        ahead_work=float(answer["ahead_work"]),
        running=int(answer["running"]),
        running_work=float(answer["running_work"]),
    )


def _windows(application: Application, found: list[list[int]]) -> tuple[Window, ...]:
    # An empty Lua table is an empty object in JSON.
    pairs = zip(application.rates, found or [], strict=True)
    return tuple(
        Window(rate=rate, remaining=int(remaining), reset_seconds=reset / 1000) for rate, (remaining, reset) in pairs
    )


def _script(name: str) -> str:
    return (_FOLDER / "ledger.lua").read_text(encoding="utf-8") + (_FOLDER / f"{name}.lua").read_text(encoding="utf-8")
