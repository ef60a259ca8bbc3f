"""A TOP gateway on loopback: it checks what the real one checks, knows sellers and groups, and fails on demand.

    with TopGateway() as gateway:
        gateway.add_app("12345678", "secret", topics=["taobao_trade_TradeBuyerPay"])
        seller = gateway.add_seller("shop")           # seller.session opens it through taobao.jushita.jms.user.add
        gateway.inject(Refuse(15), times=2)           # the next two calls meet an isp.* fault
        ...                                           # a client at gateway.url
        assert gateway.count("taobao.jushita.jms.user.add") == 3

The signature is checked by code of its own, not by the client's, so that neither can hide the other's mistakes.
"""

from .faults import Alter, Ban, Fault, Gzip, Page, Refuse, Reset, Slow, Truncate, Twist, WrongDate
from .gateway import TopGateway
from .journal import Asked
from .signature import SIGN_METHODS, signature
from .world import App, OpenSeller, Seller, Unknown

__all__ = [
    "SIGN_METHODS",
    "Alter",
    "App",
    "Asked",
    "Ban",
    "Fault",
    "Gzip",
    "OpenSeller",
    "Page",
    "Refuse",
    "Reset",
    "Seller",
    "Slow",
    "TopGateway",
    "Truncate",
    "Twist",
    "Unknown",
    "WrongDate",
    "signature",
]
