"""Two bridges on one database and the same orders; a bridge whose commits are cut."""

from __future__ import annotations

import heapq
import json
import os
import random
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.acceptance.test_faults import owned
from tests.bridge_process import Installation, lag
from tests.cluster import RunningCluster, wait_until
from tests.cutting_proxy import CuttingProxy
from tests.stores import COMMIT
from tests.traffic import START, Fact, Seller, Truth, life, new_order, publish, traffic

pytestmark = pytest.mark.one_broker
MESSAGES = int(os.environ.get("JST_TEST_WRITERS_MESSAGES", "4000"))
ORDERS = 250
CUTS = 5
BACK = "the store is back"
SEED = int(os.environ.get("JST_TEST_SEED", "1"))


def busy(count: int, orders: int) -> Iterator[Fact]:
    """Messages of a few orders that live again and again, in the order of publishing."""
    chance = random.Random(SEED)
    shops = [Seller(f"雪湖户外旗舰店{n}", 733_740_000 + n) for n in range(7)]
    ordered = [new_order(chance, chance.choice(shops), START + n) for n in range(orders)]

    def lives(number: int) -> Iterator[tuple[int, int, str, Any]]:
        at = START + number
        while True:
            for moment, topic, extra in life(chance, ordered[number], at):
                at = moment
                yield moment, number, topic, extra
            at += 1

    now = START
    waiting = heapq.merge(*(lives(number) for number in range(orders)), key=lambda event: event[:2])
    for serial, (at, number, topic, extra) in zip(range(count), waiting, strict=False):
        now = max(now + 1, at)
        yield publish(5_112_500_053_989_000_000 + serial, topic, ordered[number], extra, now)


@pytest.mark.timeout(600)
def test_two_bridges_on_one_database_land_the_same_orders(
    tmp_path: Path, cluster: RunningCluster, topic: str, group: str, server_url: str
) -> None:
    facts = list(busy(MESSAGES, ORDERS))
    assert len({fact.keys for fact in facts}) == ORDERS
    installation = Installation(tmp_path, cluster.name_server, topic, group, store=server_url)
    lines = tmp_path / "lines.jsonl"
    lines.write_text("".join(json.dumps(fact.line(topic)) + "\n" for fact in facts[8:]))
    cluster.publish(fact.line(topic) for fact in facts[:8])
    with ExitStack() as stack:
        bridges = [stack.enter_context(installation.start()) for _ in range(2)]
        wait_until(
            lambda: [len(owned(bridge)) for bridge in bridges] == [4, 4], "both to have four queues", 60
        )
        cluster.flood(topic, lines, MESSAGES - 8)  # one after another to another queue
        installation.wait_for(MESSAGES, seconds=300)
        for bridge in bridges:
            bridge.signal(signal.SIGTERM)
        outcomes = [bridge.wait() for bridge in bridges]
    for outcome in outcomes:
        assert outcome.code == 0, outcome.err
    print(urlsplit(server_url).scheme, *(outcome.summary for outcome in outcomes), sep="\n")
    assert sum(outcome.summary["landed"] for outcome in outcomes) == MESSAGES
    assert min(outcome.summary["landed"] for outcome in outcomes) > MESSAGES / 4
    assert all("redone" in outcome.summary for outcome in outcomes)
    installation.assert_equals(Truth.of(facts))
    assert set(lag(cluster, group, topic).values()) == {0}


@pytest.mark.timeout(300)
def test_commits_cut_under_a_running_bridge_lose_nothing_and_land_nothing_twice(
    tmp_path: Path, cluster: RunningCluster, topic: str, group: str, server_url: str
) -> None:
    facts = list(traffic(CUTS * 400, seed=SEED))
    dice = random.Random(SEED)
    forwarded = [number % 2 == 0 for number in range(CUTS)]
    dice.shuffle(forwarded)
    print(f"seed {SEED}, COMMIT forwarded: {forwarded}")
    where = urlsplit(server_url)
    assert where.port is not None
    with CuttingProxy(where.port) as proxy:
        installation = Installation(tmp_path, cluster.name_server, topic, group, store=proxy.url(server_url))
        cluster.publish(fact.line(topic) for fact in facts[:8])
        with installation.start() as bridge:
            installation.wait_for(8)
            for number, forward in enumerate(forwarded, start=1):
                lines = [fact.line(topic) for fact in facts[8:][number - 1 :: CUTS]]
                before = dice.randrange(300)
                cluster.publish(lines[:before])
                proxy.cut_after(COMMIT[where.scheme], forward=forward)
                cluster.publish(lines[before:])
                wait_until(lambda: bridge.log().count(BACK) == number, f"the end of cut {number}", 60)  # noqa: B023
            installation.wait_for(len(facts))
            bridge.signal(signal.SIGTERM)
            outcome = bridge.wait()
        installation.assert_equals(Truth.of(facts))
    assert outcome.code == 0, outcome.err
    assert proxy.cuts >= CUTS
    assert outcome.err.count(BACK) == CUTS
    assert "Traceback" not in outcome.err
    assert set(lag(cluster, group, topic).values()) == {0}
