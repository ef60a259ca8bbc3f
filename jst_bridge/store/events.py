"""What one message says about the state of things: its events, per state table."""

from __future__ import annotations

from datetime import datetime
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any, Final

from jst_bridge.messages.families import Dispute, LogisticsTrace, Refund, Trade
from jst_bridge.ports import Message
from jst_bridge.store import schema
from jst_bridge.store.folding import Event
from jst_bridge.store.lifecycle import (
    ASIDE_TOPICS,
    BELATED_TOPICS,
    LINE_TOPICS,
    WHOLE_TRADE_STATUSES,
    WHOLE_TRADE_TOPICS,
    refund_rank,
    trade_rank,
)

__all__ = ["Events"]

_CENT: Final = Decimal("0.01")

_TOPIC: Final = schema.fields_of(schema.refunds).index("topic")
_STATUS: Final = schema.fields_of(schema.trades).index("status")  # in trade_lines, too

_UNDATED: Final = 0
"""The time of a value that counts only until an event with a time of its own has one: before all published_at."""

_PHASES: Final = {1: "onsale", 2: "aftersale"}
"""`dispute_type` in the words of `refund_phase`: 售中 and 售后 in both."""
_BILLS: Final = {1: "refund_bill", 2: "refund_bill", 3: "return_bill", 4: "replace_bill", 6: "replace_bill"}
"""`biz_claim_type` in the words of `bill_type`: 退款, 退货 and 换货 in both. 10 (补寄) has none."""


class Events:
    """Collects the events of a batch of messages, per key of each state table.

    The values of an event are those of `schema.fields_of` its table, in that order.
    """

    __slots__ = ("lines", "refunds", "traces", "trades", "without_id")

    def __init__(self) -> None:
        self.trades: dict[tuple[str, ...], list[Event]] = {}
        self.lines: dict[tuple[str, ...], list[Event]] = {}
        self.refunds: dict[tuple[str, ...], list[Event]] = {}
        self.traces: list[tuple[Any, ...]] = []
        self.without_id = 0

    def add(self, message: Message, key: str) -> None:
        """Take in a new message that landed under `key`."""
        content = message.content
        if isinstance(content, Trade):
            if message.tid is None:
                self.without_id += 1
            else:
                self._add_trade(message, content, message.tid, key)
        elif isinstance(content, Refund | Dispute):
            if message.refund_id is None:
                self.without_id += 1
            else:
                self._add_refund(message, content, message.refund_id, key)
        elif isinstance(content, LogisticsTrace):
            if message.tid is None:
                self.without_id += 1
            else:
                self.traces.append(_trace(message, content, key))

    def _add_trade(self, message: Message, content: Trade, tid: str, key: str) -> None:
        topic, oid, status = message.topic, message.oid, content.status
        seller, user_id = message.seller or None, message.user_id or None
        payment = _yuan(content.payment)
        published_at, rank = message.published_at, trade_rank(topic, status)
        of_line = oid is not None and oid != tid
        of_trade = topic in WHOLE_TRADE_TOPICS if of_line else oid is not None or topic not in LINE_TOPICS
        of_whole = status in WHOLE_TRADE_STATUSES
        values = (
            seller,
            user_id,
            topic,
            status if of_trade or of_whole else None,
            payment if of_trade else None,
            _yuan(content.post_fee) if of_trade else None,
            content.type,
            content.buyer_nick,
            content.buyer_open_uid,
            content.seller_memo,
            content.seller_flag,
        )
        weak = _STATUS if topic in BELATED_TOPICS else None
        _append(self.trades, (tid,), (published_at, rank, key, values), weak)
        if oid is not None and of_line:
            sku_id = None if content.sku_id is None else str(content.sku_id)
            line = (seller, user_id, topic, None if of_whole else status, payment, message.num_iid, sku_id)
            _append(self.lines, (tid, oid), (published_at, rank, key, line), weak)

    def _add_refund(self, message: Message, content: Refund | Dispute, refund_id: str, key: str) -> None:
        topic = message.topic
        if isinstance(content, Refund):
            said = (
                _yuan(content.refund_fee),
                content.refund_phase,
                content.bill_type,
                content.buyer_nick,
                content.buyer_open_uid,
            )
        else:  # whether buyer_refund_fee is in fen or yuan is not documented: no amount is better than a wrong one
            phase, bill = _PHASES.get(content.dispute_type or 0), _BILLS.get(content.biz_claim_type or 0)
            said = (None, phase, bill, None, None)
        values = (
            message.seller or None,
            message.user_id or None,
            topic,
            message.tid,
            message.oid,
            *said,
            _millis(content.modified),
        )
        event = (message.published_at, refund_rank(topic), key, values)
        _append(self.refunds, (refund_id,), event, _TOPIC if topic in ASIDE_TOPICS else None)


def _trace(message: Message, content: LogisticsTrace, key: str) -> tuple[Any, ...]:
    """A row of `logistics_traces`: traces are kept one by one, not folded."""
    return (
        key,
        message.tid,
        message.seller,
        message.user_id,
        content.out_sid,
        content.company_name,
        content.action,
        content.desc,
        _millis(content.time),
        message.published_at,
    )


def _append(
    events: dict[tuple[str, ...], list[Event]], key: tuple[str, ...], event: Event, weak: int | None = None
) -> None:
    """Add `event`. Its value number `weak` counts only until an event that was not weak has one."""
    known = events.get(key)
    if known is None:
        known = events[key] = []
    if weak is not None and event[3][weak] is not None:
        at, rank, message_key, values = event
        alone: list[Any] = [None] * len(values)
        alone[weak] = values[weak]
        known.append((_UNDATED, rank, message_key, tuple(alone)))
        event = (at, rank, message_key, (*values[:weak], None, *values[weak + 1 :]))
    known.append(event)


def _yuan(amount: Decimal | None) -> str | None:
    """Two decimals, rounded here so that no database rounds its own way; zero has no sign."""
    if amount is None:
        return None
    if not amount.same_quantum(_CENT):
        amount = amount.quantize(_CENT, ROUND_HALF_EVEN)
    return str(amount) if amount else "0.00"


def _millis(instant: datetime | None) -> int | None:
    return None if instant is None else round(instant.timestamp() * 1000)
