"""What the decode step makes of one delivery."""

from __future__ import annotations

import json
from datetime import datetime
from decimal import Decimal
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest

from jst_bridge.errors import ConfigurationError, UndecodableError
from jst_bridge.messages import (
    BEIJING,
    REASONS,
    Decoder,
    Dispute,
    Fenxiao,
    ImpressionTag,
    Item,
    LogisticsTrace,
    Other,
    Refund,
    Trade,
    TradeRated,
)
from jst_bridge.ports import Delivery, Message, PlainDelivery

PUBLISHED = 1_664_432_235_000
BORN = PUBLISHED + 250
PAID = "taobao_trade_TradeBuyerPay"
TRADE: dict[str, Any] = {
    "buyer_nick": "c**",
    "payment": "59.78",
    "status": "WAIT_SELLER_SEND_GOODS",
    "iid": 547771866613,
    "oid": 2918463734761365258,
    "tid": 2918463734761365257,
    "type": "guarantee_trade",
    "post_fee": "0.00",
    "seller_nick": "测试旗舰店",
}


def ons(
    content: object = TRADE, *, topic: object = PAID, drop: str = "", **changes: object
) -> dict[str, Any]:
    envelope = {
        "topic": topic,
        "content": content if isinstance(content, str) else json.dumps(content, ensure_ascii=False),
        "outgoing_id": 5091501188142226555,
        "publish_time": PUBLISHED,
        "publisher_appkey": "12497914",
        "user_id": 74717909,
        "user_nick": "测试旗舰店",
    } | changes
    return {name: value for name, value in envelope.items() if name not in drop.split()}


def deliver(
    body: object, *, tag: str = "", born_at: int = BORN, fault: str = "", origin: str = "AC1"
) -> Delivery:
    encoded = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()
    return PlainDelivery(encoded, tag, "", "AC2", origin, 7, born_at, 0, fault)


def decode(body: object, **delivery: Any) -> Message:
    return Decoder("jushita", "12345678").decode(deliver(body, **delivery))


def refusal(body: object, **delivery: Any) -> str:
    with pytest.raises(UndecodableError) as caught:
        decode(body, **delivery)
    assert caught.value.reason in REASONS
    assert str(caught.value)
    return caught.value.reason


def typed(fields: dict[str, Any], topic: str = PAID) -> Any:
    return decode(ons(fields, topic=topic)).content


# --- an ordinary message -------------------------------------------------------------------------------------


def test_an_ordinary_message_fills_every_column() -> None:
    delivery = deliver(ons(), tag=PAID)
    message = Decoder("jushita", "12345678").decode(delivery)
    assert message.key == "tb:12345678:5091501188142226555"
    assert (message.source, message.topic, message.seller) == ("jushita", PAID, "测试旗舰店")
    assert message.user_id == "74717909"
    assert (message.tid, message.oid) == ("2918463734761365257", "2918463734761365258")
    assert (message.refund_id, message.num_iid) == (None, "547771866613")
    assert (message.published_at, message.published_from) == (PUBLISHED, "publish_time")
    assert message.delivery is delivery


def test_an_ordinary_message_is_typed() -> None:
    content = typed(TRADE)
    assert type(content) is Trade
    assert (content.tid, content.payment, content.post_fee) == (
        2918463734761365257,
        Decimal("59.78"),
        Decimal("0.00"),
    )
    assert content.status == "WAIT_SELLER_SEND_GOODS"
    assert content.num is None
    assert content.extra == {}


@pytest.mark.parametrize(
    ("topic", "kind"),
    [
        (PAID, Trade),
        ("taobao_trade_SomethingNew", Trade),
        ("taobao_trade_TradeRated", TradeRated),
        ("taobao_traderate_ImprBadTag", ImpressionTag),
        ("taobao_refund_RefundCreated", Refund),
        ("taobao_dispute_RefundCreated", Dispute),
        ("taobao_logistics_LogsticDetailTrace", LogisticsTrace),
        ("taobao_logistics_Accept", Other),
        ("taobao_item_ItemUpdate", Item),
        ("taobao_fenxiao_FxRefundCreate", Fenxiao),
        ("acme_unheard_Of", Other),
    ],
)
def test_the_topic_chooses_the_type(topic: str, kind: type) -> None:
    assert type(typed({}, topic)) is kind


