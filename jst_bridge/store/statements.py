"""SQL compiled once per database, then executed on a DB-API cursor with plain tuples.

Statements come in a few fixed sizes. Many rows in one statement cost a fraction of one statement each; and as
drivers give up the interpreter lock at every step, it also spares a wait per row for a busy event loop.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import chain
from typing import Any, Final, Literal

import msgspec
from sqlalchemy import Column, ColumnElement, Dialect, LargeBinary, Table, bindparam, func, select
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.sql.dml import Insert as InsertClause

__all__ = ["Delete", "Insert", "Lookup", "Match"]

_SIZES: Final = (500, 50, 5, 1)
"""Rows or keys per statement: 500 rows of 20 columns stay below every database's limit of parameters."""
_STATEMENT_BYTES: Final = 4 << 20
"""Bytes of bodies in one statement, beyond a single row: servers limit a packet (MySQL 16 MiB and more)."""

_PLACEHOLDERS: Final = {"qmark": "?", "format": "%s", "pyformat": "%s"}
_rows_decoder = msgspec.json.Decoder(list[tuple[Any, ...]])

Mode = Literal["insert", "replace", "advance"]


class Insert:
    """INSERT of any number of rows, each a tuple of `columns` in that order.

    What happens to a row whose primary key exists: with `insert` the database refuses it, with `replace` it takes
    the new values, with `advance` too, but its integer column `rising` never falls. Columns in `without` get their
    default.
    """

    def __init__(
        self,
        table: Table,
        dialect: Dialect,
        mode: Mode = "insert",
        *,
        rising: str | None = None,
        without: Collection[str] = (),
    ) -> None:
        serial = table.autoincrement_column
        self.columns = tuple(c.name for c in table.columns if c is not serial and c.name not in without)
        bodies = [n for n, name in enumerate(self.columns) if isinstance(table.c[name].type, LargeBinary)]
        self._body = bodies[0] if bodies else None
        clause = table.insert().inline() if mode == "insert" else _upsert(table, dialect.name, rising)
        one = str(clause.compile(dialect=dialect, column_keys=list(self.columns)))
        group = f"({', '.join([_PLACEHOLDERS[dialect.paramstyle]] * len(self.columns))})"
        if group not in one:
            raise AssertionError(f"{dialect.name} writes its values differently: {one}")
        self._statements = [(size, one.replace(group, ", ".join([group] * size), 1)) for size in _SIZES]

    def execute(self, cursor: Any, rows: Sequence[tuple[Any, ...]]) -> None:
        start, count = 0, len(rows)
        while start < count:
            for size, statement in self._statements:
                if count - start >= size and (size == 1 or self._fits(rows[start : start + size])):
                    cursor.execute(statement, tuple(chain.from_iterable(rows[start : start + size])))
                    start += size
                    break

    def _fits(self, rows: Sequence[tuple[Any, ...]]) -> bool:
        body = self._body
        return body is None or sum([len(row[body]) for row in rows]) <= _STATEMENT_BYTES


class Lookup:
    """SELECT of some columns of the rows whose `by` is among any number of keys.

    With `lock`, the rows are locked in the order of their primary key until the transaction ends, where the
    database has such locks.
    """

    def __init__(
        self, columns: Iterable[Column[Any]], by: Column[Any], dialect: Dialect, *, lock: bool = False
    ) -> None:
        packed = dialect.name == "sqlite"
        selected = [func.json_group_array(func.json_array(*columns))] if packed else list(columns)
        self._fetch = _fetch_packed if packed else _fetch
        self._statements = []
        for size in reversed(_SIZES):
            query = select(*selected).where(by.in_([""] * size))
            if lock and not packed:
                query = query.order_by(*by.table.primary_key.columns).with_for_update()
            compiled = query.compile(dialect=dialect, compile_kwargs={"render_postcompile": True})
            self._statements.append((size, str(compiled)))

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


class Delete:
    """DELETE of the rows whose `by` is among any number of keys, which must be distinct."""

    def __init__(self, by: Column[Any], dialect: Dialect) -> None:
        sign = _PLACEHOLDERS[dialect.paramstyle]
        self._statements = [
            (size, f"DELETE FROM {by.table.name} WHERE {by.name} IN ({', '.join([sign] * size)})")  # noqa: S608
            for size in _SIZES
        ]

    def execute(self, cursor: Any, keys: Sequence[Any]) -> int:
        """Delete; return how many rows there were."""
        deleted, start, count = 0, 0, len(keys)
        for size, statement in self._statements:
            while count - start >= size:
                cursor.execute(statement, tuple(keys[start : start + size]))
                deleted += cursor.rowcount
                start += size
        return deleted


def _fetch(cursor: Any) -> list[tuple[Any, ...]]:
    return list(cursor.fetchall())


def _fetch_packed(cursor: Any) -> list[tuple[Any, ...]]:
    # sqlite3 gives up the interpreter lock at each row, and with a busy thread beside it waits 5 ms to get it
    # back: all rows as one JSON text come a hundred times sooner, and no dearer when alone.
    return _rows_decoder.decode(cursor.fetchone()[0])


def _upsert(table: Table, dialect_name: str, rising: str | None) -> InsertClause:
    """The one clause every database writes its own way."""
    names = [column.name for column in table.columns if not column.primary_key]
    if dialect_name == "mysql":
        into = mysql.insert(table)
        taken: dict[str, ColumnElement[Any]] = {name: into.inserted[name] for name in names}
        if rising is not None:
            taken[rising] = func.greatest(table.c[rising], taken[rising])
        return into.on_duplicate_key_update(taken)
    insert = (sqlite if dialect_name == "sqlite" else postgresql).insert(table)
    values: dict[str, ColumnElement[Any]] = {name: insert.excluded[name] for name in names}
    if rising is not None:
        greatest = func.max if dialect_name == "sqlite" else func.greatest
        values[rising] = greatest(table.c[rising], values[rising])
    key = list(table.primary_key.columns)
    upsert: InsertClause = insert.on_conflict_do_update(index_elements=key, set_=values)
    return upsert
