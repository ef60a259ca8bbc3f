"""Namespaces: names wrapped once on the wire, bare everywhere else (reference 4.13)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jst_bridge.rocketmq import ClientSettings, Consumer, Producer
from jst_bridge.rocketmq.codes import Request
from jst_bridge.rocketmq.message import MessageExt, encode_message
from jst_bridge.rocketmq.namespace import Namespace
from tests.scripted import run
from tests.scripted_cluster import GROUP, TOPIC, ScriptedCluster, receive, stored

NS = Namespace("MQ_INST_1_X")
WRAPPED_TOPIC, WRAPPED_GROUP = f"MQ_INST_1_X%{TOPIC}", f"MQ_INST_1_X%{GROUP}"


@pytest.mark.parametrize(
    ("bare", "wrapped"),
    [
        ("orders", "MQ_INST_1_X%orders"),
        ("%RETRY%GID_x", "%RETRY%MQ_INST_1_X%GID_x"),
        ("%DLQ%GID_x", "%DLQ%MQ_INST_1_X%GID_x"),
        ("rmq_sys_jst_1", "rmq_sys_jst_1"),
        ("TBW102", "TBW102"),
        ("MQ_INST_2_Y%orders", "MQ_INST_1_X%MQ_INST_2_Y%orders"),
        ("", ""),
    ],
)
def test_a_topic_is_wrapped_as_the_java_client_wraps_it(bare: str, wrapped: str) -> None:
    assert NS.wrap_topic(bare) == wrapped
    assert NS.wrap_topic(wrapped) == wrapped
    assert NS.unwrap(wrapped) == bare


def test_system_topics_are_wrapped_where_the_setting_says_so() -> None:
    switched = Namespace("MQ_INST_1_X", system_topics=True)
    assert switched.wrap_topic("rmq_sys_jst_1") == "MQ_INST_1_X%rmq_sys_jst_1"
    assert switched.wrap_topic("TBW102") == "TBW102"
    assert NS.unwrap("MQ_INST_1_X%rmq_sys_jst_1") == "rmq_sys_jst_1"


def test_groups_are_wrapped_but_the_brokers_own() -> None:
    assert NS.wrap_group("GID_x") == "MQ_INST_1_X%GID_x"
    for group in ("CID_RMQ_SYS_TRANS", "TOOLS_CONSUMER"):
        assert NS.wrap_group(group) == group


@given(st.text("%RETYDLQabcMQ_INST1X", max_size=40))
def test_wrapping_is_idempotent_and_unwrapping_undoes_it(name: str) -> None:
    wrapped = NS.wrap_topic(name)
    assert NS.wrap_topic(wrapped) == wrapped
    assert NS.unwrap(wrapped) == NS.unwrap(name)
    assert Namespace().wrap_topic(name) == Namespace().unwrap(name) == name


def test_fields_with_names_are_wrapped_and_others_are_not() -> None:
    ext = {
        "topic": "t",
        "originTopic": "t",
        "group": "g",
        "consumerGroup": "g",
        "subscription": "t",
        "a": "t",
    }
    assert NS.wrap_fields(Request.PULL_MESSAGE, ext) == {
        "topic": "MQ_INST_1_X%t",
        "originTopic": "MQ_INST_1_X%t",
        "group": "MQ_INST_1_X%g",
        "consumerGroup": "MQ_INST_1_X%g",
        "subscription": "t",
        "a": "t",
    }
    send = {"a": "p", "b": "t", "c": "TBW102"}
    assert NS.wrap_fields(Request.SEND_MESSAGE_V2, send) == {
        "a": "MQ_INST_1_X%p",
        "b": "MQ_INST_1_X%t",
        "c": "TBW102",
    }
    assert NS.wrap_fields(Request.GET_CONSUME_STATS, {"topicList": "t;u"}) == {
        "topicList": "MQ_INST_1_X%t;MQ_INST_1_X%u"
    }


def named(message: MessageExt, topic: str, properties: bytes = b"TAGS\x01A\x02") -> MessageExt:
    message.topic, message.raw_properties = topic, properties
    return message


def test_a_consumer_talks_wrapped_and_hands_out_bare_names() -> None:
    async def work() -> None:
        async with ScriptedCluster() as cluster:
            cluster.topics = {WRAPPED_TOPIC: 1, f"%RETRY%{WRAPPED_GROUP}": 1}
            queue = cluster.queue(topic=WRAPPED_TOPIC)
            queue.messages.append(named(stored(0), WRAPPED_TOPIC))
            retry = cluster.queue(topic=f"%RETRY%{WRAPPED_GROUP}")
            noted = f"TAGS\x01A\x02RETRY_TOPIC\x01{WRAPPED_TOPIC}\x02".encode()
            retry.messages.append(named(stored(0), f"%RETRY%{WRAPPED_GROUP}", noted))
            client = ClientSettings((cluster.name_server.address,), namespace=NS)
            async with Consumer(cluster.settings(client=client)) as consumer:
                seen: dict[str, tuple[str, str]] = {}
                while len(seen) < 2:
                    for batch in await receive(consumer):
                        (message,) = batch.messages
                        seen[batch.queue.topic] = (message.topic, message.visible_topic)
                        consumer.settle([batch])
                assert seen == {TOPIC: (TOPIC, TOPIC), f"%RETRY%{GROUP}": (f"%RETRY%{GROUP}", TOPIC)}
                assert {row.queue.topic for row in consumer.progress()} == {TOPIC, f"%RETRY%{GROUP}"}
                await consumer.commit()
            assert (queue.committed, retry.committed) == (1, 1)
            (member,) = cluster.broker.told(Request.HEART_BEAT)[0].json()["consumerDataSet"]
            assert member["groupName"] == WRAPPED_GROUP
            topics = {entry["topic"] for entry in member["subscriptionDataSet"]}
            assert topics == {WRAPPED_TOPIC, f"%RETRY%{WRAPPED_GROUP}"}
            for call in cluster.broker.calls + cluster.name_server.calls:
                for key in ("topic", "consumerGroup"):
                    assert "MQ_INST_1_X%" in call.ext.get(key, "MQ_INST_1_X%"), call.ext

    run(work())


def test_a_notification_about_the_wrapped_group_is_ours() -> None:
    async def work() -> None:
        async with ScriptedCluster() as cluster:
            cluster.topics = {WRAPPED_TOPIC: 1}
            client = ClientSettings((cluster.name_server.address,), namespace=NS)
            async with Consumer(cluster.settings(client=client)):
                asked = len(cluster.broker.told(Request.GET_CONSUMER_LIST_BY_GROUP))
                cluster.broker.push(Request.NOTIFY_CONSUMER_IDS_CHANGED, {"consumerGroup": WRAPPED_GROUP})
                await cluster.broker.until_told(Request.GET_CONSUMER_LIST_BY_GROUP, asked + 1)

    run(work())


def test_a_producer_sends_to_the_wrapped_topic_and_notes_the_instance() -> None:
    async def work() -> None:
        async with ScriptedCluster() as cluster:
            cluster.topics = {WRAPPED_TOPIC: 1}
            cluster.broker.on(
                Request.SEND_MESSAGE_V2, lambda call: call.answer(ext={"queueId": "0", "queueOffset": "7"})
            )
            settings = ClientSettings((cluster.name_server.address,), namespace=NS)
            async with Producer(settings) as producer:
                result = await producer.send(TOPIC, b"x")
            assert result.queue.topic == TOPIC
            (sent,) = cluster.broker.told(Request.SEND_MESSAGE_V2)
            assert (sent.ext["b"], sent.ext["c"]) == (WRAPPED_TOPIC, "TBW102")
            assert "INSTANCE_ID\x01MQ_INST_1_X\x02" in sent.ext["i"]

    run(work())


def test_a_message_of_no_namespace_stays_as_it_is() -> None:
    message = stored(0)
    before = encode_message(message)
    NS.unwrap_messages([message])
    assert encode_message(message) == before
