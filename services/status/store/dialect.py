"""Where SQLite and PostgreSQL differ in their SQL."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from sqlalchemy.dialects import postgresql, sqlite

if TYPE_CHECKING:
    from sqlalchemy import Connection, Table


def insert_into(connection: Connection, table: Table) -> postgresql.Insert:
    """An insert that knows ``on_conflict_do_update`` and ``on_conflict_do_nothing``, which are the same in both."""
    if connection.dialect.name == "sqlite":
        return cast("postgresql.Insert", sqlite.insert(table))
    return postgresql.insert(table)


def upsert_into(connection: Connection, table: Table) -> postgresql.Insert:
    """An insert that replaces the row with the same key, if there is one."""
    insert = insert_into(connection, table)
    others = {column.name: insert.excluded[column.name] for column in table.columns if not column.primary_key}
    return insert.on_conflict_do_update(index_elements=list(table.primary_key.columns), set_=others)
