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
from tests.poison import NASTY, assert_fits

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
VALUES = st.one_of(PLAIN, st.sampled_from(NASTY))
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
        assert_fits(message)
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


ORDINARY: dict[str, dict[str, Any]] = {
    "taobao_trade_TradeSellerShip": {
        "tid": 2918463734761365257,
        "oid": 2918463734762365257,
        "buyer_nick": "c**",
        "buyer_open_uid": "AAHq3nV7ADFfvJGp1w8Kd2xZ",
        "seller_nick": "测试旗舰店",
        "payment": "59.78",
        "post_fee": "0.00",
        "status": "WAIT_BUYER_CONFIRM_GOODS",
        "type": "guarantee_trade",
        "iid": 547771866613,
        "sku_id": 4611686018427387904,
        "seller_memo": "加急",
        "seller_flag": 1,
        "modified": "2023-11-15 06:13:20",
    },
    "taobao_refund_RefundSuccess": {
        "refund_id": 181784773340365852,
        "tid": 2918463734761365257,
        "oid": 2918463734762365257,
        "refund_fee": "9.50",
        "refund_phase": "onsale",
        "bill_type": "refund_bill",
        "buyer_nick": "c**",
        "buyer_open_uid": "AAHq3nV7ADFfvJGp1w8Kd2xZ",
        "seller_nick": "测试旗舰店",
        "modified": "2023-11-15 06:13:20",
    },
    "taobao_dispute_RefundCreated": {
        "refund_id": 181784773340365852,
        "tid": 2918463734761365257,
        "oid": 2918463734762365257,
        "buyer_refund_fee": 950,
        "dispute_type": 1,
        "biz_claim_type": 3,
        "modified": "2023-11-15 06:13:20",
    },
    "taobao_logistics_LogsticDetailTrace": {
        "tid": 2918463734761365257,
        "out_sid": "YT0012345678",
        "company_name": "圆通速递",
        "action": "GOT",
        "desc": "已揽收",
        "time": "2023-11-15 06:13:20",
    },
}
ENVELOPE = {
    "outgoing_id": 5091501188142226555,
    "publish_time": BORN,
    "user_id": 74717909,
    "user_nick": "测试旗舰店",
}


@st.composite
def mutations(draw: st.DrawFn) -> bytes:
    """An ordinary body in which up to three values, at any place, are nasty ones."""
    topic = draw(st.sampled_from(sorted(ORDINARY)))
    content = {name: json.dumps(value) for name, value in ORDINARY[topic].items()}
    envelope = {name: json.dumps(value) for name, value in ({"topic": topic} | ENVELOPE).items()}
    for _ in range(draw(st.integers(1, 3))):
        where = draw(st.sampled_from([content, content, content, envelope]))
        where[draw(st.sampled_from(sorted(where)))] = draw(st.sampled_from(NASTY))
    held = "{" + ",".join(f'"{name}":{value}' for name, value in content.items()) + "}"
    envelope["content"] = draw(st.sampled_from([held, json.dumps(held, ensure_ascii=False)]))
    return ("{" + ",".join(f'"{name}":{value}' for name, value in envelope.items()) + "}").encode()


@settings(deadline=None, max_examples=400)
@given(mutations(), st.sampled_from([BORN, 0, -(2**63), 2**63 - 1]))
def test_nasty_values_anywhere_in_an_ordinary_body_fit_the_columns_or_are_refused(
    body: bytes, born_at: int
) -> None:
    try:
        message = DECODER.decode(PlainDelivery(body, "", "", "AC1", "AC1", 1, born_at))
    except UndecodableError as refusal:
        reason = refusal.reason
    else:
        assert_fits(message)
        return
    assert reason in REASONS
