"""The lives of orders: what happens, when, what the platform publishes of it, and what is true from then on.

created ─┬─ closed unpaid                                                          (12 %)
         └─ paid ─┬─ refunded before shipping, closed                              (6 %)
                  └─ shipped, whole or line by line, with traces ─┬─ signed, finished, rated
                                                                  └─ refunded in part meanwhile (8 %)

A happening states the truth itself, column by column as the store names them; nothing here knows how a store
works it out of the messages. Statuses and topics are those of the platform's message pages (`messages.catalogue`).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from .orders import Line, Order, pick

__all__ = ["DAY", "HOUR", "MINUTE", "TOPICS", "Happening", "life"]

MINUTE: Final = 60.0
HOUR: Final = 3600.0
DAY: Final = 86_400.0
"""Seconds of life."""

TOPICS: Final = frozenset(
    {
        "taobao_item_ItemStockChanged",
        "taobao_logistics_LogsticDetailTrace",
        "taobao_refund_RefundBuyerModifyAgreement",
        "taobao_refund_RefundBuyerReturnGoods",
        "taobao_refund_RefundClosed",
        "taobao_refund_RefundCreated",
        "taobao_refund_RefundSellerAgreeAgreement",
        "taobao_refund_RefundSellerRefuseAgreement",
        "taobao_refund_RefundSuccess",
        "taobao_trade_TradeBuyerPay",
        "taobao_trade_TradeChanged",
        "taobao_trade_TradeClose",
        "taobao_trade_TradeCreate",
        "taobao_trade_TradeMemoModified",
        "taobao_trade_TradePartlyConfirmPay",
        "taobao_trade_TradePartlyRefund",
        "taobao_trade_TradePartlySellerShip",
        "taobao_trade_TradeRated",
        "taobao_trade_TradeSellerShip",
        "taobao_trade_TradeSuccess",
    }
)
"""The message types of these lives: what the app of a sandbox subscribes."""

_UNPAID, _PAID = "WAIT_BUYER_PAY", "WAIT_SELLER_SEND_GOODS"
_PARTLY, _SHIPPED = "SELLER_CONSIGNED_PART", "WAIT_BUYER_CONFIRM_GOODS"
_FINISHED, _REFUNDED, _CLOSED = "TRADE_FINISHED", "TRADE_CLOSED", "TRADE_CLOSED_BY_TAOBAO"
_CARRIERS: Final = (("圆通速递", "YT"), ("顺丰速运", "SF"), ("中通快递", "7531"), ("申通快递", "0802"))
_ROUTE: Final = (
    ("CREATE", "物流订单创建，等待卖家发货"),
    ("GOT", "【杭州市】杭州余杭仓前公司 已揽收，揽收员【李**】，电话【138****0000】，快件正在等待发往下一站"),
    ("DEPARTURE", "【嘉兴市】快件离开【杭州转运中心】，已发往【北京转运中心】，预计次日到达"),
    ("SENT_SCAN", "【北京市】十里堡公司 派件员【王**】正在为您派件，电话【139****0000】，请保持电话畅通"),
    ("SIGNED", "【北京市】您的快件已签收，签收人【前台代收】，感谢使用，欢迎再次光临"),
)
_MEMOS: Final = ("加急", "改到前台代收, 3件一起发", "和上一单 464612224575585700 一起\n勿放发票", "送小样 🎁")


@dataclass(frozen=True, slots=True)
class Happening:
    """One thing that happens to an order, and the message of it."""

    order: Order
    after: float
    """Seconds of life since the order was created."""
    topic: str
    content: dict[str, Any]
    """The message's content, without the times that are those of publishing."""
    trade: dict[str, Any] = field(default_factory=dict)
    """What is true of the order from now on, by column of `trades`; the rest is as it was."""
    line: tuple[int, dict[str, Any]] | None = None
    """oid and what is true of that line, by column of `trade_lines`."""
    refund: tuple[int, dict[str, Any]] | None = None
    """refund_id and what is true of it, by column of `refunds`."""
    trace: dict[str, Any] | None = None
    """One row of `logistics_traces`."""


