"""Where in its life an order (交易) or a refund (退款) stands, and what an event says of it.

Two events of one order may carry the same millisecond, and Taobao promises no order of arrival. The event
further along the life-cycle then counts as the later one. Ranks only compare; steps of ten leave room.

Sources: the pages of the TOP message catalogue, open.taobao.com/tmc.htm?docId=N&docType=9; `messages.catalogue`
holds them, the number N stands below as (N). What they leave open is read so that no order is shown as further
than it is; each such place says so.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "ASIDE_TOPICS",
    "BELATED_TOPICS",
    "LINE_TOPICS",
    "WHOLE_TRADE_STATUSES",
    "WHOLE_TRADE_TOPICS",
    "refund_rank",
    "topic_rank",
    "trade_rank",
]

SILENT: Final = 0
"""An event that says nothing about how far things are (memo, address, reminder): behind every other."""

STATUS_RANKS: Final = {
    # The list in the field `status`, with its Chinese words, of (102) to (104), (116) and most other trade pages.
    "TRADE_NO_CREATE_PAY": 10,  # the Alipay (支付宝) order does not exist yet
    "WAIT_BUYER_PAY": 20,
    "WAIT_PRE_AUTH_CONFIRM": 25,  # 0元购合约中: a preauthorisation; it is listed, its place is our reading
    "PAY_PENDING": 30,  # paid by foreign card (国际信用卡), not yet confirmed
    "WAIT_SELLER_SEND_GOODS": 40,
    "SELLER_CONSIGNED_PART": 50,  # some lines of the order are shipped
    "WAIT_BUYER_CONFIRM_GOODS": 60,
    "TRADE_BUYER_SIGNED": 70,  # cash on delivery: signed for, money not yet settled
    "TRADE_FINISHED": 80,
    # The closings outweigh everything of the same millisecond: (115) warns never to ship a closed order.
    "TRADE_CLOSED": 90,  # refunded after payment
    "TRADE_CLOSED_BY_TAOBAO": 90,  # never paid; excludes the other end
}

TRADE_TOPIC_RANKS: Final = {
    # The rank of the status that the title of the topic's page announces: old and short bodies carry no status
    # (all samples of 2011 to 2014), and (105), (674) list none.
    "taobao_trade_TradeCreate": 15,  # (101) before payment, with or without an Alipay order
    "taobao_trade_TradeCreateDelay": 15,  # (2360)
    "taobao_trade_TradeAlipayCreate": 20,  # (116)
    "taobao_trade_TradeModifyFee": 22,  # (102) only an unpaid order can be repriced
    "taobao_trade_TradeBuyerStepPay": 25,  # (674) the deposit (定金) of a pre-sale, the balance is still due
    "taobao_trade_TradeBuyerPaySubOut": 40,  # (2322)
    "taobao_trade_TradeBuyerPay": 40,  # (105) paid, with a pre-sale its balance (尾款)
    "taobao_trade_TradePartlySellerShip": 50,  # (117)
    "taobao_trade_TradeSellerShip": 60,  # (106)
    "taobao_trade_TradeDelayConfirmPay": 62,  # (107) only shipped goods can be received later
    "taobao_trade_TradePartlyConfirmPay": 70,  # (109) one line's money was paid out
    "taobao_trade_TradePeriodSuccess": 70,  # (2092) a stage (阶段) succeeded: open whether the last, so not the end
    "taobao_trade_TradeSuccess": 80,  # (110)
    "taobao_trade_TradeSuccessDelay": 80,  # (2362)
    "taobao_trade_TradeRated": 85,  # (112) rating needs a finished trade
    "taobao_trade_TradeRatedOut": 85,  # (2323)
    "taobao_trade_TradeClose": 90,  # (104)
    # Without rank, since their titles announce no status: TradeChanged (115), TradeMemoModified (113),
    # TradeTimeoutRemind (111), TradeLogisticsAddressChanged (114), TradeCloseAndModifyDetailOrder (103: closed or
    # only changed), TradePartlyRefund (108: of a line), OrderSkuChanged (2676), AdvanceDisburse (1533).
}

REFUND_TOPIC_RANKS: Final = {
    # A refund event carries no status: its topic is the state. The order is that of the titles' sense.
    "taobao_refund_RefundCreated": 10,  # (118)
    "taobao_refund_RefundBuyerModifyAgreement": 20,  # (121)
    "taobao_refund_RefundSellerRefuseAgreement": 30,  # (120)
    "taobao_refund_TaobaoInterApplied": 40,  # (663) the buyer calls Taobao in after a refusal
    "taobao_refund_TaobaoIntervened": 50,  # (664)
    "taobao_refund_RefundSellerAgreeAgreement": 60,  # (119)
    "taobao_refund_RefundBuyerReturnGoods": 70,  # (122) goods go back only after agreement
    "taobao_refund_RefundClosed": 90,  # (126)
    "taobao_refund_RefundSuccess": 95,  # (127) money that moved outweighs a closing in the same millisecond
    # The newer generation (新退款, 换货, 补寄). Its refund_id is the refund's by the field notes (退款id, 退款单ID).
    "taobao_dispute_RefundCreated": 10,  # (2451)
    "taobao_dispute_ReshippingBuyerApply": 10,  # (2717)
    "taobao_dispute_ExchangeTurnToRefund": 15,  # (2509) an exchange goes on as a refund
    "taobao_dispute_ExchangeModified": 20,  # (2514)
    "taobao_dispute_ReshippingBuyerModify": 20,  # (2720)
    "taobao_dispute_NegotiationApply": 22,  # (2666) the seller proposes
    "taobao_dispute_NegotiationRefused": 24,  # (2668)
    "taobao_dispute_NegotiationAgreed": 26,  # (2667) to the proposal: the money has not moved
    "taobao_dispute_ReshippingSellerRefused": 30,  # (2718)
    "taobao_dispute_TaobaoInterApplied": 40,  # (2532)
    "taobao_dispute_ExchangeAgree": 60,  # (2400)
    "taobao_dispute_ReshippingSellerAccept": 60,  # (2723)
    "taobao_dispute_ExchangeSellerConfirmed": 75,  # (2508) the returned goods arrived
    "taobao_dispute_ExchangeSellerGoodsConsigned": 80,  # (2583)
    "taobao_dispute_ReshippingSellerConsignGoods": 80,  # (2719)
    "taobao_dispute_ExchangeClosed": 90,  # (2506)
    "taobao_dispute_ReshippingBuyerClose": 90,  # (2721)
    "taobao_dispute_ExchangeSuccess": 95,  # (2510)
    "taobao_dispute_ReshippingBuyerConfirm": 95,  # (2722)
    "taobao_dispute_RefundPriceProtect": 95,  # (2399)
    "taobao_dispute_RefundSuccess": 95,  # (2398)
}

ASIDE_TOPICS: Final = frozenset(
    {
        # Said beside a refund, not of its state: their topic is the refund's only until another one is known.
        "taobao_refund_RefundCreateMessage",  # (123) someone wrote a message (留言); possible after the end, too
        "taobao_refund_RefundTimeoutRemind",  # (125) retired
        "taobao_refund_RefundBlockMessage",  # (124) retired
        # The bill of the return postage (退货运费单): open whether under the refund's own id, and its success must
        # not look like the refund's.
        "taobao_dispute_PostageRefundApplied",  # (2733)
        "taobao_dispute_PostageRefundSuccess",  # (2659)
    }
)

BELATED_TOPICS: Final = frozenset(
    {
        # Sent on purpose long after what they tell (延迟消息): the status in it is likely the one of then. It
        # counts only until another one is known. Not TradeSuccessDelay (2362): the end does not grow old.
        "taobao_trade_TradeCreateDelay",  # (2360)
    }
)

WHOLE_TRADE_TOPICS: Final = frozenset(
    {
        # What happens to an order as a whole, until it is paid: status and money are the trade's, whatever oid
        # they name. Not here, because with an oid of its own it may be that line's (子订单) only:
        # - TradeClose (104): by its title the order's, but it names one item and its stock, and the API
        #   taobao.trade.close takes "an order or a line". The other lines might still have to be shipped.
        # - TradeSellerShip (106), TradeSuccess (110): can come once per line.
        # - TradeMemoModified (113), TradeTimeoutRemind (111), TradeDelayConfirmPay (107), TradeChanged (115): open
        #   whose status they repeat. Memo and flag are the trade's in any case.
        "taobao_trade_TradeCreate",  # (101)
        "taobao_trade_TradeCreateDelay",  # (2360)
        "taobao_trade_TradeAlipayCreate",  # (116)
        "taobao_trade_TradeModifyFee",  # (102)
        "taobao_trade_TradeBuyerPay",  # (105)
        "taobao_trade_TradeBuyerStepPay",  # (674)
    }
)

LINE_TOPICS: Final = frozenset(
    {
        # By their titles (子订单) about a line; without an oid nobody knows which, and the trade stays as it is.
        "taobao_trade_TradeCloseAndModifyDetailOrder",  # (103)
        "taobao_trade_TradePartlyRefund",  # (108)
        "taobao_trade_TradePartlyConfirmPay",  # (109)
        "taobao_trade_TradePartlySellerShip",  # (117)
        "taobao_trade_TradeBuyerPaySubOut",  # (2322)
        "taobao_trade_OrderSkuChanged",  # (2676)
    }
)

WHOLE_TRADE_STATUSES: Final = frozenset(
    {
        # Statuses that a line cannot have: they are the trade's, whatever topic and oid they come with.
        "SELLER_CONSIGNED_PART",  # 卖家部分发货
    }
)


def trade_rank(topic: str, status: str | None) -> int:
    """The rank of a trade event: its status if that is a known one, else its topic's."""
    if status is not None:
        rank = STATUS_RANKS.get(status)
        if rank is not None:
            return rank
    return TRADE_TOPIC_RANKS.get(topic, SILENT)


def refund_rank(topic: str) -> int:
    """The rank of a refund event."""
    return REFUND_TOPIC_RANKS.get(topic, SILENT)


def topic_rank(topic: str) -> int:
    """The rank of a message of which only the topic is known."""
    return TRADE_TOPIC_RANKS.get(topic) or REFUND_TOPIC_RANKS.get(topic, SILENT)
