"""The typed content of each family of messages.

Names are the official field names. Every field is optional: real bodies miss fields that the documentation
calls required, and gain fields that it does not know. What a Struct does not carry is in `extra`.

Source: the message pages of open.taobao.com/tmc.htm (one per topic, see `catalogue`), and bodies seen in the
wild for the fields that those pages lack (iid, post_fee, end_time).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, TypeVar

import msgspec

from jst_bridge.messages.json_text import parse
from jst_bridge.messages.values import READERS, Flag, Id, Instant, Integer, Name, Text, Word, Yuan

__all__ = [
    "Content",
    "Dispute",
    "Fenxiao",
    "ImpressionTag",
    "Item",
    "LogisticsTrace",
    "Other",
    "Refund",
    "Trade",
    "TradeRated",
    "content_type",
    "read_fields",
]

Ids = tuple[int | None, int | None, int | None, int | None]
"""tid, oid, refund_id, num_iid."""

C = TypeVar("C", bound="Content")


class Content(msgspec.Struct, gc=False):
    """What every family has: the content as it came, and what of it the typed fields do not carry."""

    raw: str | dict[str, Any] = ""
    """The content as the envelope held it: JSON text (normally) or an object. '' when it was empty."""

    @property
    def extra(self) -> dict[str, Any]:
        """The fields that are unknown here, or whose value the typed field cannot hold.

        Parsed from `raw` at each access: keep the result if you need it twice.
        """
        try:
            fields = parse(self.raw) if isinstance(self.raw, str) else self.raw
        except (ValueError, RecursionError):
            return {}
        if not isinstance(fields, dict):
            return {}
        carried = {name for name in self.__struct_fields__ if getattr(self, name) is not None} - {"raw"}
        return {name: value for name, value in fields.items() if name not in carried and value is not None}

    def ids(self) -> Ids:
        """The ids that a message is found by: tid, oid, refund_id, num_iid."""
        return None, None, None, None


class Trade(Content, gc=False):
    """taobao_trade_*: an event of an order (交易) or of one of its lines (子订单)."""

    buyer_nick: Name | None = None
    """Buyer's nick (买家昵称), masked (`c**`) since 2021: never a key."""
    payment: Yuan | None = None
    """What the buyer pays (实付金额) for the order or the line, in yuan."""
    status: Word | None = None
    """Order status (交易状态), e.g. WAIT_SELLER_SEND_GOODS. Never ship on TRADE_CLOSED_BY_TAOBAO."""
    iid: Id | None = None
    """Item id (商品数字ID); the old name of num_iid, still sent."""
    oid: Id | None = None
    """Line id (子订单ID); equals tid when the order has a single line."""
    tid: Id | None = None
    """Order id (主订单ID, 交易编号)."""
    type: Word | None = None
    """Kind of trade (交易类型): guarantee_trade nearly always; fixed, auction, cod, fenxiao, step, ..."""
    post_fee: Yuan | None = None
    """Postage (邮费) in yuan."""
    seller_nick: Name | None = None
    """Seller's nick (卖家昵称)."""
    buyer_open_uid: Name | None = None
    """Stable, encrypted buyer id (买家 open uid), 24 characters; replaces buyer_nick."""
    end_time: Instant | None = None
    """When the order ended (交易结束时间)."""
    modified: Instant | None = None
    """When the order, or with refund_id the refund, last changed (修改时间)."""
    seller_memo: Text | None = None
    """Seller's note (卖家备注): free text."""
    seller_flag: Flag | None = None
    """Seller's flag (卖家旗标): 0 to 5 classically, newer flags are higher."""
    action_type: Text | None = None
    """Whose note changed (TradeMemoModified): buyer, seller, other."""
    num_iid: Id | None = None
    """Item id (商品数字ID)."""
    sku_id: Id | None = None
    """SKU id (商品 SKU ID)."""
    num: Integer | None = None
    """Quantity (商品数量)."""
    sku_num: Integer | None = None
    """Quantity of the SKU (SKU 数量)."""
    increment: Integer | None = None
    """Change of stock (库存变化量): negative when it fell."""
    changed_fields: Text | None = None
    """Changed item fields (修改字段), separated by commas."""
    price: Yuan | None = None
    """Item price (商品价格) in yuan."""
    title: Text | None = None
    """Item title (商品标题)."""
    refund_id: Id | None = None
    """Refund id (退款编号), where the event belongs to one."""
    refund_fee: Yuan | None = None
    """Amount refunded (退款金额) in yuan."""
    refund_phase: Word | None = None
    """onsale (售中, before completion) or aftersale (售后)."""
    bill_type: Word | None = None
    """refund_bill (退款单), return_bill (退货单) or replace_bill (换货单)."""
    store_code: Text | None = None
    """Warehouse code (仓库编码)."""
    user_type: Integer | None = None
    """1 Taobao seller (淘宝卖家), 2 Tmall seller (天猫卖家)."""

    def ids(self) -> Ids:
        return self.tid, self.oid, self.refund_id, self.num_iid or self.iid


