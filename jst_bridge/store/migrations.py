"""Brings a database to the schema of this program: numbered steps, forward only, adding only.

A new database is created whole from `schema` and stamped with the newest number; an older one gets the tables and
columns of the steps it lacks. Both end the same. The views are made anew each time. `pending` only lists
statements and looks first at what is there: on MySQL, where each of them commits by itself, an interrupted
migration goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import Column, Dialect, Index, LargeBinary, Table
from sqlalchemy.schema import CreateColumn, CreateIndex, CreateTable

from jst_bridge.errors import SchemaOutdated
from jst_bridge.store.schema import METADATA

__all__ = ["STEPS", "Step", "newest", "pending", "require_current", "version_of"]

FIRST_VERSION: Final = 1


class Step(NamedTuple):
    """From the schema numbered one less to `version`: what of `schema` was added then."""

    version: int
    summary: str
    tables: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    """As table.column. An index over them goes with its table or with `indexes`."""
    indexes: tuple[str, ...] = ()


STEPS: Final[tuple[Step, ...]] = (
    Step(
        2,
        "leases; what became of a dead letter; sellers",
        tables=("leases", "sellers"),
        columns=(
            "dead_letters.replays",
            "dead_letters.outcome",
            "dead_letters.outcome_at",
            "dead_letters.outcome_note",
        ),
    ),
)

_TABLES: Final = {
    "sqlite": "SELECT name FROM sqlite_master WHERE type = 'table'",
    "postgresql": "SELECT table_name FROM information_schema.tables"
    " WHERE table_schema = current_schema() AND table_type = 'BASE TABLE'",
    "mysql": "SELECT table_name FROM information_schema.tables"
    " WHERE table_schema = DATABASE() AND table_type = 'BASE TABLE'",
}
_COLUMNS: Final = {
    "sqlite": "SELECT t.name, c.name FROM sqlite_master AS t JOIN pragma_table_info(t.name) AS c"
    " WHERE t.type = 'table'",
    "postgresql": "SELECT table_name, column_name FROM information_schema.columns"
    " WHERE table_schema = current_schema()",
    "mysql": "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = DATABASE()",
}
_INDEXES: Final = {
    "sqlite": "SELECT name FROM sqlite_master WHERE type = 'index'",
    "postgresql": "SELECT indexname FROM pg_indexes WHERE schemaname = current_schema()",
    "mysql": "SELECT index_name FROM information_schema.statistics WHERE table_schema = DATABASE()",
}
_BEIJING: Final = {
    # A time that no calendar holds is NULL in the view, never an error of the whole query.
    "sqlite": "strftime('%Y-%m-%d %H:%M:%S', {0} / 1000, 'unixepoch', '+8 hours')"
    " || printf('.%03d', {0} % 1000)",
    "postgresql": "CASE WHEN {0} BETWEEN -62135596800000 AND 253402271999999 THEN to_char(to_timestamp({0} / 1000.0)"
    " AT TIME ZONE INTERVAL '8 hours', 'YYYY-MM-DD HH24:MI:SS.MS') END",
    "mysql": "CONCAT(DATE_FORMAT(CAST('1970-01-01 08:00:00' AS DATETIME) + INTERVAL {0} DIV 1000 SECOND,"
    " '%Y-%m-%d %H:%i:%s'), '.', LPAD({0} MOD 1000, 3, '0'))",
}
_NOT_FOR_PEOPLE: Final = frozenset({"body_hash", "order_rank", "older"})


def version_of(cursor: Any, dialect: Dialect) -> int:
    """The number of the schema in the database, 0 when there is none."""
    if "schema_migrations" not in _names(cursor, _TABLES[dialect.name]):
        return 0
    cursor.execute("SELECT max(version) FROM schema_migrations")
    return int(cursor.fetchone()[0] or 0)


def newest(steps: Sequence[Step] = STEPS) -> int:
    """The number of this program's schema."""
    return steps[-1].version if steps else FIRST_VERSION


def require_current(cursor: Any, dialect: Dialect, steps: Sequence[Step] = STEPS) -> None:
    """Raise SchemaOutdated unless the database has exactly this program's schema."""
    version, current = version_of(cursor, dialect), newest(steps)
    if version > current:
        raise _too_new(version, current)
    if version == 0:
        raise SchemaOutdated(
            "the store holds no tables of jst-bridge yet",
            remedy="start `jst-bridge run` once, or run `jst-bridge store migrate`: either makes them",
        )
    if version < current:
        raise SchemaOutdated(
            f"the store has schema {version}, this program needs schema {current}",
            remedy="run `jst-bridge store migrate`, or give an administrator the output of"
            " `jst-bridge store migrate --print-sql`",
        )


