"""What a batch of events makes of all that is kept of their tasks. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from services.status.attempts import merged, told_attempt
from services.status.news import news_of
from services.status.projection import apply_to
from services.status.webhooks.notices import notice_of
from services.status.work import follow
from shared.domain.task import EventType

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from services.status.attempts import Attempt
    from services.status.news import News
    from services.status.view import TaskView
    from services.status.webhooks.notices import Notice
    from services.status.work import Work
    from shared.contracts.event import TaskEvent

AttemptKey = tuple[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What is kept of some tasks, as far as there is any."""

    views: dict[str, TaskView] = field(default_factory=dict)
    work: dict[str, Work] = field(default_factory=dict)
    attempts: dict[AttemptKey, Attempt] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What is different after a batch: whole new values, the news in order, and the callbacks that it calls for."""

    kept: Kept
    news: list[News]
    notices: list[Notice]


def apply_all(events: Sequence[TaskEvent], kept: Kept, tell_since: datetime | None = None) -> Changes:
    """Apply events in their order to what is kept of the tasks that they concern.

    With ``tell_since`` nothing is told of what happened before it.
    """
    views = dict(kept.views)
    changes = Changes(kept=Kept(), news=[], notices=[])
    for event in events:
        before = views.get(event.task_id)
        apply_to(views, event)
        view = views[event.task_id]
        news = news_of(event, before, view)
        if news is not None and (tell_since is None or news.at >= tell_since):
            changes.news.append(news)
            notice = notice_of(news, before, view)
            changes.notices.extend([notice] if notice is not None else [])
        # Progress says nothing about work and attempts that the news of its start has not said.
        if event.type is not EventType.PROGRESS:
            if view is not before:
                _follow(event, view, kept, changes.kept)
            _note_attempt(event, kept, changes.kept)
    changes.kept.views.update({key: view for key, view in views.items() if view is not kept.views.get(key)})
    return changes


def _follow(event: TaskEvent, view: TaskView, kept: Kept, changed: Kept) -> None:
    known = changed.work.get(event.task_id) or kept.work.get(event.task_id)
    work = follow(known, event, view)
    if work is not None:
        changed.work[event.task_id] = work


def _note_attempt(event: TaskEvent, kept: Kept, changed: Kept) -> None:
    told = told_attempt(event)
    if told is None:
        return
    key = (told.task_id, told.attempt)
    known = changed.attempts.get(key) or kept.attempts.get(key)
    attempt = merged(known, told)
    if attempt is not known:
        changed.attempts[key] = attempt
