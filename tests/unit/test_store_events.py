"""What the events of a message say, and what an order looks like after a few of them."""

from __future__ import annotations

from decimal import Decimal
from itertools import permutations
from typing import Any

import pytest

from jst_bridge.messages.catalogue import lookup, search
from jst_bridge.messages.families import Content, Dispute, Refund, Trade, content_type
from jst_bridge.ports import Message, PlainDelivery
from jst_bridge.store import lifecycle, schema
from jst_bridge.store.events import Events
from jst_bridge.store.folding import BOOKKEEPING, fold

TID, OID, REFUND = 2918463734760365258, 2918463734761365258, 181784773340365852
NOW = 1_668_100_000_000
WAITING, SHIPPED, CLOSED = "WAIT_SELLER_SEND_GOODS", "WAIT_BUYER_CONFIRM_GOODS", "TRADE_CLOSED"


def message(event: str, at: int = 0, **fields: Any) -> Message:
    """The message of topic taobao_`event`, published `at` ms after NOW; ids as in `fields`, tid always."""
    topic = f"taobao_{event}"
    content: Content = content_type(topic)(**({"tid": TID} | fields))
    tid, oid, refund_id, num_iid = (None if number is None else str(number) for number in content.ids())
    key = f"tb:1:{event}:{at}"
    delivery = PlainDelivery(b"{}", topic, "", key, key, 1, NOW)
    return Message(
        key,
        "jushita",
        topic,
        "shop",
        "7",
        tid,
        oid,
        refund_id,
        num_iid,
        NOW + at,
        "publish_time",
        content,
        delivery,
    )


def state(messages: list[Message], name: str) -> dict[str, Any]:
    """The only row of table `name` after `messages`, the same in any order. Empty when there is none."""
    table = schema.METADATA.tables[name]
    fields = schema.fields_of(table)
    rows = set()
    for order in permutations(messages):
        events = Events()
        for one in order:
            events.add(one, one.key)
        found = {"trades": events.trades, "trade_lines": events.lines, "refunds": events.refunds}[name]
        assert len(found) <= 1
        rows |= {fold(said, fields) for said in found.values()}
    assert len(rows) <= 1
    return {column: value for row in rows for column, value in zip((*BOOKKEEPING, *fields), row, strict=True)}


def trade(*messages: Message) -> Any:
    return state(list(messages), "trades").get("status")


def line(*messages: Message) -> Any:
    return state(list(messages), "trade_lines").get("status")


def refund(*messages: Message) -> dict[str, Any]:
    return state(list(messages), "refunds")


# --- an order and its lines ----------------------------------------------------------------------------------


def test_the_newest_status_counts_and_in_the_same_millisecond_the_one_further_along() -> None:
    paid = message("trade_TradeBuyerPay", 0, status=WAITING)
    assert trade(paid, message("trade_TradeSellerShip", 5, status=SHIPPED)) == SHIPPED
    assert trade(paid, message("trade_TradeSellerShip", 0, status=SHIPPED)) == SHIPPED
    assert (
        trade(
            message("trade_TradeSuccess", 0, status="TRADE_FINISHED"),
            message("trade_TradeClose", 0, status=CLOSED),
        )
        == CLOSED
    )


@pytest.mark.parametrize("topic", ["TradePartlySellerShip", "TradeChanged", "TradeMemoModified", "TradeNew"])
def test_a_status_that_only_an_order_can_have_is_the_orders_and_never_a_lines(topic: str) -> None:
    part = message(f"trade_{topic}", 5, oid=OID, status="SELLER_CONSIGNED_PART", payment=Decimal("1.00"))
    paid = message("trade_TradeBuyerPay", 0, oid=OID, status=WAITING, payment=Decimal("9.00"))
    assert (trade(paid, part), line(paid, part)) == ("SELLER_CONSIGNED_PART", WAITING)
    assert state([paid, part], "trades")["payment"] == "9.00"
    assert state([paid, part], "trade_lines")["payment"] == "1.00"


