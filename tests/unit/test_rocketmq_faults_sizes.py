"""What claims to be enormous costs nothing; what is enormous is refused or bounded before it is held."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from jst_bridge.errors import ConnectionFailed, DecodeError
from jst_bridge.rocketmq import MessageExt
from jst_bridge.rocketmq.client import Client, ClientSettings
from jst_bridge.rocketmq.codes import Request, SysFlag
from jst_bridge.rocketmq.frame import MAX_FRAME, FrameReader, decode_frame
from jst_bridge.rocketmq.loosejson import MAX_TEXT, decode_json
from jst_bridge.rocketmq.message import MAX_BATCH, MAX_ELEMENTS, decode_messages, encode_message, pack_host
from jst_bridge.rocketmq.properties import MAX_PROPERTIES, decode_properties, find_property
from tests.fuzz.corpus import BOMBS
from tests.scripted import peers, run

MIB = 1 << 20
HOST = pack_host("127.0.0.1", 10911)


@contextmanager
def at_most(size: int) -> Iterator[None]:
    """What happens inside takes no more memory than that."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] <= size
    finally:
        tracemalloc.stop()


def frame(header: bytes, form: int = 0) -> bytes:
    return struct.pack(">II", 4 + len(header), form << 24 | len(header)) + header


def compressed(body: bytes, flags: int) -> bytes:
    return encode_message(MessageExt("T", body, b"", 0, 0, 0, 0, 0, 0, flags, HOST, HOST))


@pytest.mark.parametrize("claim", [MAX_FRAME - 3, 2**31 - 1, 2**31, 2**32 - 1])
def test_a_frame_that_claims_too_much_closes_the_connection_at_once_and_takes_no_memory(claim: int) -> None:
    async def work() -> None:
        async with peers() as (server,):
            client = Client(ClientSettings((server.address,)))
            server.once(Request.GET_MAX_OFFSET, lambda call: call.channel.send(struct.pack(">I", claim)))
            server.on(Request.GET_MAX_OFFSET, lambda call: call.answer())
            with at_most(MIB), pytest.raises(ConnectionFailed, match="outside the protocol"):
                await client.call(server.address, Request.GET_MAX_OFFSET)  # fails long before its timeout
            await server.until(lambda: not server.channels)
            assert (await client.call(server.address, Request.GET_MAX_OFFSET)).code == 0
            await client.close()

    run(work())


def test_a_frame_that_may_be_that_large_takes_memory_only_for_what_came() -> None:
    reader = FrameReader()
    with at_most(MIB):
        assert reader.feed(struct.pack(">II", MAX_FRAME - 4, 100)) == []
        for _ in range(1000):
            assert reader.feed(b"x" * 100) == []
    assert reader.pending == 100_008


@pytest.mark.parametrize(
    ("what", "form"),
    [
        (lambda: b'{"code":0,"remark":"' + b"x" * (15 * MIB) + b'"}', 0),
        (lambda: b'{"code":0,"extFields":{' + b'"":"",' * (2 * MIB) + b'"":""}}', 0),
        (lambda: b"[" * (15 * MIB), 0),
        (lambda: bytes(13) + struct.pack(">ii", 0, 15 * MIB) + b"\0\1a\0\0\0\0" * (15 * MIB // 7), 1),
    ],
    ids=["a long remark", "many fields", "deep nesting", "many binary fields"],
)
def test_a_header_of_fifteen_megabytes_is_refused_unread(what: Callable[[], bytes], form: int) -> None:
    data = frame(what(), form)
    with at_most(2 * len(data)), pytest.raises(DecodeError, match="exceeds the limit"):
        decode_frame(data)


def test_nesting_as_deep_as_a_header_may_be_is_refused() -> None:
    for opening in (b"[", b'{"a":', b'{"code":0,"extFields":'):
        with pytest.raises(DecodeError):
            decode_frame(frame(opening * (900_000 // len(opening))))


@pytest.mark.parametrize(
    "body", [b"[" * MAX_TEXT, b"{{" * (MAX_TEXT // 2), b'{"a":' * (MAX_TEXT // 5), b"{0:" * (MAX_TEXT // 3)]
)
def test_a_deeply_nested_body_is_refused(body: bytes) -> None:
    with at_most(4 * MAX_TEXT), pytest.raises(DecodeError):
        decode_json(body)


def test_a_json_body_beyond_its_limit_is_refused_unread() -> None:
    with pytest.raises(DecodeError, match="exceeds the limit"):
        decode_json(b"[" + b"[]," * (MAX_TEXT // 3) + b"[]]")


@pytest.mark.parametrize("kind", BOMBS, ids=lambda kind: str(SysFlag(kind).name))
def test_a_pull_of_nothing_but_bombs_is_read_a_few_at_a_time(kind: SysFlag) -> None:
    record = compressed(BOMBS[kind], int(SysFlag.COMPRESSED | kind))
    with at_most(MAX_BATCH + 16 * MIB):
        messages, complete = decode_messages(record * 20)
    assert not complete
    assert 0 < len(messages) < 5
    assert all("unpacks to more than" in message.fault for message in messages)


def test_an_inner_batch_of_too_many_elements_is_one_faulty_message() -> None:
    def batch(count: int) -> bytes:
        elements = struct.pack(">iIiiih", 22, 0, 0, 0, 0, 0) * count
        flags = SysFlag.COMPRESSED | SysFlag.COMPRESSION_ZLIB | SysFlag.NEED_UNWRAP | SysFlag.INNER_BATCH
        return compressed(zlib.compress(elements), int(flags))

    ((message,), complete) = decode_messages(batch(MAX_ELEMENTS + 1))
    assert complete
    assert "too long" in message.fault
    assert len(decode_messages(batch(MAX_ELEMENTS))[0]) == MAX_ELEMENTS


def test_as_many_properties_as_fit_are_read_quickly() -> None:
    several = b"".join(b"%d\x01v\x02" % number for number in range(10_000))[:MAX_PROPERTIES]
    assert len(decode_properties(several)) > 3000
    misleading = b"xTAGS\x01" * (MAX_PROPERTIES // 6)
    assert find_property(misleading, b"TAGS\x01") == ""
    assert find_property(b"TAGS\x01\x02" * 4000, b"TAGS\x01") == ""
    assert find_property(b"TAGS\x01A\x02" + b"TAGS\x01\x02" * 4000, b"TAGS\x01") == "A"


def test_a_stream_of_the_smallest_frames_is_read_in_linear_time() -> None:
    smallest = frame(b'{"code":0}')
    reader = FrameReader()
    stream = smallest * 20_000
    frames = sum(len(reader.feed(stream[at : at + 1000])) for at in range(0, len(stream), 1000))
    assert frames == 20_000
