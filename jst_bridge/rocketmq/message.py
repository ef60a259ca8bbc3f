"""Stored messages as a pull, a view or a query returns them (reference section 3): bytes in, values out."""

from __future__ import annotations

import ipaddress
import struct
import zlib
from typing import Any, Final, NamedTuple

import msgspec

from ..errors import DecodeError
from .codes import SysFlag
from .compression import MAX_BODY, decompress
from .properties import decode_properties, find_property

__all__ = ["MAX_BATCH", "MessageExt", "MessageQueue", "decode_messages", "encode_message"]

MAX_BATCH: Final = 8 * 1024 * 1024
"""Decompressed bytes after which `decode_messages` stops early, so that a pull cannot claim unbounded memory."""
MAX_ELEMENTS: Final = 32_768
"""Ceiling of the elements of one inner batch: 128 bytes of each in a body of 4 MiB."""

_MAGIC_V1, _MAGIC_V2 = 0xDAA320A7, 0xDAA320AB
# Plain ints: a bit test with an IntFlag costs a microsecond, and these run once per message.
_COMPRESSED: Final = int(SysFlag.COMPRESSED)
_IPV6_HOSTS: Final = int(SysFlag.BORN_HOST_IPV6 | SysFlag.STORE_HOST_IPV6)
_INNER_BATCH: Final = int(SysFlag.NEED_UNWRAP | SysFlag.INNER_BATCH)
_UNUSUAL: Final = _COMPRESSED | _IPV6_HOSTS
_FIXED: Final = {
    flags: struct.Struct(
        f">iIiii qqi q {20 if flags & SysFlag.BORN_HOST_IPV6 else 8}s"
        f" q {20 if flags & SysFlag.STORE_HOST_IPV6 else 8}s i q i".replace(" ", "")
    )
    for flags in (0, int(SysFlag.BORN_HOST_IPV6), int(SysFlag.STORE_HOST_IPV6), _IPV6_HOSTS)
}
"""Everything up to the body length, by the width of the two hosts."""
_FIXED_V4 = _FIXED[0]
_INNER = struct.Struct(">iIiii")
_INT16 = struct.Struct(">h")
_INT32 = struct.Struct(">i")


class MessageQueue(NamedTuple):
    """One queue of a broker's topic."""

    topic: str
    broker: str
    queue_id: int

    def __str__(self) -> str:
        return f"{self.topic}@{self.broker}:{self.queue_id}"


class MessageExt(msgspec.Struct, gc=False):
    """One stored message. Times are epoch ms; hosts are the packed address and port (8 or 20 bytes)."""

    topic: str
    body: bytes
    """Decompressed. With `fault` set: as stored."""
    raw_properties: bytes
    queue_id: int
    queue_offset: int
    physical_offset: int
    born_timestamp: int
    store_timestamp: int
    reconsume_times: int
    sys_flag: int
    """As stored; the compression bits tell how the body came."""
    born_host: bytes
    store_host: bytes
    flag: int = 0
    body_crc: int = 0
    prepared_transaction_offset: int = 0
    fault: str = ""
    """Why the body or the topic could not be read; '' normally."""

    @property
    def properties(self) -> dict[str, str]:
        """All properties, split at each access."""
        return decode_properties(self.raw_properties)

    @property
    def tag(self) -> str:
        """The tag, '' when absent."""
        return find_property(self.raw_properties, b"TAGS\x01")

    @property
    def keys(self) -> str:
        """The keys joined by one space, '' when absent."""
        return find_property(self.raw_properties, b"KEYS\x01")

    @property
    def offset_message_id(self) -> str:
        """Upper-case hex of store host and physical offset: names this stored copy (reference 3.4)."""
        return (self.store_host + self.physical_offset.to_bytes(8, "big", signed=True)).hex().upper()

    @property
    def origin_message_id(self) -> str:
        """The offset message id of the first copy: differs after a trip through a retry topic."""
        return find_property(self.raw_properties, b"ORIGIN_MESSAGE_ID\x01") or self.offset_message_id

    @property
    def visible_topic(self) -> str:
        """The topic it was first published to, also on a copy from a retry topic (reference 4.7)."""
        if self.topic.startswith("%RETRY%"):
            return find_property(self.raw_properties, b"RETRY_TOPIC\x01") or self.topic
        return self.topic


