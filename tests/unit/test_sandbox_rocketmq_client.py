"""The project's own Consumer and Producer at work on the sandbox."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from jst_bridge.errors import CredentialsRefused
from jst_bridge.rocketmq import ClientSettings, Consumer, ConsumerSettings, Credentials, MessageExt, Producer
from jst_bridge.sandbox.rocketmq import Account, Request, SandboxCluster, SandboxSettings
from jst_bridge.sandbox.rocketmq.settings import Flavour
from tests.sandbox_asker import Asker
from tests.scripted import run

both = pytest.mark.parametrize("flavour", ["4.9", "5.3"])
TOPIC, GROUP = "rmq_sys_jst_12345678", "GID_test"


def consumer_of(cluster: SandboxCluster, **more: Any) -> Consumer:
    client = ClientSettings((cluster.name_server,), more.pop("credentials", None))
    fields: dict[str, Any] = {"group": GROUP, "subscriptions": {TOPIC: "*"}}
    return Consumer(ConsumerSettings(client, **(fields | more)))


def sandbox(**settings: Any) -> SandboxCluster:
    usual: dict[str, Any] = {"topics": {TOPIC: 4}, "park_tick": 0.1}
    return SandboxCluster(SandboxSettings(**(usual | settings)))


async def receive(consumer: Consumer, count: int, *, settle: bool = True) -> list[MessageExt]:
    messages: list[MessageExt] = []
    async with asyncio.timeout(10):
        while len(messages) < count:
            batches = await consumer.receive()
            messages += [message for batch in batches for message in batch.messages]
            if settle:
                consumer.settle(batches)
    return messages


def bodies(messages: list[MessageExt]) -> Counter[bytes]:
    return Counter(message.body for message in messages)


@both
def test_what_a_producer_sends_a_consumer_gets_once_in_the_order_of_each_queue(flavour: Flavour) -> None:
    async def work() -> None:
        async with sandbox(flavour=flavour, brokers=2, topics={TOPIC: 8}) as cluster:
            async with Producer(ClientSettings((cluster.name_server,))) as producer:
                sent = [await producer.send(TOPIC, b"%d" % n, tag="A", keys=f"k{n}") for n in range(200)]
            assert len({result.queue for result in sent}) == 16
            async with consumer_of(cluster) as consumer:
                messages = await receive(consumer, 200)
            assert bodies(messages) == Counter(b"%d" % n for n in range(200))
            assert {result.offset_message_id for result in sent} == {
                each.offset_message_id for each in messages
            }
            assert {message.keys for message in messages} == {f"k{n}" for n in range(200)}
            async with consumer_of(cluster) as consumer:
                cluster.publish(TOPIC, b"later", tag="A")
                assert [message.body for message in await receive(consumer, 1)] == [b"later"]

    run(work())


def test_two_members_share_the_queues_and_one_takes_over_when_the_other_leaves() -> None:
    async def work() -> None:
        async with sandbox() as cluster:
            stay, leave = consumer_of(cluster), consumer_of(cluster)
            async with stay:
                async with leave:
                    async with asyncio.timeout(10):
                        while sorted((len(stay.progress()), len(leave.progress()))) != [2, 3]:  # noqa: ASYNC110
                            await asyncio.sleep(0.01)
                    for n in range(100):
                        cluster.publish(TOPIC, b"%d" % n)
                    first = [*await receive(stay, 50), *await receive(leave, 50)]
                for n in range(100, 200):
                    cluster.publish(TOPIC, b"%d" % n)
                second = await receive(stay, 100)
            assert bodies(first + second) == Counter(b"%d" % n for n in range(200))

    run(work())


def test_in_broadcasting_every_member_gets_everything_and_nothing_is_committed() -> None:
    async def work() -> None:
        async with sandbox() as cluster:
            for n in range(100):
                cluster.publish(TOPIC, b"%d" % n)
            async with (
                consumer_of(cluster, mode="broadcasting") as one,
                consumer_of(cluster, mode="broadcasting") as two,
            ):
                for consumer in (one, two):
                    assert bodies(await receive(consumer, 100)) == Counter(b"%d" % n for n in range(100))
            assert cluster.broker.state.offsets.topics(GROUP) == set()

    run(work())


def test_a_failed_message_is_consumed_again_under_its_first_topic() -> None:
    async def work() -> None:
        async with sandbox(delay_levels=(0.0, 0.0, 0.05)) as cluster:
            cluster.publish(TOPIC, b"fails", tag="A")
            async with consumer_of(cluster) as consumer, asyncio.timeout(10):
                (batch,) = await consumer.receive()
                await consumer.send_back(batch.messages[0], batch.queue)
                consumer.settle([batch])
                (again,) = await receive(consumer, 1)
            assert (again.body, again.visible_topic, again.reconsume_times) == (b"fails", TOPIC, 1)
            assert again.origin_message_id == batch.messages[0].offset_message_id

    run(work())


def test_only_messages_with_a_wanted_tag_arrive() -> None:
    async def work() -> None:
        async with sandbox() as cluster:
            for n in range(90):
                cluster.publish(TOPIC, b"%d" % n, tag="ABC"[n % 3])
            async with consumer_of(cluster, subscriptions={TOPIC: "A || C"}) as consumer:
                messages = await receive(consumer, 60)
                cluster.publish(TOPIC, b"last", tag="C")
                messages += await receive(consumer, 1)
            assert Counter(message.tag for message in messages) == {"A": 30, "C": 31}

    run(work())


@both
def test_a_reset_by_an_administrator_moves_a_running_consumer(flavour: Flavour) -> None:
    async def work() -> None:
        async with sandbox(flavour=flavour) as cluster:
            for n in range(40):
                cluster.publish(TOPIC, b"%d" % n)
            async with consumer_of(cluster, commit_period=0.05) as consumer:
                await receive(consumer, 40)
                await consumer.commit()
                async with await Asker.of(cluster.broker.address) as admin:
                    request: dict[str, Any] = {
                        "topic": TOPIC,
                        "group": GROUP,
                        "timestamp": 0,
                        "isForce": "true",
                    }
                    assert (await admin.ask(Request.INVOKE_BROKER_TO_RESET_OFFSET, **request)).code == 0
                cluster.publish(TOPIC, b"wakes", queue_id=0)
                again = bodies(await receive(consumer, 40))
                assert set(again) >= {b"%d" % n for n in range(0, 40, 4)}

    run(work())


def test_messages_that_expired_before_they_were_read_are_holes() -> None:
    async def work() -> None:
        async with sandbox(topics={TOPIC: 1}, max_bytes=8 << 20) as cluster:
            for n in range(20_000):
                cluster.publish(TOPIC, b"%1000d" % n)
            queue = cluster.broker.state.store.topics[TOPIC].queues[0]
            assert cluster.broker.state.store.held_bytes <= 8 << 20
            async with consumer_of(cluster) as consumer:
                messages = await receive(consumer, queue.maximum - queue.minimum)
            assert messages[0].queue_offset == queue.minimum > 0
            assert messages[-1].queue_offset == 19_999

    run(work())


@both
def test_credentials_are_wanted_where_accounts_are_set(flavour: Flavour) -> None:
    async def work() -> None:
        account = Account("app-key-1", "app-secret-1")
        async with sandbox(flavour=flavour, accounts=(account,)) as cluster:
            cluster.publish(TOPIC, b"x")
            right = Credentials("app-key-1", "app-secret-1", channel="CLOUD")
            async with consumer_of(cluster, credentials=right) as consumer:
                assert len(await receive(consumer, 1)) == 1
            with pytest.raises(CredentialsRefused, match="app-key-1"):
                async with consumer_of(cluster, credentials=Credentials("app-key-1", "wrong")):
                    pass

    run(work())
