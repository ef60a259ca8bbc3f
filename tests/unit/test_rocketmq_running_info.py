"""What a consumer tells a broker about itself, and what it refuses, against a scripted cluster (reference 2.13)."""

from __future__ import annotations

import pytest

from jst_bridge.rocketmq import ClientSettings, Consumer, Credentials
from jst_bridge.rocketmq.codes import Request
from jst_bridge.rocketmq.frame import Frame
from jst_bridge.rocketmq.loosejson import decode_json
from jst_bridge.rocketmq.namespace import Namespace
from tests.scripted import run
from tests.scripted_cluster import GROUP, TOPIC, ScriptedCluster, play, receive, receive_offsets

STATUS, INFO = Request.GET_CONSUMER_STATUS_FROM_CLIENT, Request.GET_CONSUMER_RUNNING_INFO
QUEUE = (("brokerName", "broker-a"), ("queueId", 0), ("topic", TOPIC))


async def ask(cluster: ScriptedCluster, code: int, ext: dict[str, str], body: bytes = b"") -> Frame:
    """What the consumer answers to a request of the broker."""
    replies = len(cluster.broker.replies)
    cluster.broker.push(code, ext, body, oneway=False, opaque=41)
    await cluster.broker.until(lambda: len(cluster.broker.replies) > replies)
    reply = cluster.broker.replies[-1]
    assert reply.opaque == 41
    return reply


def test_the_status_is_the_settled_offsets_of_a_topic() -> None:
    async def script(cluster: ScriptedCluster, consumer: Consumer) -> None:
        cluster.publish(3)
        await receive_offsets(consumer, 3)
        reply = await ask(cluster, STATUS, {"topic": TOPIC, "group": GROUP})
        assert reply.code == 0
        assert decode_json(reply.body) == {"messageQueueTable": {QUEUE: 3}}
        assert b'{{"brokerName":"broker-a","queueId":0,"topic":"T"}:3}' in reply.body
        other = await ask(cluster, STATUS, {"topic": "other", "group": GROUP})
        assert decode_json(other.body) == {"messageQueueTable": {}}

    play(script)


def test_the_running_info_has_what_the_admin_tool_prints() -> None:
    async def script(cluster: ScriptedCluster, consumer: Consumer) -> None:
        cluster.publish(5)
        (first,) = await receive(consumer)
        consumer.settle([first])
        cluster.publish(2, size=2 << 20)
        await receive(consumer)
        reply = await ask(cluster, INFO, {"consumerGroup": GROUP, "jstackEnable": "false"})
        assert reply.code == 0
        info = decode_json(reply.body)
        assert info["properties"]["PROP_CONSUME_TYPE"] == "CONSUME_PASSIVELY"
        assert info["properties"]["PROP_NAMESERVER_ADDR"] == cluster.name_server.address
        assert int(info["properties"]["PROP_CONSUMER_START_TIMESTAMP"]) > 1_600_000_000_000
        assert {entry["topic"] for entry in info["subscriptionSet"]} == {TOPIC, f"%RETRY%{GROUP}"}
        queue = info["mqTable"][QUEUE]
        assert queue["commitOffset"] == 5
        assert (queue["cachedMsgCount"], queue["cachedMsgMinOffset"], queue["cachedMsgMaxOffset"]) == (
            2,
            5,
            6,
        )
        assert queue["cachedMsgSizeInMiB"] == 4
        assert 0 <= queue["lastPullTimestamp"] - queue["lastConsumeTimestamp"] < 60_000
        assert info["statusTable"][TOPIC]["consumeOKTPS"] > 0
        assert "jstack" not in info

    play(script)


def test_the_stacks_say_where_tasks_wait_and_no_value() -> None:
    async def work() -> None:
        async with ScriptedCluster() as cluster:
            secret = "s3cr3t-key"
            client = ClientSettings((cluster.name_server.address,), Credentials("LTAI", secret))
            async with cluster.consumer(client=client):
                await cluster.broker.until(lambda: cluster.queue().parked)
                reply = await ask(cluster, INFO, {"consumerGroup": GROUP, "jstackEnable": "true"})
                stacks = decode_json(reply.body)["jstack"]
                assert "pull T@broker-a:0\n" in stacks
                assert "at Connection.request (" in stacks
                assert secret.encode() not in reply.body

    run(work())


def test_names_go_out_with_the_namespace_and_come_in_without() -> None:
    async def work() -> None:
        async with ScriptedCluster() as cluster:
            cluster.topics[f"MQ_INST_1%{TOPIC}"] = 1
            client = ClientSettings((cluster.name_server.address,), namespace=Namespace("MQ_INST_1"))
            async with cluster.consumer(client=client) as consumer:
                cluster.queue(topic=f"MQ_INST_1%{TOPIC}")
                await cluster.broker.until_told(Request.PULL_MESSAGE)
                ext = {"topic": f"MQ_INST_1%{TOPIC}", "group": f"MQ_INST_1%{GROUP}"}
                reply = await ask(cluster, STATUS, ext)
                key = (*QUEUE[:2], ("topic", f"MQ_INST_1%{TOPIC}"))
                assert decode_json(reply.body) == {"messageQueueTable": {key: 0}}
                heartbeat = cluster.broker.told(Request.HEART_BEAT)[0].json()["consumerDataSet"][0]
                assert heartbeat["groupName"] == f"MQ_INST_1%{GROUP}"
                topics = {entry["topic"] for entry in heartbeat["subscriptionDataSet"]}
                assert topics == {f"MQ_INST_1%{TOPIC}", f"%RETRY%MQ_INST_1%{GROUP}"}
                table = b'{"offsetTable":{{"brokerName":"broker-a","queueId":0,"topic":"MQ_INST_1%T"}:4}}'
                reset = Request.RESET_CONSUMER_CLIENT_OFFSET
                assert (await ask(cluster, reset, ext, table)).code == 0
                (batch,) = await receive(consumer)
                assert (batch.queue.topic, batch.next_offset, batch.rewound) == (TOPIC, 4, True)

    run(work())


@pytest.mark.parametrize(
    ("code", "ext", "refusal"),
    [
        (STATUS, {"topic": TOPIC, "group": "other"}, 1),
        (INFO, {"consumerGroup": "other"}, 1),
        (INFO, {}, 1),
        (Request.CONSUME_MESSAGE_DIRECTLY, {"consumerGroup": GROUP, "msgId": "1"}, 3),
        (Request.CHECK_TRANSACTION_STATE, {}, 3),
        (9999, {}, 3),
    ],
)
def test_what_cannot_be_answered_is_refused_with_a_reason(
    code: int, ext: dict[str, str], refusal: int
) -> None:
    async def script(cluster: ScriptedCluster, consumer: Consumer) -> None:
        await cluster.broker.until_told(Request.PULL_MESSAGE)
        reply = await ask(cluster, code, ext, b"\xff{")
        assert reply.code == refusal
        assert len(reply.remark) > 20

    play(script)


def test_a_notification_for_another_group_is_not_ours() -> None:
    async def script(cluster: ScriptedCluster, consumer: Consumer) -> None:
        await cluster.broker.until_told(Request.PULL_MESSAGE)
        asked = len(cluster.broker.told(Request.GET_CONSUMER_LIST_BY_GROUP))
        cluster.broker.push(Request.NOTIFY_CONSUMER_IDS_CHANGED, {"consumerGroup": "other"})
        await cluster.broker.round_trips()
        assert len(cluster.broker.told(Request.GET_CONSUMER_LIST_BY_GROUP)) == asked

    play(script)
