"""The broker's own admin tool (mqadmin) sees and moves our consumer as it does a Java one, on real brokers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from jst_bridge.rocketmq import ClientSettings, Consumer, ConsumerSettings, MessageQueue
from jst_bridge.rocketmq.loosejson import decode_json
from tests.cluster import ROCKETMQ_VERSION, Cluster, RunningCluster, ask

pytestmark = pytest.mark.conformance

ASK_CONSUMER_STATUS = 223
MESSAGES = 40
GOAL = 10.0
"""Seconds from the end of the tool to the first message from the new place."""


class Reader:
    """A consumer that settles what it receives and notes what came when."""

    def __init__(self, consumer: Consumer) -> None:
        self.consumer = consumer
        self.came: list[tuple[float, MessageQueue, int]] = []
        self.news = asyncio.Event()

    async def read(self) -> None:
        while batches := await self.consumer.receive():
            now = time.monotonic()
            for batch in batches:
                self.came += [(now, batch.queue, message.queue_offset) for message in batch.messages]
            self.consumer.settle(batches)
            self.news.set()

    async def until(self, count: int) -> None:
        """Wait until so many messages came in all."""
        async with asyncio.timeout(60):
            while len(self.came) < count:
                self.news.clear()
                await self.news.wait()


Story = Callable[[Reader], Awaitable[None]]


def play(cluster: RunningCluster, topic: str, group: str, story: Story) -> None:
    """Let a consumer read everything, then do something to it."""

    async def main() -> None:
        settings = ConsumerSettings(ClientSettings((cluster.name_server,)), group, {topic: "*"})
        async with Consumer(settings) as consumer:
            reader = Reader(consumer)
            reading = asyncio.create_task(reader.read())
            await reader.until(MESSAGES)
            await consumer.commit()
            await story(reader)
            consumer.quiesce()
            await reading

    asyncio.run(main())


def publish(cluster: RunningCluster, topic: str) -> None:
    cluster.publish({"topic": topic, "tag": "A", "body": f"body {n}"} for n in range(MESSAGES))


async def reset(cluster: RunningCluster, topic: str, group: str, timestamp: str) -> float:
    """Run the tool; when it was done, on the monotonic clock."""
    await asyncio.to_thread(cluster.admin, "resetOffsetByTime", "-g", group, "-t", topic, "-s", timestamp)
    return time.monotonic()


async def read_again(cluster: RunningCluster, topic: str, group: str, begun: int, reader: Reader) -> None:
    """Reset to before the first message: everything comes once more, and soon."""
    before = {(queue, offset) for _, queue, offset in reader.came}
    done = await reset(cluster, topic, group, str(begun))
    await reader.until(2 * MESSAGES)
    again = reader.came[MESSAGES:]
    print(f"first message {again[0][0] - done:.1f} s, last {again[-1][0] - done:.1f} s after the tool's end")
    assert again[0][0] - done < GOAL
    assert sorted((queue, offset) for _, queue, offset in again) == sorted(before)
    await reader.consumer.commit()
    await progress_shows_no_lag(cluster, topic, group)


async def progress_shows_no_lag(cluster: RunningCluster, topic: str, group: str) -> None:
    rows = [row for row in await asyncio.to_thread(cluster.consumer_progress, group) if row.topic == topic]
    assert sum(row.consumer_offset for row in rows) == MESSAGES
    assert {row.diff for row in rows} == {0}


def test_a_reset_to_an_earlier_time_brings_every_message_again_within_ten_seconds(
    cluster: RunningCluster, topic: str, group: str
) -> None:
    begun = int(time.time() * 1000) - 60_000
    publish(cluster, topic)
    play(cluster, topic, group, lambda reader: read_again(cluster, topic, group, begun, reader))


def test_a_reset_that_the_broker_leaves_to_the_clients_brings_every_message_again(
    own_cluster: Callable[..., Cluster], topic: str, group: str
) -> None:
    cluster = own_cluster(version=ROCKETMQ_VERSION, properties={"useServerSideResetOffset": "false"})
    begun = int(time.time() * 1000) - 60_000
    publish(cluster, topic)
    play(cluster, topic, group, lambda reader: read_again(cluster, topic, group, begun, reader))


def test_the_broker_can_ask_for_the_offsets_in_our_memory(
    cluster: RunningCluster, topic: str, group: str
) -> None:
    publish(cluster, topic)

    async def story(reader: Reader) -> None:
        client = reader.consumer.client
        # No command of the tool says so, but its library does.
        code, body = await asyncio.to_thread(
            ask, client.master("broker-a"), ASK_CONSUMER_STATUS, topic=topic, group=group, clientAddr=""
        )
        assert code == 0
        table = decode_json(body)["consumerTable"][client.client_id]
        assert {dict(queue)["queueId"]: offset for queue, offset in table.items()} == dict.fromkeys(
            range(8), 5
        )

    play(cluster, topic, group, story)


def test_progress_connection_and_status_are_told_as_of_a_java_consumer(
    cluster: RunningCluster, topic: str, group: str
) -> None:
    publish(cluster, topic)

    async def story(reader: Reader) -> None:
        client_id = reader.consumer.client.client_id
        await progress_shows_no_lag(cluster, topic, group)
        connection = await asyncio.to_thread(cluster.admin, "consumerConnection", "-g", group)
        assert client_id in connection
        assert {"CLUSTERING", "CONSUME_PASSIVELY", "CONSUME_FROM_FIRST_OFFSET"} <= set(
            connection.replace("\n", " ").split()
        )
        assert f"%RETRY%{group}" in connection
        status = await asyncio.to_thread(cluster.admin, "consumerStatus", "-g", group, "-i", client_id, "-s")
        assert topic in status
        assert "V4_9_8" in status
        assert "at Connection.request" in status  # where our tasks wait
        assert "commitOffset=5, cachedMsgMinOffset=0, cachedMsgMaxOffset=0, cachedMsgCount=0" in status

    play(cluster, topic, group, story)
