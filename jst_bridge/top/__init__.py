"""A client of the Taobao Open Platform and its jms methods, for asyncio. Usable alone."""

from .client import TopClient
from .jms import Confirmation, JmsClient, JmsSeller, OpenTopics, SellerGroup
from .pacing import Clock
from .parameters import DEFAULT_GATEWAY, TopSettings
from .signing import SIGN_METHODS, SignMethod, base_string, sign

__all__ = [
    "DEFAULT_GATEWAY",
    "SIGN_METHODS",
    "Clock",
    "Confirmation",
    "JmsClient",
    "JmsSeller",
    "OpenTopics",
    "SellerGroup",
    "SignMethod",
    "TopClient",
    "TopSettings",
    "base_string",
    "sign",
]