def life(chance: random.Random, order: Order) -> Iterator[Happening]:
    """All that happens to one order, in time order."""
    at = 0.0
    yield _whole(order, at, "TradeCreate", _UNPAID)
    if chance.random() < 0.12:
        yield _whole(order, at + DAY, "TradeClose", _CLOSED)
        return
    at += chance.uniform(MINUTE, 20 * MINUTE)
    yield _whole(order, at, "TradeBuyerPay", _PAID)
    if chance.random() < 0.3:
        line = pick(chance, order.lines)
        yield _stock(order, at + 1, line, chance.randrange(500))
    for _ in range(chance.choice((0, 0, 0, 0, 0, 1, 2))):
        at += chance.uniform(MINUTE, HOUR)
        memo = {"seller_memo": chance.choice(_MEMOS), "seller_flag": chance.randrange(1, 6)}
        yield _whole(order, at, "TradeMemoModified", _PAID, memo)
    if chance.random() < 0.06:
        for happening in _refund(chance, order, at, None, order.payment, "onsale"):
            at = happening.after
            yield happening
        yield _whole(order, at + MINUTE, "TradeClose", _REFUNDED)
        return
    yield from _delivery(chance, order, at)


def _delivery(chance: random.Random, order: Order, at: float) -> Iterator[Happening]:
    """Shipped, on its way, signed, finished and rated."""
    parcels = len(order.lines) if order.split and chance.random() < 0.5 else 1
    moving: list[Happening] = []
    for number in range(parcels):
        at += chance.uniform(HOUR, 6 * HOUR)
        if parcels > 1:
            line = order.lines[number]
            moving.append(_of_line(order, at, "TradePartlySellerShip", line, _SHIPPED))
            if number == 0:
                moving.append(_whole(order, at + 1, "TradeChanged", _PARTLY))
        if number == parcels - 1:
            moving.append(_whole(order, at + 2, "TradeSellerShip", _SHIPPED))
        moving += _traces(chance, order, at)
    at = max(happening.after for happening in moving)
    returned: Line | None = None
    if chance.random() < 0.08:
        returned = pick(chance, order.lines)
        fee = returned.payment if order.split else returned.payment // 2
        moving += _refund(chance, order, at, returned, fee, "aftersale")
        at = max(happening.after for happening in moving)
        if order.split and moving[-1].topic.endswith("RefundSuccess"):
            moving.append(_of_line(order, at + 1, "TradePartlyRefund", returned, _REFUNDED))
        else:
            returned = None
    yield from sorted(moving, key=lambda happening: happening.after)
    at += chance.uniform(HOUR, DAY)
    if order.split:
        for line in order.lines:
            if line is not returned:
                at += 1
                yield _of_line(order, at, "TradePartlyConfirmPay", line, _FINISHED)
    yield _whole(order, at + 1, "TradeSuccess", _FINISHED, ended=True)
    if chance.random() < 0.6:
        at += chance.uniform(MINUTE, DAY)
        yield _whole(order, at, "TradeRated", _FINISHED, {"rater": "buyer"})


def _whole(
    order: Order,
    after: float,
    event: str,
    status: str,
    extra: dict[str, Any] | None = None,
    *,
    ended: bool = False,
) -> Happening:
    """An event of the order as a whole: its oid is the tid."""
    says = {"status": status, "payment": _yuan(order.payment), "post_fee": _yuan(order.post_fee)}
    content = {**_facts(order), **says, "oid": order.tid, "iid": order.lines[0].num_iid, **(extra or {})}
    if ended:
        content["end_time"] = None  # the generator's clock knows
    known = {name: value for name, value in (extra or {}).items() if name in ("seller_memo", "seller_flag")}
    return Happening(order, after, f"taobao_trade_{event}", content, {**_known(order), **says, **known})


