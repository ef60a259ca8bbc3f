"""The catalogue of message types that ships with the package."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest

from jst_bridge.messages import FAMILIES, Content, family_of, lookup, search
from jst_bridge.messages.families import content_type


def test_it_holds_every_documented_topic() -> None:
    everything = search("*")
    assert len(everything) == 1279
    assert [info.topic for info in everything] == sorted({info.topic for info in everything})
    assert all(
        info.title and info.doc.startswith("https://open.taobao.com/tmc.htm?docId=") for info in everything
    )


def test_a_topic_is_described_as_its_official_page_does() -> None:
    info = lookup("taobao_refund_RefundCreated")
    assert info is not None
    assert (info.title, info.family) == ("退款创建消息", "refund")
    fields = {field.name: field for field in info.fields}
    assert fields["refund_id"].required
    assert (fields["oid"].type, fields["oid"].note) == ("number", "子订单ID")
    assert not fields["oid"].required


def test_an_unlisted_topic_is_none() -> None:
    assert lookup("acme_unheard_Of") is None
    assert lookup("") is None


def test_a_search_looks_at_name_title_and_category_without_case() -> None:
    assert lookup("taobao_trade_TradeBuyerPay") in search("tradebuyerpay")
    assert lookup("taobao_refund_RefundCreated") in search("退款创建")
    assert {info.topic for info in search("taobao_refund_*")} >= {"taobao_refund_RefundClosed"}
    assert search("no such thing [") == []


@pytest.mark.parametrize(
    ("topic", "family"),
    [
        ("taobao_trade_TradeClose", "trade"),
        ("taobao_trade_TradeRated", "rate"),
        ("taobao_traderate_ImprBadTag", "rate"),
        ("taobao_refund_RefundClosed", "refund"),
        ("taobao_dispute_ExchangeAgree", "refund"),
        ("taobao_logistics_LogsticDetailTrace", "logistics"),
        ("taobao_item_ItemAdd", "item"),
        ("taobao_fenxiao_FxOrderPaid", "fenxiao"),
        ("taobao_fuwu_OrderCreated", "other"),
        ("acme_unheard_Of", "other"),
    ],
)
def test_the_family_of_a_topic_follows_from_its_name(topic: str, family: str) -> None:
    assert family_of(topic) == family
    assert family in FAMILIES


def test_importing_the_package_reads_no_catalogue() -> None:
    program = (
        "import jst_bridge.messages as m, jst_bridge.messages.catalogue as c;"
        "assert m.family_of('taobao_item_ItemAdd') == 'item';"
        "assert c._catalogue.cache_info().currsize == 0;"
        "assert m.lookup('taobao_item_ItemAdd');"
        "assert c._catalogue.cache_info().currsize == 1"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


KINDS = sorted({content_type(info.topic) for info in search("*")}, key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_typed_field_is_optional_and_every_type_documented(kind: type[Content]) -> None:
    assert kind.__doc__
    assert all(field.default is None for field in msgspec.structs.fields(kind) if field.name != "raw")