def decode_messages(data: bytes, *, size_limit: int = MAX_BATCH) -> tuple[list[MessageExt], bool]:
    """Decode concatenated stored messages; True says that all of `data` was decoded.

    A message that cannot be read comes with `fault` set and its stored record as body: its size leads to the
    next one. Raises DecodeError when the sizes themselves are broken, because then what follows is lost.
    """
    messages: list[MessageExt] = []
    at, end, total = 0, len(data), 0
    while at < end:
        if end - at < _FIXED_V4.size:
            raise DecodeError(f"{end - at} bytes left, too few for a stored message")
        fields = _FIXED_V4.unpack_from(data, at)
        size = fields[0]
        if not _FIXED_V4.size < size <= end - at:
            raise DecodeError(f"stored message of {size} bytes does not fit the {end - at} that are left")
        if total > size_limit:
            return messages, False
        message = _decode_ordinary(data, at, fields) or _decode_any(data, at, fields)
        if message.sys_flag & _INNER_BATCH == _INNER_BATCH and not message.fault:
            messages += _unwrap(message) or [_broken_batch(message, data[at : at + size])]
        else:
            messages.append(message)
        # A body that would not unpack may have taken as much work and memory as the largest that does.
        total += MAX_BODY if message.fault and message.sys_flag & _COMPRESSED else len(message.body)
        at += size
    return messages, True


def _decode_ordinary(data: bytes, at: int, fields: tuple[Any, ...]) -> MessageExt | None:
    """Nearly every message: V1, IPv4, not compressed, nothing wrong with it. None for any other.

    Nothing here that `_decode_any` would not do; it takes two thirds of the time.
    """
    (size, magic, crc, queue_id, flag, queue_offset, physical_offset, sys_flag, born_at, born_host, stored_at,
     store_host, reconsume_times, prepared, body_length) = fields  # fmt: skip
    body_at, end = at + _FIXED_V4.size, at + size
    topic_at = body_at + body_length
    if magic != _MAGIC_V1 or sys_flag & _UNUSUAL or not body_at <= topic_at < end:
        return None
    topic_end = topic_at + 1 + data[topic_at]
    properties_at = topic_end + 2
    if properties_at > end or data[topic_end] > 127:  # the length is signed
        return None
    properties_end = properties_at + (data[topic_end] << 8 | data[topic_end + 1])
    topic = data[topic_at + 1 : topic_end]
    if properties_end > end or not topic.isascii():
        return None
    return MessageExt(
        topic.decode(), data[body_at:topic_at], data[properties_at:properties_end], queue_id, queue_offset,
        physical_offset, born_at, stored_at, reconsume_times, sys_flag, born_host, store_host, flag, crc, prepared,
    )  # fmt: skip


def _decode_any(data: bytes, at: int, fields: tuple[Any, ...]) -> MessageExt:
    (size, magic, crc, queue_id, flag, queue_offset, physical_offset, sys_flag, born_at, born_host, stored_at,
     store_host, reconsume_times, prepared, body_length) = fields  # fmt: skip
    end = at + size
    fixed = _FIXED_V4.size
    if sys_flag & _IPV6_HOSTS:
        layout = _FIXED[sys_flag & _IPV6_HOSTS]
        fixed = layout.size
        if end - at >= fixed:
            (*_, born_host, stored_at, store_host, reconsume_times, prepared, body_length) = (
                layout.unpack_from(data, at)
            )
    body, topic, properties, fault = b"", "", b"", ""
    body_at = at + fixed
    topic_at = body_at + body_length
    if magic not in (_MAGIC_V1, _MAGIC_V2):
        fault = f"unknown magic {magic:#010x}"
    elif end < body_at:
        fault = f"the fixed part of {fixed} bytes does not fit the stored message of {end - at} bytes"
    elif body_length < 0 or topic_at >= end:
        fault = f"body length {body_length} does not fit the stored message of {end - at} bytes"
    else:
        body = data[body_at:topic_at]
        try:
            topic, properties = _topic_and_properties(data, topic_at, end, magic)
            if sys_flag & _COMPRESSED and body:
                body = decompress(body, sys_flag, MAX_BODY)
        except DecodeError as error:
            fault = str(error)
    if fault:
        body = data[at:end]
    return MessageExt(
        topic, body, properties, queue_id, queue_offset, physical_offset, born_at, stored_at, reconsume_times,
        sys_flag, born_host, store_host, flag, crc, prepared, fault,
    )  # fmt: skip


