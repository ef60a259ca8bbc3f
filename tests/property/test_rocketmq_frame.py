"""Frames: whatever is encoded comes back, however it is cut; whatever comes from outside is survived."""

from __future__ import annotations

import struct
import tracemalloc

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jst_bridge.errors import DecodeError
from jst_bridge.rocketmq.frame import LANGUAGES, MAX_FRAME, Frame, FrameReader, decode_frame, encode_frame
from tests.scripted import as_binary

int32 = st.integers(-(2**31), 2**31 - 1)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
frames = st.builds(
    Frame,
    code=st.integers(0, 32767),
    opaque=int32,
    flag=st.integers(0, 3),
    ext=st.dictionaries(text, text, max_size=6),
    body=st.binary(max_size=200),
    remark=text,
    language=st.sampled_from(LANGUAGES),
    version=st.integers(0, 612),
)


def json_frame(header: bytes, body: bytes = b"") -> bytes:
    return struct.pack(">II", 4 + len(header) + len(body), len(header)) + header + body


@given(frames)
def test_a_frame_survives_encoding(frame: Frame) -> None:
    assert decode_frame(encode_frame(frame)) == frame


@given(frames)
def test_both_header_forms_read_the_same(frame: Frame) -> None:
    assert decode_frame(as_binary(frame)) == frame


@given(frames, frames)
def test_a_stream_cut_at_any_byte_gives_the_same_frames(first: Frame, second: Frame) -> None:
    stream = encode_frame(first) + as_binary(second)
    for cut in range(len(stream) + 1):
        reader = FrameReader()
        assert reader.feed(stream[:cut]) + reader.feed(stream[cut:]) == [first, second]
        assert reader.pending == 0


@given(st.lists(frames, min_size=1, max_size=4))
def test_a_stream_that_arrives_byte_by_byte_gives_the_same_frames(sent: list[Frame]) -> None:
    reader = FrameReader()
    stream = b"".join(encode_frame(frame) for frame in sent)
    received = [frame for at in range(len(stream)) for frame in reader.feed(stream[at : at + 1])]
    assert received == sent
    assert reader.pending == 0


@given(st.lists(frames, max_size=5), st.lists(st.integers(1, 300), max_size=12))
def test_a_stream_in_pieces_of_any_size_gives_the_same_frames(sent: list[Frame], sizes: list[int]) -> None:
    stream = b"".join(encode_frame(frame) for frame in sent)
    reader, received, at = FrameReader(), [], 0
    for size in [*sizes, len(stream)]:
        received += reader.feed(stream[at : at + size])
        at += size
    assert received == sent


@given(frames, st.integers(1, 40))
def test_an_unfinished_frame_is_held_back(frame: Frame, missing: int) -> None:
    data = encode_frame(frame)
    reader = FrameReader()
    assert reader.feed(data[:-missing]) == []
    assert reader.pending == len(data) - missing
    assert reader.feed(data[-missing:]) == [frame]


@given(st.binary(max_size=300))
@example(struct.pack(">II", 5, 1) + b"{")
@example(json_frame(b"[" * 2000))
@example(json_frame(b'{"code":1,"extFields":' + b"{" * 2000))
@example(json_frame(b'{"code":1,"remark":"\\ud800"}'))
@example(json_frame(b'{"code":1,"remark":"\xff"}'))
@example(json_frame(b'{"code":1,"opaque":99999999999}'))
@example(json_frame(b'{"code":1e300,"opaque":"x"}'))
@example(json_frame(b"null"))
@example(struct.pack(">II", 25, 1 << 24 | 21) + b"\xff" * 21)
def test_any_bytes_are_a_frame_or_a_decode_error(data: bytes) -> None:
    for decode in (decode_frame, FrameReader().feed):
        try:
            decode(data)
        except DecodeError:
            continue


