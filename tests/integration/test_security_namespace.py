"""Namespaces on a real broker: our wrapped names are the Java client's (reference 4.13)."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from jst_bridge.rocketmq import ClientSettings, Consumer, ConsumerSettings, Producer
from jst_bridge.rocketmq.namespace import Namespace
from tests.bridge_process import Installation
from tests.cluster import RunningCluster, wait_until
from tests.traffic import Truth, traffic

pytestmark = pytest.mark.conformance

INSTANCE = "MQ_INST_77_Xyz"


def publish(cluster: RunningCluster, topic: str, namespace: Namespace, messages: int) -> Truth:
    truth = Truth()

    async def send() -> None:
        async with Producer(ClientSettings((cluster.name_server,), namespace=namespace)) as producer:
            for fact in traffic(messages):
                truth.add(fact)
                await producer.send(topic, fact.body, tag=fact.tag)

    asyncio.run(send())
    return truth


def consume(cluster: RunningCluster, *options: str) -> int:
    """How many messages the Java consumer saw."""
    return int(cluster.java("Consume", *options, "--timeout", "60")["messages"])


@pytest.mark.parametrize("wrapped_system_topic", [False, True])
def test_what_is_published_in_a_namespace_lands_under_bare_names(
    tmp_path: Path, cluster: RunningCluster, topic: str, group: str, wrapped_system_topic: bool
) -> None:
    truth = publish(cluster, topic, Namespace(INSTANCE, wrapped_system_topic), 50)
    cluster.wait_for_route(f"{INSTANCE}%{topic}" if wrapped_system_topic else topic)
    installation = Installation(
        tmp_path,
        cluster.name_server,
        topic,
        group,
        source={"namespace": INSTANCE, "namespace_system_topic": wrapped_system_topic},
    )
    landed = installation.run("run", "--drain")
    assert landed.code == 0, landed.err
    installation.assert_equals(truth)
    names = {
        name
        for row in installation.rows("SELECT consumer_group, system_topic FROM positions")
        for name in row
    }
    assert names <= {group, topic, f"%RETRY%{group}"}
    assert INSTANCE not in landed.err.replace(f'"{INSTANCE}"', "")
    # The broker knows the group by its wrapped name only.
    rows = cluster.consumer_progress(f"{INSTANCE}%{group}")
    assert sum(row.diff for row in rows if row.topic.endswith(topic)) == 0


def test_a_java_consumer_of_the_namespace_shares_the_group(cluster: RunningCluster, group: str) -> None:
    """Both are members of one group, and each queue is read by one of them only."""
    topic, namespace = f"orders_{group}", Namespace(INSTANCE)
    publish(cluster, topic, namespace, 40)
    cluster.wait_for_route(f"{INSTANCE}%{topic}")
    settings = ConsumerSettings(
        ClientSettings((cluster.name_server,), namespace=namespace), group, {topic: "*"}
    )

    async def read(messages: int) -> int:
        seen = 0
        async with Consumer(settings) as consumer:
            while seen < messages:
                for batch in await consumer.receive():
                    seen += len(batch.messages)
                    assert {message.topic for message in batch.messages} == {topic}
                    consumer.settle([batch])
        return seen

    assert asyncio.run(read(40)) == 40
    publish(cluster, topic, namespace, 24)
    options = ("--topic", topic, "--group", group, "--messages", "24", "--namespace", INSTANCE)
    assert consume(cluster, *options) <= 24, "it went on where our consumer had committed"

    def everything_is_committed() -> bool:
        rows = cluster.consumer_progress(f"{INSTANCE}%{group}")
        return sum(row.consumer_offset for row in rows if row.topic == f"{INSTANCE}%{topic}") == 64

    wait_until(everything_is_committed, "the Java consumer's commit", 30)
