"""Values that a database might refuse, bodies that carry them, and a check that what is read of them fits.

`NASTY` are single JSON values, as JSON text because no Python value serialises to most of them. `POISONS` are
whole bodies: ONS envelopes of the usual shape but for what their name says, each with an outgoing_id and, where it
can be read, a tid of its own.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Final

import sqlalchemy as sa

from jst_bridge.messages.values import LATEST
from jst_bridge.ports import Message
from jst_bridge.store import schema
from jst_bridge.store.events import Events
from jst_bridge.store.folding import BOOKKEEPING, fold

__all__ = ["BORN", "NASTY", "POISONS", "assert_fits", "poison"]

BORN: Final = 1_700_000_000_000
"""When the poisons say that they were published, epoch ms."""

PAID: Final = "taobao_trade_TradeBuyerPay"
REFUND: Final = "taobao_refund_RefundCreated"
TRACE: Final = "taobao_logistics_LogsticDetailTrace"

NASTY: Final = (
    # text
    '"\\u0000"', '"a\\u0000b"', '"\\ud800"', '"\\udfff x"', '"\\ud83d\\ude00"', '"😀"', '"line\nbreak"', '"tab\t\x01"',
    '"\u2028\u2029\u0085"', '"\\u202e"', '"\\ufeff"', '"\\uffff"', '" "', '"a  "', '"\'; -- \\\\ %s :x {}"', '""',
    *(f'"{character * length}"' for length in (64, 65, 128, 129, 300) for character in "n😀"),
    f'"{"n" * 63}\\ud800"', f'"{"n" * 63}\\ud83d\\ude00"', f'"{"😀" * 127}\\u0000"',
    '"' + "x" * 1_000_000 + '"',
    # numbers, and text that looks like them
    "1e400", "1e-400", "1e99999999999999999999", "1e999", "9" * 5000, '"' + "9" * 5000 + '"', "9" * 20, "9" * 400,
    str(10**32 - 1), str(10**32), str(2**63), f'"{2**63}"', str(2**64), str(2**31),
    str(-(2**31) - 1), str(-(2**63) - 1),
    "-0", "-0.0", '"-0.00"', "0", "-1", "true", "false", "null", "NaN", "Infinity", "-Infinity", '"NaN"', '"sNaN"',
    '"0e-999999"', '"１２"', '"1_000"', '" 12 "', '"+12"', "12.0", "1.005", '"0.005"', '"-0.001"', "2.5e3",
    '"9999999999999999.99"', '"9999999999999999.994"', '"9999999999999999.995"', '"-9999999999999999.999"',
    '"10000000000000000"', '"1E+15"', '"1E+16"',
    # times
    '"0000-00-00 00:00:00"', '"0001-01-01 00:00:00"', '"0001-01-01T00:00:00+14:00"', '"9999-12-31 23:59:59"',
    '"9999-12-31T23:59:59-12:00"', '"300000-01-01 00:00:00"', '"1969-12-31 23:59:59"', '"1970-01-01 00:00:00"',
    '"1970-01-01 08:00:00"', '"2199-12-31 23:59:59"', '"2199-12-31T23:59:59-12:00"', '"2200-01-01T00:00:00+14:00"',
    '"2024-02-30 00:00:00"', "7258089599999", "7258089600000", "1", str(10**11),
    # other shapes
    "[]", "{}", "[[]]", '{"a":1,"a":2}', "[" * 10_000 + "]" * 10_000, '{"a":' * 900 + "1" + "}" * 900,
)  # fmt: skip
"""JSON values as text."""

_ids: Final = {
    "two_to_the_63": str(2**63), "twenty_digits": "9" * 20, "33_digits": "9" * 33, "400_digits": "9" * 400,
    "5000_digits": "9" * 5000, "float": "2.918463734761365e18", "negative": "-5", "true": "true", "object": "{}",
    "nul": '"1\\u00002"', "full_width_digits": '"１２３"',
}  # fmt: skip
_texts: Final = {
    "nul_escaped": '"a\\u0000b"', "nul_raw": '"a\0b"', "lone_surrogate": '"a\\ud800b"', "emoji": '"😀"',
    "emoji_escaped": '"\\ud83d\\ude00"', "300_characters": '"' + "长" * 300 + '"', "300_emoji": '"' + "😀" * 300 + '"',
    "control_characters": '"a\x01\x1b[31m\n\tb"', "line_separators": '"a\u2028b\u2029c\u0085d"', "bidi": '"\u202eabc"',
    "quotes": '"\'; DROP TABLE messages; -- %s ? :x \\\\ \\""', "trailing_spaces": '"shop   "',
    "true": "true", "number": "5", "object": '{"a":1}', "array": "[1]", "not_a_number": "NaN",
}  # fmt: skip
_amounts: Final = {
    "1e999": "1e999", "1e999_text": '"1e999"', "10_to_the_400": "1" + "0" * 400, "17_digits": '"10000000000000000"',
    "rounds_up_to_17_digits": '"9999999999999999.995"', "most": '"9999999999999999.99"', "minus_zero": "-0",
    "minus_zero_text": '"-0.00"', "rounds_to_minus_zero": '"-0.001"', "nan": "NaN", "infinity": "-Infinity",
    "nan_text": '"NaN"', "full_width_digits": '"１２．５"', "thousandths": '"1.005"', "object": "{}",
}  # fmt: skip
_times: Final = {
    "year_1": '"0001-01-01 00:00:00"', "year_9999": '"9999-12-31 23:59:59"', "year_300000": '"300000-01-01 00:00:00"',
    "zeros": '"0000-00-00 00:00:00"',
    "year_9999_zoned": '"9999-12-31T23:59:59-12:00"', "unix_zero": '"1970-01-01 08:00:00"',
    "end_of_2199_in_the_west": '"2199-12-31T23:59:59-12:00"', "64_bits": str(2**63), "negative": "-1",
}  # fmt: skip


def poison(name: str) -> bytes:
    """The body that `POISONS` holds under `name`."""
    return POISONS[name]


def _ons(serial: int, content: str, fields: dict[str, str]) -> str:
    """An envelope around the text `content`. `fields` come instead of its own: name to JSON text."""
    envelope = {
        "topic": f'"{PAID}"',
        "content": json.dumps(content, ensure_ascii=False),
        "outgoing_id": str(9_100_000_000_000_000_000 + serial),
        "publish_time": str(BORN),
        "publisher_appkey": '"12497914"',
        "user_id": "74717909",
        "user_nick": '"测试旗舰店"',
    } | fields
    return "{" + ",".join(f'"{name}":{value}' for name, value in envelope.items()) + "}"


def _content(serial: int, topic: str, fields: dict[str, str]) -> str:
    tid = 3_100_000_000_000_000_000 + serial * 1_000_000
    base = {"tid": str(tid)}
    if topic != TRACE:
        base |= {"oid": str(tid), "buyer_nick": '"c**"', "seller_nick": '"测试旗舰店"'}
    if topic == REFUND:
        base |= {"refund_id": str(tid + 7), "refund_fee": '"9.50"', "modified": '"2023-11-15 06:13:20"'}
    elif topic == PAID:
        base |= {"status": '"WAIT_SELLER_SEND_GOODS"', "payment": '"9.50"', "iid": "547771866613"}
    return "{" + ",".join(f'"{name}":{value}' for name, value in (base | fields).items()) + "}"


_FIELDS: Final[tuple[tuple[str, tuple[str, ...], dict[str, str]], ...]] = (
    (PAID, ("tid", "oid", "iid", "sku_id"), _ids),
    (REFUND, ("refund_id",), _ids),
    (PAID, ("status", "type", "buyer_nick", "buyer_open_uid", "seller_memo"), _texts),
    (REFUND, ("refund_phase", "bill_type"), _texts),
    (TRACE, ("out_sid", "company_name", "action", "desc"), _texts),
    (PAID, ("payment", "post_fee"), _amounts),
    (REFUND, ("refund_fee",), _amounts),
    (REFUND, ("modified",), _times),
    (TRACE, ("time",), _times),
    (
        PAID,
        ("seller_flag",),
        {"2_to_the_31": str(2**31), "2_to_the_63": str(2**63), "1e999": "1e999", "true": "true"},
    ),
)


def _poisons() -> dict[str, bytes]:
    texts: dict[str, str | bytes] = {}

    def add(
        name: str, content: dict[str, str], envelope: dict[str, str] | None = None, topic: str = PAID
    ) -> None:
        serial = len(texts) + 1
        headers = {"topic": f'"{topic}"'} | (envelope or {})
        texts[name] = _ons(serial, _content(serial, topic, content), headers)

    for topic, names, values in _FIELDS:
        for field in names:
            for name, value in values.items():
                add(f"{field}_{name}", {field: value}, topic=topic)
    for name, value in _ids.items():
        add(f"outgoing_id_{name}", {}, {"outgoing_id": value})
        add(f"user_id_{name}", {}, {"user_id": value})
    for name, value in _texts.items():
        add(f"user_nick_{name}", {}, {"user_nick": value})
        add(f"topic_{name}", {}, {"topic": value})
    for name, value in _times.items():
        add(f"publish_time_{name}", {}, {"publish_time": value})
    add("memo_of_a_megabyte", {"seller_memo": '"' + "加急" * 175_000 + '"'})
    add("memo_of_a_megabyte_of_emoji", {"seller_memo": '"' + "😀" * 262_144 + '"'})
    add("body_of_64_kib", {"seller_memo": '"' + "m" * 65_536 + '"'})
    add("nested_content", {"deep": "[" * 10_000 + "]" * 10_000})
    add("nested_envelope", {}, {"deep": '{"a":' * 10_000 + "1" + "}" * 10_000})
    add("nested_content_object", {}, {"content": '{"a":' * 10_000 + "1" + "}" * 10_000})
    for name, content in {
        "a_number": "5",
        "null": "null",
        "an_array": "[]",
        "not_json": '"{"',
        "empty": '""',
    }.items():
        add(f"content_is_{name}", {}, {"content": content})
    ordinary = {name: _ons(n, _content(n, PAID, {}), {}) for n, name in enumerate(_WHOLE, len(texts) + 1)}
    texts |= {name: _WHOLE[name](text) for name, text in ordinary.items()}
    return {
        name: text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
        for name, text in texts.items()
    }


_WHOLE: Final[dict[str, Any]] = {
    "empty": lambda text: b"",
    "spaces": lambda text: b" \r\n\t ",
    "nuls": lambda text: b"\0" * 8,
    "cut_short": lambda text: text[: len(text) // 2],
    "byte_order_mark": lambda text: b"\xef\xbb\xbf" + text.encode(),
    "gbk": lambda text: text.encode("gbk"),
    "utf_16": lambda text: text.encode("utf-16"),
    "invalid_utf_8": lambda text: text.encode().replace("测试".encode(), b"\xff\xc3\x28"),
    "surrogate_in_utf_8": lambda text: text.replace("测试", "\udc80"),
    "trailing_nul": lambda text: text.encode() + b"\0\0",
    "binary": lambda text: bytes(range(256)),
    "duplicated_keys": lambda text: text.replace("{", '{"user_nick":"other","outgoing_id":1,"topic":"x_y_Z",', 1),
    "two_documents": lambda text: text + text,
    "array_around": lambda text: f"[{text}]",
}  # fmt: skip
"""What becomes of an ordinary body as a whole, as text or bytes."""

POISONS: Final[dict[str, bytes]] = _poisons()


def assert_fits(message: Message) -> None:
    """Every value that `message` puts into a column fits it, on every database alike."""
    row = {
        "message_key": message.key,
        "published_at": message.published_at,
        "body": message.delivery.body,
        **{
            name: getattr(message, name)
            for name in (
                "source",
                "topic",
                "seller",
                "user_id",
                "tid",
                "oid",
                "refund_id",
                "num_iid",
                "published_from",
            )
        },
    }
    for name, value in row.items():
        _check(schema.messages.c[name], value)
    assert message.key.isascii()
    events = Events()
    events.add(message, message.key)
    for table, found in (
        (schema.trades, events.trades),
        (schema.trade_lines, events.lines),
        (schema.refunds, events.refunds),
    ):
        fields = schema.fields_of(table)
        names = [*(column.name for column in table.primary_key.columns), *BOOKKEEPING, *fields]
        for key, said in found.items():
            _check_row(table, names, key + fold(said, fields))
    for trace in events.traces:
        _check_row(
            schema.logistics_traces, [column.name for column in schema.logistics_traces.columns], trace
        )


def _check_row(table: sa.Table, names: Sequence[str], values: Sequence[object]) -> None:
    for name, value in zip(names, values, strict=True):
        _check(table.c[name], "" if value is None and name in ("seller", "user_id") else value)


def _check(column: sa.Column[Any], value: object) -> None:
    where = f"{column}: {str(value)[:80]!r}"
    if value is None:
        assert column.nullable, where
    elif isinstance(column.type, sa.Integer):
        assert type(value) is int, where
        limit = 63 if isinstance(column.type, sa.BigInteger) else 31
        assert -(2**limit) <= value < 2**limit, where
        assert not column.info.get("instant") or 0 <= value <= LATEST, where
    elif isinstance(column.type, sa.Numeric):
        assert isinstance(value, str), where
        whole, _, cents = value.removeprefix("-").partition(".")
        assert (whole + cents).isascii(), where
        assert (whole + cents).isdigit(), where
        assert len(whole) <= 16, where
        assert len(cents) == 2, where
        assert value == str(Decimal(value)), where
        assert Decimal(value) or not value.startswith("-"), where
    elif isinstance(column.type, sa.LargeBinary):
        assert isinstance(value, bytes), where
        assert len(value) < 2**24, where
    else:
        assert isinstance(column.type, sa.String), where
        assert type(value) is str, where
        assert len(value) <= (column.type.length or sys.maxsize), where
        assert len(value.encode("utf-8")) < 2**24, where  # lone surrogates cannot be encoded
        assert "\0" not in value, where
