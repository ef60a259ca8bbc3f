"""Sending messages back, against a scripted cluster: what is asked, and what happens when that fails."""

from __future__ import annotations

import msgspec
import pytest

from jst_bridge.errors import BrokerRefused, ConfigurationError, CredentialsRefused, SourceError
from jst_bridge.rocketmq import ClientSettings, Consumer, MessageExt, MessageQueue, SentBack
from jst_bridge.rocketmq.codes import Request
from jst_bridge.rocketmq.namespace import Namespace
from jst_bridge.rocketmq.properties import decode_properties, encode_properties
from tests.scripted import refusing, run
from tests.scripted_cluster import GROUP, TOPIC, ScriptedCluster, play, stored

SEND_BACK, SEND = Request.CONSUMER_SEND_MSG_BACK, Request.SEND_MESSAGE_V2
RETRY, DEAD = f"%RETRY%{GROUP}", f"%DLQ%{GROUP}"
QUEUE = MessageQueue(TOPIC, "broker-a", 0)


def message(attempts: int = 0, **properties: str) -> MessageExt:
    text = encode_properties({"UNIQ_KEY": "AC11", "TAGS": "A", **properties})
    return msgspec.structs.replace(stored(7), reconsume_times=attempts, raw_properties=text)


def retried(attempts: int) -> MessageExt:
    """A copy that came from the retry topic."""
    copy = message(attempts, RETRY_TOPIC=TOPIC, ORIGIN_MESSAGE_ID="0A" * 16, DELAY="3", REAL_TOPIC=RETRY)
    copy.topic = RETRY
    return copy


def test_the_broker_of_the_message_is_asked_with_its_physical_offset() -> None:
    async def work() -> None:
        async with ScriptedCluster(brokers=2) as cluster:
            cluster.brokers[1].on(SEND_BACK, lambda call: call.answer())
            async with cluster.consumer() as consumer:
                queue = QUEUE._replace(broker="broker-b")
                sent = await consumer.send_back(message(), queue, delay_level=2)
                assert sent == SentBack(RETRY, resent=False)
                assert not sent.dead
            (call,) = cluster.brokers[1].told(SEND_BACK)
            assert cluster.brokers[0].told(SEND_BACK) == []
            assert call.ext == {
                "offset": "7000",
                "group": GROUP,
                "delayLevel": "2",
                "originMsgId": "AC11",
                "originTopic": TOPIC,
                "unitMode": "false",
                "maxReconsumeTimes": "16",
            }

    run(work())


@pytest.mark.parametrize(
    ("attempts", "level", "limit", "dead"),
    [
        (0, 0, 16, False),
        (15, 0, 16, False),
        (16, 0, 16, True),
        (1, 5, 1, True),
        (0, 5, 1, False),
        (0, -1, 16, True),
    ],
)
def test_a_message_at_its_limit_becomes_a_dead_letter(
    attempts: int, level: int, limit: int, dead: bool
) -> None:
    async def script(cluster: ScriptedCluster, consumer: Consumer) -> None:
        cluster.broker.on(SEND_BACK, lambda call: call.answer())
        sent = await consumer.send_back(
            retried(attempts), QUEUE, delay_level=level, max_reconsume_times=limit
        )
        assert (sent.dead, sent.topic) == (dead, DEAD if dead else RETRY)
        (call,) = cluster.broker.told(SEND_BACK)
        assert call.ext["originTopic"] == TOPIC
        assert call.ext["maxReconsumeTimes"] == str(limit)

    play(script)


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_that_would_bury_every_message_is_refused(limit: int) -> None:
    async def script(cluster: ScriptedCluster, consumer: Consumer) -> None:
        with pytest.raises(ConfigurationError, match="at least 1"):
            await consumer.send_back(message(), QUEUE, max_reconsume_times=limit)
        assert cluster.broker.told(SEND_BACK) == []

    play(script)


def with_retry_topic(cluster: ScriptedCluster) -> None:
    cluster.topics[RETRY] = 1
    cluster.broker.on(SEND_BACK, refusing(1, "look message by offset failed, 7000"))
    cluster.broker.on(SEND, lambda call: call.answer(ext={"msgId": "1", "queueId": "0", "queueOffset": "0"}))


