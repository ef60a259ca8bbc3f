"""Five days of a sale as a store sees them: messages with the time each landed, and answers worked out in Python.

The lives of orders are those of `tests.traffic`, at their true speed; what a sale has besides (partly shipped orders,
open refunds, silent sellers) is added by hand. `Answers` says what the queries of docs/store.md must find, from the
facts alone: it knows nothing of tables or folding.
"""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from tests.traffic import BEIJING, START, traffic

__all__ = ["DAY", "HOUR", "NOW", "ORDER", "TODAY", "Answers", "Said", "beijing", "sale"]

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
NOW = 1_668_513_600_000
"""2022-11-15 20:00 in Beijing."""
TODAY = NOW - 20 * HOUR
"""The midnight before it."""
SPEED = 60
"""Time in `tests.traffic` runs so many times as fast."""
ORDER = 9_300_000_000_000_000_001
"""The tid of the first order made by hand; beyond 2^63, which the store does not mind."""

WAITING, SHIPPED, PARTLY = "WAIT_SELLER_SEND_GOODS", "WAIT_BUYER_CONFIRM_GOODS", "SELLER_CONSIGNED_PART"
ENDED = ("RefundSuccess", "RefundClosed", "ExchangeSuccess")
Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Said:
    """One published message. Times in epoch ms."""

    number: int
    topic: str
    seller: str
    at: int
    landed_at: int
    content: dict[str, Any]

    @property
    def body(self) -> bytes:
        """The ONS envelope, without a nick where there is no seller."""
        text = datetime.fromtimestamp(self.at / 1000, BEIJING).strftime("%Y-%m-%d %H:%M:%S")
        content = {**self.content, "time" if "action" in self.content else "modified": text}
        envelope = {
            "topic": self.topic,
            "content": json.dumps(content, ensure_ascii=False),
            "outgoing_id": self.number,
            "publish_time": self.at,
            "user_id": 733_740_000,
            **({"user_nick": self.seller} if self.seller else {}),
        }
        return json.dumps(envelope, ensure_ascii=False).encode()

    @property
    def tid(self) -> str:
        return str(self.content["tid"])


def beijing(at: int) -> str:
    """As the views show it."""
    return f"{datetime.fromtimestamp(at // 1000, BEIJING):%Y-%m-%d %H:%M:%S}.{at % 1000:03}"


def sale(count: int = 900, seed: int = 5) -> list[list[Said]]:
    """Batches in the order of landing, each of one moment up to NOW; of most batches one message comes again."""
    chance = random.Random(seed)
    arrivals: list[tuple[int, int, str, str, int, dict[str, Any]]] = []
    by_hand = [(*said[:2], said[2] + 7 * n, said[3]) for n, said in enumerate(_by_hand())]  # no two at once
    for number, (topic, seller, at, content) in enumerate([*_lives(count), *by_hand], start=1):
        delay = chance.choice((300, 2_000, 30_000)) if chance.random() < 0.9 else chance.randrange(5 * HOUR)
        arrivals.append((at + delay, number, topic, seller, at, content))
    arrivals.sort(key=lambda arrival: arrival[:2])
    batches: list[list[Said]] = []
    first = 0
    while first < len(arrivals):
        together = arrivals[first : first + (20 if arrivals[first][0] < NOW - 6 * HOUR else 1)]
        first += len(together)
        landed_at = together[-1][0]
        if landed_at > NOW:
            break
        batch = [
            Said(number, topic, seller, at, landed_at, content)
            for _, number, topic, seller, at, content in together
        ]
        again = chance.sample(batches[-1], 1) if batches else []
        chance.shuffle(batch)
        batches.append([*batch, *again])
    return batches


def _lives(count: int) -> Iterator[tuple[str, str, int, dict[str, Any]]]:
    for fact in traffic(count, sellers=6):
        content = {name: value for name, value in fact.content.items() if name not in ("modified", "time")}
        yield fact.topic, fact.seller, START + (fact.published_at - START) * SPEED, content


