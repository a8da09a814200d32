"""What a list is asked for. Everything that is wrong is named, by its field."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, TypeVar
from uuid import UUID

from services.status.store.ports import TaskFilter
from shared.domain.task import TaskState
from shared.http.errors import FieldError, InvalidRequestError
from shared.ids import is_task_id

if TYPE_CHECKING:
    from collections.abc import Callable

    from werkzeug.datastructures import MultiDict

T = TypeVar("T")

DEFAULT_LIMIT: Final = 20
MOST_TASKS: Final = 100
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_RFC3339: Final = re.compile(r"\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}(\.\d{1,9})?([Zz]|[+-]\d{2}:\d{2})", re.ASCII)
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}", re.ASCII)
_CURSOR: Final = re.compile(r"[A-Za-z0-9_-]{22}", re.ASCII)
_LIMIT: Final = re.compile(r"[0-9]{1,3}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class ListQuery:
    """Which tasks, and how many of those behind the id ``before``."""

    wanted: TaskFilter
    before: str | None
    limit: int


class _WrongValueError(ValueError):
    """A value that makes no sense; its text says why."""


class _Arguments:
    """Reads arguments one by one, and collects what is wrong with them."""

    def __init__(self, given: MultiDict[str, str]) -> None:
        self._given = given
        self._known: set[str] = set()
        self._wrong: list[FieldError] = []

    def one(self, name: str, read: Callable[[str], T]) -> T | None:
        """The value of an argument that may be given once."""
        self._known.add(name)
        values = self._given.getlist(name)
        try:
            if len(values) > 1:
                self.refuse(name, "must be given once")
            elif values:
                return read(values[0])
        except _WrongValueError as exc:
            self.refuse(name, str(exc))
        return None

    def words(self, name: str) -> list[str]:
        """The values of an argument that may be given again and again, and hold several with commas between them."""
        self._known.add(name)
        return [word.strip() for value in self._given.getlist(name) for word in value.split(",")]

    def refuse(self, name: str, message: str) -> None:
        """Note that an argument is wrong."""
        self._wrong.append(FieldError(field=name[:64], message=message))

    def check(self) -> None:
        """Raise InvalidRequestError for all that is wrong, and for arguments that nobody knows."""
        for name in sorted(set(self._given) - self._known):
            self.refuse(name, f"is not known; there are {', '.join(sorted(self._known))}")
        if self._wrong:
            message = "; ".join(f"{error.field} {error.message}" for error in self._wrong)
            raise InvalidRequestError(message, *self._wrong)


def read_query(given: MultiDict[str, str], tenant_id: str | None) -> ListQuery:
    """A tenant's query, or an operator's when that is None. Raises InvalidRequestError."""
    arguments = _Arguments(given)
    limit = arguments.one("limit", _limit)
    before = arguments.one("cursor", _before)
    model = arguments.one("model", _name)
    since, until = arguments.one("since", _time), arguments.one("until", _time)
    if since is not None and until is not None and until <= since:
        arguments.refuse("until", "must be later than since")
    words = arguments.words("state")
    if not set(words) <= set(TaskState):
        arguments.refuse("state", f"must be some of {', '.join(TaskState)}")
        words = []
    chosen = arguments.one("tenant", _name)
    if chosen is not None and tenant_id is not None:
        arguments.refuse("tenant", "can be named by operators alone")
    arguments.check()
    wanted = TaskFilter(
        tenant_id=tenant_id or chosen,
        states=frozenset(map(TaskState, words)) if words else None,
        model=model,
        since=since,
        until=until,
    )
    return ListQuery(wanted=wanted, before=before, limit=limit or DEFAULT_LIMIT)


def cursor_behind(task_id: str) -> str:
    """The word that leads to the tasks behind this one."""
    return base64.urlsafe_b64encode(UUID(task_id).bytes).decode().rstrip("=")


def _before(cursor: str) -> str:
    if _CURSOR.fullmatch(cursor):
        task_id = str(UUID(bytes=base64.urlsafe_b64decode(f"{cursor}==")))
        if is_task_id(task_id) and cursor_behind(task_id) == cursor:
            return task_id
    message = "must be the next_cursor of an earlier answer"
    raise _WrongValueError(message)


def _limit(text: str) -> int:
    if _LIMIT.fullmatch(text) and 1 <= int(text) <= MOST_TASKS:
        return int(text)
    message = f"must be a number from 1 to {MOST_TASKS}"
    raise _WrongValueError(message)


def _name(text: str) -> str:
    if _NAME.fullmatch(text):
        return text
    message = "must be an id: small letters, digits and - _ ."
    raise _WrongValueError(message)


def _time(text: str) -> datetime:
    try:
        if _RFC3339.fullmatch(text) and (moment := datetime.fromisoformat(text.upper())) >= _EPOCH:
            return moment
    except ValueError as exc:
        message = f"is no time: {exc}"
        raise _WrongValueError(message) from exc
    message = "must be a time since 1970 as in RFC 3339, such as 2026-01-05T12:00:00Z (in an address + is %2B)"
    raise _WrongValueError(message)
