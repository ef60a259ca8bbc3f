"""The questions the command line asks of the store."""

from __future__ import annotations

from pathlib import Path

import pytest

from jst_bridge.errors import StoreError
from jst_bridge.messages.families import LogisticsTrace, Refund, Trade
from jst_bridge.ports import Gap, Position
from jst_bridge.store import LandingStore, Reader, SellerCount, open_reader
from tests.integration.test_store_contract import store
from tests.stores import NOW, QUEUE, TID, dead, landing, message

__all__ = ["store"]


def reader(store: LandingStore) -> Reader:
    return Reader(store.database)


def keys(store: LandingStore, **filters: object) -> list[str]:
    with reader(store) as questions:
        return [row.message_key for row in questions.messages(**filters)]  # type: ignore[arg-type]


def test_a_missing_store_is_not_created_and_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no store at") as caught:
        open_reader(f"sqlite:///{tmp_path}/bridge.db")
    assert "jst-bridge run" in caught.value.remedy
    assert list(tmp_path.iterdir()) == []


def test_an_empty_store_has_answers(store: LandingStore) -> None:
    with reader(store) as questions:
        counts = questions.counts()
        assert (counts.messages, counts.sellers, counts.oldest, counts.newest) == (0, [], None, None)
        assert questions.messages() == []
        assert questions.gaps() == []
        assert questions.all_positions() == {}
        assert questions.timeline("1").trade is None


def test_messages_come_newest_first_and_obey_every_filter(store: LandingStore) -> None:
    store.land(
        landing(
            message("a", published_at=NOW + 1),
            message("b", published_at=NOW + 2, seller="Other"),
            message("c", published_at=NOW + 2, tid="1", topic="taobao_refund_RefundCreated"),
            message("d", published_at=NOW, topic="taobao[1]_x"),
        )
    )
    assert keys(store) == ["c", "b", "a", "d"]
    assert keys(store, limit=2) == ["c", "b"]
    assert keys(store, seller="Other") == ["b"]
    assert keys(store, seller="other") == []
    assert keys(store, tid="1") == ["c"]
    assert keys(store, since=NOW + 2) == ["c", "b"]
    assert keys(store, topic="taobao_refund_*") == ["c"]
    assert keys(store, topic="taobao_trade_TradeBuyer?ay") == ["b", "a"]
    assert keys(store, topic="taobao[1]*") == ["d"]
    assert keys(store, topic="*", seller="沐微霜", since=NOW + 1, limit=1) == ["c"]


def test_a_reader_sees_rows_with_the_names_of_the_columns_while_the_store_writes(store: LandingStore) -> None:
    with reader(store) as questions:
        store.land(landing(message("a", body=b"\x00raw")))
        [row] = questions.messages(tid=str(TID))
    assert (row.message_key, row.seller, row.published_at, row.body) == ("a", "沐微霜", NOW, b"\x00raw")


def test_a_timeline_holds_one_order_in_time_order(store: LandingStore) -> None:
    create = Trade(tid=TID, oid=TID, status="WAIT_BUYER_PAY")
    store.land(
        landing(
            message("pay"),
            message("new", content=create, topic="taobao_trade_TradeCreate"),
            message("ship", content=Trade(tid=TID, oid=6), oid="6", published_at=NOW + 5),
            message("back", content=Refund(refund_id=9, tid=TID), refund_id="9", published_at=NOW + 9),
            message("got", content=LogisticsTrace(tid=TID, action="GOT"), published_at=NOW + 6),
            message("elsewhere", tid="1", oid="1"),
        )
    )
    with reader(store) as questions:
        timeline = questions.timeline(str(TID))
    assert timeline.trade is not None
    assert (timeline.trade.status, timeline.trade.payment) == ("WAIT_SELLER_SEND_GOODS", "9.50")
    assert [line.oid for line in timeline.lines] == ["6"]
    assert [refund.refund_id for refund in timeline.refunds] == ["9"]
    assert [trace.action for trace in timeline.traces] == ["GOT"]
    assert [event.message_key for event in timeline.events] == ["new", "pay", "ship", "got", "back"]


def test_counts_gaps_and_positions_tell_what_the_store_holds(store: LandingStore) -> None:
    other = QUEUE._replace(group="GID_other", queue_id=0)
    store.land(
        landing(
            message("a"),
            message("b", published_at=NOW + 7, topic="taobao_trade_TradeRated"),
            message("c", seller="Other", published_at=NOW - 7),
            dead_letters=[dead("T1"), dead("T2")],
            positions=[Position(QUEUE, 8), Position(other, 3)],
            gaps=[Gap(QUEUE, 1, 4, "expired")],
        )
    )
    with reader(store) as questions:
        counts = questions.counts(sellers=1)
        [gap] = questions.gaps()
        assert questions.all_positions() == {QUEUE: 8, other: 3}
        [newest] = questions.messages(limit=1)
    assert (gap.first_offset, gap.last_offset, gap.reason, gap.queue_id) == (1, 4, "expired", 3)
    assert (counts.messages, counts.dead_letters, counts.dead_reasons) == (3, 2, {"not_json": 2})
    assert counts.topics == {"taobao_trade_TradeBuyerPay": 2, "taobao_trade_TradeRated": 1}
    assert (counts.oldest, counts.newest) == (NOW - 7, NOW + 7)
    assert counts.sellers == [SellerCount("沐微霜", 2, NOW + 7, newest.landed_at)]