def _topic_and_properties(data: bytes, at: int, end: int, magic: int) -> tuple[str, bytes]:
    if magic == _MAGIC_V1:
        length = data[at]
        at += 1
    else:
        if end - at < 2:
            raise DecodeError("stored message ends inside its topic length")
        (length,) = _INT16.unpack_from(data, at)
        at += 2
    properties_at = at + length + 2
    if length < 0 or properties_at > end:
        raise DecodeError(f"topic length {length} does not fit the stored message")
    try:
        topic = data[at : at + length].decode()
    except UnicodeDecodeError:
        raise DecodeError("topic is not UTF-8") from None
    (properties_length,) = _INT16.unpack_from(data, properties_at - 2)
    if properties_length < 0 or properties_at + properties_length > end:
        raise DecodeError(f"properties length {properties_length} does not fit the stored message")
    return topic, data[properties_at : properties_at + properties_length]


def _unwrap(outer: MessageExt) -> list[MessageExt]:
    """The elements of an inner batch (reference 3.2): they share the outer record's place and times.

    Empty when the body is not such a list, or one of too many elements.
    """
    data, at = outer.body, 0
    messages: list[MessageExt] = []
    while at < len(data):
        if len(data) - at < _INNER.size + 2:
            return []
        size, _, crc, flag, body_length = _INNER.unpack_from(data, at)
        end, properties_at = at + size, at + _INNER.size + body_length + 2
        if body_length < 0 or end > len(data) or properties_at > end:
            return []
        (properties_length,) = _INT16.unpack_from(data, properties_at - 2)
        if properties_length < 0 or properties_at + properties_length > end:
            return []
        messages.append(
            msgspec.structs.replace(
                outer,
                body=data[at + _INNER.size : properties_at - 2],
                raw_properties=data[properties_at : properties_at + properties_length],
                queue_offset=outer.queue_offset + len(messages),
                flag=flag,
                body_crc=crc,
            )
        )
        at = end
        if len(messages) > MAX_ELEMENTS:
            return []
    return messages


def _broken_batch(outer: MessageExt, record: bytes) -> MessageExt:
    return msgspec.structs.replace(
        outer, body=record, fault="inner batch is not the list of messages it claims to be, or too long a one"
    )


def encode_message(message: MessageExt) -> bytes:
    """The stored form, the inverse of `decode_messages` for a body that is not compressed."""
    topic = message.topic.encode()
    wide = len(topic) > 127
    hosts = (SysFlag.BORN_HOST_IPV6 if len(message.born_host) == 20 else 0) | (
        SysFlag.STORE_HOST_IPV6 if len(message.store_host) == 20 else 0
    )
    layout = _FIXED[int(hosts)]
    tail = (_INT16.pack(len(topic)) if wide else bytes([len(topic)])) + topic
    tail += _INT16.pack(len(message.raw_properties)) + message.raw_properties
    return (
        layout.pack(
            layout.size + len(message.body) + len(tail),
            _MAGIC_V2 if wide else _MAGIC_V1,
            message.body_crc or zlib.crc32(message.body) & 0x7FFFFFFF,
            message.queue_id,
            message.flag,
            message.queue_offset,
            message.physical_offset,
            message.sys_flag & ~_IPV6_HOSTS | int(hosts),
            message.born_timestamp,
            message.born_host,
            message.store_timestamp,
            message.store_host,
            message.reconsume_times,
            message.prepared_transaction_offset,
            len(message.body),
        )
        + message.body
        + tail
    )


def pack_host(host: str, port: int) -> bytes:
    """An address and port as messages store them."""
    return ipaddress.ip_address(host).packed + _INT32.pack(port)
