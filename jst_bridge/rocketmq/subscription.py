"""Subscriptions: topic plus tag expression (reference 3.5), and how a heartbeat and a pull carry them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from .namespace import Namespace

__all__ = ["ALL", "Subscription", "java_hash", "parse_tags"]

ALL: Final = "*"
_BARE: Final = Namespace()


def java_hash(text: str) -> int:
    """Java's String.hashCode: over UTF-16 code units, wrapped to a signed 32-bit integer."""
    value = 0
    data = text.encode("utf-16-be", "surrogatepass")
    for high, low in zip(data[::2], data[1::2], strict=True):
        value = (31 * value + (high << 8 | low)) & 0xFFFFFFFF
    return value - (1 << 32) if value & 0x80000000 else value


def parse_tags(expression: str) -> frozenset[str]:
    """The tags of `A || B`; empty for '*' and '' (everything). Raises ValueError for `||` without a tag.

    A broker answers 23 to such an expression, and serves other broken ones unfiltered (2.7.2).
    """
    if expression.strip() in ("", ALL):
        return frozenset()
    tags = frozenset(tag.strip() for tag in expression.split("||") if tag.strip())
    if not tags:
        raise ValueError(f"the tag expression {expression!r} names no tag")
    return tags


@dataclass(frozen=True, slots=True)
class Subscription:
    """What a consumer group reads of one topic. `version` (ms clock) must grow when the expression changes."""

    topic: str
    expression: str = ALL
    version: int = 0
    tags: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tags", parse_tags(self.expression))
        if not self.tags:
            object.__setattr__(self, "expression", ALL)

    def matches(self, tag: str) -> bool:
        """The client's own check: the broker compares hashes only, so others slip through."""
        return not self.tags or tag in self.tags

    def as_heartbeat(self, namespace: Namespace = _BARE) -> dict[str, object]:
        """SubscriptionData of a heartbeat (reference 2.2)."""
        tags = sorted(self.tags)
        return {
            "classFilterMode": False,
            "codeSet": [java_hash(tag) for tag in tags],
            "expressionType": "TAG",
            "subString": self.expression,
            "subVersion": self.version,
            "tagsSet": tags,
            "topic": namespace.wrap_topic(self.topic),
        }