def pending(cursor: Any, dialect: Dialect, now: int, steps: Sequence[Step] = STEPS) -> list[str]:
    """The statements that bring the database to the newest schema; none when it has it.

    `now`: epoch ms, for the stamp. Raises SchemaOutdated when the database is newer than this program.
    """
    version, current = version_of(cursor, dialect), newest(steps)
    if version > current:
        raise _too_new(version, current)
    if version == current:
        return []
    lacking = [step for step in steps if step.version > version]
    added = _whole() if version == 0 else _added(lacking)
    tables = _names(cursor, _TABLES[dialect.name])
    columns = _pairs(cursor, _COLUMNS[dialect.name])
    indexes = _names(cursor, _INDEXES[dialect.name])
    statements: list[str] = []
    for item in added:
        if isinstance(item, Table):
            if item.name not in tables:
                statements.append(_sql(CreateTable(item), dialect))
                # Made as it is today, with all that later steps add to it.
                columns.update((item.name, str(column.name)) for column in item.columns)
        elif isinstance(item, Index):
            if item.name not in indexes:
                statements.append(_sql(CreateIndex(item), dialect))
                indexes.add(str(item.name))
        elif (item.table.name, item.name) not in columns:
            definition = _sql(CreateColumn(item), dialect)
            statements.append(f"ALTER TABLE {item.table.name} ADD COLUMN {definition}")
    statements += _views(dialect)
    versions = [current] if version == 0 else [step.version for step in lacking]
    # Both are integers of our own: literals spare us the placeholder style of each driver.
    statements += [
        f"INSERT INTO schema_migrations (version, applied_at) VALUES ({number:d}, {now:d})"  # noqa: S608
        for number in versions
    ]
    return statements


def _whole() -> Iterator[Table | Column[Any] | Index]:
    for table in METADATA.sorted_tables:
        yield table
        yield from _indexes(table)


def _added(steps: Sequence[Step]) -> Iterator[Table | Column[Any] | Index]:
    for step in steps:
        for name in step.tables:
            yield METADATA.tables[name]
            yield from _indexes(METADATA.tables[name])
        for name in step.columns:
            table_name, _, column = name.partition(".")
            yield METADATA.tables[table_name].columns[column]
        for table in METADATA.sorted_tables:
            yield from (index for index in _indexes(table) if index.name in step.indexes)


def _indexes(table: Table) -> list[Index]:
    return sorted(table.indexes, key=lambda index: str(index.name))


def _views(dialect: Dialect) -> Iterator[str]:
    """`v_<table>`: the table without its raw columns, its instants as Beijing time."""
    for table in METADATA.sorted_tables:
        columns = [
            f"{_BEIJING[dialect.name].format(column.name)} AS {column.name}"
            if column.info.get("instant")
            else column.name
            for column in table.columns
            if column.name not in _NOT_FOR_PEOPLE and not isinstance(column.type, LargeBinary)
        ]
        create = "CREATE OR REPLACE VIEW"  # which keeps the rights that were granted on it
        if dialect.name == "sqlite":
            yield f"DROP VIEW IF EXISTS v_{table.name}"
            create = "CREATE VIEW"
        yield f"{create} v_{table.name} AS SELECT {', '.join(columns)} FROM {table.name}"  # noqa: S608


def _sql(clause: CreateTable | CreateIndex | CreateColumn, dialect: Dialect) -> str:
    return "\n".join(line.rstrip() for line in str(clause.compile(dialect=dialect)).strip().splitlines())


def _names(cursor: Any, query: str) -> set[str]:
    cursor.execute(query)
    return {str(row[0]) for row in cursor.fetchall()}


def _pairs(cursor: Any, query: str) -> set[tuple[str, str]]:
    cursor.execute(query)
    return {(str(row[0]), str(row[1])) for row in cursor.fetchall()}


def _too_new(version: int, current: int) -> SchemaOutdated:
    return SchemaOutdated(
        f"the store has schema {version}, this program knows only schema {current}",
        remedy="upgrade jst-bridge to the version that wrote this store, or newer",
    )
