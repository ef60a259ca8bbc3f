"""Several writers at once on the same orders, and a COMMIT whose answer nobody hears."""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import pytest

from jst_bridge.errors import StoreUnavailable
from jst_bridge.messages import Decoder
from jst_bridge.ports import Landed, Landing, Message, PlainDelivery, Position
from jst_bridge.store import LandingStore, open_store
from jst_bridge.store.landing import LandingWriter
from tests.cluster import wait_until
from tests.conftest import fresh_database
from tests.cutting_proxy import CuttingProxy
from tests.databases import RunningDatabases, RunningPostgresql
from tests.stores import COMMIT, NOW, QUEUE, landing, message, rows, state
from tests.traffic import traffic

MESSAGES = int(os.environ.get("JST_TEST_WRITERS_MESSAGES", "8000")) // 4
WRITERS = 4
BATCH = 100
CUTS = int(os.environ.get("JST_TEST_COMMIT_CUTS", "50"))
SEED = int(os.environ.get("JST_TEST_SEED", "1"))


def decoded(count: int) -> list[Message]:
    """Traffic as the bridge would land it, in the order of publishing."""
    decoder = Decoder(QUEUE.source, "12345678")
    return [
        decoder.decode(
            PlainDelivery(fact.body, fact.tag, fact.keys, f"T{n}", f"T{n}", n, fact.published_at, queue=QUEUE)
        )
        for n, fact in enumerate(traffic(count, seed=SEED))
    ]


def batches(messages: Sequence[Message], size: int) -> list[Landing]:
    """Landings of `size` messages, each with the position behind its last one."""
    return [
        landing(
            *messages[start : start + size],
            positions=[Position(QUEUE, min(start + size, len(messages)))],
        )
        for start in range(0, len(messages), size)
    ]


