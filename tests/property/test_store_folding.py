"""State is a pure function of the set of messages: order and batching leave no trace."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jst_bridge.messages.families import LogisticsTrace, Refund, Trade, TradeRated
from jst_bridge.ports import Message
from jst_bridge.store import LandingStore, open_store
from jst_bridge.store.folding import Event, fold, unfold
from jst_bridge.store.lifecycle import REFUND_TOPIC_RANKS, STATUS_RANKS, TRADE_TOPIC_RANKS
from tests.stores import STATE_TABLES, landing, message, state

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
    """Messages about two orders: ties in time, missing status and ids, lines, late events, duplicates."""
    drawn: list[Message] = []
    for number in range(draw(st.integers(1, 9))):
        tid, oid, refund_id = draw(ids(1, 2)), draw(ids(1, 2, 3)), draw(ids(7, 8))
        family = draw(st.sampled_from([Trade, Trade, Trade, TradeRated, Refund, LogisticsTrace]))
        nick = draw(optional(st.sampled_from(["c**", "d**"])))
        money = draw(optional(st.sampled_from([Decimal("1"), Decimal("2.50")])))
        content: Any
        if family is Refund:
            topic = draw(st.sampled_from([*REFUND_TOPIC_RANKS, "taobao_refund_RefundCreateMessage"]))
            content = Refund(refund_id=refund_id, tid=tid, oid=oid, refund_fee=money, buyer_nick=nick)
        elif family is LogisticsTrace:
            topic, content = "taobao_logistics_LogsticDetailTrace", LogisticsTrace(tid=tid, out_sid=nick)
        else:
            topic = draw(st.sampled_from([*TRADE_TOPIC_RANKS, "taobao_trade_TradeMemoModified"]))
            status = draw(optional(st.sampled_from([*STATUS_RANKS, "UNHEARD_OF"])))
            memo = draw(optional(st.sampled_from(["", "急"])))
            content = family(
                tid=tid, oid=oid, status=status, payment=money, buyer_nick=nick, seller_memo=memo
            )
        drawn.append(
            message(
                f"tb:1:{number}",
                content=content,
                topic=topic,
                tid=tid and str(tid),
                oid=oid and str(oid),
                refund_id=refund_id and str(refund_id),
                seller=draw(st.sampled_from(["", "Shop", "shop"])),
                published_at=draw(st.integers(1, 3)),
            )
        )
    return drawn + draw(st.lists(st.sampled_from(drawn), max_size=3))


@pytest.fixture
def store(database_url: str) -> Iterator[LandingStore]:
    opened = open_store(database_url)
    opened.open()
    yield opened
    opened.close()


def emptied(store: LandingStore) -> LandingStore:
    """The same store for the next example: making one anew takes a hundred times longer."""

    def clear(cursor: Any) -> None:
        for table in ("messages", *STATE_TABLES):
            cursor.execute(f"DELETE FROM {table}")

    store.database.transact(clear)
    return store


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(messages=lives(), data=st.data())
def test_any_order_of_arrival_and_any_batches_give_the_same_tables(
    store: LandingStore, messages: list[Message], data: st.DataObject
) -> None:
    emptied(store).land(landing(*messages))
    whole = state(store)
    rest = data.draw(st.permutations(messages))
    emptied(store)
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        store.land(landing(*rest[:size]))
        rest = rest[size:]
    assert state(store) == whole
