"""Task views and work in memory, under the same contract tests as the database; for unit tests and nothing else."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from datetime import timedelta
from statistics import fmean
from typing import TYPE_CHECKING

from services.status.applying import Kept, apply_all
from services.status.errors import ViewStoreError
from services.status.news import LoggedNews
from services.status.store.ports import EndedTask
from services.status.work import Change, Front, Standing, Work, WorkQueue, WorkState
from shared.ids import first_task_id, new_execution_id

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from services.status.applying import AttemptKey
    from services.status.attempts import Attempt
    from services.status.store.ports import TaskFilter
    from services.status.view import TaskView
    from services.status.webhooks.notices import Notice
    from shared.contracts.event import TaskEvent


class MemoryTaskViewStore:
    """A TaskViewStore, NewsLog, WorkStore and RetentionStore.

    While ``available`` is false every call fails like a broken database.
    """

    def __init__(self) -> None:
        self._views: dict[str, TaskView] = {}
        self._news: list[LoggedNews] = []
        self._latest = 0
        self._epoch = new_execution_id()
        self.owed: dict[str, Notice] = {}
        self._work: dict[str, Change] = {}
        self._attempts: dict[AttemptKey, Attempt] = {}
        self._position = 0
        self._leases: dict[str, tuple[str, datetime]] = {}
        self._seen_until: datetime | None = None
        self.available = True

    def prepare(self) -> None:
        """See TaskViewStore."""
        self.check()

    def apply_events(
        self, events: Sequence[TaskEvent], *, seen_until: datetime | None, tell_since: datetime | None = None
    ) -> None:
        """See TaskViewStore."""
        self.check()
        work = {task_id: change.work for task_id, change in self._work.items()}
        changes = apply_all(events, Kept(views=self._views, work=work, attempts=self._attempts), tell_since)
        self._views |= changes.kept.views
        self._attempts |= changes.kept.attempts
        for task_id, changed in changes.kept.work.items():
            self._position += 1
            self._work[task_id] = Change(self._position, changed)
        self._news += [LoggedNews(place, news) for place, news in enumerate(changes.news, self._latest + 1)]
        self._latest += len(changes.news)
        for notice in changes.notices:
            self.owed.setdefault(notice.webhook_id, notice)
        if seen_until is not None and (self._seen_until is None or seen_until > self._seen_until):
            self._seen_until = seen_until

    def get(self, task_id: str) -> TaskView | None:
        """See TaskViewStore."""
        self.check()
        return self._views.get(task_id)

    def attempts(self, task_id: str) -> Sequence[Attempt]:
        """See TaskViewStore."""
        self.check()
        found = [attempt for (owner, _), attempt in sorted(self._attempts.items()) if owner == task_id]
        return [attempt for attempt in found if attempt.was_made]

    def standing(self, task_id: str, now: datetime) -> Standing | None:
        """See TaskViewStore."""
        waiting = {work.task_id: work for work in self._waiting()}
        own = waiting.get(task_id)
        if own is None:
            return None
        place = (-own.level, own.ready_at, task_id)
        ahead = [
            work.predicted_seconds
            for work in waiting.values()
            if work.model == own.model and work.due_at > now and (-work.level, work.ready_at, work.task_id) < place
        ]
        running = self._running(own.model, now)
        return Standing(
            ahead=len(ahead),
            ahead_seconds=sum(ahead),
            running_seconds=sum(work.predicted_seconds for work in running),
            workers=len({work.worker for work in running}),
            own_seconds=own.predicted_seconds,
        )

    def listed(self, wanted: TaskFilter, before: str | None, limit: int) -> Sequence[TaskView]:
        """See TaskViewStore."""
        self.check()
        found = [
            view
            for view in self._views.values()
            if (before is None or view.task_id < before)
            and wanted.tenant_id in (None, view.tenant_id)
            and (wanted.states is None or view.state in wanted.states)
            and wanted.model in (None, view.submission.model if view.submission else "")
            and (wanted.since is None or view.task_id >= first_task_id(wanted.since.timestamp()))
            and (wanted.until is None or view.task_id < first_task_id(wanted.until.timestamp()))
        ]
        return sorted(found, key=lambda view: view.task_id, reverse=True)[:limit]

    def epoch(self) -> str:
        """See NewsLog."""
        self.check()
        return self._epoch

    def latest(self) -> int:
        """See NewsLog."""
        self.check()
        return self._latest

    def oldest(self) -> int:
        """See NewsLog."""
        self.check()
        return self._news[0].position if self._news else self._latest + 1

    def after(
        self, position: int, limit: int, *, tenant_id: str | None = None, task_id: str | None = None
    ) -> Sequence[LoggedNews]:
        """See NewsLog."""
        self.check()
        found = [
            logged
            for logged in self._news
            if logged.position > position
            and tenant_id in (None, logged.news.tenant_id)
            and task_id in (None, logged.news.task_id)
        ]
        return found[:limit]

    def drop_news(self, before: datetime, limit: int) -> int:
        """See RetentionStore."""
        self.check()
        kept = [logged for logged in self._news[:limit] if logged.news.at >= before]
        dropped = len(self._news[:limit]) - len(kept)
        self._news = kept + self._news[limit:]
        return dropped

    def drop_deliveries(self, before: datetime, limit: int) -> int:
        """See RetentionStore. Here no callback is ever done with."""
        self.check()
        del before, limit
        return 0

    def ended_tasks(self, before: datetime, limit: int) -> Sequence[EndedTask]:
        """See RetentionStore."""
        self.check()
        bound = first_task_id(before.timestamp())
        ended = [view for _, view in sorted(self._views.items()) if view.state.is_final and view.updated_at < before]
        return [self._ended(view) for view in ended if view.task_id < bound][:limit]

    def drop_tasks(self, tasks: Sequence[EndedTask]) -> int:
        """See RetentionStore."""
        self.check()
        views = {task.task_id: self._views.get(task.task_id) for task in tasks}
        unchanged = [task.task_id for task in tasks if (view := views[task.task_id]) and self._ended(view) == task]
        for task_id in unchanged:
            del self._views[task_id]
        self._attempts = {key: attempt for key, attempt in self._attempts.items() if key[0] not in unchanged}
        return len(unchanged)

    def seen_until(self) -> datetime | None:
        """See TaskViewStore."""
        self.check()
        return self._seen_until

    def find(self, task_id: str) -> Work | None:
        """See WorkStore."""
        self.check()
        change = self._work.get(task_id)
        return change.work if change is not None else None

    def overdue(self, now: datetime, limit: int, *, after: str = "") -> Sequence[Work]:
        """See WorkStore."""
        late = [work for work in self._waiting() if work.due_at <= now and work.task_id > after]
        return sorted(late, key=lambda work: work.task_id)[:limit]

    def silent(self, now: datetime, silence: timedelta, limit: int, *, after: str = "") -> Sequence[Work]:
        """See WorkStore."""
        self.check()

        def is_silent(work: Work) -> bool:
            if work.state is WorkState.WAITING:
                return work.ready_at <= now - silence
            unheard = self._views[work.task_id].updated_at <= now - silence
            return work.state is WorkState.RUNNING and (unheard or work.finish_deadline <= now)

        found = [change.work for change in self._work.values() if change.work.task_id > after]
        return sorted(filter(is_silent, found), key=lambda work: work.task_id)[:limit]

    def fronts(self) -> Sequence[Front]:
        """See WorkStore."""
        self.check()
        newest: dict[tuple[str, int], datetime] = {}
        for work in (change.work for change in self._work.values()):
            if work.state is not WorkState.WAITING and work.worker:
                place = (work.model, work.level)
                newest[place] = max(work.ready_at, newest.get(place, work.ready_at))
        return [Front(model, level, ready_at) for (model, level), ready_at in newest.items()]

    def queues(self, now: datetime) -> Sequence[WorkQueue]:
        """See WorkStore."""
        seconds: dict[str, list[float]] = defaultdict(list)
        for work in self._waiting():
            seconds[work.model].append(work.predicted_seconds)
        return [
            WorkQueue(
                model=model,
                usual_seconds=fmean(seconds[model]),
                workers=len({work.worker for work in self._running(model, now)}),
            )
            for model in sorted(seconds)
        ]

    def heads(self, model: str, now: datetime, seconds: float) -> Sequence[Work]:
        """See WorkStore."""
        ahead: dict[str, float] = defaultdict(float)
        heads = []
        for work in sorted(self._waiting(), key=lambda work: (work.tenant_id, work.submitted_at, work.task_id)):
            if work.model == model and work.ready_at <= now < work.due_at and ahead[work.tenant_id] < seconds:
                heads.append(work)
                ahead[work.tenant_id] += work.predicted_seconds
        return heads

    def raise_level(self, task_id: str, attempt: int, level: int, at: datetime) -> None:
        """See WorkStore."""
        self.check()
        change = self._work.get(task_id)
        if change is not None and change.work.attempt == attempt and change.work.level < level:
            raised = replace(change.work, level=level, ready_at=at)
            self._work[task_id] = Change(change.position, raised)
        view = self._views.get(task_id)
        if view is not None and level > (view.priority or 0):
            self._views[task_id] = view.model_copy(update={"priority": level})

    def changes(self, after: int, limit: int) -> Sequence[Change]:
        """See WorkStore."""
        self.check()
        found = [change for change in self._work.values() if change.position > after]
        return sorted(found, key=lambda change: change.position)[:limit]

    def latest_change(self) -> int:
        """See WorkStore."""
        self.check()
        return self._position

    def forget_ended(self, until: int) -> None:
        """See WorkStore."""
        self.check()
        self._work = {
            task_id: change
            for task_id, change in self._work.items()
            if change.position > until or change.work.state is not WorkState.ENDED
        }

    def take_lease(self, name: str, holder: str, now: datetime, seconds: float) -> bool:
        """See WorkStore."""
        self.check()
        owner, until = self._leases.get(name, (holder, now))
        if owner != holder and until > now:
            return False
        self._leases[name] = (holder, now + timedelta(seconds=seconds))
        return True

    def give_lease_back(self, name: str, holder: str) -> None:
        """See WorkStore."""
        self.check()
        if self._leases.get(name, ("",))[0] == holder:
            del self._leases[name]

    def check(self) -> None:
        """See TaskViewStore."""
        if not self.available:
            message = "the database is switched off"
            raise ViewStoreError(message)

    def _waiting(self) -> list[Work]:
        self.check()
        return [change.work for change in self._work.values() if change.work.state is WorkState.WAITING]

    def _running(self, model: str, now: datetime) -> list[Work]:
        running = [change.work for change in self._work.values() if change.work.state is WorkState.RUNNING]
        return [work for work in running if work.model == model and work.finish_deadline > now]

    def _ended(self, view: TaskView) -> EndedTask:
        return EndedTask(
            task_id=view.task_id,
            tenant_id=view.tenant_id,
            view=view.model_dump_json(exclude_none=True),
            attempts=tuple(self.attempts(view.task_id)),
        )