@given(frames, st.data())
def test_a_frame_with_a_changed_byte_is_a_frame_or_a_decode_error(frame: Frame, data: st.DataObject) -> None:
    for encoded in (bytearray(encode_frame(frame)), bytearray(as_binary(frame))):
        at = data.draw(st.integers(0, len(encoded) - 1))
        encoded[at] ^= data.draw(st.integers(1, 255))
        for decode in (decode_frame, FrameReader().feed):
            try:
                decode(bytes(encoded))
            except DecodeError:
                continue


@pytest.mark.parametrize("length", [0, 3, MAX_FRAME - 3, 2**31 - 1, 2**31, 2**32 - 1])
def test_a_length_outside_the_protocol_is_refused_before_anything_is_held(length: int) -> None:
    reader = FrameReader()
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError, match="outside the protocol"):
            reader.feed(struct.pack(">I", length))
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_the_largest_frame_passes_and_one_byte_more_does_not() -> None:
    empty = len(encode_frame(Frame(0)))
    largest = encode_frame(Frame(0, body=bytes(MAX_FRAME - empty)))
    assert len(largest) == MAX_FRAME
    reader = FrameReader()
    assert reader.feed(largest[:-1]) == []
    (frame,) = reader.feed(largest[-1:])
    assert len(frame.body) == MAX_FRAME - empty
    with pytest.raises(DecodeError, match="exceeds the protocol's limit"):
        encode_frame(Frame(0, body=bytes(MAX_FRAME - empty + 1)))


def test_a_whole_frame_behind_an_unfinished_one_is_not_lost() -> None:
    first, second = Frame(1, 1, body=b"a" * 50), Frame(2, 2)
    stream = encode_frame(first) + encode_frame(second)
    reader = FrameReader()
    assert reader.feed(stream[:3]) == []
    assert reader.feed(stream[3:60]) == []
    assert reader.feed(stream[60:]) == [first, second]


@pytest.mark.parametrize(
    ("ext", "read"),
    [
        (b'{"queueId":3,"x":true,"y":false,"z":"s"}', {"queueId": "3", "x": "true", "y": "false", "z": "s"}),
        (b'{"x":null}', {}),
        (b'{"f":0.5}', {"f": "0.5"}),
        (b"null", {}),
    ],
)  # fmt: skip
def test_ext_values_that_are_no_strings_are_read_as_text(ext: bytes, read: dict[str, str]) -> None:
    assert decode_frame(json_frame(b'{"code":11,"opaque":5,"extFields":' + ext + b"}")).ext == read


def test_a_header_needs_no_more_than_a_code() -> None:
    frame = decode_frame(json_frame(b'{"code":34,"unknown":[1],"language":"KLINGON"}', b"body"))
    assert frame == Frame(34, 0, 0, {}, b"body", "", "KLINGON", 0)


def test_languages_given_as_numbers_are_named() -> None:
    assert decode_frame(json_frame(b'{"code":34,"language":9}')).language == "GO"
    assert decode_frame(json_frame(b'{"code":34,"language":99}')).language == "OTHER"


def test_a_request_always_carries_an_ext_map() -> None:
    assert b'"extFields":{}' in encode_frame(Frame(34))
    assert b"extFields" not in encode_frame(Frame(0, flag=1))


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"\x00\x00\x00", "at least 8 bytes"),
        (struct.pack(">II", 9, 1) + b"{", "length says"),
        (struct.pack(">II", 5, 0) + b"{", "header length 0"),
        (struct.pack(">II", 5, 2) + b"{", "does not fit"),
        (struct.pack(">II", 6, 2 << 24 | 2) + b"{}", "unknown header form 2"),
        (json_frame(b"{}"), "not the JSON"),
        (json_frame(b'{"code":1,"opaque":2147483648}'), "32 bits"),
    ],
)
def test_a_broken_frame_says_what_is_wrong(data: bytes, complaint: str) -> None:
    with pytest.raises(DecodeError, match=complaint):
        decode_frame(data)