@pytest.mark.parametrize(
    ("topic", "status"),
    [
        ("TradeClose", CLOSED),
        ("TradeClose", "TRADE_CLOSED_BY_TAOBAO"),
        ("TradeSellerShip", SHIPPED),
        ("TradePartlySellerShip", SHIPPED),
        ("TradeSuccess", "TRADE_FINISHED"),
        ("TradeRated", "TRADE_FINISHED"),
        ("TradePartlyRefund", CLOSED),
        ("TradeMemoModified", SHIPPED),
        ("TradeChanged", SHIPPED),
    ],
)
def test_what_may_be_about_one_line_takes_the_order_no_further(topic: str, status: str) -> None:
    paid = message("trade_TradeBuyerPay", 0, oid=OID, status=WAITING)
    event = message(f"trade_{topic}", 5, oid=OID, status=status)
    assert (trade(paid, event), line(paid, event)) == (WAITING, status)


@pytest.mark.parametrize("oid", [TID, None])
@pytest.mark.parametrize("topic", ["TradeClose", "TradeChanged", "TradeMemoModified", "TradeSuccess"])
def test_without_a_line_of_its_own_an_event_is_the_orders(topic: str, oid: int | None) -> None:
    event = message(f"trade_{topic}", 5, oid=oid, status=CLOSED)
    assert trade(message("trade_TradeBuyerPay", 0, status=WAITING), event) == CLOSED
    assert state([event], "trade_lines") == {}


@pytest.mark.parametrize("topic", sorted(lifecycle.LINE_TOPICS))
def test_an_event_of_an_unknown_line_leaves_the_order_as_it_is(topic: str) -> None:
    event = topic.removeprefix("taobao_")
    paid = message("trade_TradeBuyerPay", 0, status=WAITING)
    assert trade(paid, message(event, 5, status=SHIPPED)) == WAITING
    assert trade(paid, message(event, 5, status=SHIPPED, oid=TID)) == SHIPPED
    assert trade(paid, message(event, 5, status="SELLER_CONSIGNED_PART")) == "SELLER_CONSIGNED_PART"


def test_a_note_is_the_orders_whatever_line_it_names() -> None:
    note = message("trade_TradeMemoModified", 5, oid=OID, seller_memo="急", seller_flag=3)
    row = state([message("trade_TradeBuyerPay", 0, status=WAITING), note], "trades")
    assert (row["status"], row["seller_memo"], row["seller_flag"]) == (WAITING, "急", 3)


@pytest.mark.parametrize("oid", [TID, OID])
def test_a_belated_creation_does_not_undo_what_came_before_it(oid: int) -> None:
    paid = message("trade_TradeBuyerPay", 0, oid=oid, status=WAITING)
    belated = message("trade_TradeCreateDelay", 9, oid=oid, status="WAIT_BUYER_PAY")
    row = state([belated, paid], "trades")
    assert (row["status"], row["published_at"], row["topic"]) == (WAITING, NOW + 9, belated.topic)
    assert trade(belated) == "WAIT_BUYER_PAY"
    if oid == OID:
        assert line(belated, paid) == WAITING


def test_money_is_rounded_to_cents_and_zero_has_no_sign() -> None:
    for sent, stored in (
        ("1.005", "1.00"),
        ("1.015", "1.02"),
        ("-0", "0.00"),
        ("-0.00", "0.00"),
        ("-0.001", "0.00"),
        ("3", "3.00"),
    ):
        assert state([message("trade_TradeBuyerPay", payment=Decimal(sent))], "trades")["payment"] == stored
    most = Decimal("9999999999999999.994")
    assert state([message("trade_TradeBuyerPay", payment=most)], "trades")["payment"] == "9999999999999999.99"


# --- refunds -------------------------------------------------------------------------------------------------


def test_a_refund_that_succeeded_in_the_millisecond_of_its_creation_has_succeeded() -> None:
    events = [
        message(f"refund_{name}", 0, refund_id=REFUND)
        for name in ("RefundCreated", "RefundSuccess", "RefundClosed")
    ]
    assert refund(*events)["topic"] == "taobao_refund_RefundSuccess"


