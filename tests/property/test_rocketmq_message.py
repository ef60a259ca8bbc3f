"""Stored messages: round trips in every layout, and broken ones that do not take their neighbours along."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from collections.abc import Callable, Iterable

import lz4.frame
import pytest
import zstandard
from hypothesis import example, given
from hypothesis import strategies as st

from jst_bridge.errors import DecodeError
from jst_bridge.rocketmq.codes import SysFlag
from jst_bridge.rocketmq.compression import MAX_BODY, compress, decompress
from jst_bridge.rocketmq.message import MAX_BATCH, MessageExt, decode_messages, encode_message, pack_host

KINDS = (SysFlag.COMPRESSION_ZLIB, SysFlag.COMPRESSION_LZ4, SysFlag.COMPRESSION_ZSTD)
INNER_BATCH = int(SysFlag.NEED_UNWRAP | SysFlag.INNER_BATCH)

int32 = st.integers(-(2**31), 2**31 - 1)
int64 = st.integers(-(2**63), 2**63 - 1)
offsets = st.integers(0, 2**62)
hosts = st.builds(pack_host, st.ip_addresses().map(str), st.integers(0, 65535))
topics = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40) | st.integers(
    128, 255
).map(lambda size: "t" * size)


@st.composite
def messages(draw: st.DrawFn) -> MessageExt:
    born_host, store_host = draw(hosts), draw(hosts)
    flags = draw(st.sampled_from([0, 2, 4, 8]))
    flags |= int(SysFlag.BORN_HOST_IPV6) if len(born_host) == 20 else 0
    flags |= int(SysFlag.STORE_HOST_IPV6) if len(store_host) == 20 else 0
    body = draw(st.binary(max_size=60))
    return MessageExt(
        topic=draw(topics),
        body=body,
        raw_properties=draw(st.binary(max_size=40)),
        queue_id=draw(int32),
        queue_offset=draw(offsets),
        physical_offset=draw(int64),
        born_timestamp=draw(int64),
        store_timestamp=draw(int64),
        reconsume_times=draw(int32),
        sys_flag=flags,
        born_host=born_host,
        store_host=store_host,
        flag=draw(int32),
        body_crc=zlib.crc32(body) & 0x7FFFFFFF,
        prepared_transaction_offset=draw(int64),
    )


def plain(offset: int = 0, body: bytes = b"hello", **changes: object) -> MessageExt:
    fields: dict[str, object] = {
        "topic": "T",
        "body": body,
        "raw_properties": b"TAGS\x01A\x02",
        "queue_id": 0,
        "queue_offset": offset,
        "physical_offset": 1024 + offset,
        "born_timestamp": 1_700_000_000_000,
        "store_timestamp": 1_700_000_000_001,
        "reconsume_times": 0,
        "sys_flag": 0,
        "born_host": pack_host("10.0.0.5", 50001),
        "store_host": pack_host("127.0.0.1", 10911),
    }
    return MessageExt(**(fields | changes))  # type: ignore[arg-type]


def inner_batch(elements: Iterable[tuple[int, bytes, bytes]]) -> bytes:
    """(flag, body, properties) of each element, as 5.x packs them into one record."""
    packed = b""
    for flag, body, properties in elements:
        rest = struct.pack(">iiii", 0, 0, flag, len(body)) + body
        rest += struct.pack(">h", len(properties)) + properties
        packed += struct.pack(">i", 4 + len(rest)) + rest
    return packed


@given(st.lists(messages(), max_size=4))
def test_messages_survive_encoding(sent: list[MessageExt]) -> None:
    assert decode_messages(b"".join(encode_message(message) for message in sent)) == (sent, True)


@given(messages(), st.sampled_from(KINDS), st.binary(max_size=2000))
def test_compressed_bodies_come_out_as_published(message: MessageExt, kind: SysFlag, body: bytes) -> None:
    packed, flags = compress(body, kind)
    message.body, message.sys_flag, message.body_crc = packed, message.sys_flag | flags, 0
    ((read,), _) = decode_messages(encode_message(message))
    assert (read.body, read.fault) == (body, "")
    assert read.sys_flag & flags == flags


def test_an_old_client_that_names_no_compression_means_zlib() -> None:
    packed, _ = compress(b"old client" * 50)
    ((read,), _) = decode_messages(encode_message(plain(body=packed, sys_flag=int(SysFlag.COMPRESSED))))
    assert read.body == b"old client" * 50


@given(
    st.lists(st.tuples(int32, st.binary(max_size=30), st.binary(max_size=30)), min_size=1, max_size=5),
    st.sampled_from((None, *KINDS)),
)
def test_an_inner_batch_becomes_its_elements(
    elements: list[tuple[int, bytes, bytes]], kind: SysFlag | None
) -> None:
    body, flags = inner_batch(elements), INNER_BATCH
    if kind is not None:
        body, compression = compress(body, kind)
        flags |= compression
    outer = plain(7, body, sys_flag=flags)
    read, complete = decode_messages(encode_message(outer) + encode_message(plain(7 + len(elements))))
    assert complete
    assert [(m.flag, m.body, m.raw_properties) for m in read[:-1]] == elements
    assert [m.queue_offset for m in read] == list(range(7, 8 + len(elements)))
    assert {m.physical_offset for m in read[:-1]} == {outer.physical_offset}


@given(st.binary(max_size=120))
@example(b"")
@example(inner_batch([(0, b"x", b"")])[:-1])
@example(struct.pack(">iiiiih", 0, 0, 0, 0, 0, 0))
@example(struct.pack(">iiiiih", 22, 0, 0, 0, -1, 0))
def test_a_garbled_inner_batch_is_one_faulty_message_or_none_at_all(body: bytes) -> None:
    outer = encode_message(plain(0, body, sys_flag=INNER_BATCH))
    read, complete = decode_messages(outer + encode_message(plain(1)))
    assert complete
    assert (read[-1].body, read[-1].fault) == (b"hello", "")
    assert len(read) >= 2
    assert all(not m.fault for m in read[:-1]) or (len(read) == 2 and read[0].body == outer)


# --- broken records -------------------------------------------------------------------------------------


@given(st.binary(max_size=400))
def test_any_bytes_are_messages_or_a_decode_error(data: bytes) -> None:
    try:
        decode_messages(data)
    except DecodeError:
        return


GOLDEN = [encode_message(plain(offset, b"body %d" % offset)) for offset in range(3)]


@pytest.mark.parametrize("mask", [0x01, 0x80, 0xFF])
@pytest.mark.parametrize("flags", [0, int(SysFlag.COMPRESSED | SysFlag.COMPRESSION_LZ4), INNER_BATCH])
def test_a_changed_byte_spoils_at_most_its_own_message(mask: int, flags: int) -> None:
    middle = plain(1, compress(b"abc" * 40, SysFlag.COMPRESSION_LZ4)[0], sys_flag=flags)
    if flags == INNER_BATCH:
        middle.body = inner_batch([(0, b"abc", b"")])
    record = encode_message(middle)
    for at in range(len(record)):
        broken = bytearray(record)
        broken[at] ^= mask
        stream = GOLDEN[0] + bytes(broken) + GOLDEN[2]
        if at < 4:  # its size: what follows cannot be found
            with pytest.raises(DecodeError):
                decode_messages(stream)
            continue
        read, complete = decode_messages(stream)
        assert complete
        assert [read[0].body, read[-1].body] == [b"body 0", b"body 2"]
        assert [read[0].fault, read[-1].fault] == ["", ""]
        assert len(read) == 3
        if read[1].fault:
            assert read[1].body == bytes(broken)


@pytest.mark.parametrize(
    ("record", "complaint"),
    [
        (struct.pack(">iI", 1000, 0xDAA320A7) + bytes(79), "too few"),
        (struct.pack(">iI", 1000, 0xDAA320A7) + bytes(90), "does not fit"),
        (struct.pack(">iI", -5, 0xDAA320A7) + bytes(90), "does not fit"),
        (struct.pack(">iI", 0, 0xDAA320A7) + bytes(90), "does not fit"),
    ],
    ids=["short", "beyond the end", "negative", "zero"],
)
def test_a_sequence_that_cannot_be_followed_is_refused(record: bytes, complaint: str) -> None:
    with pytest.raises(DecodeError, match=complaint):
        decode_messages(GOLDEN[0] + record)


@given(st.integers(1, len(GOLDEN[2]) - 1))
def test_a_truncated_sequence_is_refused(missing: int) -> None:
    with pytest.raises(DecodeError):
        decode_messages(b"".join(GOLDEN)[:-missing])


@pytest.mark.parametrize(
    ("offset", "field", "complaint"),
    [
        (4, struct.pack(">I", 0xCBD43194), "unknown magic"),
        (84, struct.pack(">i", -1), "body length -1"),
        (84, struct.pack(">i", 2**31 - 1), "body length"),
        (88 + 6, b"\xff", "topic length"),
        (88 + 7, b"\xff", "not UTF-8"),
        (88 + 8, b"\x7f\xff", "properties length"),
        (88 + 8, b"\xff\xff", "properties length"),
        (36, struct.pack(">i", 0x401), "unknown compression"),
        (36, struct.pack(">i", 0x301), "corrupt"),
        (36, struct.pack(">i", 0x101), "corrupt|truncated"),
        (36, struct.pack(">i", 0x201), "corrupt|truncated"),
    ],
)
def test_a_fault_says_what_is_wrong_and_keeps_the_record(offset: int, field: bytes, complaint: str) -> None:
    record = bytearray(GOLDEN[1])
    record[offset : offset + len(field)] = field
    (first, broken, last), _ = decode_messages(GOLDEN[0] + bytes(record) + GOLDEN[2])
    assert any(word in broken.fault for word in complaint.split("|"))
    assert broken.body == bytes(record)
    assert (first.body, last.body) == (b"body 0", b"body 2")


@pytest.mark.parametrize("flags", [0x10, 0x20, 0x30])
def test_a_record_too_short_for_its_ipv6_hosts_is_a_fault(flags: int) -> None:
    record = bytearray(encode_message(plain(0, b"", raw_properties=b"")))
    record[36:40] = struct.pack(">i", flags)
    read, complete = decode_messages(bytes(record) + GOLDEN[1])
    assert complete
    assert "fixed part" in read[0].fault
    assert read[1].body == b"body 1"


# --- ceilings -------------------------------------------------------------------------------------------

BOMB = 64 * 1024 * 1024


def _bomb(kind: SysFlag) -> bytes:
    """Zeros that unpack to far more than any body may have, made without holding them."""
    chunk, rounds = bytes(1024 * 1024), BOMB // (1024 * 1024)
    if kind == SysFlag.COMPRESSION_ZLIB:
        deflate = zlib.compressobj(1)
        return b"".join([deflate.compress(chunk) for _ in range(rounds)]) + deflate.flush()
    if kind == SysFlag.COMPRESSION_LZ4:
        with lz4.frame.LZ4FrameCompressor() as squeeze:
            parts = [squeeze.begin(), *(squeeze.compress(chunk) for _ in range(rounds)), squeeze.flush()]
        return b"".join(parts)
    zstd = zstandard.ZstdCompressor(level=1).compressobj()
    return b"".join([zstd.compress(chunk) for _ in range(rounds)]) + zstd.flush()


def _peak(work: Callable[[], object]) -> int:
    """Bytes that `work` held at most (what Python's allocators saw)."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", KINDS)
def test_a_decompression_bomb_becomes_a_fault_within_the_ceiling(kind: SysFlag) -> None:
    record = encode_message(plain(body=_bomb(kind), sys_flag=int(SysFlag.COMPRESSED | kind)))
    seen: list[MessageExt] = []
    peak = _peak(lambda: seen.extend(decode_messages(record)[0]))
    assert "unpacks to more than" in seen[0].fault
    assert peak < 3 * MAX_BODY + 2 * len(record)


@pytest.mark.parametrize("kind", KINDS)
def test_a_body_of_exactly_the_ceiling_passes(kind: SysFlag) -> None:
    body = bytes(MAX_BODY)
    packed, flags = compress(body, kind)
    assert decompress(packed, flags) == body
    packed, flags = compress(body + b"\x00", kind)
    with pytest.raises(DecodeError, match="unpacks to more"):
        decompress(packed, flags)


@pytest.mark.parametrize("kind", KINDS)
def test_a_truncated_compressed_body_is_refused_at_every_length(kind: SysFlag) -> None:
    packed, flags = compress(bytes(range(256)) * 3, kind)
    for size in range(len(packed)):
        with pytest.raises(DecodeError):
            decompress(packed[:size], flags)


@given(
    st.binary(min_size=1, max_size=200), st.integers(0, 0x7FF), st.sampled_from([b"", b"\x04\x22\x4d\x18"])
)
@example(b"\xfd\x2f\xb5\x28", int(SysFlag.COMPRESSION_ZSTD), b"")
def test_any_compressed_bytes_decompress_or_raise_a_decode_error(
    body: bytes, sys_flag: int, magic: bytes
) -> None:
    try:
        decompress(magic + body, sys_flag)
    except DecodeError:
        return


@given(st.sampled_from(KINDS), st.binary(max_size=300), st.data())
def test_a_changed_compressed_byte_raises_nothing_else(
    kind: SysFlag, body: bytes, data: st.DataObject
) -> None:
    packed, flags = compress(body, kind)
    broken = bytearray(packed)
    broken[data.draw(st.integers(0, len(broken) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        assert len(decompress(bytes(broken), flags)) <= MAX_BODY
    except DecodeError:
        return


def test_decoding_stops_at_the_batch_ceiling_and_says_so() -> None:
    body, flags = compress(bytes(MAX_BODY))
    record = encode_message(plain(body=body, sys_flag=flags))
    read, complete = decode_messages(record * 10)
    assert not complete
    assert sum(len(message.body) for message in read) <= MAX_BATCH + MAX_BODY
    assert decode_messages(b"".join(GOLDEN), size_limit=5)[1] is False
    assert len(decode_messages(b"".join(GOLDEN), size_limit=5)[0]) == 1


def test_an_unknown_compression_cannot_be_asked_for() -> None:
    with pytest.raises(ValueError, match="unknown compression"):
        compress(b"x", SysFlag.COMPRESSED)
