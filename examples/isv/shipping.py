"""Which orders of a seller wait to be shipped, as the store of jst-bridge tells."""

from __future__ import annotations

from decimal import Decimal
from typing import NamedTuple

from sqlalchemy import Connection, text

__all__ = ["ToShip", "to_ship"]

_QUERY = text(
    "SELECT tid, payment FROM trades WHERE seller = :seller AND status = 'WAIT_SELLER_SEND_GOODS'"
    " AND tid NOT IN (SELECT tid FROM refunds WHERE topic <> 'taobao_refund_RefundClosed' AND tid IS NOT NULL)"
    " ORDER BY published_at, tid"
)


class ToShip(NamedTuple):
    """One order to be shipped."""

    tid: str
    payment: Decimal
    """Yuan."""


def to_ship(connection: Connection, seller: str) -> list[ToShip]:
    """Paid orders without a refund under way, the oldest first."""
    rows = connection.execute(_QUERY, {"seller": seller})
    return [ToShip(tid, Decimal(payment)) for tid, payment in rows]