class TradeRated(Trade, gc=False):
    """taobao_trade_TradeRated: an order was reviewed (评价); sent again when a review is appended."""

    rater: Text | None = None
    """Who reviewed (评价者): buyer, seller, unknown."""


class ImpressionTag(Content, gc=False):
    """taobao_traderate_ImprBadTag: a review with a negative impression (负面印象评价)."""

    tid: Id | None = None
    """Order id (交易主订单号)."""
    oid: Id | None = None
    """Line id (交易子订单号), or the order id when there are no lines."""
    num_iid: Id | None = None
    """Item id (商品编号)."""
    seller_nick: Name | None = None
    """Seller's nick (卖家昵称)."""
    biz_type: Integer | None = None
    """0 review (评价), 3 appended review (追评)."""
    feedback: Text | None = None
    """The review (评价内容): free text."""
    impr_words: Text | None = None
    """Phrases found in it (印象标签): `category-负面-phrase`, separated by semicolons."""
    gmt_modified: Instant | None = None
    """When the review last changed (评价修改时间)."""

    def ids(self) -> Ids:
        return self.tid, self.oid, None, self.num_iid


class Refund(Content, gc=False):
    """taobao_refund_*: an event of a refund (退款). All share one shape: only the topic tells them apart."""

    buyer_nick: Name | None = None
    """Buyer's nick (买家昵称), masked since 2021."""
    buyer_open_uid: Name | None = None
    """Stable, encrypted buyer id (买家 open uid)."""
    refund_id: Id | None = None
    """Refund id (退款编号)."""
    refund_fee: Yuan | None = None
    """Amount to refund (退款金额) in yuan."""
    oid: Id | None = None
    """Line id (子订单ID)."""
    tid: Id | None = None
    """Order id (主订单ID)."""
    refund_phase: Word | None = None
    """onsale (售中, before completion) or aftersale (售后)."""
    bill_type: Word | None = None
    """refund_bill (退款单), return_bill (退货单) or replace_bill (换货单)."""
    seller_nick: Name | None = None
    """Seller's nick (卖家昵称)."""
    modified: Instant | None = None
    """When the refund last changed (更新时间)."""

    def ids(self) -> Ids:
        return self.tid, self.oid, self.refund_id, None


class Dispute(Content, gc=False):
    """taobao_dispute_*: the newer refund, exchange and reshipping events (新退款, 换货, 补寄)."""

    refund_id: Id | None = None
    """Refund id (退款ID)."""
    tid: Id | None = None
    """Order id (支付单ID, 主订单ID)."""
    oid: Id | None = None
    """Line id (子订单ID)."""
    seller_open_uid: Text | None = None
    """Stable, encrypted seller id (卖家 openUid); these events carry no nick."""
    buyer_refund_fee: Yuan | None = None
    """Amount concerned (涉及金额), as sent: its unit is not documented, fen (分) suspected."""
    dispute_type: Integer | None = None
    """1 onsale (售中), 2 aftersale (售后)."""
    biz_claim_type: Integer | None = None
    """1, 2 refund (退款), 3 return (退货退款), 4, 6 exchange (换货), 10 reshipping (补寄)."""
    create: Instant | None = None
    """When it was applied for (创建时间)."""
    modified: Instant | None = None
    """When it last changed (更新时间)."""

    def ids(self) -> Ids:
        return self.tid, self.oid, self.refund_id, None


class LogisticsTrace(Content, gc=False):
    """taobao_logistics_LogsticDetailTrace (official misspelling): one step of a parcel (物流详情跟踪).

    It names no seller: the envelope does.
    """

    tid: Id | None = None
    """Order id (主订单ID)."""
    out_sid: Name | None = None
    """Waybill number (运单号): letters and leading zeros happen."""
    company_name: Name | None = None
    """Carrier (物流公司名称)."""
    action: Word | None = None
    """The step (事件): CREATE, CONSIGN, GOT, ARRIVAL, DEPARTURE, SENT_SCAN, SIGNED, ...; an open list."""
    desc: Text | None = None
    """The step in words (流转信息)."""
    time: Instant | None = None
    """When it happened (处理时间)."""

    def ids(self) -> Ids:
        return self.tid, None, None, None


