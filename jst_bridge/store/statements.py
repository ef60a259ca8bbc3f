"""SQL compiled once per database, then executed on a DB-API cursor with plain tuples.

Many rows in one statement cost a fraction of one statement each; and as drivers give up the interpreter lock at
every step, it also spares a wait per row for a busy event loop. How many values get into one statement cheaply is
each database's own matter, measured by tests/bench/bench_landing.py:

- SQLite: a placeholder per value, in statements of a few fixed sizes.
- PostgreSQL: one array per column. psycopg parses a statement again each time it has more than 50 placeholders,
  and prepares it when it looks the same each time.
- MySQL: its protocol has no other way than literals in the text. PyMySQL's cost three times ours.

A value of another kind than its column's raises what `database.VALUE_ERRORS` has, or the database refuses it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, Final, Literal, NamedTuple, Protocol

import msgspec
from sqlalchemy import (
    Column,
    ColumnElement,
    Dialect,
    Integer,
    LargeBinary,
    Numeric,
    Table,
    Text,
    bindparam,
    func,
    select,
)
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.sql.dml import Insert as InsertClause

__all__ = ["Delete", "Insert", "Lookup", "Match"]

_SIZES: Final = (500, 50, 5, 1)
"""Rows or keys per statement: 500 rows of 20 columns stay below every database's limit of parameters."""
_STATEMENT_BYTES: Final = 4 << 20
"""Bytes of bodies and long texts in one statement, beyond a single row: servers limit a packet (MySQL 16 MiB and
more). A batch is small, but the orders it touches may have large memos."""
_BYTES_OF_A_CHARACTER: Final = 4

_PLACEHOLDERS: Final = {"qmark": "?", "format": "%s", "pyformat": "%s"}
_rows_decoder = msgspec.json.Decoder(list[tuple[Any, ...]])

Mode = Literal["insert", "spare", "replace", "advance"]
_Row = tuple[Any, ...]
_Call = tuple[Any, ...]
"""What `cursor.execute` is called with: a statement, and its parameters if it has any."""


