"""Made-up Jushita traffic whose truth is known: lives of orders as ONS bodies of about 650 bytes.

Everything follows from the seed. Field names, shapes and ids (19 digits, the last six the buyer's) are
those of bodies seen in the wild; sellers, buyers and numbers are invented. Time runs sixty times as fast, so
that a few hundred messages hold whole lives.
"""

from __future__ import annotations

import heapq
import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

__all__ = ["Fact", "Truth", "traffic"]

BEIJING = timezone(timedelta(hours=8))
START = int(datetime(2022, 11, 11, tzinfo=UTC).timestamp() * 1000)
MINUTE, HOUR, DAY = 1_000, 60_000, 1_440_000
PUBLISHER = "12497914"
CARRIERS = (("圆通速递", "YT"), ("顺丰速运", "SF"), ("中通快递", "7531"), ("申通快递", "0802"))
ROUTE = (
    ("CREATE", "物流订单创建，等待卖家发货"),
    ("GOT", "【杭州市】杭州余杭仓前公司 已揽收，揽收员【李**】，电话【138****0000】，快件正在等待发往下一站"),
    ("DEPARTURE", "【嘉兴市】快件离开【杭州转运中心】，已发往【北京转运中心】，预计次日到达，请您耐心等候"),
    ("SENT_SCAN", "【北京市】十里堡公司 派件员【王**】正在为您派件，电话【139****0000】，请保持电话畅通"),
    (
        "SIGNED",
        "【北京市】您的快件已签收，签收人【前台代收】，如有疑问请联系派件员，感谢使用，欢迎再次光临",
    ),
)


@dataclass(frozen=True, slots=True)
class Seller:
    nick: str
    user_id: int


@dataclass(frozen=True, slots=True)
class Order:
    """One trade; `oid` equals `tid` where it has a single line."""

    tid: int
    oid: int
    seller: Seller
    facts: dict[str, Any]
    """The content fields that every trade event of this order carries."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One published message, and what is true once it has landed."""

    outgoing_id: int
    topic: str
    """The message type, which is also the tag."""
    keys: str
    """The tid, as text."""
    seller: str
    published_at: int
    """Epoch ms. Strictly rising over the whole traffic."""
    content: dict[str, Any]
    body: bytes

    @property
    def tag(self) -> str:
        return self.topic

    def line(self, system_topic: str) -> dict[str, object]:
        """As the Java publisher takes it."""
        return {"topic": system_topic, "tag": self.topic, "keys": self.keys, "body": self.body.decode()}


@dataclass
class Truth:
    """What a store must hold after these facts landed, in whatever order and however often each."""

    outgoing_ids: set[str] = field(default_factory=set)
    statuses: dict[str, str] = field(default_factory=dict)
    """tid -> the newest status of the whole trade."""
    sellers: dict[str, str] = field(default_factory=dict)
    """tid -> the seller's nick."""
    refunds: dict[str, str] = field(default_factory=dict)
    """refund_id -> the topic of its newest event."""
    traces: set[tuple[str, str, str]] = field(default_factory=set)
    """(tid, out_sid or '', action): each occurs once."""
    topics: dict[str, int] = field(default_factory=dict)
    """topic -> how many messages."""

    @classmethod
    def of(cls, facts: Iterable[Fact]) -> Truth:
        truth = cls()
        for fact in sorted(facts, key=lambda fact: fact.published_at):
            truth.add(fact)
        return truth

    def add(self, fact: Fact) -> None:
        """Facts come in the order of publishing; one that was added before changes nothing."""
        if str(fact.outgoing_id) in self.outgoing_ids:
            return
        self.outgoing_ids.add(str(fact.outgoing_id))
        self.topics[fact.topic] = self.topics.get(fact.topic, 0) + 1
        content = fact.content
        tid = str(content["tid"])
        if "refund_id" in content:
            self.refunds[str(content["refund_id"])] = fact.topic
        elif "action" in content:
            self.traces.add((tid, content.get("out_sid", ""), content["action"]))
        else:
            self.sellers[tid] = fact.seller
            if content["oid"] == content["tid"]:
                self.statuses[tid] = content["status"]


def traffic(count: int, *, sellers: int = 20, seed: int = 1) -> Iterator[Fact]:
    """The first `count` messages of an endless sale, in the order of publishing, many orders at a time.

    Of the orders 12 % are closed unpaid, 10 % refunded; a quarter has a line with an oid of its own.
    """
    chance = random.Random(seed)
    shops = [
        Seller(
            f"{chance.choice('云山花茶禾雪')}{chance.choice('木星桥湖鹿舟')}户外运动装备旗舰店{n}",
            733_740_000 + n,
        )
        for n in range(sellers)
    ]
    waiting: list[tuple[int, int, str, Order, dict[str, Any]]] = []
    opened_at, now, ticket = START, START, 0
    for serial in range(count):
        while not waiting or opened_at <= waiting[0][0]:
            order = new_order(chance, chance.choice(shops), opened_at)
            for at, topic, extra in life(chance, order, opened_at):
                ticket += 1
                heapq.heappush(waiting, (at, ticket, topic, order, extra))
            opened_at += chance.randrange(2 * HOUR)
        at, _, topic, order, extra = heapq.heappop(waiting)
        now = max(now + 1, at)
        yield publish(4_112_500_053_989_000_000 + seed * 10_000_000_000 + serial, topic, order, extra, now)