def contents(store: LandingStore) -> dict[str, Any]:
    """All that several writers together must leave as one alone does; neither ids nor times of landing."""
    return {
        **state(store),
        "messages": sorted(rows(store, "SELECT message_key, topic, tid, body_hash, body FROM messages")),
        "positions": rows(store, "SELECT next_offset FROM positions"),
    }


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one undisturbed writer leaves."""
    with closing(open_store(f"sqlite:///{tmp_path_factory.mktemp('alone')}/alone.db")) as store:
        store.open()
        for part in batches(decoded(MESSAGES), 1_000):
            store.land(part)
        return contents(store)


def write(url: str, number: int, start: Any, totals: Any) -> None:
    """In a process of its own: land all messages, every second writer from the last to the first."""
    messages = decoded(MESSAGES)
    if number % 2:
        messages.reverse()
    parts = batches(messages, BATCH + number)  # no two writers cut them alike
    with closing(open_store(url)) as store:
        start.wait()
        store.open()
        total, began = Landed(), time.monotonic()
        for part in parts:
            total.add(store.land(part))
        totals.put((total, time.monotonic() - began))


@pytest.mark.timeout(300)
def test_writers_that_meet_from_both_ends_leave_what_one_alone_leaves(
    database_url: str, alone: dict[str, Any]
) -> None:
    context = multiprocessing.get_context("forkserver")  # imports once, not once a writer
    context.set_forkserver_preload([__name__])
    start, totals = context.Barrier(WRITERS, timeout=60), context.SimpleQueue()
    writers = [
        context.Process(target=write, args=(database_url, n, start, totals), daemon=True)
        for n in range(WRITERS)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * WRITERS
    total, slowest = Landed(), 0.0
    for _ in writers:
        part, seconds = totals.get()
        total.add(part)
        slowest = max(slowest, seconds)
    print(
        f"{urlsplit(database_url).scheme}: {WRITERS} x {MESSAGES} messages in {slowest:.1f} s,"
        f" {total.redone} transactions redone"
    )
    assert (total.landed, total.duplicates) == (MESSAGES, (WRITERS - 1) * MESSAGES)
    assert contents(open_store(database_url)) == alone


WAITING = {
    "postgresql": "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'",
    "mariadb": "SELECT 1 FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'",
}


def test_who_comes_second_lands_again_after_the_first_and_counts_it(
    server_url: str, database_server: RunningDatabases
) -> None:
    shared, mine, other = message("shared"), message("mine", published_at=NOW + 1), message("other")
    with (
        closing(open_store(server_url)) as first,
        closing(open_store(server_url)) as second,
        ThreadPoolExecutor(1) as pool,
    ):
        first.open()
        second.open()

        def land_first(cursor: Any) -> Future[Landed]:
            LandingWriter(first.database).land(cursor, landing(shared, other), NOW)
            late = pool.submit(second.land, landing(mine, shared))
            wait_until(lambda: bool(database_server.admin(WAITING[database_server.kind])), "the second", 30)
            return late

        landed = first.database.transact(land_first).result(30)
    assert (landed.landed, landed.duplicates, landed.redone) == (1, 1, 1)
    assert rows(first, "SELECT message_key FROM messages ORDER BY message_key") == [
        ("mine",),
        ("other",),
        ("shared",),
    ]
    assert rows(first, "SELECT message_key FROM trades") == [("mine",)]


def server_port(url: str) -> int:
    port = urlsplit(url).port
    assert port is not None
    return port


def land_until_durable(store: LandingStore, part: Landing) -> tuple[Landed, int]:
    """As the bridge does: the same landing again while its outcome is unknown. Also how often that was."""
    for lost in range(10):
        try:
            return store.land(part), lost
        except StoreUnavailable:
            continue
    raise AssertionError("ten tries, and still not durable")


@pytest.mark.timeout(300)
def test_a_commit_cut_at_random_moments_loses_nothing_and_lands_nothing_twice(
    server_url: str, alone: dict[str, Any]
) -> None:
    dice = random.Random(SEED)
    parts = batches(decoded(MESSAGES), max(1, MESSAGES // (CUTS * 2)))
    # Half of them with the COMMIT forwarded and its answer lost, half with the COMMIT lost.
    forwarded = [number < CUTS / 2 for number in range(CUTS)]
    dice.shuffle(forwarded)
    cuts = dict(zip(dice.sample(range(len(parts)), CUTS), forwarded, strict=True))
    print(f"seed {SEED}: {cuts}")
    with CuttingProxy(server_port(server_url)) as proxy, closing(open_store(proxy.url(server_url))) as store:
        store.open()
        for number, part in enumerate(parts):
            if number in cuts:
                proxy.cut_after(COMMIT[store.database.dialect.name], forward=cuts[number])
            landed, lost = land_until_durable(store, part)
            assert lost == (number in cuts)
            assert landed.landed == (0 if cuts.get(number) else len(part.messages))
        assert proxy.cuts == CUTS
    assert contents(open_store(server_url)) == alone


def test_a_plan_made_for_small_tables_does_not_outlive_them(postgresql: RunningPostgresql) -> None:
    """PostgreSQL keeps the plan of a prepared statement until it has looked at the table again (autovacuum)."""
    grown = 40_000
    parts = batches(decoded(MESSAGES), MESSAGES // 60)
    reads = "SELECT seq_tup_read, n_tup_ins FROM pg_stat_user_tables WHERE relname = 'trades'"
    with fresh_database(postgresql) as url:
        with closing(open_store(url)) as store:
            store.open()
            for part in parts[:30]:
                store.land(part)
            postgresql.query(
                url,
                "INSERT INTO trades"
                " SELECT n::text, published_at, order_rank, message_key, older, seller, user_id, topic"
                f" FROM (SELECT * FROM trades LIMIT 1) AS one, generate_series(1, {grown}) AS n",
            )
            for part in parts[30:]:
                store.land(part)
        wait_until(
            lambda: postgresql.query(url, reads)[0][1] > grown, "the server's own count of its work", 30
        )
        assert postgresql.query(url, reads)[0][0] < grown
