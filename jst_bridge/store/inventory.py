"""How much the store holds: rows, bytes and ages, per table."""

from __future__ import annotations

import sqlite3
from typing import Any, Final

import msgspec
from sqlalchemy import Table

from jst_bridge.store import migrations, schema
from jst_bridge.store.database import Database
from jst_bridge.store.plain_sql import reading

__all__ = ["Inventory", "TableInfo", "inventory"]

COUNTED_TO: Final = 2_000_000
"""A server's table that its statistics hold for larger is not counted: that would take minutes."""
MEASURED_TO: Final = 1 << 30
"""Bytes of a SQLite file up to which its tables are measured, which reads all of it."""

_AGE: Final = {
    "messages": "landed_at",
    "trades": "published_at",
    "trade_lines": "published_at",
    "refunds": "published_at",
    "logistics_traces": "published_at",
    "dead_letters": "dead_at",
    "gaps": "noted_at",
    "positions": "updated_at",
    "sellers": "added_at",
}
"""The column that says how old a row is."""

_SIZES: Final = {
    # (table, bytes with indexes, rows as the statistics have them)
    "sqlite": "SELECT m.tbl_name, sum(s.pgsize), NULL FROM dbstat AS s JOIN sqlite_master AS m ON m.name = s.name"
    " GROUP BY m.tbl_name",
    "postgresql": "SELECT relname, pg_total_relation_size(oid), reltuples FROM pg_class"
    " WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r'",
    "mysql": "SELECT table_name, data_length + index_length, table_rows FROM information_schema.tables"
    " WHERE table_schema = DATABASE() AND table_type = 'BASE TABLE'",
}


class TableInfo(msgspec.Struct, frozen=True):
    """One table. `column` is the instant that `oldest` and `newest` (epoch ms) are of, None without such a column."""

    name: str
    rows: int
    counted: bool
    """False: `rows` is what the server's statistics say."""
    bytes: int | None
    """With its indexes; None where that is not known."""
    column: str | None
    oldest: int | None
    newest: int | None
    """Both None for an empty table, and where finding them would read a large one."""


class Inventory(msgspec.Struct, frozen=True):
    """The whole store."""

    schema: int
    bytes: int | None
    """SQLite: of the file. Else of the tables, with their indexes."""
    free_bytes: int | None
    """SQLite: pages of the file that wait to be used again. None elsewhere."""
    tables: list[TableInfo]


def inventory(database: Database) -> Inventory:
    """Count and measure. Raises StoreUnavailable, StoreError, SchemaOutdated."""
    dialect = database.dialect
    with reading(database) as cursor:
        migrations.require_current(cursor, dialect)
        whole, free = _file(cursor) if dialect.name == "sqlite" else (None, None)
        sizes = _sizes(cursor, dialect.name) if whole is None or whole <= MEASURED_TO else {}
        tables = [
            _table_info(cursor, database, table, sizes.get(table.name, (None, 0)))
            for table in schema.METADATA.tables.values()
            if table is not schema.schema_migrations
        ]
        version = migrations.version_of(cursor, dialect)
    if whole is None:
        whole = sum(size for size, _ in sizes.values() if size is not None)
    return Inventory(version, whole, free, tables)


def _table_info(cursor: Any, database: Database, table: Table, known: tuple[int | None, int]) -> TableInfo:
    size, estimate = known
    name = str(table.name)
    column = _AGE.get(name)
    counted = estimate <= COUNTED_TO
    rows, oldest, newest = estimate, None, None
    if counted:
        cursor.execute(f"SELECT count(*) FROM {name}")  # noqa: S608
        rows = cursor.fetchone()[0]
    if column is not None and (counted or _is_indexed(table, column)):
        # One at a time: each is a step in an index where there is one.
        oldest, newest = (_value(cursor, f"SELECT {end}({column}) FROM {name}") for end in ("min", "max"))  # noqa: S608
    return TableInfo(name, rows, counted, size, column, oldest, newest)


def _is_indexed(table: Table, column: str) -> bool:
    return any(index.columns[0].name == column for index in table.indexes)


def _sizes(cursor: Any, dialect_name: str) -> dict[str, tuple[int | None, int]]:
    """Table -> (bytes, rows as the server's statistics have them, 0 without any)."""
    try:
        cursor.execute(_SIZES[dialect_name])
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):  # SQLite itself is built without dbstat, only distributions with it
            return {}
        raise
    return {
        str(name): (None if size is None else int(size), max(0, int(rows or 0)))
        for name, size, rows in cursor.fetchall()
    }


def _file(cursor: Any) -> tuple[int, int]:
    """Bytes of a SQLite file, and those of its free pages."""
    pages, free, size = (
        int(_value(cursor, f"PRAGMA {name}")) for name in ("page_count", "freelist_count", "page_size")
    )
    return pages * size, free * size


def _value(cursor: Any, query: str) -> Any:
    cursor.execute(query)
    return cursor.fetchone()[0]
