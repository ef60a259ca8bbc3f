"""Everything that reads bytes from outside, as a function of bytes, with what must hold of the result."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

from jst_bridge.errors import DecodeError
from jst_bridge.messages import Decoder
from jst_bridge.ports import PlainDelivery, QueueKey
from jst_bridge.rocketmq import ClientSettings
from jst_bridge.rocketmq.admin import committed_times, held_queues, registration
from jst_bridge.rocketmq.client import Client
from jst_bridge.rocketmq.codes import SysFlag
from jst_bridge.rocketmq.compression import MAX_BODY, compress, decompress
from jst_bridge.rocketmq.connection import parse_address
from jst_bridge.rocketmq.frame import Frame, FrameReader, decode_frame, encode_frame
from jst_bridge.rocketmq.loosejson import decode_json
from jst_bridge.rocketmq.membership import Membership
from jst_bridge.rocketmq.message import MAX_BATCH, decode_messages
from jst_bridge.rocketmq.name_servers import parse_list
from jst_bridge.rocketmq.offsets import number
from jst_bridge.rocketmq.properties import decode_properties, find_property
from jst_bridge.rocketmq.requests import decode_offset_table
from jst_bridge.rocketmq.route import MAX_QUEUES, decode_cluster, decode_route
from jst_bridge.sources.rocketmq import delivery
from tests.fuzz.corpus import BOMBS, KINDS, bodies, frames, stored, streams
from tests.fuzz.engine import Target
from tests.poison import POISONS, assert_fits
from tests.samples import samples

__all__ = ["TARGETS"]

Result = TypeVar("Result")

HELD_QUEUES = (
    b'{"mqTable":{{"brokerName":"broker-a","queueId":0,"topic":"T"}:{"commitOffset":5}},"properties":{}}'
)
DECODER = Decoder("jushita", "12345678")
QUEUE = QueueKey("jushita", "GID_bridge", "", "broker-a", "rmq_sys_jst_12345678", 3)


def read_frames(data: bytes) -> None:
    """A stream whole and in pieces: the same frames or the same refusal, and every frame can be sent on."""
    expected: list[Frame] | None = None
    with contextlib.suppress(DecodeError):
        expected = FrameReader().feed(data)
    reader, received = FrameReader(), []
    try:
        for piece in pieces(data):
            received += reader.feed(piece)
            assert reader.pending <= len(data)
    except DecodeError:
        assert expected is None, "refused in pieces only"
        raise
    assert received == expected, "other frames in pieces"
    for frame in received:
        assert decode_frame(encode_frame(frame)) == frame


def pieces(data: bytes) -> Iterator[bytes]:
    """The data cut at places that follow from it."""
    at, step = 0, zlib.crc32(data)
    while at < len(data):
        size = 1 + step % (7 if step & 64 else 900)
        yield data[at : at + size]
        at, step = at + size, (step * 1_103_515_245 + 12_345) & 0x7FFFFFFF


def read_messages(data: bytes) -> None:
    """A pull's body to the end of its way: every message fits the store's columns, or is refused with a reason."""
    messages, complete = decode_messages(data)
    assert sum(len(message.body) for message in messages) <= MAX_BATCH + MAX_BODY + len(data)
    assert messages or not data
    for message in messages:
        names = message.properties
        assert message.tag == names.get("TAGS", "")
        assert message.keys == names.get("KEYS", "")
        assert message.offset_message_id.isascii()
        assert message.origin_message_id
        assert message.visible_topic is not None
        try:
            assert_fits(DECODER.decode(delivery(message, QUEUE)))
        except DecodeError:
            continue  # one dead letter
    if not complete:
        raise DecodeError("more than a pull may hold")


def read_properties(data: bytes) -> None:
    properties = decode_properties(data)
    for name, value in properties.items():
        assert name
        assert value
    for name in ("TAGS", "KEYS", "RETRY_TOPIC", "ORIGIN_MESSAGE_ID"):
        assert find_property(data, f"{name}\x01".encode()) == properties.get(name, ""), name


def unpack(data: bytes) -> None:
    """The first byte names the compression, also ones that do not exist."""
    kind = data[0] & 7 if data else 0
    assert len(decompress(data[1:], kind << 8 | SysFlag.COMPRESSED)) <= MAX_BODY


def read_json(data: bytes) -> None:
    decode_json(data)


def read_route(data: bytes) -> None:
    route = decode_route("T", data)
    for queues in (route.read_queues(), route.write_queues()):
        assert len(queues) <= MAX_QUEUES
    assert all(isinstance(address, str) for ids in route.brokers.values() for address in ids.values())


def read_cluster(data: bytes) -> None:
    for ids in decode_cluster(data).values():
        for address in ids.values():
            assert address is not None


def read_number(data: bytes) -> None:
    """A number of an answer ends in a column of 64 bits."""
    offset = number(Frame(0, ext={"offset": data.decode("utf-8", "surrogateescape")}), "offset")
    assert -(2**63) <= offset < 2**63


def read_address(data: bytes) -> None:
    host, port = parse_address(data.decode("utf-8", "replace"))
    assert host
    assert 0 < port < 65536


class Answering(Client):
    """A client whose every request is answered with one body."""

    def __init__(self, body: bytes) -> None:
        super().__init__(ClientSettings(("127.0.0.1:9876",)))
        self._body = body

    def master(self, broker: str) -> str:
        return "127.0.0.1:10911"

    async def call(self, *arguments: Any, **options: Any) -> Frame:
        return Frame(0, body=self._body)


def read_members(data: bytes) -> None:
    members = done(Membership(Answering(data), "G", (), "first").members(["broker-a"]))
    assert members is None or all(isinstance(member, str) for member in members)


def read_registration(data: bytes) -> None:
    found = done(registration(Answering(data), "127.0.0.1:10911", "G"))
    assert found is None or found.mode in ("clustering", "broadcasting")


def read_times(data: bytes) -> None:
    for moment in done(committed_times(Answering(data), "127.0.0.1:10911", "G", "T")).values():
        assert moment > 0


def read_held_queues(data: bytes) -> None:
    for queue in done(held_queues(Answering(data), "127.0.0.1:10911", "G", "C")):
        assert isinstance(queue.queue_id, int)


def done(work: Coroutine[Any, Any, Result]) -> Result:
    """The result of what has nothing to wait for."""
    try:
        work.send(None)
    except StopIteration as end:
        result: Result = end.value
        return result
    raise AssertionError("it waits for something")


def read_offset_table(data: bytes) -> None:
    """The body of an administrator's reset (request 220)."""
    for offset in decode_offset_table(data).values():
        assert 0 <= offset < 2**63