class Item(Content, gc=False):
    """taobao_item_*: an event of an item (商品)."""

    nick: Name | None = None
    """Seller's nick (卖家昵称)."""
    num_iid: Id | None = None
    """Item id (商品数字ID)."""
    sku_id: Id | None = None
    """SKU id (商品 SKU ID)."""
    num: Integer | None = None
    """Stock (商品数量)."""
    sku_num: Integer | None = None
    """Stock of the SKU (SKU 数量)."""
    increment: Integer | None = None
    """Change of stock (库存变化量): negative when it fell."""
    changed_fields: Text | None = None
    """Changed fields (修改字段) as sent; see `changed`."""
    price: Yuan | None = None
    """Price (商品价格) in yuan."""
    title: Text | None = None
    """Title (商品标题)."""
    status: Word | None = None
    """Item status (商品状态)."""
    modified: Instant | None = None
    """When the item changed (修改时间); only in bodies of the old notify service."""

    @property
    def changed(self) -> tuple[str, ...]:
        """The names in `changed_fields`, which come with stray spaces and newlines between them."""
        return tuple(filter(None, map(str.strip, (self.changed_fields or "").split(","))))

    def ids(self) -> Ids:
        return None, None, None, self.num_iid


class Fenxiao(Content, gc=False):
    """taobao_fenxiao_*, taobao_jzfx_*: events of purchase orders between distributor and supplier (分销)."""

    tc_order_id: Id | None = None
    """Order id at Taobao (淘宝订单ID): the message's tid. Sent as 0 before payment."""
    sub_order_id: Id | None = None
    """Line id of the purchase order (分销子订单ID)."""
    fenxiao_id: Id | None = None
    """Purchase order id (分销订单ID)."""
    purchase_id: Id | None = None
    """Purchase order id of home furnishing (家装采购单号)."""
    supplier_username: Text | None = None
    """Supplier's nick (供应商账号)."""
    distributor_username: Text | None = None
    """Distributor's nick (分销商账号)."""
    refund_fee: Yuan | None = None
    """Amount refunded (分销退款金额) in yuan."""
    refund_flow_type: Integer | None = None
    """4 before shipping (发货前), 1 after it, no return, 2 with return (退货), 3 after completion (维权)."""
    trade_type: Text | None = None
    """Kind of purchase order (分销订单类型), e.g. AGENT (代销)."""
    status: Word | None = None
    """Status of the purchase order (采购单状态)."""
    distributor_payment: Yuan | None = None
    """What the distributor paid (分销商付款金额) in yuan."""
    post_fee: Yuan | None = None
    """Postage (邮费) in yuan."""
    adjust_fee: Yuan | None = None
    """Adjustment (调整金额) in yuan."""
    logistics_company_name: Text | None = None
    """Carrier (物流公司)."""
    logistics_id: Text | None = None
    """Waybill number (运单号)."""
    shipping: Text | None = None
    """Way of shipping (物流方式), e.g. EXPRESS."""
    alipay_no: Text | None = None
    """Alipay's number of the payment (支付宝交易号)."""
    modified: Instant | None = None
    """When the purchase order last changed (修改时间)."""

    def ids(self) -> Ids:
        return self.tc_order_id, None, None, None


class Other(Content, gc=False):
    """Any other topic: carried raw. Only the fields that nearly all families share are looked at."""

    tid: Id | None = None
    """Order id (主订单ID)."""
    oid: Id | None = None
    """Line id (子订单ID)."""
    refund_id: Id | None = None
    """Refund id (退款编号)."""
    num_iid: Id | None = None
    """Item id (商品数字ID)."""
    seller_nick: Name | None = None
    """Seller's nick (卖家昵称)."""
    nick: Name | None = None
    """The user's nick (用户昵称): the seller's in taobao_fuwu_*, which names nobody in its envelope."""
    modified: Instant | None = None
    """When the thing last changed (修改时间)."""

    def ids(self) -> Ids:
        return self.tid, self.oid, self.refund_id, self.num_iid


_TYPES: tuple[tuple[str, type[Content]], ...] = (
    ("taobao_trade_TradeRated", TradeRated),
    ("taobao_trade_", Trade),
    ("taobao_traderate_", ImpressionTag),
    ("taobao_refund_", Refund),
    ("taobao_dispute_", Dispute),
    ("taobao_logistics_LogsticDetailTrace", LogisticsTrace),
    ("taobao_item_", Item),
    ("taobao_fenxiao_", Fenxiao),
    ("taobao_jzfx_", Fenxiao),
)


def content_type(topic: str) -> type[Content]:
    """The Struct that types the content of `topic`; Other when none does."""
    return next((kind for prefix, kind in _TYPES if topic.startswith(prefix)), Other)


@cache
def _readers(kind: type[Content]) -> dict[str, Callable[[object], Any]]:
    fields = msgspec.structs.fields(kind)
    return {field.name: READERS[field.type] for field in fields if field.name != "raw"}


def read_fields(kind: type[C], fields: Mapping[str, Any]) -> C:
    """`kind` from parsed JSON: a value that its field cannot hold is left out, never an error."""
    readers = _readers(kind)
    return kind(**{name: reader(fields[name]) for name, reader in readers.items() if name in fields})
