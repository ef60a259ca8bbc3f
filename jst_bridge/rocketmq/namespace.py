"""Namespaces of instances (reference 4.13): a prefix of names on the wire, nowhere else in the program."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from .codes import Request
from .message import MessageExt

__all__ = ["Namespace"]

_PREFIXES: Final = ("%RETRY%", "%DLQ%")
"""They stay in front of the namespace."""
_SYSTEM_PREFIX: Final = "rmq_sys_"
"""So begins the system topic of an app, too: whether it is wrapped is a setting, because it is not known which
form the vendor's instances expect; the Java client never wraps it, the Go client always does."""
_NEVER_TOPICS: Final = frozenset(
    {
        "TBW102", "SCHEDULE_TOPIC_XXXX", "BenchmarkTest", "SELF_TEST_TOPIC", "OFFSET_MOVED_EVENT",
        "RMQ_SYS_TRANS_HALF_TOPIC", "RMQ_SYS_TRANS_OP_HALF_TOPIC", "TRANS_CHECK_MAX_TIME_TOPIC",
        "RMQ_SYS_TRACE_TOPIC",
    }
)  # fmt: skip
_NEVER_GROUPS: Final = ("CID_RMQ_SYS_", "TOOLS_CONSUMER")
_TOPIC_FIELDS: Final = frozenset({"topic", "originTopic"})
_GROUP_FIELDS: Final = frozenset({"consumerGroup", "group", "producerGroup"})
_SENDS: Final = frozenset({int(Request.SEND_MESSAGE_V2), 320})
"""Requests that call their fields by letters (reference 2.14): a is the group, b the topic."""


@dataclass(frozen=True, slots=True)
class Namespace:
    """Names as this program uses them, and as servers know them. Wrapping twice is wrapping once."""

    name: str = ""
    """`MQ_INST_..._...`; empty: every name goes out as it is."""
    system_topics: bool = False
    """Whether topics that begin with `rmq_sys_` are wrapped as well."""

    def __bool__(self) -> bool:
        return bool(self.name)

    def wrap_topic(self, topic: str) -> str:
        """`ns%topic`, `%RETRY%ns%group`, `%DLQ%ns%group`; the broker's own topics stay as they are."""
        for prefix in _PREFIXES:
            if topic.startswith(prefix):
                return prefix + self.wrap_group(topic.removeprefix(prefix))
        if topic in _NEVER_TOPICS or (topic.startswith(_SYSTEM_PREFIX) and not self.system_topics):
            return topic
        return self._wrap(topic)

    def wrap_group(self, group: str) -> str:
        """`ns%group`; the broker's own groups stay as they are."""
        return group if group.startswith(_NEVER_GROUPS) else self._wrap(group)

    def unwrap(self, name: str) -> str:
        """The bare name of a topic or a group; one without this namespace as it is."""
        if self.name:
            for prefix in _PREFIXES:
                if name.startswith(prefix):
                    return prefix + name.removeprefix(prefix).removeprefix(f"{self.name}%")
        return name.removeprefix(f"{self.name}%") if self.name else name

    def wrap_fields(self, code: int, ext: Mapping[str, str]) -> dict[str, str]:
        """The named fields of a request, for the wire."""
        topics, groups = _TOPIC_FIELDS, _GROUP_FIELDS
        if code in _SENDS:
            topics, groups = topics | {"b"}, groups | {"a"}
        return {
            key: self.wrap_topic(value)
            if key in topics
            else self.wrap_group(value)
            if key in groups
            else ";".join(map(self.wrap_topic, value.split(";")))
            if key == "topicList"
            else value
            for key, value in ext.items()
        }

    def unwrap_fields(self, ext: Mapping[str, str]) -> dict[str, str]:
        """The named fields of a request that came from a server."""
        names = _TOPIC_FIELDS | _GROUP_FIELDS
        return {key: self.unwrap(value) if key in names else value for key, value in ext.items()}

    def unwrap_messages(self, messages: Iterable[MessageExt]) -> None:
        """Give messages their bare topics, also the one that a trip through a retry topic has noted."""
        wrapped, bare = f"RETRY_TOPIC\x01{self.name}%".encode(), b"RETRY_TOPIC\x01"
        for message in messages:
            message.topic = self.unwrap(message.topic)
            if wrapped in message.raw_properties:
                message.raw_properties = message.raw_properties.replace(wrapped, bare, 1)

    def _wrap(self, name: str) -> str:
        if not self.name or not name or name.startswith(f"{self.name}%"):
            return name
        return f"{self.name}%{name}"