def new_order(chance: random.Random, seller: Seller, born: int) -> Order:
    buyer = chance.randrange(1_000_000)
    tid = (2_700_000_000_000 + born - START) * 1_000_000 + buyer  # real ones grow with time, too
    oid = tid if chance.random() < 0.75 else tid + 1_000_000
    uid = "".join(chance.choices("ABCDEFGHJKLMNPQRSTUVWXYZabcdefghjkmnpqrstuvwxyz023456789_", k=21))
    facts = {
        "buyer_nick": f"{chance.choice('abcdefghjkmnpqrstuvwxyz小李张')}**",
        "buyer_open_uid": f"AAH{uid}",
        "payment": f"{chance.randrange(100, 60_000) / 100:.2f}",
        "iid": chance.randrange(520_000_000_000, 690_000_000_000),
        "post_fee": chance.choice(("0.00", "0.00", "8.00")),
        "store_code": chance.choice(("STORE_12570001", "STORE_12570002")),
    }
    return Order(tid, oid, seller, facts)


def life(chance: random.Random, order: Order, born: int) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """(time, topic, content beyond the order's own) of all that happens to one order, in time order."""

    def trade(event: str, status: str, oid: int = order.tid, **extra: Any) -> tuple[str, dict[str, Any]]:
        return f"taobao_trade_{event}", {**order.facts, **extra, "oid": oid, "status": status}

    at = born
    yield at, *trade("TradeCreate", "WAIT_BUYER_PAY")
    if chance.random() < 0.12:
        yield at + DAY, *trade("TradeClose", "TRADE_CLOSED_BY_TAOBAO", num_iid=order.facts["iid"])
        return
    at += chance.randrange(MINUTE, 20 * MINUTE)
    yield at, *trade("TradeBuyerPay", "WAIT_SELLER_SEND_GOODS")
    if chance.random() < 0.15:
        at += chance.randrange(MINUTE, HOUR)
        yield (
            at,
            *trade(
                "TradeMemoModified",
                "WAIT_SELLER_SEND_GOODS",
                seller_memo="加急,3件一起发,地址改到前台代收,和上一单 464612224575585700 一起",
                seller_flag=1,
            ),
        )
    if chance.random() < 0.10:
        yield from refund(chance, order, at)
        yield at + 5 * HOUR, *trade("TradeClose", "TRADE_CLOSED", num_iid=order.facts["iid"])
        return
    at += chance.randrange(HOUR, 6 * HOUR)
    yield at, *trade("TradeSellerShip", "WAIT_BUYER_CONFIRM_GOODS")
    company, prefix = chance.choice(CARRIERS)
    parcel = {"out_sid": f"{prefix}{chance.randrange(10**10, 10**11)}", "company_name": company}
    for step, (action, text) in enumerate(ROUTE):
        at += chance.randrange(20 * MINUTE, 8 * HOUR)
        trace = {"action": action, "desc": text, **(parcel if step else {})}
        yield at, "taobao_logistics_LogsticDetailTrace", trace
    at += chance.randrange(HOUR, DAY)
    yield at, *trade("TradeSuccess", "TRADE_FINISHED", end_time=at)
    if chance.random() < 0.6:
        yield (
            at + chance.randrange(MINUTE, DAY),
            *trade("TradeRated", "TRADE_FINISHED", order.oid, rater="buyer"),
        )


def refund(chance: random.Random, order: Order, since: int) -> Iterator[tuple[int, str, dict[str, Any]]]:
    content = {
        "refund_id": chance.randrange(10**16, 10**17) * 100 + order.tid % 100,
        "refund_fee": order.facts["payment"],
        "buyer_nick": order.facts["buyer_nick"],
        "buyer_open_uid": order.facts["buyer_open_uid"],
        "oid": order.oid,
        "refund_phase": "onsale",
        "bill_type": "refund_bill",
    }
    for hours, event in enumerate(("RefundCreated", "RefundSellerAgreeAgreement", "RefundSuccess"), start=1):
        yield since + hours * HOUR, f"taobao_refund_{event}", content


def publish(outgoing_id: int, topic: str, order: Order, extra: dict[str, Any], at: int) -> Fact:
    """Wrap content in the ONS envelope, the content as a string that holds JSON."""
    time = datetime.fromtimestamp(at / 1000, BEIJING).strftime("%Y-%m-%d %H:%M:%S")
    content = {"tid": order.tid, **extra}
    if "action" in content:
        content["time"] = time  # traces name no seller and have no `modified`
    else:
        content.update(seller_nick=order.seller.nick, modified=time)
    if "status" in content:
        content["type"] = "guarantee_trade"
    envelope = {
        "topic": topic,
        "content": json.dumps(content, ensure_ascii=False, separators=(",", ":")),
        "outgoing_id": outgoing_id,
        "publish_time": at,
        "publisher_appkey": PUBLISHER,
        "user_id": order.seller.user_id,
        "user_nick": order.seller.nick,
    }
    body = json.dumps(envelope, ensure_ascii=False, separators=(",", ":")).encode()
    return Fact(outgoing_id, topic, str(order.tid), order.seller.nick, at, content, body)