@pytest.mark.parametrize("aside", sorted(lifecycle.ASIDE_TOPICS))
def test_what_is_said_beside_a_refund_is_not_its_state(aside: str) -> None:
    talk = message(aside.removeprefix("taobao_"), 9, refund_id=REFUND, oid=OID)
    success = message("refund_RefundSuccess", 5, refund_id=REFUND)
    row = refund(talk, success)
    assert (row["topic"], row["published_at"], row["oid"]) == (success.topic, NOW + 9, str(OID))
    assert refund(talk)["topic"] == aside


def test_a_dispute_is_the_refund_of_its_refund_id_without_the_amount_of_unknown_unit() -> None:
    fields: dict[str, Any] = {"refund_id": REFUND, "oid": OID}
    created = message("refund_RefundCreated", 0, refund_fee=Decimal("9.50"), buyer_nick="c**", **fields)
    done = message("dispute_RefundSuccess", 5, **fields)
    row = refund(created, done)
    assert (row["topic"], row["refund_fee"], row["buyer_nick"]) == (done.topic, "9.50", "c**")
    new = message(
        "dispute_RefundCreated", 0, buyer_refund_fee=Decimal(950), dispute_type=2, biz_claim_type=3, **fields
    )
    row = refund(new)
    assert (row["tid"], row["oid"], row["refund_fee"]) == (str(TID), str(OID), None)
    assert (row["refund_phase"], row["bill_type"]) == ("aftersale", "return_bill")
    assert (row["seller"], row["user_id"]) == ("shop", "7")


def test_a_dispute_of_unknown_kind_says_nothing_of_kind() -> None:
    row = refund(message("dispute_ReshippingBuyerApply", refund_id=REFUND, dispute_type=9, biz_claim_type=10))
    assert (row["refund_phase"], row["bill_type"]) == (None, None)


@pytest.mark.parametrize("event", ["refund_RefundCreated", "dispute_RefundCreated"])
def test_a_refund_without_its_id_is_counted(event: str) -> None:
    events = Events()
    events.add(message(event), "k")
    assert (events.refunds, events.without_id) == ({}, 1)


# --- the tables of life-cycles -------------------------------------------------------------------------------

TOPICS = sorted(
    {
        *lifecycle.TRADE_TOPIC_RANKS,
        *lifecycle.REFUND_TOPIC_RANKS,
        *lifecycle.WHOLE_TRADE_TOPICS,
        *lifecycle.LINE_TOPICS,
        *lifecycle.ASIDE_TOPICS,
        *lifecycle.BELATED_TOPICS,
    }
)


@pytest.mark.parametrize("topic", TOPICS)
def test_every_topic_with_a_rule_is_in_the_catalogue_and_of_a_family_that_is_folded(topic: str) -> None:
    info = lookup(topic)
    assert info is not None
    assert issubclass(content_type(topic), Trade | Refund | Dispute)


def test_the_page_that_each_rule_names_is_the_topics() -> None:
    source = lifecycle.__file__
    with open(source, encoding="utf-8") as text:
        named = [line for line in text if '"taobao_' in line and "# (" in line]
    assert len(named) >= len(TOPICS)
    for rule in named:
        info = lookup(rule.split('"')[1])
        assert info is not None
        page = rule.partition("# (")[2].partition(")")[0]
        assert f"docId={page}&" in info.doc


def test_the_statuses_are_those_that_the_pages_list() -> None:
    listed = set()
    for topic in ("taobao_trade_TradeClose", "taobao_trade_TradeChanged"):
        info = lookup(topic)
        assert info is not None
        note = next(field.note for field in info.fields if field.name == "status")
        listed |= {status for status in lifecycle.STATUS_RANKS if f"{status}(" in note}
    assert listed == set(lifecycle.STATUS_RANKS)
    assert listed >= lifecycle.WHOLE_TRADE_STATUSES


def test_no_topic_is_of_two_minds() -> None:
    assert not lifecycle.WHOLE_TRADE_TOPICS & lifecycle.LINE_TOPICS
    assert not lifecycle.ASIDE_TOPICS & lifecycle.REFUND_TOPIC_RANKS.keys()
    ranked = lifecycle.REFUND_TOPIC_RANKS.keys() | lifecycle.ASIDE_TOPICS
    assert ranked >= {info.topic for info in search("taobao_dispute_*")}
