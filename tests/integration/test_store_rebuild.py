"""`store rebuild`: what it recomputes, what it must leave alone, and that bridges may go on landing meanwhile."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from jst_bridge.messages import Decoder
from jst_bridge.ports import Landing, Message, PlainDelivery
from jst_bridge.store import LandingStore, open_store
from jst_bridge.store.database import now_ms
from jst_bridge.store.landing import LandingWriter
from jst_bridge.store.rebuild import Difference, RebuildProgress, RebuildReport, rebuild
from tests.cluster import wait_until
from tests.stores import NOW, QUEUE, landing, rows, state
from tests.traffic import traffic

DECODER = Decoder(QUEUE.source, "12345678")
SHIPPED = ("taobao_trade_TradeSellerShip", "WAIT_BUYER_CONFIRM_GOODS")
PAID = ("taobao_trade_TradeBuyerPay", "WAIT_SELLER_SEND_GOODS")


@pytest.fixture
def store(database_url: str) -> Iterator[LandingStore]:
    opened = open_store(database_url)
    opened.open()
    yield opened
    opened.close()


def decoded(body: bytes, tag: str = "") -> Message:
    return DECODER.decode(PlainDelivery(body, tag, "", f"T{hash(body)}", "", 0, NOW, queue=QUEUE))


def said(number: int, topic: str, at: int = 0, **content: Any) -> Message:
    """A message with a body of its own, published `at` ms after the first."""
    envelope = {
        "topic": topic,
        "content": json.dumps(content, ensure_ascii=False),
        "outgoing_id": number,
        "publish_time": NOW + at,
        "user_nick": "沐微霜",
    }
    return decoded(json.dumps(envelope, ensure_ascii=False).encode())


def paid(number: int, tid: int, at: int = 0, **more: Any) -> Message:
    return said(number, PAID[0], at, tid=tid, oid=tid, status=PAID[1], **more)


def shipped(number: int, tid: int, at: int = 1, **more: Any) -> Message:
    return said(number, SHIPPED[0], at, tid=tid, oid=tid, status=SHIPPED[1], **more)


def of_refund(number: int, refund_id: int, event: str, at: int = 0, **more: Any) -> Message:
    return said(number, f"taobao_refund_{event}", at, refund_id=refund_id, **more)


def some_traffic(count: int, seed: int = 1) -> list[Message]:
    return [decoded(fact.body, fact.tag) for fact in traffic(count, seed=seed)]


def execute(store: LandingStore, *statements: str) -> None:
    def work(cursor: Any) -> None:
        for statement in statements:
            cursor.execute(statement)

    store.database.transact(work)


def counts(report: RebuildReport) -> dict[str, tuple[int, int, int]]:
    """Rows changed, added and removed, of the tables where there were any."""
    return {
        name: (table.changed, table.added, table.removed)
        for name, table in report.tables.items()
        if table.differed
    }


def ruin(store: LandingStore) -> None:
    """State as no message made it: other values, rows too few, rows too many."""
    execute(
        store,
        "UPDATE trades SET status = 'BROKEN', payment = 0, older = ''",
        "UPDATE trade_lines SET status = NULL",
        "UPDATE refunds SET refund_phase = 'broken', published_at = 1",
        "DELETE FROM logistics_traces WHERE action = 'GOT'",
    )


def test_a_store_that_is_right_is_left_alone(store: LandingStore) -> None:
    messages = some_traffic(900)
    store.land(landing(*messages))
    before = state(store)
    redone = store.database.redone
    report = rebuild(store.database)
    assert counts(report) == {}
    assert (report.messages, report.undecodable, report.refused, report.differences) == (900, 0, 0, [])
    assert {name: table.checked for name, table in report.tables.items()} == {
        name: len(table) for name, table in before.items()
    }
    assert state(store) == before
    assert store.database.redone == redone
    assert report.seconds > 0


def test_an_empty_store_has_nothing_to_rebuild(store: LandingStore) -> None:
    assert counts(rebuild(store.database)) == {}


def test_whatever_was_done_to_the_state_is_undone_and_reported(store: LandingStore) -> None:
    messages = some_traffic(2_000)
    store.land(landing(*messages))
    right = state(store)
    got = len([row for row in right["logistics_traces"] if "GOT" in row])
    ruin(store)
    execute(store, "DELETE FROM trade_lines", "DELETE FROM refunds")
    report = rebuild(store.database)
    assert state(store) == right
    assert counts(report) == {
        "trades": (len(right["trades"]), 0, 0),
        "trade_lines": (0, len(right["trade_lines"]), 0),
        "refunds": (0, len(right["refunds"]), 0),
        "logistics_traces": (0, got, 0),
    }
    assert min(table.differed for table in report.tables.values()) > 5
    assert len(report.differences) == 20


def test_each_difference_says_what_was_and_what_is(store: LandingStore) -> None:
    store.land(landing(paid(1, 5, payment="9.5", seller_memo="急" * 200), paid(2, 6)))
    execute(
        store,
        "UPDATE trades SET payment = 1.25, seller_memo = NULL WHERE tid = '5'",
        "DELETE FROM trades WHERE tid = '6'",
    )
    assert rebuild(store.database).differences == [
        Difference("trades", "5", "payment", "1.25", "9.50"),
        Difference("trades", "5", "seller_memo", None, "急" * 80),
        Difference("trades", "6", "", "absent", "present"),
    ]


def test_rows_that_no_message_speaks_of_are_removed(store: LandingStore) -> None:
    line = said(2, SHIPPED[0], tid=5, oid=6, status=SHIPPED[1])
    store.land(
        landing(
            paid(1, 5),
            line,
            of_refund(3, 8, "RefundCreated"),
            said(4, "taobao_logistics_LogsticDetailTrace", tid=5),
        )
    )
    right = state(store)
    for table, key in (("trades", "tid"), ("trade_lines", "oid"), ("refunds", "refund_id")):
        [row] = right[table][:1]
        columns = [name for (name,) in named_columns(store, table) if name != key]
        others = ", ".join(columns)
        execute(store, f"INSERT INTO {table} ({key}, {others}) SELECT '99', {others} FROM {table}")
        assert len(state(store)[table]) == 2 * len(right[table]), row
    assert counts(rebuild(store.database)) == {
        "trades": (0, 0, 1),
        "trade_lines": (0, 0, 1),
        "refunds": (0, 0, 1),
    }
    assert state(store) == right


def named_columns(store: LandingStore, table: str) -> list[tuple[Any, ...]]:
    """The names of the columns."""
    with closing(store.database.connect_reading()) as connection:
        cursor = connection.cursor()
        cursor.execute(f"SELECT * FROM {table}")
        return [(column[0],) for column in cursor.description]


def test_what_pruned_messages_said_stays(store: LandingStore) -> None:
    store.land(
        landing(
            paid(1, 5, payment="9.50", buyer_nick="c**"),
            shipped(2, 5, at=1, seller_memo="急"),
            of_refund(3, 8, "RefundCreated", tid=5, refund_fee="3.00"),
            of_refund(4, 8, "RefundClosed", at=1),
            said(5, "taobao_logistics_LogsticDetailTrace", tid=5, action="GOT"),
            paid(6, 7),
        )
    )
    right = state(store)
    execute(store, "DELETE FROM messages WHERE message_key <> 'tb:12345678:2'")
    assert counts(rebuild(store.database)) == {}
    assert state(store) == right

    execute(store, "UPDATE trades SET seller_memo = 'x' WHERE tid = '5'")
    assert counts(rebuild(store.database)) == {"trades": (1, 0, 0)}
    assert state(store) == right

    store.land(landing(said(9, "taobao_trade_TradeSuccess", 9, tid=5, oid=5, status="TRADE_FINISHED")))
    late = state(store)
    assert counts(rebuild(store.database)) == {}
    assert state(store) == late != right


def test_a_body_that_cannot_be_decoded_any_more_is_counted_and_what_it_said_stays(
    store: LandingStore,
) -> None:
    store.land(
        landing(
            paid(1, 5, payment="9.50"),
            shipped(2, 5),
            said(3, "taobao_logistics_LogsticDetailTrace", tid=5, action="GOT"),
            of_refund(4, 8, "RefundCreated", tid=5),
        )
    )
    right = state(store)
    execute(store, "UPDATE messages SET body = '{' WHERE message_key <> 'tb:12345678:2'")
    report = rebuild(store.database)
    assert (counts(report), report.messages, report.undecodable) == ({}, 1, 3)
    assert report.undecodable_keys == [f"tb:12345678:{number}" for number in (1, 3, 4)]
    assert state(store) == right


def test_messages_that_make_no_state_are_not_decoded(store: LandingStore) -> None:
    store.land(landing(paid(1, 5), said(2, "taobao_traderate_ImprBadTag", tid=5, oid=5)))
    execute(store, "UPDATE messages SET body = '{' WHERE message_key = 'tb:12345678:2'")
    report = rebuild(store.database)
    assert (report.messages, report.undecodable) == (1, 0)


def test_since_looks_only_at_what_messages_landed_since_speak_of(store: LandingStore) -> None:
    store.land(
        landing(paid(1, 5), paid(2, 6), of_refund(3, 8, "RefundCreated"), of_refund(4, 9, "RefundCreated"))
    )
    execute(store, "UPDATE messages SET landed_at = 1000")
    store.land(landing(shipped(11, 5), of_refund(12, 8, "RefundClosed", at=1)))
    right = state(store)
    execute(store, "UPDATE trades SET status = 'BROKEN'", "UPDATE refunds SET refund_phase = 'broken'")
    report = rebuild(store.database, since=1001)
    assert counts(report) == {"trades": (1, 0, 0), "refunds": (1, 0, 0)}
    assert {difference.key for difference in report.differences} == {"5", "8"}
    assert report.messages == 4

    assert counts(rebuild(store.database, since=now_ms() + 60_000)) == {}
    rebuild(store.database, since=1000)
    assert state(store) == right


def test_a_refund_is_found_whole_whatever_orders_its_messages_name(store: LandingStore) -> None:
    store.land(
        landing(
            of_refund(1, 8, "RefundCreated", tid=5, refund_fee="3.00"),
            of_refund(2, 8, "RefundSellerAgreeAgreement", at=1, tid=6, oid=61),
            of_refund(3, 8, "RefundClosed", at=2),
        )
    )
    right = state(store)
    execute(store, "DELETE FROM refunds")
    assert counts(rebuild(store.database)) == {"refunds": (0, 1, 0)}
    assert state(store) == right
    assert rows(store, "SELECT tid, oid, refund_fee FROM refunds") == [("6", "61", "3.00")]


def test_progress_goes_through_all_steps_up_to_the_end(store: LandingStore) -> None:
    store.land(landing(*some_traffic(2_000)))
    told: list[RebuildProgress] = []
    report = rebuild(store.database, progress=told.append)
    assert list(dict.fromkeys(step.step for step in told)) == ["orders", "search", "refunds"]
    for name in ("orders", "search", "refunds"):
        steps = [step for step in told if step.step == name]
        assert steps == sorted(steps)
        assert steps[-1].done == steps[-1].of > 0
    assert told[-1].messages == report.messages


def test_a_row_the_database_refuses_stays_and_the_others_are_mended(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store(f"sqlite:///{tmp_path}/bridge.db")
    store.open()
    store.land(landing(*(paid(number, number) for number in range(1, 41))))
    execute(
        store,
        "UPDATE trades SET status = 'BROKEN'",
        "CREATE TRIGGER never BEFORE INSERT ON trades WHEN NEW.tid = '17' BEGIN SELECT RAISE(ABORT, 'no'); END",
    )
    report = rebuild(store.database)
    assert (counts(report), report.refused) == ({"trades": (39, 0, 0)}, 1)
    assert rows(store, "SELECT tid FROM trades WHERE status = 'BROKEN'") == [("17",)]
    assert "tid 17 stays as it is" in caplog.text
    store.close()


def land_all(url: str, messages: Sequence[Message], size: int, begun: threading.Event) -> None:
    with closing(open_store(url)) as other:
        other.open()
        for start in range(0, len(messages), size):
            other.land(landing(*messages[start : start + size]))
            begun.set()


def test_landing_goes_on_during_a_rebuild_and_the_state_is_exact(
    store: LandingStore, database_url: str, tmp_path: Path
) -> None:
    messages = some_traffic(4_000)
    # Of refunds messages come in any order, most without an order, so that many say nothing new to the row.
    messages += [
        of_refund(number, number % 40 + 1, "RefundCreated", at=number % 7, refund_fee=f"{number % 5}.00")
        for number in range(1, 2_001)
    ]
    messages = [message for start in range(300) for message in messages[start::300]]
    store.land(landing(*messages[:3_000]))
    ruin(store)
    with ThreadPoolExecutor(2) as pool:
        halves = messages[3_000::2], messages[3_001::2]
        begun = threading.Event()
        landings = [pool.submit(land_all, database_url, half, 25, begun) for half in halves]
        assert begun.wait(30)
        report = rebuild(store.database)
        meanwhile = rows(store, "SELECT count(*) FROM messages")[0][0]
        for landed in landings:
            landed.result()
    alone = open_store(f"sqlite:///{tmp_path}/alone.db")
    alone.open()
    alone.land(landing(*messages))
    assert state(store) == state(alone)
    assert report.differed > 400
    assert meanwhile > 3_000
    alone.close()


def test_a_landing_that_commits_after_younger_ones_is_not_overlooked(server_url: str) -> None:
    """Its ids are lower than those that the search for refunds saw, and its values say nothing new to a wrong row."""
    store, late = open_store(server_url), open_store(server_url)
    store.open()
    late.open()
    store.land(landing(of_refund(1, 8, "RefundClosed", at=9)))
    inserted, go_on = threading.Event(), threading.Event()
    overtaken = landing(of_refund(2, 8, "RefundCreated", refund_fee="3.00"))
    writer = LandingWriter(late.database)

    def work(cursor: Any) -> None:
        writer.land(cursor, overtaken, now_ms())
        inserted.set()
        assert go_on.wait(30)

    with ThreadPoolExecutor(1) as pool:
        committed = pool.submit(late.database.transact, work)
        assert inserted.wait(30)
        store.land(landing(of_refund(3, 9, "RefundCreated")))

        def progress(step: RebuildProgress) -> None:
            if step.step == "search" and not go_on.is_set():
                go_on.set()
                committed.result(30)
                execute(store, "UPDATE refunds SET refund_fee = 7, older = '' WHERE refund_id = '8'")

        report = rebuild(store.database, progress=progress)
    assert rows(store, "SELECT id, message_key FROM messages ORDER BY id") == [
        (number, f"tb:12345678:{number}") for number in (1, 2, 3)
    ]
    assert counts(report) == {"refunds": (1, 0, 0)}
    assert rows(store, "SELECT refund_fee FROM refunds WHERE refund_id = '8'") == [("3.00",)]
    store.close()
    late.close()


def waiting(store: LandingStore) -> int:
    """How many statements about trades wait for another transaction."""
    activity = {
        "postgresql": "pg_stat_activity WHERE wait_event_type = 'Lock' AND query",
        "mysql": "information_schema.processlist WHERE time >= 1 AND info",
    }[store.database.dialect.name]
    return int(rows(store, f"SELECT count(*) FROM {activity} LIKE '%trades%'")[0][0])


def test_a_row_that_a_landing_begins_at_the_same_moment_is_folded_from_both(server_url: str) -> None:
    store, other = open_store(server_url), open_store(server_url)
    store.open()
    other.open()
    store.land(landing(paid(1, 5, payment="9.50")))
    execute(store, "DELETE FROM trades")
    inserted, go_on = threading.Event(), threading.Event()
    writer = LandingWriter(other.database)

    def work(cursor: Any) -> None:
        writer.land(cursor, Landing([shipped(2, 5)], [], [], []), now_ms())
        inserted.set()
        assert go_on.wait(30)

    with ThreadPoolExecutor(2) as pool:
        landed = pool.submit(other.database.transact, work)
        assert inserted.wait(30)
        rebuilt = pool.submit(rebuild, store.database)
        wait_until(lambda: waiting(other) > 0, "the rebuild to wait for the landing's row", 30)
        go_on.set()
        landed.result(30)
        assert counts(rebuilt.result(30)) == {"trades": (1, 0, 0)}
    assert rows(store, "SELECT status, payment, topic FROM trades") == [(SHIPPED[1], "9.50", SHIPPED[0])]
    store.close()
    other.close()