def read_name_servers(data: bytes) -> None:
    for address in parse_list("http://example.com", data.decode("utf-8", "replace")):
        parse_address(address)


def read_envelope(data: bytes) -> None:
    """A body as the platform writes it: the tag is what stands before the first line's end."""
    tag, _, body = data.partition(b"\n")
    message = DECODER.decode(
        PlainDelivery(body, tag.decode("utf-8", "replace"), "", "AC1", "AC1", 1, 1_700_000_000_000)
    )
    assert_fits(message)


TARGETS = (
    Target("frame", read_frames, streams()),
    Target("messages", read_messages, stored()),
    Target(
        "properties",
        read_properties,
        (b"TAGS\x01A\x02KEYS\x01k\x02UNIQ_KEY\x017F\x02UNIQ_KEY\x018F\x02RETRY_TOPIC\x01T\x02ORIGIN_MESSAGE_ID\x01AC\x02",),
    ),
    Target(
        "compression",
        unpack,
        tuple(
            bytes([int(kind) >> 8]) + packed
            for kind in KINDS
            for packed in (*(compress(sample.body, kind)[0] for sample in samples()[:4]), BOMBS[kind])
        ),
    ),
    Target("json", read_json, tuple(frame.body for frame in frames() if frame.body[:1] in b"{[" and frame.body)),
    Target("route", read_route, bodies("route")),
    Target("cluster", read_cluster, bodies("cluster")),
    Target("number", read_number, (b"0", b"-1", b"9223372036854775807")),
    Target("address", read_address, (b"127.0.0.1:10911", b"[::1]:9876", b"name.example.com:9876")),
    Target("members", read_members, bodies("consumer_list")),
    Target("registration", read_registration, bodies("consumer_connection")),
    Target("times", read_times, bodies("consume_stats")),
    Target("held queues", read_held_queues, (HELD_QUEUES,)),
    Target("offset table", read_offset_table, bodies("reset_offset")),
    Target("name servers", read_name_servers, (b"127.0.0.1:9876;name.example.com:9876\n",)),
    Target(
        "envelope",
        read_envelope,
        (
            *(sample.tag.encode() + b"\n" + sample.body for sample in samples()),
            *(b"taobao_trade_TradeBuyerPay\n" + body for body in [*POISONS.values()][::10] if len(body) < 2000),
        ),
    ),
)  # fmt: skip
"""In the order of their report."""