def test_unknown_topics_are_carried_raw() -> None:
    message = decode(ons({"tid": 5, "colour": "red", "deep": {"a": [1.5]}}, topic="acme_unheard_Of"))
    assert message.tid == "5"
    assert message.content.extra == {"colour": "red", "deep": {"a": [Decimal("1.5")]}}


# --- ids, money, times ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("tid", [2**53 + 1, 2**63 - 1, 2**63 + 1, 2**64 + 1, 10**32 - 1])
@pytest.mark.parametrize("as_text", [False, True])
@pytest.mark.parametrize("as_object", [False, True])
def test_ids_are_exact_whatever_their_size_and_form(tid: int, as_text: bool, as_object: bool) -> None:
    fields = {"tid": str(tid) if as_text else tid}
    body = ons() | {"content": fields if as_object else json.dumps(fields)}
    message = decode(body)
    assert message.tid == str(tid)
    assert message.content.tid == tid


@pytest.mark.parametrize(
    "tid", [0, "0", "", None, -5, "-5", "x12", 10**32, "1" * 5000, True, [1], 12.0, 2.9e18]
)
def test_what_is_no_id_counts_as_missing_and_harms_nothing_else(tid: object) -> None:
    message = decode(ons(TRADE | {"tid": tid}))
    assert message.tid is None
    assert message.content.tid is None
    assert message.content.payment == Decimal("59.78")
    assert message.oid == "2918463734761365258"


def test_leading_zeros_of_an_id_are_not_part_of_it() -> None:
    assert decode(ons({"tid": "00042"})).tid == "42"


def test_iid_stands_in_for_num_iid_and_zero_for_nothing() -> None:
    assert decode(ons({"iid": 7})).num_iid == "7"
    assert decode(ons({"iid": 7, "num_iid": 8})).num_iid == "8"
    assert decode(ons({"iid": 7, "num_iid": 0})).num_iid == "7"
    assert decode(ons({"iid": 0})).num_iid is None


def test_a_fenxiao_message_is_found_by_the_order_at_taobao() -> None:
    topic = "taobao_fenxiao_FxRefundCreate"
    assert decode(ons({"tc_order_id": "12345678", "sub_order_id": 9}, topic=topic)).tid == "12345678"
    assert decode(ons({"tc_order_id": 0}, topic=topic)).tid is None


@pytest.mark.parametrize(
    ("sent", "amount"),
    [
        ("9.50", "9.50"),
        ("66000.0", "66000.0"),
        (12.5, "12.5"),
        (30, "30"),
        ("-1.00", "-1.00"),
        ("9999999999999999.99", "9999999999999999.99"),
        ("1E+3", "1000"),
    ],
)
def test_money_is_exact(sent: object, amount: str) -> None:
    assert str(typed({"payment": sent}).payment) == amount


@pytest.mark.parametrize(
    "sent",
    ["", "NaN", "sNaN", "Infinity", "1e400", "1e-400", "0e-999999", "1" + "0" * 16, "1e9999999999999999999"],
)
def test_what_is_no_amount_is_absent(sent: object) -> None:
    content = typed({"payment": sent, "tid": 1})
    assert content.payment is None
    assert content.tid == 1
    assert content.extra == {"payment": sent}


@pytest.mark.parametrize("sent", [{}, [], True, "12,50", "1." + "0" * 30])
def test_what_looks_nothing_like_an_amount_is_absent_too(sent: object) -> None:
    assert typed({"payment": sent}).extra == {"payment": sent}


def test_absurd_numbers_do_not_stop_a_message() -> None:
    content = (
        b'{"tid":1,"payment":1e400,"num":1e99999999999999999999,"x":NaN,"seller_flag":' + b"9" * 5000 + b"}"
    )
    message = decode(json.dumps(ons(content.decode())).encode())
    assert message.tid == "1"
    assert (message.content.payment, message.content.num, message.content.seller_flag) == (None, None, None)
    assert set(message.content.extra) == {"payment", "num", "x", "seller_flag"}


