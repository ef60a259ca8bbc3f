"""The Consumer in broadcasting, on real brokers."""

from __future__ import annotations

import asyncio

import pytest

from jst_bridge.rocketmq import ClientSettings, Consumer, ConsumerSettings, MessageQueue
from tests.cluster import RunningCluster

pytestmark = pytest.mark.conformance

MESSAGES = 200


def instance(cluster: RunningCluster, topic: str, group: str, positions: dict[MessageQueue, int]) -> Consumer:
    """One that begins where its positions are."""

    async def look_up(queue: MessageQueue, start: int, committed: int | None) -> int:
        assert committed is None
        return positions.get(queue, start)

    client = ClientSettings((cluster.name_server,))
    consumer = Consumer(ConsumerSettings(client, group, {topic: "*"}, mode="broadcasting"))
    consumer.adjust_start(look_up)
    return consumer


async def read(consumer: Consumer, count: int, positions: dict[MessageQueue, int]) -> list[str]:
    """The next `count` messages, settled, their positions noted."""
    bodies: list[str] = []
    async with asyncio.timeout(60):
        while len(bodies) < count:
            batches = await consumer.receive()
            for batch in batches:
                bodies += [message.body.decode() for message in batch.messages]
                positions[batch.queue] = batch.next_offset
            consumer.settle(batches)
    return bodies


def publish(cluster: RunningCluster, topic: str, first: int) -> list[str]:
    bodies = [f"body {n}" for n in range(first, first + MESSAGES)]
    cluster.publish({"topic": topic, "tag": "A", "body": body} for body in bodies)
    return sorted(bodies)


def test_each_instance_gets_every_message_once_and_goes_on_where_its_positions_are(
    cluster: RunningCluster, topic: str, group: str
) -> None:
    sent = publish(cluster, topic, 0)

    async def main() -> None:
        one: dict[MessageQueue, int] = {}
        two: dict[MessageQueue, int] = {}
        async with instance(cluster, topic, group, one) as a, instance(cluster, topic, group, two) as b:
            assert sorted(await read(a, MESSAGES, one)) == sent
            assert sorted(await read(b, MESSAGES, two)) == sent
            assert one == two
            connection = await asyncio.to_thread(cluster.admin, "consumerConnection", "-g", group)
            assert {a.client.client_id, b.client.client_id} <= set(connection.split())
            assert "BROADCASTING" in connection
            assert f"%RETRY%{group}" not in connection
        more = await asyncio.to_thread(publish, cluster, topic, MESSAGES)
        async with instance(cluster, topic, group, one) as again:
            assert sorted(await read(again, MESSAGES, one)) == more
        # No broker was told how far anybody is.
        async with instance(cluster, topic, group, {}) as new:
            assert sorted(await read(new, 2 * MESSAGES, {})) == sorted(sent + more)

    asyncio.run(main())
