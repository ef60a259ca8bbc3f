"""SQL compiled once per database, then executed on a DB-API cursor with plain tuples.

Statements come in a few fixed sizes. Many rows in one statement cost a fraction of one statement each; and as
drivers give up the interpreter lock at every step, it also spares a wait per row for a busy event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any, Final

import msgspec
from sqlalchemy import Column, Dialect, Table, bindparam, func, select
from sqlalchemy.dialects import sqlite
from sqlalchemy.sql.dml import Insert as InsertClause

__all__ = ["Insert", "Lookup", "Match"]

_SIZES: Final = (500, 50, 5, 1)
"""Rows or keys per statement: 500 rows of 20 columns stay below every database's limit of parameters."""

_PLACEHOLDERS: Final = {"qmark": "?", "format": "%s", "pyformat": "%s"}
_rows_decoder = msgspec.json.Decoder(list[tuple[Any, ...]])


class Insert:
    """INSERT of any number of rows, each a tuple of `columns` in that order.

    With `replace`, a row whose primary key exists takes the new values instead.
    """

    def __init__(self, table: Table, dialect: Dialect, *, replace: bool = False) -> None:
        serial = table.autoincrement_column
        self.columns = tuple(column.name for column in table.columns if column is not serial)
        clause = _UPSERTS[dialect.name](table) if replace else table.insert()
        one = str(clause.compile(dialect=dialect, column_keys=list(self.columns)))
        group = f"({', '.join([_PLACEHOLDERS[dialect.paramstyle]] * len(self.columns))})"
        self._statements = [(size, one.replace(group, ", ".join([group] * size), 1)) for size in _SIZES]

    def execute(self, cursor: Any, rows: Sequence[tuple[Any, ...]]) -> None:
        start, count = 0, len(rows)
        for size, statement in self._statements:
            while count - start >= size:
                cursor.execute(statement, tuple(chain.from_iterable(rows[start : start + size])))
                start += size


class Lookup:
    """SELECT of some columns of the rows whose `by` is among any number of keys."""

    def __init__(self, columns: Iterable[Column[Any]], by: Column[Any], dialect: Dialect) -> None:
        packed = dialect.name == "sqlite"
        selected = [func.json_group_array(func.json_array(*columns))] if packed else list(columns)
        self._fetch = _fetch_packed if packed else _fetch
        self._statements = [
            (
                size,
                str(
                    select(*selected)
                    .where(by.in_([""] * size))
                    .compile(dialect=dialect, compile_kwargs={"render_postcompile": True})
                ),
            )
            for size in reversed(_SIZES)
        ]

    def rows(self, cursor: Any, keys: Sequence[str]) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = []
        start, count = 0, len(keys)
        while start < count:
            left = count - start
            size, statement = next(
                (sized for sized in self._statements if sized[0] >= left), self._statements[-1]
            )
            chunk = list(keys[start : start + size])
            chunk += chunk[-1:] * (size - len(chunk))  # a fixed number of placeholders: repeat the last key
            cursor.execute(statement, chunk)
            found += self._fetch(cursor)
            start += size
        return found


class Match:
    """SELECT of some columns of the rows that equal one tuple in the columns `by`."""

    def __init__(self, columns: Iterable[Column[Any]], by: Sequence[Column[Any]], dialect: Dialect) -> None:
        matching = select(*columns).where(*(column == bindparam(column.name) for column in by))
        self._statement = str(matching.compile(dialect=dialect))

    def rows(self, cursor: Any, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        cursor.execute(self._statement, values)
        return list(cursor.fetchall())


def _fetch(cursor: Any) -> list[tuple[Any, ...]]:
    return list(cursor.fetchall())


def _fetch_packed(cursor: Any) -> list[tuple[Any, ...]]:
    # sqlite3 gives up the interpreter lock at each row, and with a busy thread beside it waits 5 ms to get it
    # back: all rows as one JSON text come a hundred times sooner, and no dearer when alone.
    return _rows_decoder.decode(cursor.fetchone()[0])


def _sqlite_upsert(table: Table) -> InsertClause:
    insert = sqlite.insert(table)
    key = list(table.primary_key.columns)
    values = {column.name: insert.excluded[column.name] for column in table.columns if not column.primary_key}
    return insert.on_conflict_do_update(index_elements=key, set_=values)


_UPSERTS: Final[dict[str, Callable[[Table], InsertClause]]] = {"sqlite": _sqlite_upsert}
"""The one clause every database writes its own way."""
