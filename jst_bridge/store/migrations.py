"""Brings a database to the schema of this program: numbered steps, forward only, adding only.

A new database is created whole from `schema` and stamped with the newest number; an older one takes the steps
it lacks. Both must end the same. Everything runs on the caller's DB-API cursor inside the caller's
transaction, so that on SQLite a schema is there whole or not at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import Dialect, LargeBinary, Table
from sqlalchemy.schema import CreateIndex, CreateTable

from jst_bridge.errors import SchemaOutdated
from jst_bridge.store.schema import METADATA

__all__ = ["STEPS", "Step", "creation", "migrate", "require_current", "version_of"]

FIRST_VERSION: Final = 1


class Step(NamedTuple):
    """From the schema numbered one less to `version`: SQL statements per dialect name."""

    version: int
    summary: str
    statements: Mapping[str, tuple[str, ...]]


STEPS: Final[tuple[Step, ...]] = ()

_TABLE_EXISTS: Final = {
    "sqlite": "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'schema_migrations'",
}
_BEIJING: Final = {
    "sqlite": "strftime('%Y-%m-%d %H:%M:%S', {0} / 1000, 'unixepoch', '+8 hours')"
    " || printf('.%03d', {0} % 1000)",
}
_NOT_FOR_PEOPLE: Final = frozenset({"body_hash", "order_rank", "older"})


def version_of(cursor: Any, dialect: Dialect) -> int:
    """The number of the schema in the database, 0 when there is none."""
    cursor.execute(_TABLE_EXISTS[dialect.name])
    if not cursor.fetchone()[0]:
        return 0
    cursor.execute("SELECT max(version) FROM schema_migrations")
    return int(cursor.fetchone()[0] or 0)


def migrate(cursor: Any, dialect: Dialect, now: int, steps: Sequence[Step] = STEPS) -> None:
    """Create the schema, or take the steps it lacks. `now`: epoch ms. Raises SchemaOutdated if it is newer."""
    version = version_of(cursor, dialect)
    newest = _newest(steps)
    if version == 0:
        for statement in creation(dialect):
            cursor.execute(statement)
        _stamp(cursor, newest, now)
    elif version > newest:
        raise _too_new(version, newest)
    for step in steps if version else ():
        if step.version > version:
            for statement in step.statements[dialect.name]:
                cursor.execute(statement)
            _stamp(cursor, step.version, now)


def require_current(cursor: Any, dialect: Dialect, steps: Sequence[Step] = STEPS) -> None:
    """Raise SchemaOutdated unless the database has exactly this program's schema."""
    version, newest = version_of(cursor, dialect), _newest(steps)
    if version > newest:
        raise _too_new(version, newest)
    if version < newest:
        raise SchemaOutdated(
            f"the store has schema {version}, this program reads schema {newest}"
            if version
            else "the store holds no tables of jst-bridge yet",
            remedy="start `jst-bridge run` once: it brings the store up to date",
        )


def creation(dialect: Dialect) -> Iterator[str]:
    """The statements that make the whole schema in an empty database."""
    for table in METADATA.sorted_tables:
        yield str(CreateTable(table).compile(dialect=dialect))
        for index in sorted(table.indexes, key=lambda index: str(index.name)):
            yield str(CreateIndex(index).compile(dialect=dialect))
        yield _view(table, dialect)


def _view(table: Table, dialect: Dialect) -> str:
    """`v_<table>`: the table without its raw columns, its instants as Beijing time."""
    columns = [
        f"{_BEIJING[dialect.name].format(column.name)} AS {column.name}"
        if column.info.get("instant")
        else column.name
        for column in table.columns
        if column.name not in _NOT_FOR_PEOPLE and not isinstance(column.type, LargeBinary)
    ]
    return f"CREATE VIEW v_{table.name} AS SELECT {', '.join(columns)} FROM {table.name}"  # noqa: S608


def _stamp(cursor: Any, version: int, now: int) -> None:
    # Both are integers of our own: literals spare us the placeholder style of each driver.
    cursor.execute(f"INSERT INTO schema_migrations (version, applied_at) VALUES ({version:d}, {now:d})")  # noqa: S608


def _newest(steps: Sequence[Step]) -> int:
    return steps[-1].version if steps else FIRST_VERSION


def _too_new(version: int, newest: int) -> SchemaOutdated:
    return SchemaOutdated(
        f"the store has schema {version}, this program knows only schema {newest}",
        remedy="upgrade jst-bridge to the version that wrote this store, or newer",
    )