def test_counts_stay_within_64_bits_and_flags_within_32() -> None:
    assert typed({"num": 2**63 - 1}).num == 2**63 - 1
    assert typed({"num": 2**63}).num is None
    assert typed({"seller_flag": 2**31 - 1}).seller_flag == 2**31 - 1
    assert typed({"seller_flag": "3"}).seller_flag == 3
    content = typed({"seller_flag": 2**31, "tid": 1})
    assert (content.seller_flag, content.tid, content.extra) == (None, 1, {"seller_flag": 2**31})


@pytest.mark.parametrize(
    ("sent", "moment"),
    [
        ("2017-09-13 16:00:07", datetime(2017, 9, 13, 16, 0, 7, tzinfo=BEIJING)),
        (1505289607000, datetime(2017, 9, 13, 16, 0, 7, tzinfo=BEIJING)),
        ("1505289607000", datetime(2017, 9, 13, 16, 0, 7, tzinfo=BEIJING)),
        (1505289607, datetime(2017, 9, 13, 16, 0, 7, tzinfo=BEIJING)),
        ("2017-09-13T16:00:07.139642+08:00", datetime(2017, 9, 13, 16, 0, 7, 139642, tzinfo=BEIJING)),
        ("2017-09-13T08:00:07Z", datetime(2017, 9, 13, 16, 0, 7, tzinfo=BEIJING)),
    ],
)
def test_every_form_of_a_time_becomes_beijing_time(sent: object, moment: datetime) -> None:
    content = typed({"modified": sent}, "taobao_refund_RefundCreated")
    assert content.modified == moment
    assert content.modified.utcoffset() == BEIJING.utcoffset(None)


@pytest.mark.parametrize(
    "sent",
    [
        "",
        "yesterday",
        "0001-01-01 00:00:00",
        "9999-12-31 23:59:59",
        "2200-01-01 00:00:00",
        0,
        -1,
        10**30,
        True,
    ],
)
def test_absurd_times_are_absent(sent: object) -> None:
    content = typed({"modified": sent, "tid": 1})
    assert content.modified is None
    assert content.tid == 1


# --- text ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("escape", ["\\u0000", "\\ud800", "\\udc00"])
def test_nul_and_lone_surrogates_are_replaced_in_typed_text(escape: str) -> None:
    message = decode(ons(f'{{"tid":1,"seller_memo":"a{escape}b"}}'))
    assert message.content.seller_memo == "a\ufffdb"
    body = json.dumps(ons({"tid": 1})).encode()
    body = body.replace(json.dumps("测试旗舰店").encode(), f'"a{escape}b"'.encode())
    assert decode(body).seller == "a\ufffdb"


def test_invalid_utf8_is_replaced() -> None:
    body = json.dumps(ons(), ensure_ascii=False).encode().replace("测试".encode(), b"\xff")
    message = decode(body)
    assert message.seller == "\ufffd旗舰店"
    assert message.content.seller_nick == "\ufffd旗舰店"
    assert message.tid == "2918463734761365257"


def test_raw_control_characters_inside_strings_are_read() -> None:
    content = typed({}, "taobao_item_ItemUpdate")
    assert content.changed == ()
    message = decode(
        ons('{"num_iid":37454082931,"changed_fields":"desc,\n    num,\n\tsku, "}', topic="taobao_item_X")
    )
    assert message.content.changed == ("desc", "num", "sku")


@pytest.mark.parametrize(
    ("before", "after"), [(b"\xef\xbb\xbf", b""), (b"", b"\0\0"), (b" \n", b"\r\n"), (b"", b"\n\0")]
)
def test_padding_around_the_body_is_ignored(before: bytes, after: bytes) -> None:
    assert decode(before + json.dumps(ons()).encode() + after).tid == "2918463734761365257"


def test_four_byte_characters_and_long_text_survive() -> None:
    memo = "😀" * 250_000
    assert typed({"seller_memo": memo}).seller_memo == memo


