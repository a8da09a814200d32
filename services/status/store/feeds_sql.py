"""How far events have been applied, by each consumer for itself: what one has in hand the others have not seen."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from sqlalchemy import delete, or_, select, update

from services.status.store.dialect import insert_into
from services.status.store.tables import FEEDS, from_microseconds, to_microseconds

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import Connection

_AT_WORK: Final = "events:"
_LEFT: Final = "left:"
# Consumers note every second how far they are. One that is so far behind is gone, and the broker has given what it had
# in hand to others.
_GONE_AFTER: Final = timedelta(seconds=30)
_FORGOTTEN_AFTER: Final = timedelta(days=1)


def advance_feed(connection: Connection, feed: str, seen_until: datetime) -> None:
    """Note that a consumer has applied everything up to a time; it never goes back."""
    insert = insert_into(connection, FEEDS).values(name=_AT_WORK + feed, seen_until=to_microseconds(seen_until))
    later = insert.excluded.seen_until
    connection.execute(
        insert.on_conflict_do_update(
            index_elements=[FEEDS.c.name], set_={"seen_until": later}, where=later > FEEDS.c.seen_until
        )
    )


def leave_feed(connection: Connection, feed: str) -> None:
    """A consumer has ended: it holds nobody back any more. Those that ended long before it are forgotten."""
    own = FEEDS.c.name == _AT_WORK + feed
    moment = connection.execute(select(FEEDS.c.seen_until).where(own)).scalar()
    if moment is None:
        return
    feeds = or_(FEEDS.c.name.startswith(_AT_WORK), FEEDS.c.name.startswith(_LEFT))
    long_ago = to_microseconds(from_microseconds(moment) - _FORGOTTEN_AFTER)
    connection.execute(delete(FEEDS).where(feeds, FEEDS.c.seen_until < long_ago))
    connection.execute(update(FEEDS).where(own).values(name=_LEFT + feed))


def load_seen_until(connection: Connection) -> datetime | None:
    """What the slowest of those at work has seen, or else the last of those that left; None before the first."""
    seen = {row.name: from_microseconds(row.seen_until) for row in connection.execute(select(FEEDS))}
    at_work = [moment for name, moment in seen.items() if name.startswith(_AT_WORK)]
    left = [moment for name, moment in seen.items() if name.startswith(_LEFT)]
    newest = max([*at_work, *left], default=None)
    if newest is None:
        return None
    return min((moment for moment in at_work if moment >= newest - _GONE_AFTER), default=newest)
