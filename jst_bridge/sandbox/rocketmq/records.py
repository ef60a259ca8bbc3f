"""Stored messages: what a broker keeps, byte for byte as a pull sends it (reference 3.1)."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from functools import lru_cache
from typing import Final

import msgspec

from jst_bridge.rocketmq.properties import find_property
from jst_bridge.rocketmq.subscription import java_hash

__all__ = [
    "Draft",
    "pack_record",
    "physical_offset",
    "queue_offset",
    "record_keys",
    "split_batch",
    "store_time",
    "tag_hash",
    "unpack_record",
    "with_properties",
]

_MAGIC_V1, _MAGIC_V2 = 0xDAA320A7, 0xDAA320AB
_FIXED = struct.Struct(">iIiiiqqiq8sq8siqi")
"""Everything before the body, with IPv4 hosts: the sandbox listens on IPv4 only."""
_INT16 = struct.Struct(">h")
_INT64 = struct.Struct(">q")
_PACKED = struct.Struct(">iiiii")
"""Of one message in a batch send: size, magic, CRC, flag, body length (reference 3.2)."""
_SHORT_TOPIC: Final = 127
_QUEUE_OFFSET_AT, _PHYSICAL_OFFSET_AT, _STORED_AT, _BODY_LENGTH_AT = 20, 28, 56, 84


class Draft(msgspec.Struct, gc=False):
    """A message before it has its place. Times in epoch ms; `properties` with their separators."""

    topic: str
    queue_id: int
    body: bytes
    properties: bytes
    born_at: int
    born_host: bytes
    flag: int = 0
    sys_flag: int = 0
    reconsume_times: int = 0


def pack_record(
    draft: Draft, offset: int, physical: int, stored_at: int, store_host: bytes, topic: bytes
) -> bytes:
    """The stored form. `topic` is the encoded name. struct.error: a number does not fit its field."""
    body, properties = draft.body, draft.properties
    wide = len(topic) > _SHORT_TOPIC
    return b"".join((
        _FIXED.pack(
            _FIXED.size + len(body) + len(topic) + len(properties) + (4 if wide else 3),
            _MAGIC_V2 if wide else _MAGIC_V1,
            zlib.crc32(body) & 0x7FFFFFFF,
            draft.queue_id,
            draft.flag,
            offset,
            physical,
            draft.sys_flag,
            draft.born_at,
            draft.born_host,
            stored_at,
            store_host,
            draft.reconsume_times,
            0,
            len(body),
        ),
        body,
        _INT16.pack(len(topic)) if wide else bytes((len(topic),)),
        topic,
        _INT16.pack(len(properties)),
        properties,
    ))  # fmt: skip


def unpack_record(record: bytes) -> Draft:
    """What was stored, its body still compressed if it was."""
    fields = _FIXED.unpack_from(record)
    queue_id, flag, sys_flag, born_at, born_host = fields[3], fields[4], *fields[7:10]
    times, length = fields[12], fields[14]
    topic_at, properties_at = _tail(record)
    return Draft(
        record[topic_at : properties_at - 2].decode(),
        queue_id,
        record[_FIXED.size : _FIXED.size + length],
        record[properties_at:],
        born_at,
        born_host,
        flag,
        sys_flag,
        times,
    )


def _tail(record: bytes) -> tuple[int, int]:
    """Where the topic's name and the properties begin."""
    at = _FIXED.size + int.from_bytes(record[_BODY_LENGTH_AT : _FIXED.size], "big")
    if int.from_bytes(record[4:8], "big") == _MAGIC_V2:
        return at + 2, at + 4 + int.from_bytes(record[at : at + 2], "big")
    return at + 1, at + 3 + record[at]


def queue_offset(record: bytes) -> int:
    return int(_INT64.unpack_from(record, _QUEUE_OFFSET_AT)[0])


def physical_offset(record: bytes) -> int:
    return int(_INT64.unpack_from(record, _PHYSICAL_OFFSET_AT)[0])


def store_time(record: bytes) -> int:
    return int(_INT64.unpack_from(record, _STORED_AT)[0])


def tag_hash(record: bytes) -> int:
    """What a broker's index holds of the tag: its Java hash, 0 without one (reference 3.5)."""
    tag = find_property(record[_tail(record)[1] :], b"TAGS\x01")
    return cached_hash(tag) if tag else 0


def record_keys(record: bytes) -> set[str]:
    """What QUERY_MESSAGE finds the message by: its keys, and its client id."""
    properties = record[_tail(record)[1] :]
    return {*find_property(properties, b"KEYS\x01").split(" "), find_property(properties, b"UNIQ_KEY\x01")}


cached_hash = lru_cache(maxsize=4096)(java_hash)


def with_properties(properties: bytes, **changes: str) -> bytes:
    """The properties with these set. Of a name that occurs twice the last value counts, as in Java."""
    pairs = (entry.partition(b"\x01") for entry in properties.split(b"\x02"))
    merged = {name: value for name, _, value in pairs if name and value}
    merged |= {name.encode(): value.encode() for name, value in changes.items()}
    return b"".join(b"%b\x01%b\x02" % pair for pair in merged.items())


def split_batch(body: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Flag, body and properties of each message of a batch send. ValueError: it is not such a list."""
    at = 0
    while at < len(body):
        if len(body) - at < _PACKED.size + 2:
            raise ValueError("a batch ends inside a message")
        size, _, _, flag, length = _PACKED.unpack_from(body, at)
        end, properties_at = at + size, at + _PACKED.size + length + 2
        if length < 0 or not properties_at <= end <= len(body):
            raise ValueError("a message of a batch does not fit it")
        (properties_length,) = _INT16.unpack_from(body, properties_at - 2)
        if properties_at + properties_length != end:
            raise ValueError("the properties of a message of a batch do not fit it")
        yield flag, body[at + _PACKED.size : properties_at - 2], body[properties_at:end]
        at = end
