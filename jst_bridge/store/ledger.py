"""What the store holds of each seller, counted for people to look at: messages, orders by state, refunds."""

from __future__ import annotations

import msgspec
from sqlalchemy import func, select

from jst_bridge.store import schema
from jst_bridge.store.reader import Reader

__all__ = ["Ledger", "ledgers"]

_SHIPPED = ("SELLER_CONSIGNED_PART", "WAIT_BUYER_CONFIRM_GOODS", "TRADE_BUYER_SIGNED")


class Ledger(msgspec.Struct):
    """One seller's numbers. `paid` orders wait to be shipped; `refunded` are refunds that succeeded."""

    messages: int = 0
    paid: int = 0
    shipped: int = 0
    finished: int = 0
    refunded: int = 0


def ledgers(reader: Reader) -> dict[str, Ledger]:
    """By the seller's nick. Reads every order: for small stores. Raises StoreUnavailable, StoreError."""
    found: dict[str, Ledger] = {}
    message, trade, refund = schema.messages.c, schema.trades.c, schema.refunds.c
    for seller, count in reader.rows(select(message.seller, func.count()).group_by(message.seller)):
        found.setdefault(seller, Ledger()).messages = count
    states = select(trade.seller, trade.status, func.count()).group_by(trade.seller, trade.status)
    for seller, status, count in reader.rows(states):
        ledger = found.setdefault(seller, Ledger())
        if status == "WAIT_SELLER_SEND_GOODS":
            ledger.paid += count
        elif status in _SHIPPED:
            ledger.shipped += count
        elif status == "TRADE_FINISHED":
            ledger.finished += count
    returned = select(refund.seller, func.count()).where(refund.topic == "taobao_refund_RefundSuccess")
    for seller, count in reader.rows(returned.group_by(refund.seller)):
        found.setdefault(seller, Ledger()).refunded = count
    return found