def _by_hand() -> Iterator[tuple[str, str, int, dict[str, Any]]]:
    """(topic, seller, published_at, content)"""
    serial = 0

    def order() -> int:
        nonlocal serial
        serial += 1
        return ORDER + serial - 1

    def trade(event: str, tid: int, hours: float, **content: Any) -> tuple[str, str, int, dict[str, Any]]:
        seller = content.pop("seller", "Shop")
        return (
            f"taobao_trade_{event}",
            seller,
            NOW - int(hours * HOUR),
            {"tid": tid, "oid": tid, "payment": "10.10", **content},
        )

    def refund(topic: str, tid: int, hours: float, refund_id: int, seller: str = "shop") -> Any:
        return f"taobao_{topic}", seller, NOW - int(hours * HOUR), {"tid": tid, "refund_id": refund_id}

    def line(tid: int, number: int) -> int:
        return tid + number * 1_000_000

    for shipped, status in ((1, SHIPPED), (1, PARTLY), (2, SHIPPED)):
        tid = order()
        for number in (1, 2):
            yield trade("TradeBuyerPay", tid, 21.5 - number / 4, oid=line(tid, number), status=WAITING)
        for number in range(1, shipped + 1):
            yield trade("TradePartlySellerShip", tid, 12 - number / 4, oid=line(tid, number), status=status)
    for opened, topics in (
        (60, ["refund_RefundCreated"]),
        (59, ["refund_RefundCreated", "refund_RefundClosed"]),
        (70, ["refund_RefundCreated", "refund_RefundSellerAgreeAgreement"]),
        (10, ["refund_RefundCreated"]),
        (50, ["dispute_ExchangeAgree"]),
        (52, ["dispute_ExchangeAgree", "dispute_ExchangeSuccess"]),
    ):
        tid = order()
        yield trade("TradeBuyerPay", tid, opened + 3, status=WAITING, seller="shop")
        for step, topic in enumerate(topics):
            seller = "" if topic.startswith("dispute") else "shop"
            yield refund(topic, tid, opened - 40 * step / 10, 40_000_000_000_000_000 + tid % 1_000, seller)
    for hours, actions in ((60.5, []), (70.5, ["GOT"]), (71.5, ["GOT", "SIGNED"]), (10.5, ["GOT"])):
        tid = order()
        yield trade("TradeSellerShip", tid, hours, status=SHIPPED, seller_memo="加急 100%")
        for step, action in enumerate(actions, start=1):
            trace = {"tid": tid, "action": action, "out_sid": f"YT{tid}", "company_name": "圆通速递"}
            yield "taobao_logistics_LogsticDetailTrace", "Shop", NOW - int((hours - step) * HOUR), trace
    tid = order()
    yield trade("TradeMemoModified", tid, 4.3, status=WAITING, seller_memo="很急!'\\", seller_flag=3)
    tid = order()
    for hours in (5.1, 5.2):
        yield trade("TradeBuyerPay", tid, hours, status=WAITING, payment="0.3")
    yield trade("TradeBuyerPay", order(), 80, status="TRADE_FINISHED", seller="静默的店")


