"""What one landing writes, what it absorbs, and what it does with a message the database refuses."""

from __future__ import annotations

import logging
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from jst_bridge.errors import ConfigurationError, StoreError, StoreUnavailable
from jst_bridge.messages.families import LogisticsTrace, Other, Refund, Trade
from jst_bridge.ports import Gap, Landed, Message, Position, QueueKey
from jst_bridge.store import LandingStore, open_store
from jst_bridge.store.landing import LandingWriter
from tests.stores import NOW, QUEUE, STATE_TABLES, TID, dead, landing, message, rows

SEED = int(os.environ.get("JST_TEST_SEED", "1"))


@pytest.fixture
def store(database_url: str) -> Iterator[LandingStore]:
    opened = open_store(database_url)
    opened.open()
    yield opened
    opened.close()


def test_importing_and_constructing_open_nothing(tmp_path: Path) -> None:
    program = "import jst_bridge.store as s; s.open_store('sqlite:///bridge.db')"
    root = str(Path(__file__).parents[2])
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env={"PYTHONPATH": root}, check=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "url",
    [
        *("oracle://u:hunter2@h/d", "postgresql://u:hunter2@h/", "mysql://u:hunter2@h/d?passwd=x"),
        *(
            "sqlite://",
            "sqlite:///:memory:",
            "bridge.db",
            "sqlite:///f?x=1",
            "postgresql://u:hunter2@h/d?connect_timeout=x",
        ),
    ],
)
def test_other_urls_are_refused_with_a_remedy_and_without_their_password(url: str) -> None:
    with pytest.raises(ConfigurationError, match="url") as caught:
        open_store(url)
    assert caught.value.remedy
    assert "hunter2" not in str(caught.value) + caught.value.remedy


def test_a_store_that_is_not_open_says_so(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="not open"):
        open_store(f"sqlite:///{tmp_path}/bridge.db").land(landing())


def test_a_message_lands_with_all_its_columns(store: LandingStore) -> None:
    landed = store.land(landing(message(num_iid="41", body=b"\xff\x00body")))
    assert landed == Landed(landed=1, topics={"taobao_trade_TradeBuyerPay": 1})
    [row] = rows(
        store,
        "SELECT id, message_key, source, topic, seller, user_id, tid, oid, refund_id, num_iid, published_at,"
        " published_from, born_at, landed_at > 1668100000000, body FROM messages",
    )
    order = str(TID)
    assert row == (
        *(1, "tb:1:1", "jushita", "taobao_trade_TradeBuyerPay", "沐微霜", "733741520", order, order, None),
        *("41", NOW, "publish_time", NOW, 1, b"\xff\x00body"),
    )


def test_batches_of_every_size_land_whole(store: LandingStore) -> None:
    for size in (0, 1, 4, 5, 49, 51, 499, 1_111):
        landed = store.land(
            landing(*(message(f"tb:{size}:{n}", tid=f"{n}", oid=f"{n}") for n in range(size)))
        )
        assert landed.landed == size
    assert rows(store, "SELECT count(*), count(DISTINCT message_key) FROM messages") == [(1720, 1720)]
    assert rows(store, "SELECT count(*) FROM trades") == [(1111,)]


def test_duplicates_are_absorbed_in_one_batch_and_across_batches(store: LandingStore) -> None:
    first = store.land(landing(message("a"), message("b"), message("a")))
    again = store.land(landing(message("b"), message("c"), message("a")))
    assert (first.landed, first.duplicates, again.landed, again.duplicates) == (2, 1, 1, 2)
    assert rows(store, "SELECT message_key FROM messages ORDER BY id") == [("a",), ("b",), ("c",)]


def test_another_body_under_a_known_key_lands_beside_it_with_a_warning(
    store: LandingStore, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        first = store.land(landing(message("k", body=b"one"), message("k", body=b"two")))
        again = store.land(
            landing(*(message("k", body=body) for body in (b"two", b"three", b"one", b"three")))
        )
    assert (first.landed, first.collisions, first.duplicates) == (2, 1, 0)
    assert (again.landed, again.collisions, again.duplicates) == (1, 1, 3)
    stored = dict(rows(store, "SELECT body, message_key FROM messages"))
    assert stored[b"one"] == "k"
    assert all(stored[body].startswith("k:") and len(stored[body]) == 18 for body in (b"two", b"three"))
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]


