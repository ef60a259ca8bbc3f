"""Messages, landings and a look into the store, for tests of the store on every database."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from decimal import Decimal
from typing import Any

import psycopg
import pymysql

from jst_bridge.errors import StoreError
from jst_bridge.messages.families import Trade
from jst_bridge.ports import DeadLetter, Landing, Message, PlainDelivery, QueueKey
from jst_bridge.store import Database, LandingStore

__all__ = [
    "COMMIT",
    "DATABASE_ERRORS",
    "NOW",
    "QUEUE",
    "STATE_TABLES",
    "TID",
    "dead",
    "landing",
    "message",
    "rows",
    "state",
]

STATE_TABLES = ("trades", "trade_lines", "refunds", "logistics_traces")

QUEUE = QueueKey("jushita", "GID_bridge", "", "broker-a", "rmq_sys_jst_12345678", 3)
TID = 2918463734760365258
NOW = 1_668_100_000_000


def message(key: str = "tb:1:1", **changes: Any) -> Message:
    """A payment of an order with a single line; `changes` go to the message, its content or its body."""
    content = changes.pop("content", None)
    if content is None:
        content = Trade(tid=TID, oid=TID, status="WAIT_SELLER_SEND_GOODS", payment=Decimal("9.5"))
    body = changes.pop("body", key.encode())
    fields: dict[str, Any] = {
        "source": QUEUE.source,
        "topic": "taobao_trade_TradeBuyerPay",
        "seller": "沐微霜",
        "user_id": "733741520",
        "tid": str(TID),
        "oid": str(TID),
        "refund_id": None,
        "num_iid": None,
        "published_at": NOW,
        "published_from": "publish_time",
    }
    delivery = PlainDelivery(
        body=body,
        tag="t",
        keys="k",
        transport_id=f"T{key}",
        origin_id=f"T{key}",
        offset=7,
        born_at=NOW,
        queue=QUEUE,
    )
    return Message(key=key, content=content, delivery=delivery, **(fields | changes))


def landing(*messages: Message, **parts: Any) -> Landing:
    return Landing(
        list(messages), parts.get("dead_letters", []), parts.get("positions", []), parts.get("gaps", [])
    )


def dead(transport_id: str = "T1", **changes: Any) -> DeadLetter:
    fields: dict[str, Any] = {
        "tag": "t",
        "keys": "k",
        "origin_id": "T0",
        "offset": 7,
        "born_at": NOW,
        "body": b"{",
    }
    delivery = PlainDelivery(transport_id=transport_id, **(fields | changes))
    return DeadLetter(queue=QUEUE, delivery=delivery, reason="not_json", detail="no JSON at byte 1")


def rows(store: LandingStore | Database, query: str) -> list[tuple[Any, ...]]:
    """What another program sees, over a connection of its own: nothing that is not committed. Money is text."""
    database = store.database if isinstance(store, LandingStore) else store
    with closing(database.connect_reading()) as connection:
        cursor = connection.cursor()
        cursor.execute(query)
        return [tuple(map(plain, row)) for row in cursor.fetchall()]


DATABASE_ERRORS: tuple[type[Exception], ...] = (StoreError, sqlite3.Error, psycopg.Error, pymysql.Error)
"""What `rows` may raise."""


COMMIT = {"postgresql": b"COMMIT\0", "mysql": b"\x03COMMIT"}
"""As it goes over the wire, and nothing else does: BEGIN says READ COMMITTED."""


def plain(value: Any) -> Any:
    return str(value) if isinstance(value, Decimal) else value


def state(store: LandingStore | Database) -> dict[str, list[tuple[Any, ...]]]:
    """All state tables whole, each sorted by its key: comparable across databases."""
    return {
        table: sorted(rows(store, f"SELECT * FROM {table}"), key=lambda row: row[:2])
        for table in STATE_TABLES
    }
