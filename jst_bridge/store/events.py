"""What one message says about the state of things: its events, per state table."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from jst_bridge.messages.families import LogisticsTrace, Refund, Trade
from jst_bridge.ports import Message
from jst_bridge.store.folding import Event
from jst_bridge.store.lifecycle import WHOLE_TRADE_TOPICS, refund_rank, trade_rank

__all__ = ["Events"]

_CENT: Final = Decimal("0.01")


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
        elif isinstance(content, Refund):
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
        order = (message.published_at, trade_rank(topic, status), key)
        of_line = oid is not None and oid != tid
        of_trade = not of_line or topic in WHOLE_TRADE_TOPICS
        values = (
            seller,
            user_id,
            topic,
            status if of_trade else None,
            payment if of_trade else None,
            _yuan(content.post_fee) if of_trade else None,
            content.type,
            content.buyer_nick,
            content.buyer_open_uid,
            content.seller_memo,
            content.seller_flag,
        )
        _append(self.trades, (tid,), (*order, values))
        if oid is not None and of_line:
            sku_id = None if content.sku_id is None else str(content.sku_id)
            line = (seller, user_id, topic, status, payment, message.num_iid, sku_id)
            _append(self.lines, (tid, oid), (*order, line))

    def _add_refund(self, message: Message, content: Refund, refund_id: str, key: str) -> None:
        values = (
            message.seller or None,
            message.user_id or None,
            message.topic,
            message.tid,
            message.oid,
            _yuan(content.refund_fee),
            content.refund_phase,
            content.bill_type,
            content.buyer_nick,
            content.buyer_open_uid,
            _millis(content.modified),
        )
        _append(self.refunds, (refund_id,), (message.published_at, refund_rank(message.topic), key, values))


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


def _append(events: dict[tuple[str, ...], list[Event]], key: tuple[str, ...], event: Event) -> None:
    known = events.get(key)
    if known is None:
        events[key] = [event]
    else:
        known.append(event)


def _yuan(amount: Decimal | None) -> str | None:
    """Two decimals, rounded here so that no database rounds its own way."""
    if amount is None:
        return None
    return str(amount) if amount.same_quantum(_CENT) else format(amount, ".2f")


def _millis(instant: datetime | None) -> int | None:
    return None if instant is None else round(instant.timestamp() * 1000)