def test_a_colliding_key_stays_within_its_column(store: LandingStore) -> None:
    store.land(landing(message("k" * 128, body=b"one"), message("k" * 128, body=b"two")))
    assert rows(store, "SELECT max(length(message_key)), count(*) FROM messages") == [(128, 2)]


def test_state_is_written_for_trades_lines_refunds_and_traces(store: LandingStore) -> None:
    line = Trade(tid=TID, oid=5, status="WAIT_BUYER_CONFIRM_GOODS", payment=Decimal("1.005"), sku_id=77)
    modified = datetime(2022, 11, 11, 1, 2, 3, tzinfo=UTC)
    refund = Refund(
        refund_id=9, tid=TID, oid=5, refund_fee=Decimal(3), refund_phase="onsale", modified=modified
    )
    trace = LogisticsTrace(tid=TID, out_sid="YT007", action="GOT", desc="揽收", time=modified)
    store.land(
        landing(
            message("a"),
            message("b", content=line, oid="5", topic="taobao_trade_TradeSellerShip", published_at=NOW + 1),
            message("c", content=refund, oid="5", refund_id="9", topic="taobao_refund_RefundCreated"),
            message("d", content=trace, oid=None, topic="taobao_logistics_LogsticDetailTrace", seller=""),
            message("e", content=Other(), tid=None, topic="taobao_new_Thing"),
        )
    )
    order, millis = str(TID), int(modified.timestamp() * 1000)
    assert rows(store, "SELECT tid, seller, status, topic, payment, published_at FROM trades") == [
        (order, "沐微霜", "WAIT_SELLER_SEND_GOODS", "taobao_trade_TradeSellerShip", "9.50", NOW + 1)
    ]
    assert rows(store, "SELECT tid, oid, status, payment, sku_id FROM trade_lines") == [
        (order, "5", "WAIT_BUYER_CONFIRM_GOODS", "1.00", "77")
    ]
    assert rows(store, "SELECT refund_id, tid, oid, topic, refund_fee, modified_at FROM refunds") == [
        ("9", order, "5", "taobao_refund_RefundCreated", "3.00", millis)
    ]
    assert rows(
        store,
        "SELECT message_key, tid, out_sid, action, description, traced_at, seller FROM logistics_traces",
    ) == [("d", order, "YT007", "GOT", "揽收", millis, "")]


def test_a_message_without_its_id_lands_without_state_and_is_counted(store: LandingStore) -> None:
    landed = store.land(
        landing(
            message("a", tid=None, oid=None),
            message("b", content=Refund(tid=TID), refund_id=None),
            message("c", content=LogisticsTrace(), tid=None),
        )
    )
    assert (landed.landed, landed.without_id) == (3, 3)
    for table in ("trades", "refunds", "logistics_traces"):
        assert rows(store, f"SELECT count(*) FROM {table}") == [(0,)]


def test_views_show_beijing_time(store: LandingStore) -> None:
    store.land(landing(message(published_at=1_668_100_000_042)))
    assert rows(store, "SELECT published_at FROM v_messages") == [("2022-11-11 01:06:40.042",)]
    assert rows(store, "SELECT published_at FROM v_trades") == [("2022-11-11 01:06:40.042",)]


def test_a_dead_letter_is_kept_once_whatever_it_holds(store: LandingStore) -> None:
    odd = dead("T2", tag="\ud800", keys="a\0b", offset=2**70, body=b"\0\xff")
    first = store.land(landing(dead_letters=[dead("T1"), odd, dead("T1")]))
    again = store.land(landing(dead_letters=[dead("T1"), dead("T3")]))
    assert (first.dead_letters, again.dead_letters) == (2, 1)
    assert rows(
        store, "SELECT transport_id, queue_id, tag, keys_, queue_offset, reason, body FROM dead_letters"
    ) == [
        ("T1", 3, "t", "k", 7, "not_json", b"{"),
        ("T2", 3, "?", "a\ufffdb", 2**63 - 1, "not_json", b"\0\xff"),
        ("T3", 3, "t", "k", 7, "not_json", b"{"),
    ]


