"""docs/store.md is true: every column, index, option and command stands there, and its statements do what it says.

The queries are taken from the page as they are, run on each database over five days of traffic, and compared with
what plain Python makes of the same facts.
"""

from __future__ import annotations

import ast
import itertools
import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import psycopg
import pytest
from sqlalchemy import UniqueConstraint
from sqlalchemy.dialects import mysql, postgresql, sqlite

import jst_bridge.store
from jst_bridge.cli import cli
from jst_bridge.messages import Decoder
from jst_bridge.ports import Gap, PlainDelivery
from jst_bridge.settings import Store
from jst_bridge.store import LandingStore, open_database, open_store, schema
from jst_bridge.store.lifecycle import REFUND_TOPIC_RANKS
from jst_bridge.store.mysql import MysqlDatabase
from jst_bridge.store.postgresql import PostgresqlDatabase
from tests.databases import DatabaseRefused, RunningDatabases, query
from tests.sale import DAY, HOUR, NOW, TODAY, Answers, Said, beijing, sale
from tests.store_page import PAGE, SECTIONS, TOP, cells, code, statements
from tests.stores import QUEUE, dead, landing, rows

SERVERS = [pytest.param(kind, marks=pytest.mark.database) for kind in ("postgresql", "mariadb")]
DIALECTS = [module.dialect() for module in (sqlite, postgresql, mysql)]
APP_KEY = "12345678"
serial = itertools.count(random.SystemRandom().randrange(10_000_000, 90_000_000))

QUERIES = {
    title: text
    for title, text in SECTIONS.items()
    if re.match(r"\d+\. ", title) or title in ("What arrived late", "Dead letters per day and reason", "Gaps")
}


def types(column: Any) -> str:
    """As the page writes them: one, or those of SQLite / PostgreSQL / MySQL."""
    names = [
        str(column.type.compile(dialect)).partition(" COLLATE")[0].replace(", ", ",") for dialect in DIALECTS
    ]
    return names[0] if len(set(names)) == 1 else " / ".join(names)


# --- what stands there ----------------------------------------------------------------------------------


@pytest.mark.parametrize("table", schema.METADATA.sorted_tables, ids=lambda table: table.name)
def test_every_column_is_documented_with_its_type(table: Any) -> None:
    documented = []
    for row in cells(SECTIONS[table.name]):
        shared = re.fullmatch(r"\[(the \w+ columns)\]\(#.+\)", row[0])
        documented += cells(SECTIONS[shared[1].capitalize()]) if shared else [row]
    assert [(code(name)[0], kind) for name, kind, _, _ in documented] == [
        (column.name, types(column)) for column in table.columns
    ]
    for column, (_, _, meaning, missing) in zip(table.columns, documented, strict=True):
        assert meaning
        assert missing.startswith("NULL") == column.nullable, column.name
        assert missing.startswith(("NULL", "''", "-"))


def test_every_table_of_the_page_exists() -> None:
    described = {title for title in SECTIONS if re.fullmatch("[a-z_]+", title)}
    assert described == set(schema.METADATA.tables)


def test_every_index_is_documented() -> None:
    documented = {
        (code(table)[0], name.strip("`"), code(columns)[0])
        for table, name, columns, _ in cells(TOP["Indexes"])
    }
    existing = set()
    for table in schema.METADATA.sorted_tables:
        for index in table.indexes:
            existing.add((table.name, str(index.name), ", ".join(index.columns.keys())))
        for constraint in table.constraints:
            if isinstance(constraint, UniqueConstraint):
                existing.add((table.name, "(unique)", ", ".join(constraint.columns.keys())))
    assert documented == existing


def test_every_option_of_a_url_is_documented() -> None:
    table = [code(row[0]) for row in cells(SECTIONS["The URL"])]
    host = next(n for n, names in enumerate(table) if names == ["ssl"])
    assert sorted(itertools.chain(*table[:host])) == sorted(PostgresqlDatabase.options)
    assert sorted(itertools.chain(*table[host:])) == sorted(MysqlDatabase.options)


@pytest.mark.parametrize("url", re.findall(r"(?:sqlite|postgresql|mysql)://[a-z/][^\s`\"]*", PAGE))
def test_every_url_of_the_page_is_accepted(url: str) -> None:
    assert Store(url=url).url == url
    open_database(url)


