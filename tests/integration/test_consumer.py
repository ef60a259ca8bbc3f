"""The Consumer alone, as a library, on a real broker."""

from __future__ import annotations

import asyncio
import os
import threading

import psutil
import pytest

from jst_bridge.errors import TopicNotFound
from jst_bridge.rocketmq import ClientSettings, Consumer, ConsumerSettings, MessageExt, Producer
from tests.cluster import RunningCluster

pytestmark = pytest.mark.conformance


def settings(cluster: RunningCluster, topic: str, group: str, tags: str = "*") -> ConsumerSettings:
    return ConsumerSettings(ClientSettings((cluster.name_server,)), group=group, subscriptions={topic: tags})


async def receive(consumer: Consumer, count: int) -> list[MessageExt]:
    """Receive and settle until `count` messages came."""
    messages: list[MessageExt] = []
    async with asyncio.timeout(30):
        while len(messages) < count:
            batches = await consumer.receive()
            messages += [message for batch in batches for message in batch.messages]
            consumer.settle(batches)
    return messages


def publish(cluster: RunningCluster, topic: str, count: int, *, tag: str = "TagA", first: int = 0) -> None:
    cluster.publish(
        {"topic": topic, "tag": tag, "keys": f"k{n}", "body": f"body {n}"}
        for n in range(first, first + count)
    )


def test_messages_of_the_java_client_arrive_with_their_facts(
    cluster: RunningCluster, topic: str, group: str
) -> None:
    sent = cluster.publish(
        {"topic": topic, "tag": "TagA", "keys": f"k{n}", "body": f"body {n}"} for n in range(20)
    )

    async def main() -> None:
        async with Consumer(settings(cluster, topic, group)) as consumer:
            messages = await receive(consumer, 20)
        by_id = {message.offset_message_id: message for message in messages}
        for n, where in enumerate(sent):
            message = by_id[where.message_id]
            assert (message.queue_id, message.queue_offset) == (where.queue, where.offset)
            assert (message.body, message.tag, message.keys) == (f"body {n}".encode(), "TagA", f"k{n}")
            assert message.origin_message_id == message.offset_message_id
            assert message.reconsume_times == 0

    asyncio.run(main())


def test_a_second_consumer_goes_on_where_the_first_settled(
    cluster: RunningCluster, topic: str, group: str
) -> None:
    publish(cluster, topic, 40)

    async def main() -> None:
        async with Consumer(settings(cluster, topic, group)) as first:
            seen = await receive(first, 40)
        publish(cluster, topic, 8, first=100)
        async with Consumer(settings(cluster, topic, group)) as second:
            rest = await receive(second, 8)
        assert {message.body for message in rest} == {f"body {n}".encode() for n in range(100, 108)}
        assert len(seen) == 40

    asyncio.run(main())


def test_what_was_received_but_not_settled_comes_again(
    cluster: RunningCluster, topic: str, group: str
) -> None:
    publish(cluster, topic, 10)

    async def main() -> None:
        async with Consumer(settings(cluster, topic, group)) as first:
            batches = await first.receive()
            assert batches
        async with Consumer(settings(cluster, topic, group)) as second:
            assert len(await receive(second, 10)) == 10

    asyncio.run(main())


def test_a_tag_filter_is_kept_and_its_offsets_advance(
    cluster: RunningCluster, topic: str, group: str
) -> None:
    publish(cluster, topic, 30, tag="TagB")
    publish(cluster, topic, 10, tag="TagA", first=30)

    async def main() -> None:
        async with Consumer(settings(cluster, topic, group, "TagA || TagC")) as consumer:
            messages = await receive(consumer, 10)
            assert {message.tag for message in messages} == {"TagA"}

    asyncio.run(main())
    rows = [row for row in cluster.consumer_progress(group) if row.topic == topic]
    assert sum(row.broker_offset for row in rows) == 40
    assert [row.diff for row in rows] == [0] * 8


def test_a_message_sent_back_by_a_java_consumer_arrives_under_its_topic(
    cluster: RunningCluster, topic: str, group: str
) -> None:
    publish(cluster, topic, 4)

    async def main() -> None:
        async with Consumer(settings(cluster, topic, group)) as consumer:
            (original, *_) = await receive(consumer, 4)
            # What a Java consumer does with a message its listener failed on (reference 2.10).
            from jst_bridge.rocketmq.codes import Request

            await consumer.client.call(
                consumer.client.master("broker-a"),
                Request.CONSUMER_SEND_MSG_BACK,
                {
                    "offset": str(original.physical_offset),
                    "group": group,
                    "delayLevel": "1",
                    "originMsgId": original.properties["UNIQ_KEY"],
                    "originTopic": topic,
                    "unitMode": "false",
                    "maxReconsumeTimes": "16",
                },
            )
            (again,) = await receive(consumer, 1)
            assert again.topic == f"%RETRY%{group}"
            assert again.visible_topic == topic
            assert again.origin_message_id == original.offset_message_id
            assert again.offset_message_id != original.offset_message_id
            assert (again.body, again.reconsume_times) == (original.body, 1)

    asyncio.run(main())


def test_a_topic_nobody_knows_is_an_error_at_start(cluster: RunningCluster, topic: str, group: str) -> None:
    async def main() -> None:
        with pytest.raises(TopicNotFound, match=topic):
            await Consumer(settings(cluster, topic, group)).start()
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())


@pytest.mark.alone
def test_the_first_message_of_a_new_group_comes_within_a_second(
    cluster: RunningCluster, topic: str, group: str
) -> None:
    publish(cluster, topic, 8)

    async def main() -> float:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        async with Consumer(settings(cluster, topic, group)) as consumer:
            await receive(consumer, 1)
            return loop.time() - begun

    # A wide margin over the tens of milliseconds it takes: no 20 s round, no code 24 or 25, was in the way.
    assert asyncio.run(main()) < 5


def test_a_hundred_starts_and_stops_leave_nothing_behind(
    cluster: RunningCluster, topic: str, group: str
) -> None:
    publish(cluster, topic, 8)
    process = psutil.Process(os.getpid())

    async def main() -> int:
        async def once() -> None:
            async with Consumer(settings(cluster, topic, group)) as consumer:
                assert len(consumer.progress()) >= 8

        await once()
        descriptors = process.num_fds()
        for _ in range(100):
            await once()
        assert len(asyncio.all_tasks()) == 1
        return descriptors

    before = threading.active_count()
    descriptors = asyncio.run(main())
    assert process.num_fds() <= descriptors  # counted when the loop is closed: all callbacks have run
    assert threading.active_count() == before


def test_the_producer_reports_where_a_message_went(cluster: RunningCluster, topic: str, group: str) -> None:
    async def main() -> None:
        async with Producer(ClientSettings((cluster.name_server,))) as producer:
            first = await producer.send(topic, b"one", tag="TagA", queue_id=3)
            second = await producer.send(topic, b"two", tag="TagA", queue_id=3)
        assert (first.queue.queue_id, first.queue_offset, second.queue_offset) == (3, 0, 1)
        async with Consumer(settings(cluster, topic, group)) as consumer:
            messages = await receive(consumer, 2)
        assert [message.offset_message_id for message in messages] == [
            first.offset_message_id,
            second.offset_message_id,
        ]

    asyncio.run(main())
