"""State is a pure function of the set of messages: order and batching leave no trace."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jst_bridge.messages import Decoder
from jst_bridge.ports import Message, PlainDelivery
from jst_bridge.store import LandingStore, open_store
from jst_bridge.store.folding import Event, fold, unfold
from jst_bridge.store.lifecycle import REFUND_TOPIC_RANKS, STATUS_RANKS, TRADE_TOPIC_RANKS
from jst_bridge.store.rebuild import rebuild
from jst_bridge.store.schema import METADATA
from tests.samples import samples
from tests.stores import NOW, QUEUE, STATE_TABLES, landing, plain, rows, state
from tests.traffic import traffic

DECODER = Decoder(QUEUE.source, "12345678")
FIELDS = ("a", "b", "c", "d")


def optional(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


events: st.SearchStrategy[list[Event]] = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.sampled_from([0, 10, 20]),
        st.text('k"\\\n', max_size=3),
        st.tuples(*(optional(st.integers(0, 5)) for _ in FIELDS)),
    ),
    min_size=1,
    max_size=8,
    unique_by=lambda event: event[:3],
)


@given(events, st.data())
def test_folding_in_any_order_and_any_parts_gives_the_row_of_the_whole(
    whole: list[Event], data: st.DataObject
) -> None:
    expected = fold(whole, FIELDS)
    shuffled = data.draw(st.permutations(whole))
    row = fold(shuffled[:1], FIELDS)
    rest = shuffled[1:]
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        row = fold(unfold(row, FIELDS) + rest[:size], FIELDS)
        rest = rest[size:]
    assert row == expected


@given(events)
def test_each_field_has_the_value_of_the_newest_event_that_names_one(whole: list[Event]) -> None:
    row = fold(whole, FIELDS)
    assert row[:3] == max(whole)[:3]
    for field in range(len(FIELDS)):
        said = [event for event in sorted(whole) if event[3][field] is not None]
        assert row[4 + field] == (said[-1][3][field] if said else None)


@given(events)
def test_unfolding_gives_back_no_more_events_than_went_in(whole: list[Event]) -> None:
    assert len(unfold(fold(whole, FIELDS), FIELDS)) <= len(whole)


def ids(*numbers: int) -> st.SearchStrategy[int | None]:
    return st.sampled_from([*numbers, None])


@st.composite
def lives(draw: st.DrawFn) -> list[Message]:
    """Messages about two orders: ties in time, missing status and ids, lines, late events, duplicates.

    As bodies, so that landing them and reading them again from the store is the same.
    """
    drawn: list[Message] = []
    for number in range(1, draw(st.integers(1, 9)) + 1):
        family = draw(st.sampled_from(["trade", "trade", "trade", "refund", "trace"]))
        said: dict[str, Any] = {"tid": draw(ids(1, 2))}
        nick = draw(optional(st.sampled_from(["c**", "d**"])))
        money = draw(optional(st.sampled_from(["1", "2.50", "0.005"])))
        if family == "refund":
            topic = draw(st.sampled_from([*REFUND_TOPIC_RANKS, "taobao_refund_RefundCreateMessage"]))
            said |= {"refund_id": draw(ids(7, 8)), "refund_fee": money, "dispute_type": draw(ids(1, 2))}
        elif family == "trace":
            topic = "taobao_logistics_LogsticDetailTrace"
            said |= {"out_sid": nick, "time": draw(optional(st.just("2022-11-11 01:02:03")))}
        else:
            topic = draw(st.sampled_from([*TRADE_TOPIC_RANKS, "taobao_trade_TradeMemoModified"]))
            said |= {"payment": money, "seller_memo": draw(optional(st.sampled_from(["", "急"])))}
            said["status"] = draw(optional(st.sampled_from([*STATUS_RANKS, "UNHEARD_OF"])))
        if family != "trace":
            said |= {"oid": draw(ids(1, 2, 3)), "buyer_nick": nick}
        drawn.append(
            decoded(
                topic=topic,
                content={name: value for name, value in said.items() if value is not None},
                outgoing_id=number,
                publish_time=NOW + draw(st.integers(1, 3)),
                user_nick=draw(st.sampled_from(["", "Shop", "shop"])),
            )
        )
    return drawn + draw(st.lists(st.sampled_from(drawn), max_size=3))


def decoded(*, content: dict[str, Any], **envelope: Any) -> Message:
    body = json.dumps(envelope | {"content": json.dumps(content)}).encode()
    return DECODER.decode(PlainDelivery(body, "", "", "", "", 0, NOW, queue=QUEUE))


@pytest.fixture
def store(database_url: str) -> Iterator[LandingStore]:
    opened = open_store(database_url)
    opened.open()
    yield opened
    opened.close()


@pytest.fixture
def reader(store: LandingStore) -> Iterator[Any]:
    """A cursor that sees what is committed, on one connection for all examples: TLS makes a new one take long."""
    with closing(store.database.connect_reading()) as connection:
        yield connection.cursor()


def emptied(store: LandingStore) -> LandingStore:
    """The same store for the next example: making one anew takes a hundred times longer."""

    def clear(cursor: Any) -> None:
        for table in ("messages", *STATE_TABLES):
            cursor.execute(f"DELETE FROM {table}")

    store.database.transact(clear)
    return store


def tables(reader: Any) -> dict[tuple[str, ...], tuple[Any, ...]]:
    """Every state row by its table and key."""
    found: dict[tuple[str, ...], tuple[Any, ...]] = {}
    for table in STATE_TABLES:
        reader.execute(f"SELECT * FROM {table}")
        width = len(key_of(table))
        found.update({(table, *row[:width]): tuple(map(plain, row)) for row in reader.fetchall()})
    return found


def key_of(table: str) -> list[str]:
    return [str(column.name) for column in METADATA.tables[table].primary_key.columns]


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(messages=lives(), data=st.data())
def test_any_order_of_arrival_and_any_batches_give_the_same_tables_and_a_rebuild_gives_them_again(
    store: LandingStore, reader: Any, messages: list[Message], data: st.DataObject
) -> None:
    emptied(store).land(landing(*messages))
    whole = tables(reader)
    rest = data.draw(st.permutations(messages))
    emptied(store)
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        store.land(landing(*rest[:size]))
        rest = rest[size:]
    assert tables(reader) == whole

    if whole:
        store.database.transact(data.draw(damages(sorted(whole))))
    damaged = tables(reader)
    mended = rebuild(store.database)
    assert tables(reader) == whole
    assert mended.undecodable == 0
    assert sum(table.checked for table in mended.tables.values()) == len(whole.keys() | damaged.keys())
    differing = [row for row in whole.keys() | damaged.keys() if whole.get(row) != damaged.get(row)]
    assert mended.differed == len(differing)
    named = {(table, *key.split("/")) for table, key, *_ in mended.differences}
    assert named == set(differing) or len(mended.differences) == 20

    pruned = data.draw(st.lists(st.sampled_from([message.key for message in messages])))
    store.database.transact(lambda cursor: prune(cursor, pruned))
    assert rebuild(store.database).differed == 0
    assert tables(reader) == whole


def prune(cursor: Any, keys: list[str]) -> None:
    for key in keys:
        cursor.execute(f"DELETE FROM messages WHERE message_key = '{key}'")


@st.composite
def damages(draw: st.DrawFn, whole: list[tuple[str, ...]]) -> Callable[[Any], None]:
    """What somebody may do to state rows, or a former version of the program: work for a transaction."""
    statements: list[str] = []
    for table, *key in draw(st.lists(st.sampled_from(whole), min_size=1, max_size=4, unique=True)):
        columns = [str(column.name) for column in METADATA.tables[table].columns]
        this = " AND ".join(f"{name} = '{value}'" for name, value in zip(key_of(table), key, strict=True))
        damage = draw(st.sampled_from(["change", "empty", "delete", "double"]))
        if damage == "delete":
            statements.append(f"DELETE FROM {table} WHERE {this}")
        elif damage == "double" and table != "logistics_traces":
            others = ", ".join(columns[1:])
            statements.append(
                f"INSERT INTO {table} ({columns[0]}, {others}) SELECT '9{key[0]}', {others} FROM {table} WHERE {this}"
            )
        elif damage == "change":
            change = draw(st.sampled_from(["published_at = 1", "seller = 'X'", "older = '['"]))
            if table == "logistics_traces":
                change = draw(st.sampled_from(["tid = '3'", "traced_at = 5", "out_sid = NULL"]))
            statements.append(f"UPDATE {table} SET {change} WHERE {this}")
        else:
            emptied = [str(column.name) for column in METADATA.tables[table].columns if column.nullable]
            statements.append(f"UPDATE {table} SET {' = NULL, '.join(emptied)} = NULL WHERE {this}")

    def work(cursor: Any) -> None:
        for statement in statements:
            cursor.execute(statement)

    return work


def test_every_database_holds_the_same(store: LandingStore, tmp_path: Path) -> None:
    bodies = [(sample.tag, sample.body) for sample in samples() if sample.lands]
    bodies += [(fact.tag, fact.body) for fact in traffic(400)]
    messages = [
        DECODER.decode(PlainDelivery(body, tag, "", f"T{n}", f"T{n}", n, NOW, queue=QUEUE))
        for n, (tag, body) in enumerate(bodies)
    ]
    other = open_store(f"sqlite:///{tmp_path}/other.db")
    other.open()
    other.land(landing(*messages))
    random.Random(1).shuffle(messages)
    for start in range(0, len(messages), 70):
        store.land(landing(*messages[start : start + 70]))
    assert state(store) == state(other)
    columns = ", ".join(
        c.name for c in METADATA.tables["messages"].columns if c.name not in ("id", "landed_at")
    )
    query = f"SELECT {columns} FROM messages"
    assert sorted(rows(store, query)) == sorted(rows(other, query))
    assert len(rows(store, query)) == len({message.key for message in messages}) > 400
    other.close()
