"""What holds for the decode step whatever the bytes are."""

from __future__ import annotations

import json
from datetime import datetime
from decimal import Decimal
from typing import Any

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jst_bridge.errors import UndecodableError
from jst_bridge.messages import REASONS, Content, Decoder, TopicInfo, family_of, search
from jst_bridge.messages.families import content_type
from jst_bridge.messages.values import Id
from jst_bridge.ports import Message, PlainDelivery

unhurried = settings(deadline=None)  # a megabyte of memo takes its time on a busy machine

BORN = 1_700_000_000_000
DECODER = Decoder("jushita", "12345678")
TOPICS = st.sampled_from(
    [
        "taobao_trade_TradeBuyerPay",
        "taobao_trade_TradeRated",
        "taobao_traderate_ImprBadTag",
        "taobao_refund_RefundCreated",
        "taobao_dispute_RefundCreated",
        "taobao_logistics_LogsticDetailTrace",
        "taobao_item_ItemUpdate",
        "taobao_fenxiao_FxRefundCreate",
        "taobao_fuwu_OrderCreated",
    ]
)

# Values are written as JSON text, because no Python value serialises to most of the poison.
POISON = [
    '"\\u0000"',
    '"a\\u0000b"',
    '"\\ud800"',
    '"\\udfff x"',
    '"😀"',
    '"line\nbreak"',
    '"tab\tand \x01"',
    "1e400",
    "1e-400",
    "1e99999999999999999999",
    "9" * 5000,
    '"' + "9" * 5000 + '"',
    "-0",
    "0",
    '""',
    "null",
    "true",
    "NaN",
    "-Infinity",
    '"NaN"',
    '"sNaN"',
    '"0e-999999"',
    "[" * 10_000 + "]" * 10_000,
    '{"a":' * 900 + "1" + "}" * 900,
    '"' + "x" * 1_000_000 + '"',
    '"0000-00-00 00:00:00"',
    '"0001-01-01 00:00:00"',
    '"9999-12-31 23:59:59"',
    '"9999-12-31T23:59:59-12:00"',
    '"1969-12-31 23:59:59"',
    "99999999999999999999",
    "-1",
    '"１２"',
    '"1_000"',
]
IDS = st.integers(1, 10**32 - 1)
PLAIN = st.one_of(
    IDS.map(str),
    IDS.map(lambda number: f'"{number}"'),
    st.decimals(-(10**9), 10**9, places=2).map(lambda amount: f'"{amount}"'),
    st.decimals(-(10**9), 10**9, places=3).map(lambda amount: f"{amount:f}"),
    st.datetimes(datetime(1960, 1, 1), datetime(2210, 1, 1)).map(lambda time: f'"{time:%Y-%m-%d %H:%M:%S}"'),
    st.integers(0, 8 * 10**12).map(str),
    st.text(max_size=12).map(lambda text: json.dumps(text, ensure_ascii=False)),
    st.text(max_size=12).map(json.dumps),
    st.lists(st.integers(), max_size=3).map(json.dumps),
)
VALUES = st.one_of(PLAIN, st.sampled_from(POISON))
CONTENT_NAMES = sorted(
    {
        name
        for topic in (t.topic for t in search("taobao_*"))
        for name in content_type(topic).__struct_fields__
    }
)
ENVELOPE_NAMES = [
    "topic",
    "outgoing_id",
    "publish_time",
    "publisher_appkey",
    "user_id",
    "user_nick",
    "id",
    "pub_time",
]