def test_positions_rise_and_fall_only_when_rewound(store: LandingStore) -> None:
    other = QUEUE._replace(queue_id=4)

    def after(*positions: Position) -> dict[QueueKey, int]:
        store.land(landing(positions=list(positions)))
        return store.positions("jushita", "GID_bridge", "")

    assert after(Position(QUEUE, 10), Position(other, 1)) == {QUEUE: 10, other: 1}
    assert after(Position(QUEUE, 4)) == {QUEUE: 10, other: 1}
    assert after(Position(QUEUE, 12), Position(QUEUE, 11)) == {QUEUE: 12, other: 1}
    assert after(Position(QUEUE, 3, rewound=True), Position(QUEUE, 5)) == {QUEUE: 5, other: 1}
    assert store.positions("jushita", "GID_bridge", "shop-1") == {}


def test_a_gap_is_noted_once(store: LandingStore) -> None:
    gap = Gap(QUEUE, 5, 9, "expired")
    assert store.land(landing(gaps=[gap])).gaps == 1
    assert store.land(landing(gaps=[gap, Gap(QUEUE, 5, 11, "expired")])).gaps == 1
    assert rows(store, "SELECT first_offset, last_offset, reason FROM gaps") == [
        (5, 9, "expired"),
        (5, 11, "expired"),
    ]


@pytest.mark.parametrize(
    "culprit",
    [
        message("bad", published_at=2**63),
        message("bad", seller="\ud800"),
        message("bad", user_id=None),
        message("bad", content=Trade(tid=TID, seller_memo="\udfff")),
        message("bad", content=Trade(tid=TID, payment="much")),  # type: ignore[arg-type]
        message("bad", tid=["t"]),
    ],
    ids=["instant", "seller", "null", "memo", "money", "tid"],
)
def test_a_message_the_database_refuses_becomes_a_dead_letter_and_the_rest_lands(
    store: LandingStore, culprit: Message
) -> None:
    batch = [message(f"m{n}", tid=str(n), oid=str(n)) for n in range(30)]
    batch.insert(17, culprit)
    landed = store.land(landing(*batch, positions=[Position(QUEUE, 40)]))
    assert (landed.landed, landed.dead_letters, landed.duplicates) == (30, 1, 0)
    assert rows(store, "SELECT transport_id, reason, broker, body FROM dead_letters") == [
        ("Tbad", "store_refused", "broker-a", b"bad")
    ]
    assert (
        rows(store, "SELECT count(*) FROM messages") == rows(store, "SELECT count(*) FROM trades") == [(30,)]
    )
    assert store.positions("jushita", "GID_bridge", "") == {QUEUE: 40}


def test_a_defect_that_refuses_every_message_of_a_batch_makes_no_dead_letters(store: LandingStore) -> None:
    content = Trade(tid=TID, payment="much")  # type: ignore[arg-type]
    batch = [message(f"m{n}", tid=str(n), content=content) for n in range(30)]
    with pytest.raises(StoreError, match="every one of 30"):
        store.land(landing(*batch, positions=[Position(QUEUE, 40)]))
    assert rows(store, "SELECT count(*) FROM dead_letters") == [(0,)]
    assert store.positions("jushita", "GID_bridge", "") == {}