@pytest.mark.parametrize(("attempts", "level", "delay"), [(0, 0, "3"), (4, 0, "7"), (0, 2, "2")])
def test_a_message_that_its_broker_does_not_find_is_published_to_the_retry_topic(
    attempts: int, level: int, delay: str
) -> None:
    async def script(cluster: ScriptedCluster, consumer: Consumer) -> None:
        original = retried(attempts) if attempts else message()
        sent = await consumer.send_back(original, QUEUE, delay_level=level)
        assert sent == SentBack(RETRY, resent=True)
        (call,) = cluster.broker.told(SEND)
        assert (call.ext["b"], call.ext["j"]) == (RETRY, str(attempts + 1))
        assert int(call.ext["l"]) > attempts + 1  # neither version counts it as used up
        assert call.frame.body == original.body
        assert decode_properties(call.ext["i"].encode()) == {
            "UNIQ_KEY": "AC11",
            "TAGS": "A",
            "WAIT": "true",
            "DELAY": delay,
            "RETRY_TOPIC": TOPIC,
            "ORIGIN_MESSAGE_ID": original.origin_message_id,
        }

    play(script, before=with_retry_topic)


def test_the_last_attempt_is_buried_also_when_it_is_published_anew() -> None:
    async def script(cluster: ScriptedCluster, consumer: Consumer) -> None:
        assert await consumer.send_back(retried(16), QUEUE) == SentBack(DEAD, resent=True)
        (call,) = cluster.broker.told(SEND)
        assert int(call.ext["l"]) < int(call.ext["j"])  # used up, for either version
        assert "DELAY" not in decode_properties(call.ext["i"].encode())

    play(script, before=with_retry_topic)


def test_the_topic_it_returns_to_is_noted_with_its_namespace() -> None:
    async def work() -> None:
        async with ScriptedCluster() as cluster:
            with_retry_topic(cluster)
            cluster.topics |= {f"NS%{TOPIC}": 1, f"%RETRY%NS%{GROUP}": 1}
            client = ClientSettings((cluster.name_server.address,), namespace=Namespace("NS"))
            async with cluster.consumer(client=client) as consumer:
                assert await consumer.send_back(message(), QUEUE) == SentBack(RETRY, resent=True)
            (call,) = cluster.broker.told(SEND)
            assert call.ext["b"] == f"%RETRY%NS%{GROUP}"
            assert decode_properties(call.ext["i"].encode())["RETRY_TOPIC"] == f"NS%{TOPIC}"

    run(work())


def test_when_neither_way_works_both_reasons_are_told() -> None:
    async def script(cluster: ScriptedCluster, consumer: Consumer) -> None:
        cluster.broker.on(SEND_BACK, refusing(1, "look message by offset failed"))
        with pytest.raises(
            SourceError, match=r"look message by offset failed.*no topic %RETRY%GID_test"
        ) as caught:
            await consumer.send_back(message(), QUEUE)
        assert "unsettled" in caught.value.remedy

    play(script)


def test_refused_keys_and_messages_that_cannot_be_read_are_not_published_anew() -> None:
    async def script(cluster: ScriptedCluster, consumer: Consumer) -> None:
        broken = msgspec.structs.replace(message(), fault="topic is not UTF-8")
        with pytest.raises(BrokerRefused, match="look message"):
            await consumer.send_back(broken, QUEUE)
        cluster.broker.on(SEND_BACK, refusing(1, "AclException: No default permission for GID_test"))
        with pytest.raises(CredentialsRefused):
            await consumer.send_back(message(), QUEUE)
        assert cluster.broker.told(SEND) == []

    play(script, before=with_retry_topic)


def test_in_broadcasting_nothing_is_sent_back() -> None:
    async def script(cluster: ScriptedCluster, consumer: Consumer) -> None:
        with pytest.raises(ConfigurationError, match="broadcasting"):
            await consumer.send_back(message(), QUEUE)
        assert cluster.broker.told(SEND_BACK) == []

    play(script, mode="broadcasting")