def test_a_long_nick_is_cut() -> None:
    assert decode(ons(user_nick="😀" * 200)).seller == "😀" * 128
    assert decode(ons({"seller_nick": "n" * 200}, drop="user_nick")).seller == "n" * 128


# --- content -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["", " \n", "{}", None, {}])
def test_empty_content_is_an_empty_object(content: object) -> None:
    message = decode(ons() | {"content": content})
    assert message.tid is None
    assert message.content.extra == {}
    assert message.seller == "测试旗舰店"


@pytest.mark.parametrize("content", ["nonsense", "[]", "1", '"text"', "null", '{"a":', [], 5, True])
def test_content_that_is_no_object_is_refused(content: object) -> None:
    assert refusal(ons() | {"content": content}) == "bad_content"


def test_fields_that_the_type_does_not_carry_are_in_extra() -> None:
    content = typed(
        {"tid": 1, "payment": [1], "buyer_nick": 5, "colour": "red", "status": None, "raw": "mine"}
    )
    assert (content.payment, content.buyer_nick) == (None, None)
    assert content.extra == {"payment": [1], "buyer_nick": 5, "colour": "red", "raw": "mine"}


# --- who, when, which ----------------------------------------------------------------------------------------


def test_the_seller_comes_from_the_content_when_the_envelope_names_none() -> None:
    assert decode(ons(drop="user_nick")).seller == "测试旗舰店"
    assert (
        decode(ons({"nick": "野松春橘"}, topic="taobao_fuwu_OrderCreated", drop="user_nick user_id")).seller
        == "野松春橘"
    )
    assert decode(ons({"nick": "x", "seller_nick": "y"}, topic="acme_un_Known", user_nick="")).seller == "y"
    message = decode(ons({}, drop="user_nick user_id"))
    assert (message.seller, message.user_id) == ("", "")


@pytest.mark.parametrize(
    "outgoing_id", [None, 0, "0", "", "abc", -3, 4130201825909792000.0, 1.5, [1], "9" * 40]
)
def test_without_a_plain_id_the_key_is_the_first_copy_and_the_body(outgoing_id: object) -> None:
    delivery = deliver(ons(outgoing_id=outgoing_id), origin="0A0B0C")
    key = Decoder("s", "12345678").decode(delivery).key
    assert key == f"rmq:0A0B0C:{blake2b(delivery.body, digest_size=8).hexdigest()}"


def test_an_id_as_text_is_the_same_key() -> None:
    assert decode(ons(outgoing_id="5091501188142226555")).key == decode(ons()).key


@pytest.mark.parametrize("origin", ["", "é", "a\0", "\ud800", "x" * 500])
def test_a_key_is_always_short_ascii(origin: str) -> None:
    key = decode(ons(drop="outgoing_id"), origin=origin).key
    assert key.isascii()
    assert key.isprintable()
    assert len(key) <= 128


@pytest.mark.parametrize("app_key", ["", "a b", "密", "x" * 65, "a\n"])
def test_an_app_key_that_fits_no_message_key_is_a_configuration_error(app_key: str) -> None:
    with pytest.raises(ConfigurationError):
        Decoder("jushita", app_key)


DAY = 24 * 3600 * 1000


@pytest.mark.parametrize(
    ("changes", "content", "expected"),
    [
        ({}, {}, (PUBLISHED, "publish_time")),
        ({"publish_time": str(PUBLISHED)}, {}, (PUBLISHED, "publish_time")),
        ({"publish_time": BORN + DAY}, {}, (BORN + DAY, "publish_time")),
        ({"publish_time": BORN + DAY + 1}, {}, (BORN, "born")),
        ({"publish_time": 0}, {}, (BORN, "born")),
        ({"publish_time": -PUBLISHED}, {}, (BORN, "born")),
        ({"publish_time": 10**40}, {}, (BORN, "born")),
        ({"publish_time": 1}, {"modified": "2022-09-29 14:17:15"}, (PUBLISHED, "modified")),
        ({"publish_time": None, "pub_time": "2022-09-29 14:17:15"}, {}, (PUBLISHED, "pub_time")),
        ({"publish_time": 0, "pub_time": "2022-09-29 14:17:15"}, {}, (PUBLISHED, "pub_time")),
        ({"publish_time": 0, "pub_time": "2032-09-29 14:17:15"}, {}, (BORN, "born")),
        ({"publish_time": None}, {"modified": "2052-09-29 14:17:15"}, (BORN, "born")),
    ],
)
def test_the_first_believable_time_is_when_it_was_published(
    changes: dict[str, Any], content: dict[str, Any], expected: tuple[int, str]
) -> None:
    message = decode(ons(content, **changes))
    assert (message.published_at, message.published_from) == expected