def _of_line(order: Order, after: float, event: str, line: Line, status: str) -> Happening:
    """An event of one line of an order of several: money and status are the line's."""
    says = {"status": status, "payment": _yuan(line.payment)}
    content = {**_facts(order), **says, "oid": line.oid, "num_iid": line.num_iid, "sku_id": line.sku_id}
    of_line = {**says, "num_iid": str(line.num_iid), "sku_id": str(line.sku_id)}
    return Happening(order, after, f"taobao_trade_{event}", content, _known(order), (line.oid, of_line))


def _facts(order: Order) -> dict[str, Any]:
    return {
        "tid": order.tid,
        "type": "guarantee_trade",
        "buyer_nick": order.buyer_nick,
        "buyer_open_uid": order.buyer_open_uid,
        "seller_nick": order.seller.nick,
    }


def _known(order: Order) -> dict[str, Any]:
    return {
        "type": "guarantee_trade",
        "buyer_nick": order.buyer_nick,
        "buyer_open_uid": order.buyer_open_uid,
    }


def _refund(
    chance: random.Random, order: Order, since: float, line: Line | None, fee: int, phase: str
) -> Iterator[Happening]:
    """A refund (退款), of a line or of the order: agreed to at once, after a quarrel, or withdrawn."""
    refund_id = chance.randrange(10**16, 10**17) * 100 + order.tid % 100
    if line is None:
        steps = ["RefundCreated", "RefundSellerAgreeAgreement", "RefundSuccess"]
    elif chance.random() < 0.2:
        steps = ["RefundCreated", "RefundClosed"]
    else:
        quarrel = ["RefundSellerRefuseAgreement", "RefundBuyerModifyAgreement"] * (chance.random() < 0.3)
        steps = [
            "RefundCreated",
            *quarrel,
            "RefundSellerAgreeAgreement",
            "RefundBuyerReturnGoods",
            "RefundSuccess",
        ]
    bill = "return_bill" if "RefundBuyerReturnGoods" in steps else "refund_bill"
    for event in steps:
        since += chance.uniform(HOUR, 5 * HOUR)
        if event == "RefundBuyerModifyAgreement":
            fee -= fee // 10
        says = {
            "refund_fee": _yuan(fee),
            "refund_phase": phase,
            "bill_type": bill,
            "buyer_nick": order.buyer_nick,
            "buyer_open_uid": order.buyer_open_uid,
        }
        oid = order.tid if line is None else line.oid
        content = {"tid": order.tid, "oid": oid, "refund_id": refund_id, **says}
        content["seller_nick"] = order.seller.nick
        refund = refund_id, {**says, "tid": str(order.tid), "oid": str(oid)}
        yield Happening(order, since, f"taobao_refund_{event}", content, refund=refund)


def _traces(chance: random.Random, order: Order, since: float) -> Iterator[Happening]:
    """The traces (流转信息) of one parcel. The first one names no parcel yet, as in the wild."""
    company, prefix = chance.choice(_CARRIERS)
    parcel = {"out_sid": f"{prefix}{chance.randrange(10**10, 10**11)}", "company_name": company}
    for step, (action, text) in enumerate(_ROUTE):
        since += chance.uniform(20 * MINUTE, 8 * HOUR)
        known = {"out_sid": None, "company_name": None, **(parcel if step else {})}
        content = {"tid": order.tid, "action": action, "desc": text, **(parcel if step else {})}
        trace = {**known, "tid": str(order.tid), "action": action, "description": text}
        yield Happening(order, since, "taobao_logistics_LogsticDetailTrace", content, trace=trace)


def _stock(order: Order, after: float, line: Line, left: int) -> Happening:
    """The stock of an item (商品库存) sank: it lands, and no state follows from it."""
    content = {
        "nick": order.seller.nick,
        "increment": -1,
        "num": left,
        "changed_fields": "num",
        "num_iid": line.num_iid,
    }
    return Happening(order, after, "taobao_item_ItemStockChanged", content)


def _yuan(fen: int) -> str:
    return f"{fen // 100}.{fen % 100:02}"
