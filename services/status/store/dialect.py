"""Where SQLite and PostgreSQL differ in their SQL."""

from __future__ import annotations

import json
from functools import cache
from operator import itemgetter
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import ARRAY, Text, any_, bindparam, func, select
from sqlalchemy.dialects import postgresql, sqlite

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from sqlalchemy import Column, Connection, Dialect, Select, Table


def insert_into(connection: Connection, table: Table) -> postgresql.Insert:
    """An insert that knows ``on_conflict_do_update`` and ``on_conflict_do_nothing``, which are the same in both."""
    return _insert(table, connection.dialect.name)


def rows_with(connection: Connection, columns: tuple[Column[Any], ...], keys: Collection[str]) -> Sequence[Any]:
    """Columns of the rows whose first column is one of the keys."""
    values = json.dumps(list(keys)) if connection.dialect.name == "sqlite" else list(keys)
    return connection.execute(_select_with(connection.dialect.name, columns), {"keys": values}).all()


def write_rows(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert whole rows, over those with the same keys.

    The driver gets them as they are: what SQLAlchemy does for each parameter of each row costs as much as the insert.
    """
    if not rows:
        return
    text, values_of = _upsert_text(connection.dialect, table)
    connection.exec_driver_sql(text, list(map(values_of, rows)) if connection.dialect.positional else list(rows))


@cache
def _select_with(dialect: str, columns: tuple[Column[Any], ...]) -> Select[Any]:
    # The keys are one parameter, so that the statement is the same for any number of them.
    if dialect == "sqlite":
        keys = select(func.json_each(bindparam("keys", type_=Text)).table_valued("value").c.value)
        return select(*columns).where(columns[0].in_(keys))
    return select(*columns).where(columns[0] == any_(bindparam("keys", type_=ARRAY(Text))))


@cache
def _upsert_text(dialect: Dialect, table: Table) -> tuple[str, Callable[[Mapping[str, Any]], tuple[Any, ...]]]:
    insert = _insert(table, dialect.name)
    others = {column.name: insert.excluded[column.name] for column in table.columns if not column.primary_key}
    upsert = insert.on_conflict_do_update(index_elements=list(table.primary_key.columns), set_=others)
    return str(upsert.compile(dialect=dialect)), itemgetter(*table.columns.keys())


def _insert(table: Table, dialect: str) -> postgresql.Insert:
    if dialect == "sqlite":
        return cast("postgresql.Insert", sqlite.insert(table))
    return postgresql.insert(table)
