"""Bodies that no database would take as they are: each is read so that it fits, or refused with a reason."""

from __future__ import annotations

import pytest

from jst_bridge.errors import UndecodableError
from jst_bridge.messages import REASONS, Decoder
from jst_bridge.ports import Message, PlainDelivery
from tests.poison import BORN, POISONS, assert_fits, poison

DECODER = Decoder("jushita", "12345678")

REFUSED = {
    "binary": "not_text",
    "array_around": "not_an_object",
    "content_is_a_number": "bad_content",
    "content_is_an_array": "bad_content",
    "content_is_not_json": "bad_content",
    "cut_short": "not_json",
    "empty": "empty_body",
    "nested_content": "too_deep",
    "nested_content_object": "too_deep",
    "nested_envelope": "too_deep",
    "nuls": "empty_body",
    "spaces": "empty_body",
    "topic_300_characters": "bad_topic",
    "topic_300_emoji": "bad_topic",
    "topic_bidi": "bad_topic",
    "topic_control_characters": "bad_topic",
    "topic_line_separators": "bad_topic",
    "topic_lone_surrogate": "bad_topic",
    "topic_nul_escaped": "bad_topic",
    "topic_nul_raw": "bad_topic",
    "two_documents": "not_json",
    "utf_16": "not_text",
}


def decode(body: bytes, born_at: int = BORN) -> Message:
    return DECODER.decode(PlainDelivery(body, "taobao_trade_TradeBuyerPay", "", "AC1", "AC1", 1, born_at))


@pytest.mark.parametrize("name", POISONS)
def test_a_poison_is_read_so_that_it_fits_or_refused_with_its_reason(name: str) -> None:
    if name in REFUSED:
        with pytest.raises(UndecodableError) as caught:
            decode(poison(name))
        assert caught.value.reason == REFUSED[name]
        assert REFUSED[name] in REASONS
    else:
        message = decode(poison(name))
        assert_fits(message)
        assert message.delivery.body == POISONS[name]


def test_each_poison_that_is_read_has_a_key_of_its_own() -> None:
    keys = [decode(body).key for name, body in POISONS.items() if name not in REFUSED]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("born_at", [-(2**63), -1, 0, 1, BORN, 2**53, 2**63 - 1])
@pytest.mark.parametrize("name", ["publish_time_negative", "publish_time_64_bits", "publish_time_year_9999"])
def test_whatever_the_broker_says_the_time_of_publishing_fits_and_stays(name: str, born_at: int) -> None:
    first, again = decode(poison(name), born_at), decode(poison(name), born_at)
    assert_fits(first)
    assert (first.published_at, first.published_from) == (again.published_at, again.published_from)


def test_text_that_is_too_long_is_cut_and_the_body_keeps_it() -> None:
    message = decode(poison("buyer_nick_300_emoji"))
    assert message.content.buyer_nick == "😀" * 128
    assert "😀" * 300 in message.delivery.body.decode()
    assert decode(poison("status_300_characters")).content.status == "长" * 64
    assert decode(poison("user_nick_300_characters")).seller == "长" * 128


def test_cutting_breaks_no_character() -> None:
    assert decode(poison("buyer_nick_emoji_escaped")).content.buyer_nick == "😀"
    body = poison("status_emoji_escaped").replace(b'\\"\\\\ud83d', b'\\"' + b"n" * 63 + b"\\\\ud83d")
    assert decode(body).content.status == "n" * 63 + "😀"


def test_an_amount_whose_cents_would_not_fit_is_absent_and_stays_in_extra() -> None:
    content = decode(poison("payment_rounds_up_to_17_digits")).content
    assert content.payment is None
    assert content.extra == {"payment": "9999999999999999.995"}
    assert str(decode(poison("payment_most")).content.payment) == "9999999999999999.99"


def test_the_checker_sees_what_does_not_fit() -> None:
    message = decode(poison("user_nick_emoji"))
    for name, value in (
        ("seller", "x" * 129),
        ("seller", "a\0"),
        ("seller", "\ud800"),
        ("seller", None),
        ("tid", 5),
        ("published_at", -1),
        ("published_at", 2**62),
    ):
        kept = getattr(message, name)
        setattr(message, name, value)
        with pytest.raises((AssertionError, UnicodeEncodeError)):
            assert_fits(message)
        setattr(message, name, kept)
    assert_fits(message)
    message.content.seller_flag = 2**31
    with pytest.raises(AssertionError):
        assert_fits(message)