def test_an_unknown_born_time_does_not_make_the_publish_time_a_lie() -> None:
    message = decode(ons(), born_at=0)
    assert (message.published_at, message.published_from) == (PUBLISHED, "publish_time")


def test_each_family_has_its_own_time_of_change() -> None:
    trace = decode(
        ons({"time": "2022-09-29 14:17:15"}, topic="taobao_logistics_LogsticDetailTrace", publish_time=0)
    )
    review = decode(ons({"gmt_modified": PUBLISHED}, topic="taobao_traderate_ImprBadTag", publish_time=0))
    assert {(m.published_at, m.published_from) for m in (trace, review)} == {(PUBLISHED, "modified")}


# --- forms of the envelope -----------------------------------------------------------------------------------


def test_the_topic_of_the_body_wins_and_the_tag_stands_in() -> None:
    assert decode(ons(), tag="taobao_trade_TradeClose").topic == PAID
    assert decode(ons(topic=""), tag=PAID).topic == PAID
    assert decode(ons(topic="  "), tag=PAID).topic == PAID
    assert decode(ons(drop="topic"), tag=PAID).topic == PAID
    assert refusal(ons(drop="topic")) == "no_topic"


@pytest.mark.parametrize("topic", ["t" * 129, "a\0b", "a\nb", "\u202e"])
def test_a_topic_that_is_no_name_is_refused(topic: str) -> None:
    assert refusal(ons(topic=topic)) == "bad_topic"


def test_a_tmc_http_message_is_read() -> None:
    body = {"user_id": 5, "user_nick": "n", "id": 4112500053989189490, "pub_time": "2022-09-29 14:17:15"}
    message = decode(body | {"pub_app_key": "12497914", "topic": PAID, "content": json.dumps(TRADE)})
    assert message.key == "tb:12345678:4112500053989189490"
    assert (message.seller, message.user_id, message.tid) == ("n", "5", "2918463734761365257")
    assert (message.published_at, message.published_from) == (PUBLISHED, "pub_time")


def test_a_tmc_ws_message_is_read() -> None:
    body = {"topic": PAID, "userid": 5, "__kind": 3, "publisher": "12497914", "id": 21318, "nick": "n"}
    message = decode(body | {"time": PUBLISHED, "dataid": 7, "retried": 1, "content": json.dumps(TRADE)})
    assert message.key == "tb:12345678:21318"
    assert (message.seller, message.user_id) == ("n", "5")
    assert (message.published_at, message.published_from) == (PUBLISHED, "publish_time")


@pytest.mark.parametrize(
    "names",
    [
        ("Id", "Topic", "PubTime", "UserId", "UserNick", "Content"),
        ("id", "topic", "pubTime", "userId", "userNick", "content"),
    ],
)
def test_a_bean_of_the_sdk_is_read(names: tuple[str, ...]) -> None:
    values = (21318, PAID, "2022-09-29 14:17:15", 5, "n", {"tid": "9"})
    message = decode(dict(zip(names, values, strict=True)))
    assert (message.key, message.topic, message.tid) == ("tb:12345678:21318", PAID, "9")
    assert (message.seller, message.user_id, message.published_at) == ("n", "5", PUBLISHED)


NOTIFY = {
    "topic": "trade",
    "status": "TradeSuccess",
    "user_id": 42942164,
    "nick": "buyer",
    "seller_nick": "rzolihyr",
}


