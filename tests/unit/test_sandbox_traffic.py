"""The generator of traffic: its truth is what a store holds, and all of it follows from the seed."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from jst_bridge.bridge import compose
from jst_bridge.errors import SourceError
from jst_bridge.messages import Decoder
from jst_bridge.messages.catalogue import lookup
from jst_bridge.ports import Batch, PlainDelivery, QueueKey
from jst_bridge.rocketmq import ClientSettings, Producer
from jst_bridge.sandbox.rocketmq import SandboxCluster, SandboxSettings
from jst_bridge.sandbox.traffic import Disturbances, Outgoing, Seller, Traffic, TrafficSettings, Truth
from jst_bridge.sandbox.traffic.feeding import feed
from jst_bridge.sandbox.traffic.lives import TOPICS
from jst_bridge.store import LandingStore
from jst_bridge.store.sqlite import SqliteDatabase
from tests.generated import assert_store_holds

APP_KEY = "12345678"
QUEUE = QueueKey("rocketmq", "GID_x", "", "broker-a", f"rmq_sys_jst_{APP_KEY}", 0)
ROUGH = Disturbances(bad=0.01, duplicates=0.02, out_of_order=0.05, late=0.01)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LandingStore]:
    opened = LandingStore(SqliteDatabase(tmp_path / "bridge.db"))
    opened.open()
    yield opened
    opened.close()


def land(store: LandingStore, sent: list[Outgoing]) -> None:
    decoder = Decoder("rocketmq", APP_KEY)
    for first in range(0, len(sent), 1000):
        deliveries = [
            PlainDelivery(
                one.body,
                one.tag,
                one.keys,
                f"T{offset}",
                f"T{offset}",
                offset,
                1_668_500_000_000,
                queue=QUEUE,
            )
            for offset, one in enumerate(sent[first : first + 1000], start=first)
        ]
        batch = Batch(
            QUEUE, list(deliveries), first + len(deliveries), sum(len(one.body) for one in deliveries)
        )
        store.land(compose(decoder, [batch]))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_what_lands_of_disturbed_traffic_is_its_truth_row_by_row(store: LandingStore, seed: int) -> None:
    traffic = Traffic(TrafficSettings(seed=seed, sellers=50, disturbances=ROUGH))
    sent = [one for one in traffic.outgoing(6_000) if one]
    land(store, sent)
    truth = Truth.of(sent)
    assert (len(truth.trades) > 300, len(truth.trade_lines) > 100, len(truth.refunds) > 10) == (
        True,
        True,
        True,
    )
    assert_store_holds(store, truth, APP_KEY)


def test_a_missing_message_is_seen(store: LandingStore) -> None:
    sent = [one for one in Traffic(TrafficSettings()).outgoing(300) if one]
    land(store, sent[:-1])
    with pytest.raises(AssertionError):
        assert_store_holds(store, Truth.of(sent), APP_KEY)


def test_everything_follows_from_the_settings() -> None:
    def bodies(seed: int) -> list[bytes]:
        settings = TrafficSettings(seed=seed, disturbances=ROUGH)
        return [one.body for one in Traffic(settings).outgoing(2_000) if one]

    assert bodies(5) == bodies(5)
    assert bodies(5) != bodies(6)


def test_the_disturbances_come_at_their_rates_and_nothing_is_lost() -> None:
    calm = {one.outgoing_id for one in Traffic(TrafficSettings()).published(20_000)}
    sent = [one for one in Traffic(TrafficSettings(disturbances=ROUGH)).outgoing(20_000) if one]
    often = Counter(one.message.outgoing_id for one in sent if one.message)
    assert often.keys() == calm
    assert 300 < sum(count == 2 for count in often.values()) < 500
    assert 140 < sum(one.message is None for one in sent) < 260
    order = [one.message.at for one in sent if one.message]
    assert 600 < sum(later < earlier for earlier, later in itertools.pairwise(order)) < 4_000


def test_every_topic_is_one_of_the_catalogue_and_lives_are_whole() -> None:
    topics = {one.tag for one in Traffic(TrafficSettings(seed=3)).published(60_000)}
    assert topics == TOPICS
    assert all(lookup(topic) for topic in topics)


def test_the_first_sellers_sell_most() -> None:
    traffic = Traffic(TrafficSettings(sellers=100, skew=1.0))
    sold = Counter(one.seller.nick for one in traffic.published(30_000))
    first, tenth = sold[traffic.sellers[0].nick], sold[traffic.sellers[9].nick]
    assert 5 < first / tenth < 20


def test_a_seller_that_is_not_open_publishes_nothing() -> None:
    named = [Seller("open", 1), Seller("closed", 2)]
    traffic = Traffic(TrafficSettings(), named=named, admits=lambda seller, topic: seller.nick == "open")
    published = list(traffic.published(500))
    assert {one.seller.nick for one in published} == {"open"}
    assert 100 < len(published) < 500


def test_with_a_clock_messages_carry_its_time_each_a_later_one() -> None:
    traffic = Traffic(TrafficSettings(start=1_700_000_000_000), clock=lambda: 1_700_000_005_000)
    published = list(traffic.published(50))
    assert [one.at for one in published] == list(range(1_700_000_005_000, 1_700_000_005_050))
    envelope = json.loads(published[0].body)
    assert envelope["publish_time"] == 1_700_000_005_000
    assert json.loads(envelope["content"])["modified"] == "2023-11-15 06:13:25"


def test_two_runs_that_start_at_different_seconds_share_no_ids() -> None:
    def ids(start: int) -> set[int]:
        return {number for one in Traffic(TrafficSettings(start=start)).published(5_000)
                for number in (one.outgoing_id, one.happening.order.tid)}  # fmt: skip

    assert not ids(1_700_000_000_000) & ids(1_700_000_001_000)


@pytest.mark.parametrize("rates", [{"bad": -0.1}, {"late": 1.5}])
def test_a_rate_that_is_no_share_is_refused(rates: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="share"):
        Disturbances(**rates)


def test_a_broker_that_went_away_is_one_error_of_ours() -> None:
    async def send() -> None:
        async with SandboxCluster(SandboxSettings(topics={"t": 1})) as cluster:
            settings = ClientSettings((cluster.name_server,), connect_timeout=1, request_timeout=1)
            async with Producer(settings) as producer:
                sent = await feed(producer, "t", Traffic(TrafficSettings()).outgoing(100))
                assert sent == 100
                await cluster.stop()
                await feed(producer, "t", Traffic(TrafficSettings()).outgoing(100))

    with pytest.raises(SourceError):
        asyncio.run(send())
