"""Whatever a message may hold comes back as it went in, the same from every database."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from jst_bridge.errors import UndecodableError
from jst_bridge.messages import Decoder
from jst_bridge.messages.families import LogisticsTrace, Refund, Trade
from jst_bridge.ports import DeadLetter, Gap, Landing, PlainDelivery, Position
from jst_bridge.store import LandingStore, Reader, open_store, schema
from tests.integration.test_store_contract import store
from tests.poison import POISONS
from tests.samples import samples
from tests.stores import NOW, QUEUE, dead, landing, message, rows
from tests.traffic import traffic

__all__ = ["store"]

TEXTS = (
    *(
        "plain",
        "雪湖户外旗舰店",
        "😀 𠮷 👩‍👩‍👧",
        "e\u0301 é",
        "ＡＢＣ１２３",
        "ﬁ İ ı ß",
        "\u202e\u2028\u2029\u0085\ufeff\uffff",
    ),
    *(
        "%",
        "%s %(a)s %% 100%",
        ":x :1 ::text",
        "? ?1 ??",
        "$1 {} {0} @x",
        "_ * [a-z] !",
        "NULL",
        "null",
        "0",
        " ",
    ),
    *(
        "\\",
        "\\\\'",
        "\\0 \\n \\x41 \\'",
        "'",
        "''",
        '"',
        "`",
        "'; DROP TABLE messages; --",
        "/* */ # --",
        "a\\",
    ),
    *(
        "trailing  ",
        "  leading",
        "tab\tnew\nline\r\n",
        "".join(map(chr, range(1, 32))) + "\x7f",
        "\x1b[31m\x1a\x08",
    ),
)
"""Each at most 64 characters, as the narrowest column of free text."""

STRANGE_BODIES = {
    "every byte": bytes(range(256)) * 256,
    "64 KiB of zeros": bytes(65_536),
    "4 MiB at random": random.Random(1).randbytes(4 << 20),
    "4 MiB to escape": b"'\\\0\n\r\x1a\"%" * (4 << 17),
}


def test_text_comes_back_as_it_went_in(store: LandingStore) -> None:
    batch = []
    for n, text in enumerate(TEXTS):
        trade = Trade(
            tid=n, oid=n, status=text, type=text, buyer_nick=text, buyer_open_uid=text, seller_memo=text
        )
        refund = Refund(refund_id=n, refund_phase=text, bill_type=text, buyer_nick=text, buyer_open_uid=text)
        trace = LogisticsTrace(tid=n, out_sid=text, company_name=text, action=text, desc=text)
        common = {"seller": text, "tid": f"{n:03}", "oid": f"{n:03}"}
        batch += [
            message(f"t{n:03}", content=trade, body=text.encode(), published_from=text[:16], **common),
            message(f"r{n:03}", content=refund, refund_id=f"{n:03}", topic=text, **common),
            message(f"x{n:03}", content=trace, **common),
        ]
    letters = [dead(f"T{n:03}", tag=text, keys=text, origin_id=text) for n, text in enumerate(TEXTS)]
    for letter, text in zip(letters, TEXTS, strict=True):
        letter.detail = letter.reason = text
    gaps = [Gap(QUEUE, n, n, text) for n, text in enumerate(TEXTS)]
    landed = store.land(landing(*batch, dead_letters=letters, gaps=gaps))
    assert (landed.landed, landed.dead_letters) == (3 * len(TEXTS), len(TEXTS))

    def said(table: str, order: str, *columns: str) -> None:
        found = rows(store, f"SELECT {', '.join(columns)} FROM {table} ORDER BY {order}")
        assert found == [(text,) * len(columns) for text in TEXTS]

    said("messages WHERE message_key LIKE 't%'", "message_key", "seller")
    said("messages WHERE message_key LIKE 'r%'", "message_key", "seller", "topic")
    said("trades", "tid", "seller", "status", "type", "buyer_nick", "buyer_open_uid", "seller_memo")
    said(
        "refunds", "refund_id", "seller", "topic", "refund_phase", "bill_type", "buyer_nick", "buyer_open_uid"
    )
    said("logistics_traces", "tid", "seller", "out_sid", "company_name", "action", "description")
    said("dead_letters", "transport_id", "tag", "keys_", "origin_id", "detail", "reason")
    said("gaps", "first_offset", "reason")
    query = "SELECT published_from, body FROM messages WHERE message_key LIKE 't%' ORDER BY message_key"
    assert rows(store, query) == [(text[:16], text.encode()) for text in TEXTS]


def test_state_is_folded_over_text_as_it_is(store: LandingStore) -> None:
    """What is read back and written again, which is where text could change, stays what it was."""
    for at in range(3):
        store.land(
            landing(
                *(
                    message(
                        f"{at}:{n}",
                        content=Trade(tid=n, oid=n, seller_memo=None if at else text, status=f"{at}"),
                        tid=f"{n:03}",
                        oid=f"{n:03}",
                        published_at=NOW + at,
                        seller="" if at else text,
                    )
                    for n, text in enumerate(TEXTS)
                )
            )
        )
    assert rows(store, "SELECT seller, seller_memo, status FROM trades ORDER BY tid") == [
        (text, text, "2") for text in TEXTS
    ]


def test_empty_text_is_not_absent_text(store: LandingStore) -> None:
    empty = Trade(tid=1, oid=1, status="", type="", buyer_nick="", buyer_open_uid="", seller_memo="")
    trace = LogisticsTrace(tid=1, out_sid="", company_name="", action="", desc="")
    absent = {"seller": "", "user_id": ""}
    store.land(
        landing(
            message("a", content=empty, tid="1", oid="1", **absent),
            message("b", content=Trade(tid=2, oid=2), tid="2", oid="2", **absent),
            message("c", content=trace, tid="1", oid=None, **absent),
            message("d", content=LogisticsTrace(tid=2), tid="2", oid=None, **absent),
        )
    )
    columns = "seller, user_id, status, type, buyer_nick, buyer_open_uid, seller_memo, older"
    assert rows(store, f"SELECT {columns} FROM trades ORDER BY tid") == [
        ("",) * 8,
        ("", "", None, None, None, None, None, ""),
    ]
    columns = "seller, user_id, out_sid, company_name, action, description"
    assert rows(store, f"SELECT {columns} FROM logistics_traces ORDER BY tid") == [
        ("",) * 6,
        ("", "", None, None, None, None),
    ]
    later = Trade(tid=1, oid=1, status="PAID")
    store.land(landing(message("e", content=later, tid="1", oid="1", published_at=NOW + 1)))
    assert rows(store, "SELECT status, seller_memo, seller FROM trades WHERE tid = '1'") == [
        ("PAID", "", "沐微霜")
    ]


NICKS = ("Shop", "shop", "SHOP", " shop", "shöp", "sho\u0308p", "ｓhop", "sh😀p", "sh😁p", "sh%p", "sh_p")
BLANKS = ("shop", "shop ", "shop  ", "shop\t")


def found_by_nick(store: LandingStore, nicks: Sequence[str]) -> dict[str, list[str]]:
    """Land a message of each seller; nick -> the keys of what the reader says is its."""
    batch = [message(f"{nick}.", seller=nick, tid=f"{n}", oid=f"{n}") for n, nick in enumerate(nicks)]
    store.land(landing(*batch))
    assert rows(store, "SELECT tid, seller FROM trades ORDER BY published_at, length(tid), tid") == [
        (f"{n}", nick) for n, nick in enumerate(nicks)
    ]
    with closing(Reader(store.database)) as reader:
        return {nick: [row.message_key for row in reader.messages(seller=nick)] for nick in nicks}


def test_sellers_whose_nicks_differ_little_are_told_apart(store: LandingStore) -> None:
    assert found_by_nick(store, NICKS) == {nick: [f"{nick}."] for nick in NICKS}
    with closing(Reader(store.database)) as reader:
        counts = {count.seller: count.messages for count in reader.counts().sellers}
    assert counts == dict.fromkeys(NICKS, 1)


def test_blanks_behind_a_nick_count(store: LandingStore) -> None:
    """MySQL's "=" takes a text for equal to the same with blanks behind it."""
    assert found_by_nick(store, BLANKS) == {nick: [f"{nick}."] for nick in BLANKS}


