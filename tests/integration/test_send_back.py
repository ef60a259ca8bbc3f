"""Messages that are sent back, on real brokers: they come again, counted, and end as dead letters."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from jst_bridge.rocketmq import ClientSettings, Consumer, ConsumerSettings, MessageExt, MessageQueue, SentBack
from tests.cluster import RunningCluster

pytestmark = pytest.mark.conformance


def consumer_of(cluster: RunningCluster, topic: str, group: str) -> Consumer:
    return Consumer(ConsumerSettings(ClientSettings((cluster.name_server,)), group, {topic: "*"}))


async def take(consumer: Consumer) -> tuple[MessageExt, MessageQueue]:
    """The next message, settled, and its queue."""
    async with asyncio.timeout(60):
        while True:
            (batch, *_) = batches = await consumer.receive(max_messages=1)
            consumer.settle(batches)
            if batch.messages:
                return batch.messages[0], batch.queue


def test_a_message_sent_back_comes_again_and_at_its_limit_is_a_dead_letter(
    cluster: RunningCluster, topic: str, group: str
) -> None:
    cluster.publish([{"topic": topic, "tag": "A", "keys": "k", "body": "one"}])

    async def main() -> None:
        async with consumer_of(cluster, topic, group) as consumer:
            first, queue = await take(consumer)
            assert await consumer.send_back(first, queue, delay_level=1, max_reconsume_times=2) == SentBack(
                f"%RETRY%{group}", resent=False
            )
            second, queue = await take(consumer)
            assert (second.topic, second.visible_topic) == (f"%RETRY%{group}", topic)
            assert (second.body, second.tag, second.keys, second.reconsume_times) == (b"one", "A", "k", 1)
            assert second.origin_message_id == first.offset_message_id
            # One second by the broker's table, between two stamps of its own clock.
            assert second.store_timestamp - first.store_timestamp >= 900
            await consumer.send_back(second, queue, max_reconsume_times=2)
            third, queue = await take(consumer)
            assert third.reconsume_times == 2
            last = await consumer.send_back(third, queue, max_reconsume_times=2)
            assert (last.dead, last.topic) == (True, f"%DLQ%{group}")
        await is_dead(cluster, group, first, topic)

    asyncio.run(main())


def test_a_message_whose_broker_cannot_find_it_is_published_again(
    cluster: RunningCluster, topic: str, group: str
) -> None:
    cluster.publish([{"topic": topic, "tag": "A", "keys": "k", "body": "one", "compression": "ZLIB"}])

    async def main() -> None:
        async with consumer_of(cluster, topic, group) as consumer:
            first, queue = await take(consumer)
            elsewhere = msgspec.structs.replace(first, physical_offset=first.physical_offset + 1)
            # Two attempts of two: the one that 4.9 would bury when told the plain limit.
            sent = await consumer.send_back(elsewhere, queue, delay_level=1, max_reconsume_times=1)
            assert sent == SentBack(f"%RETRY%{group}", resent=True)
            second, queue = await take(consumer)
            assert (second.visible_topic, second.reconsume_times, second.body) == (topic, 1, b"one")
            assert (second.tag, second.keys) == ("A", "k")
            elsewhere = msgspec.structs.replace(second, physical_offset=second.physical_offset + 1)
            sent = await consumer.send_back(elsewhere, queue, max_reconsume_times=1)
            assert sent == SentBack(f"%DLQ%{group}", resent=True)
        await is_dead(cluster, group, second, topic)

    asyncio.run(main())


async def is_dead(cluster: RunningCluster, group: str, message: MessageExt, topic: str) -> None:
    """The dead-letter topic of the group holds exactly this message."""
    await asyncio.to_thread(cluster.wait_for_route, f"%DLQ%{group}")
    async with consumer_of(cluster, f"%DLQ%{group}", f"{group}_dead") as reader:
        dead, _ = await take(reader)
        assert (dead.body, dead.tag, dead.keys) == (b"one", "A", "k")
        assert dead.origin_message_id == message.origin_message_id
        assert dead.properties["RETRY_TOPIC"] == topic
        assert not reader.waiting