def test_the_page_speaks_of_commands_that_exist() -> None:
    spans = [re.match(r"jst-bridge ([a-z]+)(?: ([a-z]+))?", span) for span in code(PAGE)]
    named = {tuple(filter(None, span.groups())) for span in spans if span}
    assert named
    with click.Context(cli) as context:
        for first, *more in named:
            command = cli.get_command(context, first)
            assert command is not None, first
            for word in more:
                assert isinstance(command, click.Group)
                assert command.get_command(context, word) is not None, f"{first} {word}"


def test_the_errors_of_the_page_are_those_of_the_program() -> None:
    said = set()
    for file in (Path(jst_bridge.store.__file__).parent).glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                said.add(node.value)
    for phrase, status, remedy in cells(TOP["When something is wrong"]):
        assert any(code(phrase)[0] in text for text in said), phrase
        assert status in ("69", "75", "77", "78")
        assert remedy


def test_links_within_the_page_lead_somewhere() -> None:
    anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in [*SECTIONS, *TOP]}
    assert set(re.findall(r"\]\(#([^)]+)\)", PAGE)) <= anchors


# --- times and queries ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Filled:
    """A store in which the sale landed."""

    url: str
    store: LandingStore
    answers: Answers


@pytest.fixture(scope="module", params=["sqlite", *SERVERS])
def filled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filled]:
    server: RunningDatabases | None = None
    name = f"jst_test_docs_{next(serial)}"
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('sale') / 'bridge.db'}"
    else:
        server = request.getfixturevalue(request.param)
        try:
            url = server.create_database(name)
        except DatabaseRefused as refusal:
            pytest.skip(str(refusal))
    store = open_store(url)
    batches = sale()
    with pytest.MonkeyPatch.context() as patch:
        store.open()
        for batch in batches:
            land(store, batch, patch)
        land_faults(store, patch)
    yield Filled(url, store, Answers(batches))
    store.close()
    if server is not None:
        server.drop_database(name)


def land(store: LandingStore, batch: Sequence[Said], patch: pytest.MonkeyPatch) -> None:
    patch.setattr("jst_bridge.store.landing_store.now_ms", lambda: max(said.landed_at for said in batch))
    decoder = Decoder(QUEUE.source, APP_KEY)
    deliveries = [
        PlainDelivery(
            said.body, said.topic, said.tid, f"T{said.number}", f"T{said.number}", said.number, said.at
        )
        for said in batch
    ]
    for delivery in deliveries:
        delivery.queue = QUEUE
    store.land(landing(*map(decoder.decode, deliveries)))


LETTERS = {("2022-11-13", "not_json"): 2, ("2022-11-14", "not_json"): 1, ("2022-11-14", "too_deep"): 3}
GAPS = {0: [(5, 5, NOW - DAY)], 1: [(0, 99, NOW - DAY), (200, 249, NOW - HOUR)]}


def land_faults(store: LandingStore, patch: pytest.MonkeyPatch) -> None:
    number = itertools.count()
    for (day, reason), count in LETTERS.items():
        # 00:30 in Beijing, still the day before in UTC
        at = int(datetime.fromisoformat(f"{day}T00:30+08:00").timestamp() * 1000)
        patch.setattr("jst_bridge.store.landing_store.now_ms", lambda at=at: at)
        letters = [dead(f"D{next(number)}") for _ in range(count)]
        for letter in letters:
            letter.reason = reason
        store.land(landing(dead_letters=letters))
    for queue_id, spans in GAPS.items():
        for first, last, at in spans:
            patch.setattr("jst_bridge.store.landing_store.now_ms", lambda at=at: at)
            store.land(
                landing(gaps=[Gap(QUEUE._replace(queue_id=queue_id), first, last, "lost at the broker")])
            )


def letters_per_day() -> list[tuple[Any, ...]]:
    return sorted((day, reason, "open", count) for (day, reason), count in LETTERS.items())


def missing() -> list[tuple[Any, ...]]:
    found = []
    for queue_id, spans in GAPS.items():
        queue = (QUEUE.source, QUEUE.group, QUEUE.broker, QUEUE.system_topic, queue_id)
        noted = [beijing(at) for _, _, at in spans]
        found.append((*queue, sum(last - first + 1 for first, last, _ in spans), min(noted), max(noted)))
    return sorted(found, key=lambda row: -row[5])