@pytest.mark.parametrize("name", STRANGE_BODIES)
def test_large_bodies_come_back_byte_by_byte(store: LandingStore, name: str) -> None:
    body = STRANGE_BODIES[name]
    letter = dead("T2", body=body)
    assert store.land(landing(message("a"), message("b", body=body), dead_letters=[letter])).landed == 2
    assert rows(store, "SELECT body FROM messages WHERE message_key = 'b'") == [(body,)]
    assert rows(store, "SELECT body FROM dead_letters") == [(body,)]
    assert store.land(landing(message("b", body=body))).duplicates == 1


def test_many_large_bodies_land_in_one_batch(store: LandingStore) -> None:
    chance = random.Random(2)
    bodies = {f"{n:03}": chance.randbytes(65_536) for n in range(500)}
    letters = [dead(f"T{key}", body=body) for key, body in bodies.items()]
    landed = store.land(
        landing(*(message(key, body=body) for key, body in bodies.items()), dead_letters=letters)
    )
    assert (landed.landed, landed.dead_letters) == (500, 500)
    assert dict(rows(store, "SELECT message_key, body FROM messages")) == bodies
    assert [row[0] for row in rows(store, "SELECT body FROM dead_letters ORDER BY id")] == list(
        bodies.values()
    )


def test_orders_with_large_memos_are_folded_together(store: LandingStore) -> None:
    """What a batch touches may be much larger than the batch: servers limit a statement and an answer."""
    memo, orders = "备注'\\" * 120_000, [str(n) for n in range(10, 40)]

    def of(tid: str, at: int, **content: Any) -> Any:
        trade = Trade(tid=int(tid), oid=int(tid), **content)
        return message(f"{tid}:{at}", content=trade, tid=tid, oid=tid, published_at=NOW + at)

    for tid in orders:
        store.land(landing(of(tid, 0, seller_memo=memo)))
    assert store.land(landing(*(of(tid, 1, status="PAID") for tid in orders))).landed == len(orders)
    assert rows(store, "SELECT tid, status FROM trades ORDER BY tid") == [(tid, "PAID") for tid in orders]
    assert {row[0] for row in rows(store, "SELECT seller_memo FROM trades")} == {memo}


