"""Positions within the database: numbers that ascend in the order of the commits, and never come again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import select

from services.status.store.dialect import insert_into
from services.status.store.tables import FEEDS, POSITIONS

if TYPE_CHECKING:
    from sqlalchemy import Connection

WORK_POSITIONS: Final = "work"
NEWS_POSITIONS: Final = "news"
_EPOCH_PREFIX: Final = "epoch:"


def take_positions(connection: Connection, name: str, count: int) -> int:
    """Give out so many positions. Returns the first; nobody else gets any before this transaction ends."""
    insert = insert_into(connection, POSITIONS).values(name=name, position=count)
    upsert = insert.on_conflict_do_update(
        index_elements=[POSITIONS.c.name], set_={"position": POSITIONS.c.position + insert.excluded.position}
    )
    return int(connection.execute(upsert.returning(POSITIONS.c.position)).scalar_one()) - count + 1


def load_position(connection: Connection, name: str) -> int:
    """The last position that was given out, or 0."""
    return int(connection.execute(select(POSITIONS.c.position).where(POSITIONS.c.name == name)).scalar() or 0)


def load_epoch(connection: Connection) -> str:
    """A word that no other database has."""
    known = select(FEEDS.c.name).where(FEEDS.c.name.startswith(_EPOCH_PREFIX)).order_by(FEEDS.c.name)
    return str(connection.execute(known).scalar_one()).removeprefix(_EPOCH_PREFIX)
