"""Which task a request may see: its tenant's own, and any of the anonymous plan by its id."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.status.errors import TaskNotFoundError
from shared.domain.plans import is_anonymous
from shared.logging import bind

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.status.lookup import TaskFinder
    from services.status.view import TaskView
    from services.status.work import Standing
    from shared.auth.ports import Principal
    from shared.http.auth import Gatekeeper


class TaskAccess:
    """Finds a task for the current request."""

    def __init__(self, finder: TaskFinder, gatekeeper: Gatekeeper) -> None:
        self._finder = finder
        self._gatekeeper = gatekeeper

    def reader(self) -> Principal:
        """Who asks. Raises what the gatekeeper raises."""
        return self._gatekeeper.admit()

    def recheck(self, reader: Principal) -> Callable[[], bool]:
        """See Gatekeeper.recheck."""
        return self._gatekeeper.recheck(reader)

    def find(self, reader: Principal, task_id: str, *, wait_seconds: float = 0) -> TaskView:
        """See TaskFinder.find. Raises besides TooManyFailuresError."""
        bind(task_id=task_id)
        if not is_anonymous(reader.tenant_id):
            return self._finder.find(task_id, reader.tenant_id, wait_seconds=wait_seconds)
        # Without a key the id is all the proof there is, so a wrong one counts as a wrong key does.
        self._gatekeeper.check_failures()
        try:
            return self._finder.find(task_id, reader.tenant_id, wait_seconds=wait_seconds)
        except TaskNotFoundError as exc:
            self._gatekeeper.count_failure()
            message = "there is no task of this id that can be seen without an API key"
            raise TaskNotFoundError(message) from exc

    def standing(self, view: TaskView) -> Standing | None:
        """See TaskFinder.standing."""
        return self._finder.standing(view)
