"""A store compared with the truth of generated traffic, row by row, column by column."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from jst_bridge.sandbox.traffic import Truth
from jst_bridge.store import LandingStore
from jst_bridge.store.database import Database
from tests.stores import rows

__all__ = ["assert_store_holds"]

MONEY = {"payment", "post_fee", "refund_fee"}
WHO = ("seller", "user_id")
TRADE = (*WHO, "topic", "status", "payment", "post_fee", "type", "buyer_nick", "buyer_open_uid", "seller_memo",
         "seller_flag")  # fmt: skip
LINE = (*WHO, "topic", "status", "payment", "num_iid", "sku_id")
REFUND = (*WHO, "topic", "tid", "oid", "refund_fee", "refund_phase", "bill_type", "buyer_nick", "buyer_open_uid",
          "modified_at")  # fmt: skip
TRACE = (*WHO, "tid", "out_sid", "company_name", "action", "description", "traced_at")


def assert_store_holds(store: LandingStore | Database, truth: Truth, app_key: str) -> None:
    """Nothing else, nothing less, and every column of it as the truth says."""
    messages = rows(store, "SELECT message_key, topic, seller, tid FROM messages")
    assert sorted(messages, key=repr) == sorted(
        ((f"tb:{app_key}:{number}", *said) for number, said in truth.messages.items()), key=repr
    )
    _same(store, "trades", ("tid",), TRADE, {(tid,): row for tid, row in truth.trades.items()})
    _same(store, "trade_lines", ("tid", "oid"), LINE, truth.trade_lines)
    _same(store, "refunds", ("refund_id",), REFUND, {(key,): row for key, row in truth.refunds.items()})
    traces = {(f"tb:{app_key}:{number}",): row for number, row in truth.traces.items()}
    _same(store, "logistics_traces", ("message_key",), TRACE, traces)
    letters = Counter(
        (reason, bytes(body)) for reason, body in rows(store, "SELECT reason, body FROM dead_letters")
    )
    assert letters == truth.bad


def _same(
    store: LandingStore | Database,
    table: str,
    key: tuple[str, ...],
    columns: tuple[str, ...],
    truth: Mapping[Any, dict[str, Any]],
) -> None:
    found = {
        row[: len(key)]: dict(zip(columns, row[len(key) :], strict=True))
        for row in rows(store, f"SELECT {', '.join((*key, *columns))} FROM {table}")
    }
    assert found.keys() == truth.keys(), table
    for name, row in truth.items():
        told = {column: _value(column, row[column]) for column in columns}
        held = {column: _value(column, found[name][column]) for column in columns}
        assert held == told, (table, name)


def _value(column: str, value: Any) -> Any:
    return Decimal(value) if column in MONEY and value is not None else value
