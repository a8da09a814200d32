"""The contract of the outbox of callbacks. Callbacks come to be owed by events, as in the real service."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

import pytest

from services.status.webhooks.deliveries import GIVE_UP_AFTER, Delivery, DeliveryAttempt, DeliveryState
from services.status.webhooks.ports import Hold
from shared.clock import utc_now
from shared.domain.task import EventType
from shared.ids import new_task_id
from tests.support.builders import NOW, make_event, make_task

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from services.status.store.ports import TaskViewStore
    from services.status.webhooks.ports import DeliveryStore

URL = "https://a.example/hook"
SOON = NOW + timedelta(seconds=10)
LATER = NOW + timedelta(seconds=60)


class Outbox(NamedTuple):
    views: TaskViewStore
    store: DeliveryStore

    def owe(self, tenant: str = "acme", url: str = URL, *kinds: EventType, seconds: float = 0) -> str:
        """A task that has ended; returns its id."""
        task = make_task(
            task_id=new_task_id(), tenant_id=tenant, callback=url, submitted_at=NOW + timedelta(seconds=seconds)
        )
        self.views.apply_events([make_event(kind, task) for kind in kinds or (EventType.SUCCEEDED,)], seen_until=NOW)
        return task.task_id

    def take(self, count: int = 10, holder: str = "one", now: datetime = SOON) -> Sequence[Delivery]:
        lines = [line for line in self.store.lines("", 100) if line.first_due <= now]
        hold = Hold(holder=holder, now=now, until=now + timedelta(seconds=45))
        return self.store.take(dict.fromkeys([line.name for line in lines], count), hold)


def ended(delivery: Delivery, state: DeliveryState = DeliveryState.DELIVERED, at: datetime = SOON) -> Delivery:
    attempt = DeliveryAttempt(at=at, seconds=0.25, status=200)
    attempts = (*delivery.attempts, attempt)
    return replace(delivery, state=state, tries=delivery.tries + 1, due_at=at, until=LATER, attempts=attempts)


class DeliveryStoreContract:
    """Needs a fixture of its own kind of stores."""

    def test_news_that_a_client_asked_for_is_owed_once_however_often_it_comes(self, outbox: Outbox) -> None:
        task_id = outbox.owe("acme", URL, EventType.QUEUED, EventType.STARTED, EventType.SUCCEEDED, EventType.SUCCEEDED)
        (delivery,) = outbox.store.of_task(task_id, "acme")
        assert delivery.notice.type == "task.succeeded"
        assert (delivery.state, delivery.tries, delivery.attempts) == (DeliveryState.PENDING, 0, ())
        assert delivery.due_at == delivery.notice.created_at
        assert abs(delivery.until - utc_now() - GIVE_UP_AFTER) < timedelta(minutes=1)

    @pytest.mark.parametrize(
        "kinds",
        [
            (EventType.QUEUED, EventType.STARTED, EventType.PROGRESS),
            (EventType.QUEUED, EventType.PROGRESS, EventType.STARTED),
        ],
    )
    def test_a_start_is_told_once_even_if_progress_passes_it(
        self, outbox: Outbox, kinds: tuple[EventType, ...]
    ) -> None:
        events = (EventType.STARTED, EventType.SUCCEEDED)
        task = make_task(task_id=new_task_id(), callback=URL, callback_events=events)
        for kind in (*kinds, EventType.PROGRESS, EventType.SUCCEEDED):
            outbox.views.apply_events([make_event(kind, task)], seen_until=NOW)
        told = [each.notice.type for each in outbox.store.of_task(task.task_id, "acme")]
        assert told == ["task.started", "task.succeeded"]

    def test_each_tenants_hosts_have_lines_of_their_own_with_what_is_due_first(self, outbox: Outbox) -> None:
        outbox.owe("acme", "https://b.example/1", seconds=5)
        outbox.owe("acme", "https://b.example:443/2", seconds=1)
        outbox.owe("acme", "https://a.example/")
        outbox.owe("zeus", "https://b.example/")
        lines = outbox.store.lines("", 10)
        assert [(line.tenant_id, line.host) for line in lines] == [
            ("acme", "a.example"),
            ("acme", "b.example"),
            ("zeus", "b.example"),
        ]
        assert lines[1].first_due == NOW + timedelta(seconds=4)
        assert outbox.store.lines("", 2) == lines[:2]
        assert outbox.store.lines(lines[1].name, 2) == lines[2:]
        assert outbox.store.lines(lines[2].name, 2) == []

    def test_what_is_taken_is_nobody_elses_until_its_hold_is_over(self, outbox: Outbox) -> None:
        outbox.owe()
        (mine,) = outbox.take()
        assert mine.due_at == SOON + timedelta(seconds=45)
        assert outbox.take(holder="two") == []
        (again,) = outbox.take(holder="two", now=LATER)
        assert again.notice == mine.notice
        assert not outbox.store.settle(ended(mine), "one")
        assert outbox.store.settle(ended(again), "two")
        assert outbox.take(now=LATER + timedelta(days=1)) == []

    def test_so_many_of_each_line_the_longest_due_first(self, outbox: Outbox) -> None:
        late, later = outbox.owe(seconds=1), outbox.owe(seconds=2)
        first = outbox.owe(seconds=-1)
        outbox.owe("acme", "https://b.example/")
        outbox.owe(seconds=100)
        taken = outbox.take(2)
        assert sorted(each.notice.url for each in taken) == [URL, URL, "https://b.example/"]
        assert [each.notice.task_id for each in taken if each.notice.url == URL] == [first, late]
        assert [each.notice.task_id for each in outbox.take(2)] == [later]

    def test_what_came_of_a_try_is_kept(self, outbox: Outbox) -> None:
        task_id = outbox.owe()
        (taken,) = outbox.take()
        tried = replace(
            taken,
            tries=1,
            due_at=LATER,
            attempts=(DeliveryAttempt(at=SOON, seconds=1.5, error="timed_out"),),
        )
        assert outbox.store.settle(tried, "one")
        assert not outbox.store.settle(tried, "one")
        assert outbox.store.of_task(task_id, "acme") == [tried]
        assert outbox.take(now=LATER - timedelta(seconds=1)) == []
        (again,) = outbox.take(now=LATER)
        assert (again.tries, again.attempts) == (1, tried.attempts)

    def test_a_url_that_wants_no_more_is_remembered_for_its_tenant_until_a_replay(self, outbox: Outbox) -> None:
        outbox.owe()
        (taken,) = outbox.take()
        gone = ended(taken, DeliveryState.DISABLED)
        assert not outbox.store.is_disabled("acme", URL)
        outbox.store.settle(gone, "one", disable=True)
        assert outbox.store.is_disabled("acme", URL)
        assert not outbox.store.is_disabled("zeus", URL)
        assert not outbox.store.is_disabled("acme", f"{URL}/other")
        outbox.store.replay(gone.notice.webhook_id, "acme", LATER)
        assert not outbox.store.is_disabled("acme", URL)
        (taken,) = outbox.take(now=LATER)
        assert outbox.store.settle(ended(taken, DeliveryState.DISABLED), "one", disable=True)
        assert outbox.store.is_disabled("acme", URL)

    def test_a_replay_makes_an_ended_one_due_with_all_its_tries(self, outbox: Outbox) -> None:
        outbox.owe()
        (taken,) = outbox.take()
        outbox.store.settle(ended(taken, DeliveryState.GIVEN_UP), "one")
        again = outbox.store.replay(taken.notice.webhook_id, "acme", LATER)
        assert again is not None
        assert (again.state, again.tries, again.due_at, again.until) == (
            DeliveryState.PENDING,
            0,
            LATER,
            LATER + GIVE_UP_AFTER,
        )
        assert len(again.attempts) == 1
        assert [each.notice for each in outbox.take(now=LATER)] == [taken.notice]

    def test_a_replay_leaves_what_is_in_hand_and_hurries_what_waits(self, outbox: Outbox) -> None:
        outbox.owe()
        (taken,) = outbox.take()
        webhook_id = taken.notice.webhook_id
        outbox.store.replay(webhook_id, "acme", SOON)
        assert outbox.take(holder="two") == []
        outbox.store.settle(replace(taken, tries=1, due_at=LATER), "one")
        hurried = outbox.store.replay(webhook_id, "acme", SOON)
        assert hurried is not None
        assert (hurried.tries, hurried.due_at) == (0, SOON)
        assert len(outbox.take(holder="two")) == 1

    def test_nobody_elses_callback_is_seen_or_replayed(self, outbox: Outbox) -> None:
        task_id = outbox.owe()
        (delivery,) = outbox.store.of_task(task_id, "acme")
        assert outbox.store.of_task(task_id, "zeus") == []
        assert outbox.store.replay(delivery.notice.webhook_id, "zeus", LATER) is None
        assert outbox.store.replay("msg_x", "acme", LATER) is None
        assert outbox.store.listed("zeus", None, None, 10) == []

    def test_a_tenants_are_listed_by_falling_id_by_state_and_page(self, outbox: Outbox) -> None:
        for _ in range(3):
            outbox.owe()
        outbox.owe("zeus")
        taken = next(each for each in outbox.take(1) if each.notice.tenant_id == "acme")
        outbox.store.settle(ended(taken), "one")
        found = outbox.store.listed("acme", None, None, 10)
        ids = [each.notice.webhook_id for each in found]
        assert ids == sorted(ids, reverse=True)
        assert len(ids) == 3
        assert outbox.store.listed("acme", None, ids[0], 1) == found[1:2]
        assert outbox.store.listed("acme", DeliveryState.DELIVERED, None, 10) == [ended(taken)]
        assert len(outbox.store.listed("acme", DeliveryState.PENDING, None, 10)) == 2

    def test_what_was_not_made_in_time_is_given_up_but_not_out_of_a_senders_hand(self, outbox: Outbox) -> None:
        outbox.owe()
        task_id = outbox.owe("acme", "https://b.example/")
        end = utc_now() + GIVE_UP_AFTER + timedelta(minutes=1)
        assert outbox.store.give_up_old(SOON, 10) == 0
        outbox.store.take({"acme a.example": 1}, Hold(holder="one", now=end, until=end + timedelta(seconds=45)))
        assert outbox.store.give_up_old(end, 10) == 1
        (delivery,) = outbox.store.of_task(task_id, "acme")
        assert delivery.state is DeliveryState.GIVEN_UP
        assert outbox.store.give_up_old(end + timedelta(seconds=46), 10) == 1