class Insert:
    """INSERT of any number of rows, each a tuple of `columns` in that order.

    What happens to a row whose primary key exists: with `insert` the database refuses it, with `spare` it stays as
    it is, with `replace` it takes the new values, with `advance` too, but its integer column `rising` never falls.
    Columns in `without` get their default.
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
        self._long = [
            (n, _BYTES_OF_A_CHARACTER if isinstance(table.c[name].type, Text) else 1)
            for n, name in enumerate(self.columns)
            if isinstance(table.c[name].type, LargeBinary | Text)
        ]
        clause = table.insert().inline() if mode == "insert" else _upsert(table, dialect.name, mode, rising)
        one = str(clause.compile(dialect=dialect, column_keys=list(self.columns)))
        group = f"({', '.join([_PLACEHOLDERS[dialect.paramstyle]] * len(self.columns))})"
        before, values, after = one.partition(f"VALUES {group}")
        if not values:
            raise AssertionError(f"{dialect.name} writes its values differently: {one}")
        kinds = [_kind(table.c[name]) for name in self.columns]
        self._form = _INSERTS[dialect.name](_Gap(before, after), kinds)

    def execute(self, cursor: Any, rows: Sequence[_Row]) -> int:
        """Execute; return how many rows are new (with `insert` and `spare` only)."""
        start, count, new = 0, len(rows), 0
        while start < count:
            for size in self._form.sizes(count - start):
                part = rows[start : start + size]
                if len(part) == 1 or self._fits(part):
                    cursor.execute(*self._form.call(part))
                    new += cursor.rowcount
                    start += len(part)
                    break
        return new

    def _fits(self, rows: Sequence[_Row]) -> bool:
        size = sum([weight * len(row[column] or "") for column, weight in self._long for row in rows])
        return size <= _STATEMENT_BYTES


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
        query = select(*selected).where(by.in_([""]))
        if lock and not packed:
            query = query.order_by(*by.table.primary_key.columns).with_for_update()
        compiled = str(query.compile(dialect=dialect, compile_kwargs={"render_postcompile": True}))
        self._keyed = _Keyed(compiled, by, dialect)

    def rows(self, cursor: Any, keys: Sequence[str]) -> list[_Row]:
        found: list[_Row] = []
        for call in self._keyed.calls(keys):
            cursor.execute(*call)
            found += self._fetch(cursor)
        return found


class Match:
    """SELECT of some columns of the rows that equal one tuple in the columns `by`."""

    def __init__(self, columns: Iterable[Column[Any]], by: Sequence[Column[Any]], dialect: Dialect) -> None:
        matching = select(*columns).where(*(column == bindparam(column.name) for column in by))
        self._statement = str(matching.compile(dialect=dialect))

    def rows(self, cursor: Any, values: tuple[Any, ...]) -> list[_Row]:
        cursor.execute(self._statement, values)
        return list(cursor.fetchall())


class Delete:
    """DELETE of the rows whose `by` is among any number of keys."""

    def __init__(self, by: Column[Any], dialect: Dialect) -> None:
        sign = _PLACEHOLDERS[dialect.paramstyle]
        self._keyed = _Keyed(f"DELETE FROM {by.table.name} WHERE {by.name} IN ({sign})", by, dialect)  # noqa: S608

    def execute(self, cursor: Any, keys: Sequence[Any]) -> int:
        """Delete; return how many rows there were."""
        deleted = 0
        for call in self._keyed.calls(keys):
            cursor.execute(*call)
            deleted += cursor.rowcount
        return deleted


# --- one way per database -------------------------------------------------------------------------------


class _Gap(NamedTuple):
    """A statement without its values."""

    before: str
    after: str


class _InsertForm(Protocol):
    def sizes(self, left: int) -> Iterable[int]:
        """How many of the rows that are left may go into one statement, the best first, 1 at last."""

    def call(self, rows: Sequence[_Row]) -> _Call:
        """The statement with these rows, which are as many as one of `sizes`, or all that is left."""


class _Placeholders:
    """SQLite."""

    def __init__(self, gap: _Gap, kinds: Sequence[str]) -> None:
        group = f"({', '.join('?' * len(kinds))})"
        self._statements = {
            size: f"{gap.before}VALUES {', '.join([group] * size)}{gap.after}" for size in _SIZES
        }

    def sizes(self, left: int) -> Iterable[int]:
        return [size for size in _SIZES if size <= left]

    def call(self, rows: Sequence[_Row]) -> _Call:
        return self._statements[len(rows)], tuple(chain.from_iterable(rows))


class _Arrays:
    """PostgreSQL."""

    def __init__(self, gap: _Gap, kinds: Sequence[str]) -> None:
        self._statement = f"{gap.before}SELECT * FROM unnest({', '.join(map(_array_of, kinds))}){gap.after}"  # noqa: S608
        self._money = [kind == "numeric" for kind in kinds]

    def sizes(self, left: int) -> Iterable[int]:
        return _SIZES

    def call(self, rows: Sequence[_Row]) -> _Call:
        columns = zip(self._money, zip(*rows, strict=True), strict=True)
        return self._statement, [_array(_digits(values) if money else values) for money, values in columns]


class _Literals:
    """MySQL and MariaDB."""

    def __init__(self, gap: _Gap, kinds: Sequence[str]) -> None:
        self._before = gap.before.encode() + b"VALUES ("
        self._after = b")" + gap.after.encode()
        self._render = [_LITERALS[kind] for kind in kinds]

    def sizes(self, left: int) -> Iterable[int]:
        return _SIZES

    def call(self, rows: Sequence[_Row]) -> _Call:
        columns = [
            render(values) for render, values in zip(self._render, zip(*rows, strict=True), strict=True)
        ]
        groups = [b",".join(values) for values in zip(*columns, strict=True)]
        return (self._before + b"),(".join(groups) + self._after,)


_INSERTS: Final[dict[str, type[_Placeholders] | type[_Arrays] | type[_Literals]]] = {
    "sqlite": _Placeholders,
    "postgresql": _Arrays,
    "mysql": _Literals,
}


class _Keyed:
    """A `statement` with `IN (placeholder)` for the column `by`, to be given any number of keys."""

    def __init__(self, statement: str, by: Column[Any], dialect: Dialect) -> None:
        sign = _PLACEHOLDERS[dialect.paramstyle]
        before, found, after = statement.partition(f" IN ({sign})")
        if not found:
            raise AssertionError(f"{dialect.name} writes its keys differently: {statement}")
        self._calls = {"sqlite": self._padded, "postgresql": self._array, "mysql": self._listed}[dialect.name]
        self._sized = [(size, f"{before} IN ({', '.join('?' * size)}){after}") for size in reversed(_SIZES)]
        self._any = f"{before} = ANY({_array_of(_kind(by))}){after}"
        self._around = before.encode() + b" IN (", b")" + after.encode()
        self._render = _LITERALS[_kind(by)]

    def calls(self, keys: Sequence[Any]) -> Iterator[_Call]:
        """What to execute, one after another."""
        most = _SIZES[0]
        return (self._calls(keys[start : start + most]) for start in range(0, len(keys), most))

    def _padded(self, keys: Sequence[Any]) -> _Call:
        size, statement = next(sized for sized in self._sized if sized[0] >= len(keys))
        return statement, [*keys, *[keys[-1]] * (size - len(keys))]

    def _array(self, keys: Sequence[Any]) -> _Call:
        return self._any, [_array(keys)]

    def _listed(self, keys: Sequence[Any]) -> _Call:
        before, after = self._around
        return (before + b",".join(self._render(keys)) + after,)


# --- values -----------------------------------------------------------------------------------------------


def _kind(column: Column[Any]) -> str:
    """What holds any value of the column, and more: text, bigint, numeric or bytea."""
    if isinstance(column.type, LargeBinary):
        return "bytea"
    if isinstance(column.type, Integer):
        return "bigint"
    return "numeric" if isinstance(column.type, Numeric) else "text"


def _array_of(kind: str) -> str:
    """A placeholder of PostgreSQL. Never of varchar(32): what is too long must be refused, and a cast would cut it."""
    return "%b::text[]::numeric[]" if kind == "numeric" else f"%b::{kind}[]"


def _array(values: Sequence[Any]) -> list[Any]:
    """As psycopg makes an array of it: lists among them would become its second dimension, and more rows."""
    if list in map(type, values):
        raise TypeError("a list is no value of a column")
    return list(values)


def _digits(values: Sequence[Any]) -> list[str | None]:
    """Money is text in messages and Decimal in rows that were read."""
    return [None if value is None else str(value) for value in values]


def _texts(values: Sequence[str | None]) -> list[bytes]:
    return [
        b"NULL"
        if value is None
        else b"'%b'" % value.encode()
        if value.isalnum()
        else b"'%b'" % _escaped(value.encode())
        for value in values
    ]


def _integers(values: Sequence[int | None]) -> list[bytes]:
    return [b"NULL" if value is None else b"%d" % value for value in values]


def _decimals(values: Sequence[Any]) -> list[bytes]:
    return _texts(_digits(values))


def _binaries(values: Sequence[bytes | None]) -> list[bytes]:
    return [b"NULL" if value is None else b"_binary'%b'" % _escaped(value) for value in values]


def _escaped(value: bytes) -> bytes:
    # All that a server needs (without NO_BACKSLASH_ESCAPES, and our sessions are); utf8mb4 has neither byte within
    # a character. Half the bytes of hexadecimal digits.
    return value.replace(b"\\", b"\\\\").replace(b"'", b"\\'").replace(b"\0", b"\\0")


_LITERALS: Final[dict[str, Callable[[Sequence[Any]], list[bytes]]]] = {
    "text": _texts,
    "bigint": _integers,
    "numeric": _decimals,
    "bytea": _binaries,
}


def _fetch(cursor: Any) -> list[_Row]:
    return list(cursor.fetchall())


def _fetch_packed(cursor: Any) -> list[_Row]:
    # sqlite3 gives up the interpreter lock at each row, and with a busy thread beside it waits 5 ms to get it
    # back: all rows as one JSON text come a hundred times sooner, and no dearer when alone.
    return _rows_decoder.decode(cursor.fetchone()[0])


def _upsert(table: Table, dialect_name: str, mode: Mode, rising: str | None) -> InsertClause:
    """The one clause every database writes its own way."""
    names = [column.name for column in table.columns if not column.primary_key]
    key = list(table.primary_key.columns)
    if dialect_name == "mysql":
        into = mysql.insert(table)
        taken: dict[str, ColumnElement[Any]] = {name: into.inserted[name] for name in names}
        if mode == "spare":  # INSERT IGNORE would spare it values that do not fit, too
            taken = {key[0].name: table.c[key[0].name]}
        if rising is not None:
            taken[rising] = func.greatest(table.c[rising], taken[rising])
        return into.on_duplicate_key_update(taken)
    insert = (sqlite if dialect_name == "sqlite" else postgresql).insert(table)
    upsert: InsertClause
    if mode == "spare":
        upsert = insert.on_conflict_do_nothing(index_elements=key)
        return upsert
    values: dict[str, ColumnElement[Any]] = {name: insert.excluded[name] for name in names}
    if rising is not None:
        greatest = func.max if dialect_name == "sqlite" else func.greatest
        values[rising] = greatest(table.c[rising], values[rising])
    upsert = insert.on_conflict_do_update(index_elements=key, set_=values)
    return upsert
