"""The tasks that have not ended, from the status API."""

from __future__ import annotations

from http.client import HTTPException
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import urlencode
from urllib.request import HTTPSHandler, ProxyHandler, Request, build_opener

from pydantic import ValidationError

from shared.contracts.open_tasks import OpenTask, OpenTaskPage
from shared.domain.errors import AtelierError
from shared.tls.contexts import client_context
from shared.tls.problems import tls_problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_SECONDS: Final = 5.0
_MOST_BYTES: Final = 4 * 1024 * 1024


class OpenTasksUnavailableError(AtelierError):
    """The status API does not tell which tasks have not ended."""

    code = "open_tasks_unavailable"
    retryable = True


class OpenTasks(Protocol):
    """Lists them. Adapter: StatusClient."""

    def pages(self) -> Iterator[Sequence[OpenTask]]:
        """All of them, some at a time. Raises OpenTasksUnavailableError."""
        ...


class StatusClient:
    """OpenTasks over HTTP, each page within seconds."""

    def __init__(self, url: str, operator_key: str, ca_file: Path | None = None) -> None:
        self._url = f"{url.rstrip('/')}/api/v1/admin/tasks"
        self._headers = {"Authorization": f"Bearer {operator_key}"}
        # A service beside us is asked directly.
        self._opener = build_opener(ProxyHandler({}), HTTPSHandler(context=client_context(ca_file)))

    def pages(self) -> Iterator[Sequence[OpenTask]]:
        """See OpenTasks."""
        cursor: str | None = ""
        while cursor is not None:
            page = self._page(cursor)
            yield page.tasks
            cursor = page.next_cursor

    def _page(self, cursor: str) -> OpenTaskPage:
        query = urlencode({"state": "open", "cursor": cursor})
        request = Request(f"{self._url}?{query}", headers=self._headers)  # noqa: S310 - the setting admits http and https alone
        try:
            with self._opener.open(request, timeout=_SECONDS) as answer:
                return OpenTaskPage.model_validate_json(answer.read(_MOST_BYTES))
        except (OSError, HTTPException, ValidationError) as exc:
            reason = tls_problem(exc) or f"{type(exc).__name__}: {str(exc)[:200]}"
            message = f"ATELIER_STATUS_URL: {reason}"
            raise OpenTasksUnavailableError(message) from exc