def test_what_the_database_refuses_is_found_by_halving_and_all_else_lands(
    store: LandingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values that decoding would never let through, at random places of a large batch."""
    faults: list[dict[str, Any]] = [
        {"seller": "\ud800"}, {"published_at": 2**63}, {"user_id": None}, {"tid": ["t"]},
        {"content": Trade(tid=TID, seller_memo="\udfff")},
    ]  # fmt: skip
    dice = random.Random(SEED)
    batch = [message(f"m{n:04}", tid=f"{n % 50}", oid="5", published_at=NOW + n) for n in range(2_000)]
    places = sorted(dice.sample(range(len(batch)), len(faults)))
    for place, fault in zip(places, faults, strict=True):
        batch[place] = message(f"bad{place:04}", **fault)
    print(f"seed {SEED}: bad messages at {places}")
    sizes: list[int] = []
    attempt = LandingWriter._land_messages

    def counted(writer: LandingWriter, cursor: Any, messages: Sequence[Message], now: int) -> Landed:
        sizes.append(len(messages))
        return attempt(writer, cursor, messages, now)

    monkeypatch.setattr(LandingWriter, "_land_messages", counted)
    landed = store.land(landing(*batch, positions=[Position(QUEUE, 2_000)]))

    assert (landed.landed, landed.dead_letters, landed.duplicates) == (1_995, 5, 0)
    query = "SELECT transport_id, reason FROM dead_letters ORDER BY transport_id"
    assert rows(store, query) == [(f"Tbad{place:04}", "store_refused") for place in places]
    assert rows(store, "SELECT count(*), count(DISTINCT message_key) FROM messages") == [(1_995, 1_995)]
    good = [n for n in range(2_000) if n not in places]
    newest = {f"{order}": f"m{max(n for n in good if n % 50 == order):04}" for order in range(50)}
    assert dict(rows(store, "SELECT tid, message_key FROM trades")) == newest
    assert store.positions("jushita", "GID_bridge", "") == {QUEUE: 2_000}
    # The whole twice in vain, then each culprit is found in 11 halvings, of two attempts each.
    assert len(sizes) <= 2 + 2 * 11 * len(faults)
    assert sum(sizes) <= 2_000 * (2 + 2 * len(faults))


def test_a_landing_with_nothing_in_it_leaves_nothing(store: LandingStore) -> None:
    assert store.land(landing()) == Landed()
    for table in ("messages", "dead_letters", "positions", "gaps", *STATE_TABLES):
        assert rows(store, f"SELECT count(*) FROM {table}") == [(0,)]


def test_a_large_batch_of_one_order_is_folded_into_its_rows(store: LandingStore) -> None:
    batch = [
        message(
            f"k{n:04}".ljust(128, "k"),
            content=Trade(tid=TID, oid=n % 3 + 1, status=f"S{n:04}", seller_memo=None if n else "first"),
            topic="taobao_trade_TradeSellerShip",
            oid=f"{n % 3 + 1}",
            published_at=NOW + n,
        )
        for n in range(2_000)
    ]
    random.Random(SEED).shuffle(batch)
    assert store.land(landing(*batch)).landed == 2_000
    assert store.land(landing(*batch)).duplicates == 2_000
    last = "k1999".ljust(128, "k")
    query = "SELECT tid, message_key, published_at, seller_memo FROM trades"
    assert rows(store, query) == [(str(TID), last, NOW + 1_999, "first")]
    assert rows(store, "SELECT oid, status FROM trade_lines ORDER BY oid") == [
        ("1", "S1998"),
        ("2", "S1999"),
        ("3", "S1997"),
    ]


def test_members_that_hand_over_a_queue_leave_the_position_of_the_right_one(database_url: str) -> None:
    """Only a rewind takes a position back; a member that lands late what it read before does not."""
    with closing(open_store(database_url)) as old, closing(open_store(database_url)) as new:
        old.open()
        new.open()

        def after(member: LandingStore, offset: int, *, rewound: bool = False) -> tuple[int, ...]:
            member.land(landing(positions=[Position(QUEUE, offset, rewound)]))
            both = [store.positions("jushita", "GID_bridge", "") for store in (old, new)]
            assert both[0] == both[1]
            return tuple(both[0].values())

        assert after(old, 100) == (100,)
        assert after(new, 140) == (140,)
        assert after(old, 120) == (140,)  # its last landing, after the queue was taken over
        assert after(new, 30, rewound=True) == (30,)
        assert after(new, 40) == (40,)
        assert after(old, 35) == (40,)
        assert after(old, 10, rewound=True) == (10,)
        assert after(new, 20) == (20,)


def test_a_position_no_column_can_hold_is_a_defect_and_writes_nothing(store: LandingStore) -> None:
    with pytest.raises(StoreError, match="positions or gaps"):
        store.land(landing(message(), positions=[Position(QUEUE, 2**64)]))
    assert rows(store, "SELECT count(*) FROM messages") == [(0,)]


@pytest.mark.parametrize(
    "database_url", ["sqlite", pytest.param("postgresql", marks=pytest.mark.database)], indirect=True
)
def test_a_transaction_that_is_gone_is_never_taken_for_committed(store: LandingStore) -> None:
    """Not MySQL: each statement of a migration commits there, so an open transaction is no sign."""

    def work(cursor: Any) -> None:
        cursor.execute("ROLLBACK")

    with pytest.raises(StoreUnavailable, match="by itself"):
        store.database.transact(work)
    assert store.land(landing(message("a"))).landed == 1