def test_ids_times_and_money_are_exact(store: LandingStore) -> None:
    ids = ("1", "2918463734761365258", "9" * 19, str(2**63), str(2**64 + 1), "9" * 32, "0" * 31 + "1")
    moments = (0, 1, 1_668_100_000_001, 1_668_100_000_999, 253_402_271_999_999, 2**53 + 1, 2**63 - 1)
    money = (
        "0.00",
        "0.01",
        "-0.01",
        "1.10",
        "9999999999999999.99",
        "-9999999999999999.99",
        "90071992547409.93",
    )
    batch = []
    for n, (number, at, amount) in enumerate(zip(ids, moments, money, strict=True)):
        trade = Trade(tid=n, oid=n + 1, payment=Decimal(amount), post_fee=Decimal(amount), seller_flag=n - 3)
        refund = Refund(refund_id=n, refund_fee=Decimal(amount))
        common = {"tid": number, "oid": number[::-1] + "1" * (len(number) < 32), "published_at": at}
        batch += [
            message(f"{n:02}", content=trade, user_id=number, num_iid=number, **common),
            message(f"{n:02}r", content=refund, refund_id=number, user_id=number, **common),
        ]
    assert store.land(landing(*batch)).landed == 14
    order = "ORDER BY published_at"
    assert rows(store, f"SELECT tid, user_id, published_at, payment, post_fee FROM trades {order}") == [
        (number, number, at, amount, amount) for number, at, amount in zip(ids, moments, money, strict=True)
    ]
    assert rows(store, f"SELECT refund_id, tid, published_at, refund_fee FROM refunds {order}") == [
        (number, number, at, amount) for number, at, amount in zip(ids, moments, money, strict=True)
    ]
    query = f"SELECT tid, num_iid, published_at FROM messages WHERE num_iid IS NOT NULL {order}"
    assert rows(store, query) == [(*both[:1], *both) for both in zip(ids, moments, strict=True)]
    assert rows(store, f"SELECT seller_flag FROM trades {order}") == [(n - 3,) for n in range(7)]


