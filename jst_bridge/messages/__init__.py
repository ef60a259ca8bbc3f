"""Taobao's messages: from the bytes of a delivery to typed content, and the catalogue of topics.

Decoder        one delivery -> one Message, or UndecodableError
Trade, ...     the typed content of each family; Other for the rest
lookup, ...    what the catalogue knows of a topic
"""

from __future__ import annotations

from jst_bridge.messages.catalogue import FAMILIES, FieldInfo, TopicInfo, family_of, lookup, search
from jst_bridge.messages.decoder import Decoder
from jst_bridge.messages.envelope import REASONS
from jst_bridge.messages.families import (
    Content,
    Dispute,
    Fenxiao,
    ImpressionTag,
    Item,
    LogisticsTrace,
    Other,
    Refund,
    Trade,
    TradeRated,
)
from jst_bridge.messages.values import BEIJING

__all__ = [
    "BEIJING",
    "FAMILIES",
    "REASONS",
    "Content",
    "Decoder",
    "Dispute",
    "Fenxiao",
    "FieldInfo",
    "ImpressionTag",
    "Item",
    "LogisticsTrace",
    "Other",
    "Refund",
    "TopicInfo",
    "Trade",
    "TradeRated",
    "family_of",
    "lookup",
    "search",
]