EXPECTED: dict[str, Callable[[Answers], list[tuple[Any, ...]]]] = {
    "1. Orders waiting to be shipped, the oldest first": Answers.waiting,
    "2. Paid today, and revenue per seller": Answers.paid_today,
    "3. Refunds open for more than 48 hours": Answers.open_refunds,
    "4. Lines still to be shipped of orders that are partly shipped": Answers.waiting_lines,
    "5. Shipped orders without a trace for 48 hours": Answers.stalled,
    "6. Urgent notes on orders still to be shipped": Answers.urgent,
    "7. All messages of one order, in order of time": lambda answers: answers.of_one_order(
        "2700001063724854931"
    ),
    "8. Messages per hour and topic": Answers.per_hour,
    "9. Each seller's last message, and how far behind it landed": Answers.latest,
    "10. Sellers who have been silent for 24 hours": Answers.silent,
    "What arrived late": lambda answers: answers.late(APP_KEY),
    "Dead letters per day and reason": lambda answers: letters_per_day(),
    "Gaps": lambda answers: missing(),
}


def as_wanted(row: tuple[Any, ...], wanted: tuple[Any, ...]) -> tuple[Any, ...]:
    """Numbers as numbers: SQLite has money as text, and floating-point sums; servers have sums as decimals."""
    return tuple(
        Decimal(str(value)) if isinstance(want, int | Decimal) and value is not None else value
        for value, want in zip(row, wanted, strict=True)
    )


def test_every_query_of_the_page_is_tried_here() -> None:
    assert set(QUERIES) == set(EXPECTED)
    assert sum(bool(re.match(r"\d", title)) for title in QUERIES) == 10


@pytest.mark.parametrize("title", EXPECTED)
def test_a_query_finds_what_the_facts_say(filled: Filled, title: str) -> None:
    [[sql]] = statements(QUERIES[title])
    wanted = EXPECTED[title](filled.answers)
    assert wanted, "a query that finds nothing shows nothing"
    found = rows(filled.store, sql)
    assert len(found) == len(wanted)
    assert [as_wanted(*pair) for pair in zip(found, wanted, strict=True)] == wanted


@pytest.mark.parametrize("title", EXPECTED)
def test_a_query_uses_the_indexes_it_claims(filled: Filled, title: str) -> None:
    [[sql]] = statements(QUERIES[title])
    claim = re.search(r"^Indexes: (.+?)\.", QUERIES[title], flags=re.MULTILINE)
    used = plan(filled.url, sql)
    for index in code(claim[1]) if claim else []:
        assert index in used


TABLES = "messages, trades, trade_lines, refunds, logistics_traces"


def plan(url: str, sql: str) -> str:
    """How the database goes about it, without what only pays because the tables are small."""
    if url.startswith("sqlite"):
        return "\n".join(str(row[3]) for row in query(url, f"EXPLAIN QUERY PLAN {sql}"))
    if url.startswith("mysql"):
        query(url, f"ANALYZE TABLE {TABLES}")
        return "\n".join(f"{row[4]}: {row[6]}" for row in query(url, f"EXPLAIN {sql}"))
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"ANALYZE {TABLES}".encode())
        for choice in ("seqscan", "hashjoin", "mergejoin"):
            connection.execute(f"SET enable_{choice} = off".encode())
        return "\n".join(row[0] for row in connection.execute(f"EXPLAIN {sql}".encode()))


def test_the_topics_that_end_a_refund_are_all_named() -> None:
    ends = {topic for topic, rank in REFUND_TOPIC_RANKS.items() if rank >= 90}
    assert set(re.findall(r"'(taobao_\w+)'", QUERIES["3. Refunds open for more than 48 hours"])) == ends


def test_a_database_tells_the_time_as_the_page_says(filled: Filled) -> None:
    kind = {"sqlite": "SQLite", "postgresql": "PostgreSQL", "mysql": "MySQL, MariaDB"}[
        urlsplit(filled.url).scheme
    ]
    [(now, midnight)] = [
        (code(row[1])[0], code(row[2])[0]) for row in cells(TOP["Ten queries"]) if row[0] == kind
    ]
    before = time.time() * 1000
    [(told, began)] = rows(filled.store, f"SELECT {now}, {midnight}")
    assert before - 2 <= told <= time.time() * 1000 + 2
    assert int(Decimal(str(began))) == TODAY
    [(of_day, of_hour)] = rows(
        filled.store,
        f"SELECT t - (t + 28800000) % 86400000, t - t % 3600000 FROM (SELECT {NOW + 61_000} AS t) AS one",
    )
    assert (of_day, of_hour) == (TODAY, NOW)
