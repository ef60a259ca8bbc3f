"""Queues that come and go on real brokers while a consumer reads."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable

import pytest

from jst_bridge.rocketmq import ClientSettings, Consumer, ConsumerSettings, handover
from jst_bridge.rocketmq import consumer as consumer_module
from tests.cluster import Broker, Cluster, RunningCluster, ask
from tests.recovery import Stream

UPDATE_TOPIC, UPDATE_BROKER_CONFIG, DELETE_TOPIC, DELETE_ROUTE = 17, 25, 215, 216
SECONDS = 100.0


@pytest.fixture(autouse=True)
def quick_routes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer_module, "ROUTE_PERIOD", 2.0)


@pytest.fixture
def topic(group: str) -> str:
    """Not one of the system's: those come to be with their first message, and nothing can be set about them."""
    return group.replace("GID_", "topic_")


def make_topic(address: str, topic: str, queues: int, *, perm: int = 6) -> None:
    """As the admin tool does: this also changes a topic that is there."""
    code, body = ask(
        address, UPDATE_TOPIC, topic=topic, defaultTopic="TBW102", readQueueNums=str(queues),
        writeQueueNums=str(queues), perm=str(perm), topicFilterType="SINGLE_TAG", topicSysFlag="0", order="false",
    )  # fmt: skip
    assert code == 0, body


class Reader:
    """A consumer that settles at once and counts the keys it got."""

    def __init__(self, consumer: Consumer) -> None:
        self.consumer = consumer
        self.keys: Counter[str] = Counter()

    async def run(self) -> None:
        while batches := await self.consumer.receive():
            self.keys.update(message.keys for batch in batches for message in batch.messages)
            self.consumer.settle(batches)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(SECONDS):
            while not condition():  # noqa: ASYNC110 - a broker does not tell
                await asyncio.sleep(0.05)

    async def until_all(self, *streams: Stream) -> None:
        """Wait until everything that these streams brought to the broker is here, once."""
        keys = {key for stream in streams for key in stream.taken}
        await self.until(lambda: keys <= self.keys.keys())
        assert set(self.keys.values()) == {1}

    def queues(self, broker: str) -> int:
        return sum(one.queue.broker == broker for one in self.consumer.progress())


def perm(consumer: Consumer, topic: str, broker: str) -> int:
    """What the route that the consumer knows says of a broker."""
    return sum(entry.perm for entry in consumer.client.routes[topic].queues if entry.broker == broker)


@contextlib.asynccontextmanager
async def reading(cluster: RunningCluster, topic: str, group: str) -> AsyncIterator[Reader]:
    client = ClientSettings((cluster.name_server,))
    settings = ConsumerSettings(client, group=group, subscriptions={topic: "*"}, start_from="last")
    async with Consumer(settings) as consumer:
        reader = Reader(consumer)
        task = asyncio.create_task(reader.run())
        yield reader
        consumer.quiesce()
        await task


@contextlib.asynccontextmanager
async def streaming(address: str, topic: str, queues: int, prefix: str) -> AsyncIterator[Stream]:
    stream = Stream(address, topic, queues=queues, rate=100, prefix=prefix)
    with contextlib.ExitStack() as stack:
        stack.enter_context(stream)
        yield stream
        await asyncio.to_thread(stream.stop)


@pytest.mark.timeout(300)
def test_queues_raised_from_4_to_8_under_traffic_lose_nothing(
    cluster: RunningCluster, topic: str, group: str
) -> None:
    async def main() -> None:
        address = cluster.broker_address
        make_topic(address, topic, 4)
        async with reading(cluster, topic, group) as reader:
            await reader.until(lambda: reader.queues("broker-a") >= 4)
            async with streaming(address, topic, 4, "before-") as before:
                await reader.until(lambda: len(reader.keys) > 20)
                make_topic(address, topic, 8)
                async with streaming(address, topic, 8, "after-") as after:
                    await reader.until(
                        lambda: sum(one.queue.queue_id > 3 for one in reader.consumer.progress()) == 4
                    )
                    await reader.until(lambda: len(reader.keys.keys() & after.taken.keys()) > 40)
            await reader.until_all(before, after)

    asyncio.run(main())


@pytest.mark.timeout(300)
def test_a_topic_that_is_deleted_and_made_anew_under_a_consumer_is_read_from_its_first_message(
    cluster: RunningCluster, topic: str, group: str
) -> None:
    async def main() -> None:
        address = cluster.broker_address
        make_topic(address, topic, 4)
        async with reading(cluster, topic, group) as reader:
            await reader.until(lambda: reader.queues("broker-a") >= 4)
            async with streaming(address, topic, 4, "old-") as old:
                await reader.until(lambda: len(reader.keys) > 100)
            await reader.until_all(old)
            ask(address, DELETE_TOPIC, topic=topic)
            ask(cluster.name_server, DELETE_ROUTE, topic=topic)
            make_topic(address, topic, 4)
            async with streaming(address, topic, 4, "new-") as new:
                await reader.until(lambda: len(new.taken) > 50)
            await reader.until_all(old, new)

    asyncio.run(main())


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_broker_is_added_under_traffic_then_drained_and_removed(
    own_cluster: Callable[..., Cluster], topic: str, group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handover, "GRACE", 5.0)
    cluster = own_cluster()

    async def main() -> None:
        make_topic(cluster.broker_address, topic, 4)
        async with (
            reading(cluster, topic, group) as reader,
            streaming(cluster.broker_address, topic, 4, "a-") as first,
        ):
            await reader.until(lambda: len(reader.keys) > 20)
            added: Broker = await asyncio.to_thread(cluster.add_broker, "broker-b")
            make_topic(added.address, topic, 4)
            async with streaming(added.address, topic, 4, "b-") as second:
                await reader.until(lambda: reader.queues("broker-b") >= 4)
                await reader.until(lambda: len(reader.keys.keys() & second.taken.keys()) > 20)
            await reader.until_all(second)
            assert ask(added.address, UPDATE_BROKER_CONFIG, b"brokerPermission=4")[0] == 0
            await reader.until(lambda: perm(reader.consumer, topic, "broker-b") == 4)
            assert reader.queues("broker-b") >= 4  # to be read on, until it is empty
            await asyncio.to_thread(added.kill)
            await reader.until(lambda: reader.queues("broker-b") == 0)
            read = len(reader.keys)
            await reader.until(lambda: len(reader.keys) > read + 20)
            await asyncio.to_thread(first.stop)
            await reader.until_all(first, second)
            assert reader.consumer.health().healthy

    asyncio.run(main())
