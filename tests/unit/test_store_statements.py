"""Whatever goes into a statement comes out of the database equal, or is refused: never cut, never something else."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import (
    BigInteger,
    Column,
    Dialect,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    String,
    Table,
    Text,
)
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.schema import CreateTable

from jst_bridge.store import Database, open_database
from jst_bridge.store.database import Refused
from jst_bridge.store.statements import Delete, Insert, Lookup, Match

SAMPLES = Table(
    "samples",
    MetaData(),
    Column("id", String(32), primary_key=True),
    Column("words", Text().with_variant(mysql.LONGTEXT(), "mysql")),
    Column("number", BigInteger),
    Column("small", Integer),
    Column("yuan", Numeric(18, 2).with_variant(Text(), "sqlite")),
    Column("body", LargeBinary().with_variant(mysql.LONGBLOB(), "mysql")),
    mysql_charset="utf8mb4",
    mysql_collate="utf8mb4_bin",
)
DIALECTS = [
    sqlite.dialect(),
    postgresql.base.PGDialect(paramstyle="format"),  # type: ignore[no-untyped-call]
    mysql.dialect(paramstyle="format"),
]
MIB = 1 << 20
MODES = ("insert", "spare", "replace")
FULL = ("1", "words", 2, 3, "4.50", b"body")
NO_VALUES: list[tuple[str, Any]] = [
    *[("id", ["x"]), ("words", ["x", "y"]), ("words", "\ud800"), ("words", "a\udc80")],
    *[("number", 2**63), ("number", [1]), ("yuan", ["1"]), ("body", [b"x"])],
]
NOT_FITTING: list[tuple[str, Any]] = [
    *[("id", None), ("id", "k" * 33), ("number", "many"), ("small", 2**31)],
    *[("yuan", "1" * 17), ("yuan", "much"), ("yuan", "")],
]

# PostgreSQL has no NUL in texts: the decoder replaces it.
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
odd_texts = st.text(st.sampled_from("ab'\"\\%_\n\r\t\x1a;`{}?$\ufeff\u2028好😀"), max_size=20)
# To MySQL a text and the same with spaces behind it are one key; ids have no spaces.
ids = (texts | odd_texts).map(lambda text: text[:32].rstrip(" "))
integers = st.integers(-(2**63), 2**63 - 1)
money = st.decimals(-(10**15), 10**15, places=2)
rows_without_ids = st.lists(
    st.tuples(
        st.none() | texts | odd_texts,
        st.none() | integers,
        st.none() | st.integers(-(2**31), 2**31 - 1),
        st.none() | money | money.map(str),
        st.binary() | st.text("'\\\0\"\n;").map(str.encode),
    ),
    max_size=60,
)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """With the table `samples`."""
    opened = open_database(database_url)
    opened.open()
    opened.transact(lambda cursor: cursor.execute(str(CreateTable(SAMPLES).compile(dialect=opened.dialect))))
    yield opened
    opened.close()


def insert(database: Database, *rows: tuple[Any, ...], mode: Any = "insert", **options: Any) -> int:
    statement = Insert(SAMPLES, database.dialect, mode, **options)
    return database.transact(lambda cursor: statement.execute(cursor, rows))


def look_up(database: Database, keys: list[str]) -> list[tuple[Any, ...]]:
    # On SQLite a lookup goes through JSON, and so never asks for a body.
    statement = Lookup(
        [column for column in SAMPLES.c if column.name != "body"], SAMPLES.c.id, database.dialect
    )
    return database.transact(lambda cursor: statement.rows(cursor, keys))


def delete(database: Database, by: Column[Any], keys: list[Any]) -> int:
    statement = Delete(by, database.dialect)
    return database.transact(lambda cursor: statement.execute(cursor, keys))


def bodies(database: Database) -> dict[str, bytes]:
    def read(cursor: Any) -> dict[str, bytes]:
        cursor.execute("SELECT id, body FROM samples")
        return dict(cursor.fetchall())

    return database.transact(read)


def empty(database: Database) -> None:
    database.transact(lambda cursor: cursor.execute("DELETE FROM samples"))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=rows_without_ids)
@example(rows=[("'); DROP TABLE samples; --", 1, 2, "3", b"'); DROP TABLE samples; --")])
@example(
    rows=[("\\", 2**63 - 1, -(2**31), Decimal("0.00"), bytes(range(256))), ("\\'", None, None, None, b"")]
)
@example(rows=[(None, None, None, None, b"")] * 51)
@pytest.mark.parametrize("mode", MODES)
def test_whatever_goes_in_comes_out_equal(database: Database, mode: str, rows: list[tuple[Any, ...]]) -> None:
    if not database.shared:  # it has no decimals, and money reaches it as text
        rows = [(*row[:3], row[3] if row[3] is None else str(row[3]), row[4]) for row in rows]
    numbered = [(str(number), *row) for number, row in enumerate(rows)]
    insert(database, *numbered, mode=mode)
    found = {row[0]: row[1:] for row in look_up(database, [row[0] for row in numbered])}
    stored = bodies(database)
    empty(database)
    assert len(found) == len(rows)
    for key, words, number, small, yuan, body in numbered:
        *plain, paid = found[key]
        assert plain == [words, number, small]
        assert (paid is None) is (yuan is None)
        assert Decimal(paid or 0) == Decimal(yuan or 0)
        assert stored[key] == body


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    keys=st.sets(ids, max_size=70),
    extra=st.sets(ids, max_size=7),
)
def test_exactly_the_rows_of_the_keys_are_found_and_deleted(
    database: Database, keys: set[str], extra: set[str]
) -> None:
    insert(database, *((key, None, 1, None, None, b"") for key in keys))
    wanted = sorted(keys)[::2]
    found = sorted(row[0] for row in look_up(database, wanted + sorted(extra - keys)))
    deleted = delete(database, SAMPLES.c.id, wanted * 2)
    left = set(bodies(database))
    empty(database)
    assert (found, deleted, left) == (wanted, len(wanted), keys - set(wanted))


def test_any_number_of_rows_keys_and_integers(database: Database) -> None:
    for count in (0, 1, 4, 49, 501, 1_203):
        rows = [(str(number), "w" * 30, number, None, None, b"b") for number in range(count)]
        assert insert(database, *rows) == count
        assert len(look_up(database, [row[0] for row in rows])) == count
        assert delete(database, SAMPLES.c.number, [*range(1, count), *range(5_000, 5_010)]) == max(
            0, count - 1
        )
        empty(database)


@pytest.mark.parametrize("mode", MODES)
def test_what_is_no_value_of_its_column_is_refused_and_nothing_is_written(
    database: Database, mode: str
) -> None:
    """In a batch, too, as the store looks for the culprit by halving it."""
    cases = NO_VALUES + (NOT_FITTING if database.shared else [])  # SQLite's columns take almost anything
    for column, value in cases:
        row = tuple(value if at.name == column else fine for at, fine in zip(SAMPLES.c, FULL, strict=True))
        for others in ([], [(f"other {number}", *FULL[1:]) for number in range(3)]):
            with pytest.raises(Refused):
                print(f"{column} = {value!r} among {len(others)}:", insert(database, *others, row, mode=mode))
    assert bodies(database) == {}


def test_a_row_that_exists_is_spared_replaced_or_refused(database: Database) -> None:
    insert(database, ("1", "old", 5, None, None, b"old"))
    new = ("1", "new", 4, None, "2.00", b"new"), ("2", "new", 4, None, None, b"new")
    assert insert(database, *new, mode="spare") == 1
    assert bodies(database) == {"1": b"old", "2": b"new"}
    insert(database, *new, mode="advance", rising="number")
    assert [row[:3] for row in sorted(look_up(database, ["1", "2"]))] == [("1", "new", 5), ("2", "new", 4)]
    insert(database, *new, mode="replace")
    assert [row[:3] for row in sorted(look_up(database, ["1", "2"]))] == [("1", "new", 4), ("2", "new", 4)]


def test_a_match_compares_all_of_its_columns(database: Database) -> None:
    insert(database, ("1", "a'\\", 5, None, None, b""), ("2", "a'\\", 6, None, None, b""))
    match = Match([SAMPLES.c.id], [SAMPLES.c.words, SAMPLES.c.number], database.dialect)
    assert database.transact(lambda cursor: match.rows(cursor, ("a'\\", 6))) == [("2",)]


class Recorder:
    """A cursor that only notes what it is given."""

    rowcount = 0

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def execute(self, *call: Any) -> None:
        self.calls.append(call)

    def fetchall(self) -> list[Any]:
        return []


def carried(call: tuple[Any, ...]) -> int:
    """Bytes of values and text in one call."""
    statement, *parameters = call

    def size(value: Any) -> int:
        if isinstance(value, str | bytes):
            return len(value)
        return sum(map(size, value)) if isinstance(value, list | tuple) else 8

    return size(statement) + size(parameters)


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: str(dialect.name))
def test_bodies_are_spread_over_statements_that_a_server_takes(dialect: Dialect) -> None:
    cursor = Recorder()
    worst = [
        (str(number), "w", 1, 1, "1", b"'" * size)
        for number, size in enumerate([MIB] * 9 + [4 * MIB] * 2 + [9] * 70)
    ]
    Insert(SAMPLES, dialect).execute(cursor, worst)
    sizes = [carried(call) for call in cursor.calls]
    assert max(sizes) < 10 * MIB
    assert len(sizes) < 30


def test_postgresql_sees_the_same_few_statements_whatever_the_number_of_rows() -> None:
    cursor, dialect = Recorder(), DIALECTS[1]
    for count in (1, 2, 77, 500):
        Insert(SAMPLES, dialect).execute(cursor, [FULL] * count)
        Lookup(list(SAMPLES.c), SAMPLES.c.id, dialect, lock=True).rows(cursor, ["1"] * count)
    assert len({call[0] for call in cursor.calls}) == 2
    assert len({len(call[1]) for call in cursor.calls}) == 2