def objects(names: list[str], values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """JSON objects of some of `names`, as text."""
    pairs = st.dictionaries(st.sampled_from(names), values, max_size=6)
    return pairs.map(
        lambda fields: "{" + ",".join(f'"{name}":{value}' for name, value in fields.items()) + "}"
    )


def decode(body: bytes, tag: str = "") -> Message | None:
    """The message, having looked at every column; None when it was refused as documented."""
    try:
        message = DECODER.decode(PlainDelivery(body, tag, "", "AC1", "AC1", 1, BORN))
    except UndecodableError as refusal:
        reason = refusal.reason
    else:
        check_columns(message)
        check_content(message.content)
        return message
    assert reason in REASONS
    return None


def check_columns(message: Message) -> None:
    for text in (message.key, message.source, message.topic, message.seller, message.user_id):
        assert "\0" not in text
        assert len(text.encode("utf-8")) <= 4 * 128
        assert len(text) <= 128
    assert message.key.isascii()
    for number in (message.tid, message.oid, message.refund_id, message.num_iid):
        assert number is None or (str(int(number)) == number and int(number) > 0 and len(number) <= 32)
    assert 0 < message.published_at <= BORN + 24 * 3600 * 1000
    assert message.published_from in ("publish_time", "pub_time", "modified", "born")


def check_content(content: Content) -> None:
    ids = {field.name for field in msgspec.structs.fields(content) if field.type == Id | None}
    for name in set(content.__struct_fields__) - {"raw"}:
        value = getattr(content, name)
        assert not isinstance(value, bool | float)
        if isinstance(value, str):
            assert "\0" not in value.encode().decode()
        elif isinstance(value, int):
            assert 0 < value < 10**32 if name in ids else -(2**63) <= value < 2**63
        elif isinstance(value, Decimal):
            assert value.is_finite()
            assert abs(value) < 10**16
            assert len(format(value, "f")) <= 40
        elif value is not None:
            assert 1970 <= value.year < 2200
            assert value.utcoffset().total_seconds() == 8 * 3600


@unhurried
@given(st.binary(max_size=200), TOPICS)
@example(b"", "")
@example(b"\xef\xbb\xbf{}\0", "taobao_fenxiao_FxOrderCreate")
def test_any_bytes_are_read_or_refused(body: bytes, tag: str) -> None:
    decode(body)
    decode(body, tag)


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@unhurried
@given(
    st.one_of(
        JSON, st.dictionaries(st.sampled_from([*ENVELOPE_NAMES, "content", "notify_trade", "packet"]), JSON)
    )
)
def test_any_json_is_read_or_refused(document: Any) -> None:
    decode(json.dumps(document).encode(), "taobao_trade_TradeBuyerPay")


@unhurried
@given(TOPICS, objects(CONTENT_NAMES, VALUES), objects(ENVELOPE_NAMES, VALUES), st.booleans())
def test_poison_at_any_place_is_read_or_refused(
    topic: str, content: str, envelope: str, as_text: bool
) -> None:
    held = json.dumps(content, ensure_ascii=False) if as_text else content
    decode(
        (f'{{"topic":"{topic}","content":{held},' + envelope.removeprefix("{")).replace(",}", "}").encode()
    )


def same(one: Message | None, other: Message | None) -> bool:
    if one is None or other is None:
        return one is other
    for message in (one, other):
        message.content.raw = ""
    left, right = msgspec.structs.asdict(one), msgspec.structs.asdict(other)
    return all(left[name] == right[name] for name in left if name != "delivery")


@unhurried
@given(TOPICS, objects(CONTENT_NAMES, VALUES))
def test_content_as_text_and_as_object_is_the_same_message(topic: str, content: str) -> None:
    envelope = f'{{"topic":"{topic}","outgoing_id":5,"publish_time":{BORN},"user_nick":"n","content":'
    as_text = decode((envelope + json.dumps(content, ensure_ascii=False) + "}").encode())
    as_object = decode((envelope + content + "}").encode())
    assert same(as_text, as_object)


@unhurried
@given(TOPICS, objects(CONTENT_NAMES, PLAIN))
def test_the_strict_and_the_tolerant_reading_of_the_envelope_agree(topic: str, content: str) -> None:
    held = json.dumps(content, ensure_ascii=False)
    body = f'{{"topic":"{topic}","outgoing_id":5,"publish_time":{BORN},"user_nick":"n","content":{held}}}'
    ordinary = decode(body.encode())
    assert ordinary is not None
    assert same(ordinary, decode(body.encode() + b"\0"))


@unhurried
@given(TOPICS, objects([*CONTENT_NAMES, "unheard_of", "raw"], PLAIN))
def test_every_field_is_either_typed_or_in_extra(topic: str, content: str) -> None:
    held = json.dumps(content, ensure_ascii=False)
    message = decode(f'{{"topic":"{topic}","content":{held}}}'.encode())
    assert message is not None
    fields = set(json.loads(content))
    carried = {
        name for name in message.content.__struct_fields__ if getattr(message.content, name) is not None
    }
    assert carried - {"raw"} | message.content.extra.keys() == fields
    assert not (carried - {"raw"}) & message.content.extra.keys()


@unhurried
@given(IDS, st.sampled_from(["tid", "oid", "refund_id", "num_iid"]), st.booleans(), st.booleans())
def test_ids_survive_exactly(number: int, name: str, quoted: bool, as_text: bool) -> None:
    content = f'{{"{name}":"{number}"}}' if quoted else f'{{"{name}":{number}}}'
    held = json.dumps(content) if as_text else content
    message = decode(
        f'{{"topic":"taobao_trade_TradeClose","outgoing_id":{number},"content":{held}}}'.encode()
    )
    assert message is not None
    assert getattr(message, name) == str(number)
    assert message.key == f"tb:12345678:{number}"


@unhurried
@given(st.text(max_size=20))
def test_every_topic_has_a_family(topic: str) -> None:
    assert family_of(topic) in ("trade", "refund", "logistics", "rate", "item", "fenxiao", "other")


@unhurried
@given(st.text(max_size=5))
def test_a_search_finds_nothing_but_matches(pattern: str) -> None:
    found = search(pattern)
    assert all(isinstance(info, TopicInfo) for info in found)
    if not set(pattern) & set("*?"):
        folded = pattern.casefold()
        assert all(folded in f"{i.topic}\n{i.title}\n{i.category}".casefold() for i in found)
