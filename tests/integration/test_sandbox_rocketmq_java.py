"""The sandbox's cluster serves clients nobody here wrote: the official Java client, and the broker's admin tool."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from jst_bridge.rocketmq import ClientSettings, Consumer, ConsumerSettings
from jst_bridge.sandbox.rocketmq import ClusterThread, SandboxSettings
from jst_bridge.sandbox.rocketmq.settings import Flavour
from tests.cluster import ClusterError, RunningCluster
from tests.java.toolchain import Toolchain

GROUP = "GID_java"
TOPICS = [f"rmq_sys_jst_{number}" for number in range(4)]
COUNT = 20_000
ENVELOPE = json.dumps({"topic": "x", "user_nick": "shop", "content": json.dumps({"tid": 1})})


class Sandboxed(RunningCluster):
    """The sandbox as the Java programs reach it."""

    def __init__(self, sandbox: ClusterThread, toolchain: Toolchain, scratch: Path) -> None:
        super().__init__(sandbox.name_server, toolchain, scratch)
        self.sandbox = sandbox

    def admin(self, command: str, *arguments: str) -> str:
        """Again where the tool gave up: it waits 3 s for an answer, its own start included."""
        for _ in range(3):
            try:
                return super().admin(command, *arguments)
            except ClusterError as error:
                if "exception.Remoting" not in str(error):
                    raise
        return super().admin(command, *arguments)

    def stored(self, topic: str) -> list[int]:
        """The end of each queue."""
        return self.sandbox.call(
            lambda cluster: [queue.maximum for queue in cluster.broker.state.store.topics[topic].queues]
        )


Start = Callable[..., AbstractContextManager[Sandboxed]]


@pytest.fixture
def sandboxed(java: Toolchain, tmp_path: Path) -> Start:
    """A factory of sandboxes: `with sandboxed(flavour="4.9") as cluster`."""

    @contextmanager
    def start(**settings: Any) -> Iterator[Sandboxed]:
        with (
            ClusterThread(SandboxSettings(**settings)) as sandbox,
            Sandboxed(sandbox, java, tmp_path) as cluster,
        ):
            yield cluster

    return start


def published(cluster: Sandboxed) -> str:
    """A topic that the Java producer filled with `COUNT` messages.

    Another one where a busy machine did not let its threads share the first route in the 6 s they wait.
    """
    for topic in TOPICS:
        messages = ({"topic": topic, "body": ENVELOPE, "tag": "A", "keys": f"k{n}"} for n in range(COUNT))
        try:
            assert cluster.publish_all(messages) == COUNT
        except ClusterError as error:
            if "No route info" not in str(error):
                raise
        else:
            return topic
    raise ClusterError("the Java producer found no route in four tries")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("flavour", ["4.9", "5.3"])
def test_the_java_client_produces_and_consumes_every_message(
    sandboxed: Start, java: Toolchain, tmp_path: Path, flavour: Flavour
) -> None:
    with sandboxed(flavour=flavour, topics=dict.fromkeys(TOPICS, 8)) as cluster:
        topic = published(cluster)
        assert sum(cluster.stored(topic)) == COUNT
        clustering = cluster.consume(topic, GROUP, COUNT, timeout=150)
        assert (clustering["messages"], clustering["nick_characters"]) == (COUNT, 5 * COUNT)
        mine = [row for row in cluster.consumer_progress(GROUP) if row.topic == topic]
        assert (sum(row.broker_offset for row in mine), {row.diff for row in mine}) == (COUNT, {0})

        def broadcast(number: int) -> int:
            home = tmp_path / f"home{number}"  # an instance keeps its offsets there
            home.mkdir()
            with RunningCluster(cluster.name_server, java, home) as instance:
                consumed = instance.consume(topic, "GID_broadcast", COUNT, timeout=150, broadcasting=1)
                return int(consumed["messages"])

        with ThreadPoolExecutor() as pool:
            assert list(pool.map(broadcast, range(2))) == [COUNT, COUNT]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_admin_tool_shows_and_changes_topics(sandboxed: Start) -> None:
    with sandboxed(topics={"T": 2}) as cluster:
        cluster.sandbox.call(lambda sandbox: [sandbox.publish("T", b"x", keys="k1") for _ in range(3)])
        assert {"T", "TBW102"} <= set(cluster.admin("topicList").split())
        assert "create topic to" in cluster.admin(
            "updateTopic", "-c", "DefaultCluster", "-t", "N", "-r", "3", "-w", "3"
        )
        assert len(cluster.stored("N")) == 3
        route = cluster.admin("topicRoute", "-t", "N")
        assert '"readQueueNums":3' in route
        assert cluster.broker_address in route
        ends = re.findall(r"^broker-a +\d +0 +(\d)", cluster.admin("topicStatus", "-t", "T"), re.MULTILINE)
        assert sorted(ends) == ["1", "2"]
        assert (
            len(
                re.findall(
                    r"^[0-9A-F]{32} ", cluster.admin("queryMsgByKey", "-t", "T", "-k", "k1"), re.MULTILINE
                )
            )
            == 3
        )


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("flavour", ["4.9", "5.3"])
def test_the_admin_tool_shows_a_group_and_moves_it(sandboxed: Start, flavour: Flavour) -> None:
    async def work(cluster: Sandboxed) -> None:
        settings = ConsumerSettings(
            ClientSettings((cluster.name_server,)), group=GROUP, subscriptions={"T": "*"}
        )
        async with Consumer(settings) as consumer:
            assert await receive(consumer, 40) == list(range(40))
            await consumer.commit()
            progress = await asyncio.to_thread(cluster.consumer_progress, GROUP)
            assert sum(row.consumer_offset for row in progress if row.topic == "T") == 40
            connection = await asyncio.to_thread(cluster.admin, "consumerConnection", "-g", GROUP)
            assert consumer.client.client_id in connection
            assert "CLUSTERING" in connection
            everyone = await asyncio.to_thread(cluster.admin, "consumerProgress")
            assert re.search(rf"{GROUP} +1 ", everyone)
            status = await asyncio.to_thread(
                cluster.admin, "consumerStatus", "-g", GROUP, "-i", consumer.client.client_id
            )
            assert "#Consumer MQ Detail#" in status
            reset = asyncio.create_task(
                asyncio.to_thread(
                    cluster.admin, "resetOffsetByTime", "-g", GROUP, "-t", "T", "-s", "0", "-f", "true"
                )
            )
            assert await receive(consumer, 40) == list(range(40))
            assert "broker-a" in await reset

    with sandboxed(flavour=flavour, topics={"T": 2}, park_tick=0.2) as cluster:
        cluster.sandbox.call(lambda sandbox: [sandbox.publish("T", b"%d" % number) for number in range(40)])
        asyncio.run(work(cluster))


async def receive(consumer: Consumer, count: int) -> list[int]:
    """The numbers in the next messages, sorted."""
    numbers: list[int] = []
    async with asyncio.timeout(60):
        while len(numbers) < count:
            batches = await consumer.receive()
            numbers += [int(message.body) for batch in batches for message in batch.messages]
            consumer.settle(batches)
    return sorted(numbers)
