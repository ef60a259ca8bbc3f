"""The catalogue of message types: what Taobao calls each topic, where it is documented, which fields it has.

The data, `topics.json`, holds the 1,279 topics of the public message pages (open.taobao.com/tmc.htm), as
collected by the MIT-licensed project TheNorthMemory/tmc.js. It is read on first use, never at import. A topic
that is missing here is not wrong: Taobao adds topics, and some pages are not public.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from functools import cache, lru_cache
from importlib.resources import files
from types import MappingProxyType

import msgspec

__all__ = ["FAMILIES", "FieldInfo", "TopicInfo", "family_of", "lookup", "search"]

FAMILIES = ("trade", "refund", "logistics", "rate", "item", "fenxiao", "other")

_PREFIXES = (
    ("taobao_trade_TradeRated", "rate"),
    ("taobao_traderate_", "rate"),
    ("taobao_trade_", "trade"),
    ("taobao_refund_", "refund"),
    ("taobao_dispute_", "refund"),
    ("taobao_logistics_", "logistics"),
    ("taobao_item_", "item"),
    ("taobao_fenxiao_", "fenxiao"),
    ("taobao_jzfx_", "fenxiao"),
)


class FieldInfo(msgspec.Struct, frozen=True):
    """One field of a topic's content, as documented; `type` and `note` are '' where we have only the name."""

    name: str
    required: bool
    type: str = ""
    """number, string, date or boolean. Real bodies do not always keep to it."""
    note: str = ""
    """The official meaning, in Chinese."""


class TopicInfo(msgspec.Struct, frozen=True):
    """One message type of the catalogue."""

    topic: str
    title: str
    """Official name, in Chinese."""
    category: str
    """Official category, in Chinese."""
    doc: str
    """Address of its official page."""
    fields: tuple[FieldInfo, ...]

    @property
    def family(self) -> str:
        return family_of(self.topic)


class _Data(msgspec.Struct):
    """The file: `notes` are shared by index; a field is `name`, or [name, type, note]; `?` marks optional."""

    notes: list[str]
    topics: list[tuple[str, str, str, int, list[str | tuple[str, str, int]]]]


@lru_cache(maxsize=4096)
def family_of(topic: str) -> str:
    """The family of any topic, in the catalogue or not: one of FAMILIES."""
    return next((family for prefix, family in _PREFIXES if topic.startswith(prefix)), "other")


def lookup(topic: str) -> TopicInfo | None:
    """What the catalogue knows of `topic`, None when it does not list it."""
    return _catalogue().get(topic)


def search(pattern: str) -> list[TopicInfo]:
    """The topics whose name, title or category contains `pattern`, by name; case does not matter.

    With `*` or `?` in it, `pattern` is a glob that has to match one of the three as a whole.
    """
    wanted = pattern.casefold()
    glob = wanted if "*" in wanted or "?" in wanted else f"*{wanted.replace('[', '[[]')}*"
    return [
        info
        for info in _catalogue().values()
        if any(fnmatchcase(text.casefold(), glob) for text in (info.topic, info.title, info.category))
    ]


@cache
def _catalogue() -> MappingProxyType[str, TopicInfo]:
    data = msgspec.json.decode(files(__package__).joinpath("topics.json").read_bytes(), type=_Data)
    infos = {}
    for topic, title, category, page, fields in sorted(data.topics):
        described = tuple(_field(field, data.notes) for field in fields)
        doc = f"https://open.taobao.com/tmc.htm?docId={page}&docType=9"
        infos[topic] = TopicInfo(topic, title, category, doc, described)
    return MappingProxyType(infos)


def _field(field: str | tuple[str, str, int], notes: list[str]) -> FieldInfo:
    name, kind, note = (field, "", "") if isinstance(field, str) else (field[0], field[1], notes[field[2]])
    return FieldInfo(name.removesuffix("?"), not name.endswith("?"), kind, note)