def test_a_dead_letter_is_stored_whatever_its_facts_are(store: LandingStore) -> None:
    absurd: list[dict[str, Any]] = [
        {"offset": 2**200, "born_at": -(2**200), "attempt": 2**200},
        {"tag": "\0" * 300, "keys": "k\0" * 100_000, "origin_id": "\ud800" * 200},
        {"tag": "😀" * 300, "keys": "'\\" * 50_000, "origin_id": ""},
        {"tag": "", "keys": "", "body": b""},
        {"body": bytearray(b"\0\xff"), "attempt": -(2**31), "offset": -1},
    ]
    letters = [dead(f"T{n}", **facts) for n, facts in enumerate(absurd)]
    letters[0].detail = "\0\udfff%s" * 40_000
    assert store.land(landing(dead_letters=letters)).dead_letters == len(absurd)
    assert store.land(landing(dead_letters=letters)).dead_letters == 0
    columns = "queue_offset, born_at, attempt, tag, keys_, origin_id, body"
    found = rows(store, f"SELECT {columns} FROM dead_letters ORDER BY transport_id")
    assert found == [
        (2**63 - 1, -(2**63) + 1, 2**31 - 1, "t", "k", "T0", b"{"),
        (7, NOW, 0, "\ufffd" * 255, ("k\ufffd" * 100_000)[:65_535], "?" * 128, b"{"),
        (7, NOW, 0, "😀" * 255, ("'\\" * 50_000)[:65_535], "", b"{"),
        (7, NOW, 0, "", "", "T0", b""),
        (-1, NOW, -(2**31) + 1, "t", "k", "T0", b"\0\xff"),
    ]


TOPICS = (
    "a_b",
    "a%b",
    "a!b",
    "a*b",
    "a?b",
    "a[b",
    "a]b",
    "a\\b",
    "a'b",
    "aéb",
    "a😀b",
    "a^b",
    "a-b",
    "a",
    "a_bc",
    "A_B",
)
PATTERNS: dict[str, Sequence[str]] = {
    "*": TOPICS,
    "a*": TOPICS[:-1],
    "a?b": TOPICS[:13],
    "*_bc": ["a_bc"],
    **{name: [name] for name in TOPICS if "*" not in name and "?" not in name},
    "a[_]b": [],
    "??": [],
    "": [],
}


def test_a_pattern_of_topics_means_the_same_everywhere(store: LandingStore) -> None:
    store.land(landing(*(message(f"{n}", topic=topic) for n, topic in enumerate(TOPICS))))
    with closing(Reader(store.database)) as reader:
        found = {pattern: sorted(row.topic for row in reader.messages(topic=pattern)) for pattern in PATTERNS}
    assert found == {pattern: sorted(topics) for pattern, topics in PATTERNS.items()}


def everything() -> Landing:
    """Samples, made-up traffic and every poison, decoded as the bridge would, with what else a landing has."""
    bodies = [(sample.tag, sample.keys, sample.body) for sample in samples()]
    bodies += [(fact.tag, fact.keys, fact.body) for fact in traffic(300)]
    bodies += [("taobao_trade_TradeBuyerPay", "", body) for body in POISONS.values()]
    decoder = Decoder(QUEUE.source, "12345678")
    whole = landing(positions=[Position(QUEUE, len(bodies))], gaps=[Gap(QUEUE, 1, 2, "expired")])
    for n, (tag, keys, body) in enumerate(bodies):
        delivery = PlainDelivery(body, tag, keys, f"T{n:04}", f"T{n:04}", n, NOW, queue=QUEUE)
        try:
            whole.messages.append(decoder.decode(delivery))
        except UndecodableError as error:
            whole.dead_letters.append(DeadLetter(QUEUE, delivery, error.reason, str(error)))
    return whole


CLOCKED = {"id", "landed_at", "dead_at", "noted_at", "updated_at", "applied_at"}
"""Columns that tell when or in which order rows were written."""


def dump(store: LandingStore) -> dict[str, list[tuple[Any, ...]]]:
    """All tables and their views, in the order of the rows' own values."""
    tables: dict[str, list[tuple[Any, ...]]] = {}
    for table in schema.METADATA.sorted_tables:
        columns = [column.name for column in table.columns if column.name not in CLOCKED]
        shown = [name for name in columns if name not in ("body", "body_hash", "order_rank", "older")]
        for name, wanted in ((table.name, columns), (f"v_{table.name}", shown)):
            found = rows(store, f"SELECT {', '.join(wanted)} FROM {name}")
            tables[name] = sorted(found, key=repr)
    return tables


def test_every_database_holds_the_same_after_the_same_messages(server_url: str, tmp_path: Path) -> None:
    whole = everything()
    assert len(whole.messages) > 600
    assert len(whole.dead_letters) > 20
    dumps = []
    for url in (f"sqlite:///{tmp_path}/bridge.db", server_url):
        with closing(open_store(url)) as store:
            store.open()
            landed = store.land(whole)
            assert landed.dead_letters == len(whole.dead_letters)
            dumps.append(dump(store))
    for name, found in dumps[0].items():
        assert dumps[1][name] == found, name