class Answers:
    """What the queries must find in what landed."""

    def __init__(self, batches: Sequence[Sequence[Said]]) -> None:
        landed: dict[int, Said] = {}
        for batch in batches:
            for said in batch:
                landed.setdefault(said.number, said)
        self.landed = list(landed.values())
        self.said = sorted(self.landed, key=lambda said: said.at)
        assert len({said.at for said in self.said}) == len(self.said), "one message must be the newest"
        self.orders: dict[str, dict[str, Any]] = {}
        self.lines: dict[tuple[str, str], str] = {}
        self.refunds: dict[str, dict[str, Any]] = {}
        self.paid: dict[str, list[int]] = defaultdict(list)
        self.traces: dict[str, list[Said]] = defaultdict(list)
        for said in self.said:
            if said.topic.startswith("taobao_trade_"):
                self._trade(said)
            elif "refund_id" in said.content:
                refund = self.refunds.setdefault(
                    str(said.content["refund_id"]), {"since": said.at, "seller": ""}
                )
                refund |= {"topic": said.topic.rpartition("_")[2], "full": said.topic, "tid": said.tid}
                refund["seller"] = said.seller or refund["seller"]
                refund["fee"] = said.content.get("refund_fee")
            else:
                self.traces[said.tid].append(said)

    def _trade(self, said: Said) -> None:
        content, tid = said.content, said.tid
        order = self.orders.setdefault(tid, {"status": None, "payment": None, "memo": None, "flag": None})
        order |= {"seller": said.seller, "newest": said.at}
        own = content["oid"] == content["tid"]
        if own or said.topic.endswith(("TradeCreate", "TradeBuyerPay")):
            order |= {"status": content["status"], "payment": Decimal(content["payment"])}
        if content["status"] == PARTLY:
            order["status"] = PARTLY
        elif not own:
            self.lines[tid, str(content["oid"])] = content["status"]
        order["memo"] = content.get("seller_memo", order["memo"])
        order["flag"] = content.get("seller_flag", order["flag"])
        if said.topic.endswith("TradeBuyerPay"):
            self.paid[tid].append(said.at)

    def of_order(self, status: str) -> Iterator[tuple[str, dict[str, Any]]]:
        return ((tid, order) for tid, order in self.orders.items() if order["status"] == status)

    def waiting(self) -> list[Row]:
        held = {refund["tid"] for refund in self.refunds.values() if refund["topic"] != "RefundClosed"}
        found = [
            (order["seller"], tid, order["payment"], min(self.paid[tid], default=order["newest"]))
            for tid, order in self.of_order(WAITING)
            if tid not in held
        ]
        return sorted(found, key=lambda row: (row[0], row[3], row[1]))

    def paid_today(self) -> list[Row]:
        revenue: dict[str, list[Decimal]] = defaultdict(list)
        for tid, times in self.paid.items():
            if any(TODAY <= at < TODAY + DAY for at in times):
                revenue[self.orders[tid]["seller"]].append(self.orders[tid]["payment"])
        found = [(seller, len(amounts), sum(amounts)) for seller, amounts in revenue.items()]
        return sorted(found, key=lambda row: (-row[2], row[0]))

    def open_refunds(self) -> list[Row]:
        found = [
            (
                one["seller"],
                refund_id,
                one["tid"],
                one["fee"] and Decimal(one["fee"]),
                one["full"],
                one["since"],
            )
            for refund_id, one in self.refunds.items()
            if one["topic"] not in ENDED and one["since"] < NOW - 2 * DAY
        ]
        return sorted(found, key=lambda row: (row[5], row[1]))

    def waiting_lines(self) -> list[Row]:
        begun = {tid for (tid, _), status in self.lines.items() if status in (SHIPPED, "TRADE_FINISHED")}
        begun |= {tid for status in (PARTLY, SHIPPED) for tid, _ in self.of_order(status)}
        return sorted(
            (self.orders[tid]["seller"], tid, self.orders[tid]["status"], oid)
            for (tid, oid), status in self.lines.items()
            if status == WAITING and tid in begun
        )

    def stalled(self) -> list[Row]:
        found = []
        for tid, order in self.of_order(SHIPPED):
            traces = self.traces[tid]
            # traces carry their time in whole seconds
            last_at = max((trace.at // 1000 * 1000 for trace in traces), default=order["newest"])
            if last_at < NOW - 2 * DAY and all(trace.content["action"] != "SIGNED" for trace in traces):
                parcels = [trace.content["out_sid"] for trace in traces if "out_sid" in trace.content]
                found.append((order["seller"], tid, max(parcels, default=None), last_at))
        return sorted(found, key=lambda row: (row[3], row[1]))

    def urgent(self) -> list[Row]:
        return sorted(
            (order["seller"], tid, order["flag"], order["memo"])
            for tid, order in self.of_order(WAITING)
            if "急" in (order["memo"] or "")
        )

    def of_one_order(self, tid: str) -> list[Row]:
        def number(said: Said, name: str) -> str | None:
            return str(said.content[name]) if name in said.content else None

        return [
            (
                beijing(said.at),
                said.topic,
                number(said, "oid"),
                number(said, "refund_id"),
                beijing(said.landed_at),
            )
            for said in self.said
            if said.tid == tid
        ]

    def per_hour(self) -> list[Row]:
        counted = Counter((said.at // HOUR * HOUR, said.topic) for said in self.said if said.at >= NOW - DAY)
        return [(*key, count) for key, count in sorted(counted.items())]

    def latest(self) -> list[Row]:
        behind: dict[str, list[int]] = defaultdict(list)
        newest: dict[str, int] = {}
        for said in self.said:
            if said.landed_at > NOW - DAY:
                behind[said.seller].append(said.landed_at - said.at)
                newest[said.seller] = said.at
        found = [
            (
                *(seller, newest[seller], len(ms), max(ms)),
                *(sum(one > limit for one in ms) for limit in (10_000, 600_000)),
            )
            for seller, ms in behind.items()
        ]
        return sorted(found, key=lambda row: (-row[3], row[0]))

    def silent(self) -> list[Row]:
        newest = {said.seller: said.at for said in self.said}
        found = [(seller, at) for seller, at in newest.items() if seller and at < NOW - DAY]
        return sorted(found, key=lambda row: (row[1], row[0]))

    def late(self, app_key: str) -> list[Row]:
        found = [
            (
                f"tb:{app_key}:{said.number}",
                said.seller,
                said.topic,
                said.tid,
                said.at,
                said.landed_at - said.at,
            )
            for said in self.said
            if said.landed_at >= NOW - DAY and said.landed_at - said.at > 10 * MINUTE
        ]
        return sorted(found, key=lambda row: (-row[5], row[0]))