@pytest.mark.parametrize("wrap", [lambda n: n, lambda n: {"packet": {"code": 202, "msg": n}}])
@pytest.mark.parametrize("as_text", [False, True])
def test_an_old_notification_is_read(wrap: Any, as_text: bool) -> None:
    notice: Any = {"notify_trade": NOTIFY | {"tid": 100167599903061, "modified": "2011-10-02 09:19:53"}}
    body = wrap(notice)
    if as_text and "packet" in body:
        body["packet"]["msg"] = json.dumps(notice)
    message = decode(body)
    assert (message.topic, message.seller, message.user_id) == (
        "taobao_trade_TradeSuccess",
        "rzolihyr",
        "42942164",
    )
    assert message.content.status is None
    assert (message.tid, message.published_from) == ("100167599903061", "modified")


def test_an_old_notification_without_a_status_has_no_topic() -> None:
    assert refusal({"notify_trade": {"tid": 1}}) == "no_topic"


def test_bare_content_is_read_when_the_tag_is_a_known_topic() -> None:
    message = decode(TRADE, tag=PAID)
    assert (message.topic, message.seller, message.tid) == (PAID, "测试旗舰店", "2918463734761365257")
    assert message.key.startswith("rmq:AC1:")
    assert refusal(TRADE) == "not_an_envelope"
    assert refusal(TRADE, tag="acme_unheard_Of") == "not_an_envelope"
    assert refusal(TRADE | {"publish_time": 5}, tag=PAID) == "not_an_envelope"


def test_bare_content_may_have_a_field_called_content_where_its_topic_has_one() -> None:
    body = {"tid": 1, "subject": "s", "content": "旺旺通知内容"}
    assert decode(body, tag="taobao_trade_TradePartlyRefund").tid == "1"
    assert refusal(body, tag=PAID) == "not_an_envelope"


# --- refusals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "empty_body"),
        (b" \0\n", "empty_body"),
        (b"\xff\xfe\x00binary", "not_text"),
        (b"<html>502</html>", "not_json"),
        (b'{"topic":', "not_json"),
        (b"[]", "not_an_object"),
        (b"17", "not_an_object"),
        (b"null", "not_an_object"),
        (b'"text"', "not_an_object"),
        (b"{}", "not_an_envelope"),
        (b'{"topic":"x"}', "not_an_envelope"),
        (b'{"error_response":{"code":27}}', "error_response"),
        (b'{"trade_fullinfo_get_response":{"trade":{}}}', "rds_row"),
        (b'{"jdp_response":"{}","tid":1}', "rds_row"),
        (b'{"packet":{"code":202,"msg":"{"}}', "bad_content"),
        (b'{"packet":{"code":203,"msg":""}}', "not_an_envelope"),
        (b'{"packet":{"code":202,"msg":NaN}}', "bad_content"),
        (b'{"topic":"taobao_trade_TradeBuyerPay","content":NaN,"user_nick":"shop"}', "bad_content"),
        (
            b'{"topic":"taobao_trade_TradeBuyerPay","content":' + b"9" * 5_000 + b',"user_nick":"s"}',
            "bad_content",
        ),
        (b'{"x":' + b"[" * 10_000 + b"]" * 10_000 + b"}", "too_deep"),
    ],
)
def test_what_is_no_message_is_refused_with_its_reason(body: bytes, reason: str) -> None:
    assert refusal(body) == reason


def test_content_nested_too_deeply_is_refused() -> None:
    deep = '{"a":' * 10_000 + "1" + "}" * 10_000
    assert refusal(ons(deep)) == "too_deep"


def test_a_body_that_the_source_could_not_open_is_refused_with_its_fault() -> None:
    with pytest.raises(UndecodableError, match="unknown compression 9") as caught:
        decode(ons(), fault="unknown compression 9")
    assert caught.value.reason == "bad_body"


def test_a_refusal_quotes_nothing_of_the_body() -> None:
    with pytest.raises(UndecodableError) as caught:
        decode(b'{"buyer_phone":"13800000000",}')
    assert "138" not in str(caught.value)


def test_every_reason_is_documented() -> None:
    page = (Path(__file__).parent.parent.parent / "docs" / "messages.md").read_text("utf-8")
    assert [reason for reason in REASONS if f"| `{reason}` |" not in page] == []
