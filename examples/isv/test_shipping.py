"""The program against the real bridge: what Taobao publishes, and what follows from it."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

import pytest
from sqlalchemy import Connection, create_engine

from examples.isv.shipping import ToShip, to_ship
from jst_bridge.messages import Refund, Trade
from jst_bridge.sandbox.harness import SandboxHarness

PAID = "WAIT_SELLER_SEND_GOODS"


@pytest.fixture
def store(jst_sandbox: SandboxHarness) -> Iterator[Connection]:
    engine = create_engine(jst_sandbox.store_url)
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def pay(sandbox: SandboxHarness, tid: int, payment: str) -> None:
    trade = Trade(tid=tid, oid=tid, payment=Decimal(payment), status=PAID)
    sandbox.publish("taobao_trade_TradeBuyerPay", trade, seller="shop")


def test_paid_orders_are_to_be_shipped(jst_sandbox: SandboxHarness, store: Connection) -> None:
    pay(jst_sandbox, 2_918_463_734_761_365_258, "35.60")
    pay(jst_sandbox, 2_918_463_734_761_365_259, "8.00")
    jst_sandbox.wait_until_landed()
    assert to_ship(store, "shop") == [
        ToShip("2918463734761365258", Decimal("35.60")),
        ToShip("2918463734761365259", Decimal("8.00")),
    ]
    assert to_ship(store, "another shop") == []


def test_an_order_with_a_refund_under_way_is_not(jst_sandbox: SandboxHarness, store: Connection) -> None:
    pay(jst_sandbox, 1, "35.60")
    refund = Refund(refund_id=7, tid=1, oid=1, refund_fee=Decimal("35.60"), refund_phase="onsale")
    jst_sandbox.publish("taobao_refund_RefundCreated", refund, seller="shop")
    jst_sandbox.wait_until_landed()
    assert to_ship(store, "shop") == []


def test_nothing_is_lost_when_the_bridge_is_killed(jst_sandbox: SandboxHarness, store: Connection) -> None:
    for tid in range(1, 51):
        pay(jst_sandbox, tid, "1.00")
    jst_sandbox.kill_bridge()
    jst_sandbox.start_bridge()
    jst_sandbox.wait_until_landed()
    assert len(to_ship(store, "shop")) == 50
