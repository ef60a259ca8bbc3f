"""The small producer and the offset queries, against a scripted cluster."""

from __future__ import annotations

import pytest

from jst_bridge.errors import (
    BrokerRefused,
    ConfigurationError,
    ConnectionFailed,
    DecodeError,
    RequestTimeout,
    TopicNotFound,
)
from jst_bridge.rocketmq import ClientSettings, MessageQueue, Producer
from jst_bridge.rocketmq.codes import Request
from jst_bridge.rocketmq.offsets import commit_offset, committed_offset, max_offset, min_offset, offset_at
from jst_bridge.rocketmq.properties import decode_properties
from tests.scripted import Call, refusing, run, silent
from tests.scripted_cluster import TOPIC, ScriptedCluster

SEND = Request.SEND_MESSAGE_V2


def store(call: Call) -> None:
    call.answer(ext={"queueId": call.ext["e"], "queueOffset": "7", "msgId": "7F000001"})


def producer_of(cluster: ScriptedCluster, **changes: float) -> Producer:
    return Producer(
        ClientSettings((cluster.name_server.address,), request_timeout=changes.get("timeout", 1.0))
    )


def test_a_message_is_sent_with_its_tag_and_keys_and_the_result_says_where() -> None:
    async def work() -> None:
        async with ScriptedCluster(queues=4) as cluster, producer_of(cluster) as producer:
            cluster.broker.on(SEND, store)
            sent = await producer.send(TOPIC, "正文".encode(), tag="A", keys="k1 k2", queue_id=2)
            assert sent.queue == MessageQueue(TOPIC, "broker-a", 2)
            assert (sent.queue_offset, sent.offset_message_id) == (7, "7F000001")
            (call,) = cluster.broker.told(SEND)
            assert call.frame.body == "正文".encode()
            assert call.ext["b"] == TOPIC
            properties = decode_properties(call.ext["i"].encode())
            assert (properties["TAGS"], properties["KEYS"]) == ("A", "k1 k2")
            assert properties["UNIQ_KEY"] == sent.unique_key

    run(work())


def test_the_queues_take_turns_and_no_key_repeats() -> None:
    async def work() -> None:
        async with ScriptedCluster(queues=3) as cluster, producer_of(cluster) as producer:
            cluster.broker.on(SEND, store)
            sent = [await producer.send(TOPIC, b"x") for _ in range(6)]
            assert [result.queue.queue_id for result in sent] == [0, 1, 2, 0, 1, 2]
            assert len({result.unique_key for result in sent}) == 6
            assert all(len(result.unique_key) == 32 for result in sent)

    run(work())


@pytest.mark.parametrize(
    "failure", [refusing(2, "busy"), refusing(14), lambda call: call.channel.cut(), silent]
)
def test_another_queue_is_tried_when_one_cannot_store(failure: object) -> None:
    async def work() -> None:
        async with ScriptedCluster(queues=2) as cluster, producer_of(cluster, timeout=0.1) as producer:
            cluster.broker.once(SEND, failure)  # type: ignore[arg-type]
            cluster.broker.on(SEND, store)
            sent = await producer.send(TOPIC, b"x")
            assert sent.queue.queue_id == 1

    run(work())


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (refusing(2, "busy"), BrokerRefused),
        (silent, RequestTimeout),
        (lambda call: call.channel.cut(), ConnectionFailed),
    ],
)
def test_the_last_failure_is_raised_when_no_queue_can_store(failure: object, kind: type[Exception]) -> None:
    async def work() -> None:
        async with ScriptedCluster(queues=2) as cluster, producer_of(cluster, timeout=0.05) as producer:
            cluster.broker.on(SEND, failure)  # type: ignore[arg-type]
            with pytest.raises(kind):
                await producer.send(TOPIC, b"x")
            assert len(cluster.broker.told(SEND)) == 3

    run(work())


def test_an_illegal_message_is_not_tried_again() -> None:
    async def work() -> None:
        async with ScriptedCluster(queues=2) as cluster, producer_of(cluster) as producer:
            cluster.broker.on(SEND, refusing(13, "too large"))
            with pytest.raises(BrokerRefused, match="too large"):
                await producer.send(TOPIC, b"x")
            assert len(cluster.broker.told(SEND)) == 1

    run(work())


def test_a_new_topic_takes_its_route_from_the_template() -> None:
    async def work() -> None:
        async with ScriptedCluster() as cluster, producer_of(cluster) as producer:
            cluster.broker.on(SEND, store)
            with pytest.raises(TopicNotFound):
                await producer.send("New", b"x")
            cluster.topics["TBW102"] = 16
            sent = await producer.send("New", b"x", queue_id=7)
            assert sent.queue == MessageQueue("New", "broker-a", 7)
            assert cluster.broker.told(SEND)[0].ext["c"] == "TBW102"

    run(work())


def test_a_queue_that_does_not_exist_is_refused() -> None:
    async def work() -> None:
        async with ScriptedCluster() as cluster, producer_of(cluster) as producer:
            with pytest.raises(TopicNotFound, match="no queue that can be written"):
                await producer.send(TOPIC, b"x", queue_id=5)

    run(work())


def test_an_empty_body_is_refused() -> None:
    async def work() -> None:
        async with ScriptedCluster() as cluster, producer_of(cluster) as producer:
            with pytest.raises(ConfigurationError, match="needs a body"):
                await producer.send(TOPIC, b"")

    run(work())


def test_offsets_are_asked_and_committed() -> None:
    async def work() -> None:
        async with ScriptedCluster() as cluster, producer_of(cluster) as producer:
            client, queue = producer.client, MessageQueue(TOPIC, "broker-a", 0)
            await client.fetch_route(TOPIC)
            cluster.queue().minimum = 3
            cluster.publish(2)
            assert await committed_offset(client, "g", queue) is None
            await commit_offset(client, "g", queue, 4)
            assert await committed_offset(client, "g", queue) == 4
            assert (await min_offset(client, queue), await max_offset(client, queue)) == (3, 5)
            cluster.broker.on(Request.GET_MIN_OFFSET, lambda call: call.answer(ext={"offset": "-1"}))
            assert await min_offset(client, queue) == 0
            cluster.broker.on(
                Request.SEARCH_OFFSET_BY_TIMESTAMP,
                lambda call: call.answer(ext={"offset": call.ext["timestamp"]}),
            )
            assert await offset_at(client, queue, 9) == 9

    run(work())


@pytest.mark.parametrize("ext", [{}, {"offset": ""}, {"offset": "x"}, {"offset": "1.0"}])
def test_an_offset_that_is_no_number_is_a_decode_error(ext: dict[str, str]) -> None:
    async def work() -> None:
        async with ScriptedCluster() as cluster, producer_of(cluster) as producer:
            await producer.client.fetch_route(TOPIC)
            cluster.broker.on(Request.QUERY_CONSUMER_OFFSET, lambda call: call.answer(ext=ext))
            with pytest.raises(DecodeError, match="offset"):
                await committed_offset(producer.client, "g", MessageQueue(TOPIC, "broker-a", 0))

    run(work())


def test_a_broker_no_route_names_is_a_failed_connection() -> None:
    async def work() -> None:
        async with ScriptedCluster() as cluster, producer_of(cluster) as producer:
            with pytest.raises(ConnectionFailed, match="no route names an address of broker nobody"):
                await max_offset(producer.client, MessageQueue(TOPIC, "nobody", 0))

    run(work())
