"""Where in its life an order (交易) or a refund (退款) stands: ranks that break ties in time.

Two events of one order may carry the same millisecond, and Taobao promises no order of arrival. The event
further along the life-cycle then counts as the later one. Ranks only compare; steps of ten leave room.

Source: the statuses and topics of the TOP message catalogue (消息文档, trade and refund families).
"""

from __future__ import annotations

from typing import Final

__all__ = ["WHOLE_TRADE_TOPICS", "refund_rank", "topic_rank", "trade_rank"]

SILENT: Final = 0
"""An event that says nothing about how far things are (memo, address, reminder): behind every other."""

STATUS_RANKS: Final = {
    "TRADE_NO_CREATE_PAY": 10,  # the Alipay (支付宝) order does not exist yet
    "WAIT_BUYER_PAY": 20,
    "WAIT_PRE_AUTH_CONFIRM": 25,  # a zero-yuan preauthorisation comes before the payment proper
    "PAY_PENDING": 30,  # the buyer paid, the bank has not confirmed
    "WAIT_SELLER_SEND_GOODS": 40,
    "SELLER_CONSIGNED_PART": 50,  # some lines of the order are shipped
    "WAIT_BUYER_CONFIRM_GOODS": 60,
    "TRADE_BUYER_SIGNED": 70,  # cash on delivery: signed for, money not yet settled
    "TRADE_FINISHED": 80,
    "TRADE_CLOSED": 90,  # refunded after payment; can follow a finished trade
    "TRADE_CLOSED_BY_TAOBAO": 90,  # never paid; excludes the other end
}

TRADE_TOPIC_RANKS: Final = {
    # The rank of the status that the topic announces: older and shorter bodies carry no status.
    "taobao_trade_TradeCreate": 15,  # before payment, with or without an Alipay order
    "taobao_trade_TradeCreateDelay": 15,
    "taobao_trade_TradeAlipayCreate": 20,
    "taobao_trade_TradeModifyFee": 22,  # only an unpaid order can be repriced
    "taobao_trade_TradeBuyerStepPay": 25,  # the deposit (定金) of a pre-sale, the balance is still due
    "taobao_trade_TradeBuyerPaySubOut": 40,
    "taobao_trade_TradeBuyerPay": 40,
    "taobao_trade_TradePartlySellerShip": 50,
    "taobao_trade_TradeSellerShip": 60,
    "taobao_trade_TradeDelayConfirmPay": 62,  # only shipped goods can be received later
    "taobao_trade_TradePartlyConfirmPay": 70,
    "taobao_trade_TradeSuccess": 80,
    "taobao_trade_TradeSuccessDelay": 80,
    "taobao_trade_TradePeriodSuccess": 80,
    "taobao_trade_TradeRated": 85,  # rating needs a finished trade
    "taobao_trade_TradeRatedOut": 85,
    "taobao_trade_TradeClose": 90,
}

REFUND_TOPIC_RANKS: Final = {
    # A refund event carries no status: its topic is the state.
    "taobao_refund_RefundCreated": 10,
    "taobao_refund_RefundBuyerModifyAgreement": 20,
    "taobao_refund_RefundSellerRefuseAgreement": 30,
    "taobao_refund_TaobaoInterApplied": 40,  # the buyer calls Taobao in after a refusal
    "taobao_refund_TaobaoIntervened": 50,
    "taobao_refund_RefundSellerAgreeAgreement": 60,
    "taobao_refund_RefundBuyerReturnGoods": 70,  # goods go back only after agreement
    "taobao_refund_RefundClosed": 90,
    "taobao_refund_RefundSuccess": 95,  # money that moved outweighs a closing in the same millisecond
}

WHOLE_TRADE_TOPICS: Final = frozenset(
    {
        # Events of the order as a whole: their status and money are the trade's, whatever oid they name.
        # Not here: shipping, success and partial refunds, which can come once per line (子订单).
        "taobao_trade_TradeCreate",
        "taobao_trade_TradeCreateDelay",
        "taobao_trade_TradeAlipayCreate",
        "taobao_trade_TradeBuyerPay",
        "taobao_trade_TradeBuyerStepPay",
        "taobao_trade_TradeClose",
        "taobao_trade_TradeModifyFee",
        "taobao_trade_TradeMemoModified",
        "taobao_trade_TradeLogisticsAddressChanged",
        "taobao_trade_TradeTimeoutRemind",
        "taobao_trade_TradeDelayConfirmPay",
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
