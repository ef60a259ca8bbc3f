"""Joining a group and where each queue begins, against a scripted cluster."""

from __future__ import annotations

import asyncio
import time

import pytest

from jst_bridge.errors import (
    ConfigurationError,
    ConnectionFailed,
    CredentialsRefused,
    StoreUnavailable,
    TopicNotFound,
)
from jst_bridge.rocketmq import ClientSettings, ConsumerSettings, MessageQueue
from jst_bridge.rocketmq import consumer as consumer_module
from jst_bridge.rocketmq.codes import Request
from jst_bridge.rocketmq.namespace import Namespace
from tests.scripted import Handler, refusing, run, silent
from tests.scripted_cluster import TOPIC, ScriptedCluster, stored

PULL, QUERY = Request.PULL_MESSAGE, Request.QUERY_CONSUMER_OFFSET
RETRY = "%RETRY%GID_test"


async def first_offsets(cluster: ScriptedCluster, count: int) -> dict[tuple[str, int], int]:
    """Where the first pulls of so many queues began."""
    await cluster.broker.until(lambda: len({call.queue for call in cluster.broker.told(PULL)}) >= count)
    began: dict[tuple[str, int], int] = {}
    for call in cluster.broker.told(PULL):
        began.setdefault(call.queue, int(call.ext["queueOffset"]))
    return began


def test_a_queue_begins_at_the_committed_offset() -> None:
    async def work() -> None:
        async with ScriptedCluster() as cluster:
            cluster.publish(9)
            cluster.queue().committed = 5
            async with cluster.consumer(start_from="last"):
                assert await first_offsets(cluster, 1) == {(TOPIC, 0): 5}

    run(work())


@pytest.mark.parametrize(("start_from", "offset"), [("first", 3), ("last", 7), (1_700_000_000_000, 5)])
def test_a_new_group_begins_where_the_settings_say(start_from: str | int, offset: int) -> None:
    async def work() -> None:
        async with ScriptedCluster() as cluster:
            cluster.queue().minimum = 3
            cluster.publish(4)
            cluster.broker.on(
                Request.SEARCH_OFFSET_BY_TIMESTAMP, lambda call: call.answer(ext={"offset": "5"})
            )
            async with cluster.consumer(start_from=start_from):
                assert await first_offsets(cluster, 1) == {(TOPIC, 0): offset}
            for call in cluster.broker.told(Request.SEARCH_OFFSET_BY_TIMESTAMP):
                assert call.ext["timestamp"] == "1700000000000"

    run(work())


@pytest.mark.parametrize("start_from", ["first", "last", 1_700_000_000_000])
def test_a_queue_added_to_a_group_that_reads_already_begins_at_its_minimum(start_from: str | int) -> None:
    async def work() -> None:
        async with ScriptedCluster(queues=2) as cluster:
            cluster.queue(0).committed = 0
            cluster.queue(1).minimum = 2
            cluster.publish(4, queue_id=1)
            async with cluster.consumer(start_from=start_from):
                assert await first_offsets(cluster, 2) == {(TOPIC, 0): 0, (TOPIC, 1): 2}

    run(work())


def test_the_retry_topic_is_read_from_its_beginning_whatever_the_settings_say() -> None:
    async def work() -> None:
        async with ScriptedCluster() as cluster:
            cluster.topics[RETRY] = 1
            cluster.queue(topic=RETRY).messages.append(stored(0))
            cluster.publish(3)
            async with cluster.consumer(start_from="last"):
                assert await first_offsets(cluster, 2) == {(TOPIC, 0): 3, (RETRY, 0): 0}

    run(work())


def test_a_stored_minus_one_means_no_offset() -> None:
    async def work() -> None:
        async with ScriptedCluster() as cluster:
            cluster.publish(4)
            cluster.queue().committed = -1
            async with cluster.consumer(start_from="last"):
                assert await first_offsets(cluster, 1) == {(TOPIC, 0): 4}

    run(work())


@pytest.mark.parametrize("failure", [refusing(1), refusing(2), silent], ids=["error", "busy", "silent"])
def test_a_failed_query_neither_starts_the_queue_nor_commits(
    failure: Handler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer_module, "REBALANCE_RETRY", 0.01)

    async def work() -> None:
        async with ScriptedCluster() as cluster:
            cluster.publish(50)
            cluster.queue().committed = 40
            cluster.broker.once(QUERY, failure, failure)
            client = ClientSettings((cluster.name_server.address,), request_timeout=0.5)
            async with cluster.consumer(client=client) as consumer:
                await cluster.broker.until_told(QUERY, 2)
                assert cluster.broker.told(PULL) == []
                await consumer.commit()
                assert cluster.queue().commits == []
                assert await first_offsets(cluster, 1) == {(TOPIC, 0): 40}
            assert min(cluster.queue().commits, default=40) >= 40

    run(work())


def test_why_a_start_is_not_known_yet_is_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(consumer_module, "REBALANCE_RETRY", 0.01)

    async def work() -> None:
        async with ScriptedCluster() as cluster:
            cluster.broker.once(QUERY, *[refusing(1)] * 5, *[refusing(2)] * 5)
            async with cluster.consumer():
                await first_offsets(cluster, 1)

    with caplog.at_level("WARNING"):
        run(work())
    told = [line for line in caplog.messages if "cannot be learned yet" in line]
    assert [f"code {code}" in line for line, code in zip(told, (1, 2), strict=True)] == [True, True], told


def test_a_group_that_wants_the_end_does_not_lose_what_came_while_the_end_could_not_be_learned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(consumer_module, "REBALANCE_RETRY", 0.01)

    async def work() -> None:
        async with ScriptedCluster() as cluster:
            cluster.publish(4)
            begun = int(time.time() * 1000)
            cluster.broker.once(Request.GET_MAX_OFFSET, refusing(2))
            cluster.broker.on(
                Request.SEARCH_OFFSET_BY_TIMESTAMP, lambda call: call.answer(ext={"offset": "4"})
            )
            async with cluster.consumer(start_from="last"):
                await cluster.broker.until_told(Request.GET_MAX_OFFSET)
                cluster.publish(2)
                assert await first_offsets(cluster, 1) == {(TOPIC, 0): 4}
            (search,) = cluster.broker.told(Request.SEARCH_OFFSET_BY_TIMESTAMP)
            assert begun <= int(search.ext["timestamp"]) <= int(time.time() * 1000)

    run(work())


def test_a_broker_that_cannot_tell_its_offsets_does_not_hold_up_the_others() -> None:
    async def work() -> None:
        async with ScriptedCluster(brokers=2) as cluster:
            for broker in (0, 1):
                cluster.queue(broker=broker).committed = 0
            cluster.brokers[1].on(QUERY, refusing(1))
            async with cluster.consumer():
                await cluster.brokers[0].until_told(PULL)
                assert cluster.brokers[1].told(PULL) == []

    run(work())


def test_a_broker_that_is_down_is_left_out_at_the_start() -> None:
    async def work() -> None:
        async with ScriptedCluster(brokers=2) as cluster:
            cluster.queue().committed = 0
            await cluster.brokers[1].stop()
            async with cluster.consumer():
                await cluster.brokers[0].until_told(PULL)

    run(work())


def test_the_start_may_be_adjusted_by_the_caller() -> None:
    async def work() -> None:
        async with ScriptedCluster() as cluster:
            cluster.publish(9)
            cluster.queue().committed = 8
            consumer = cluster.consumer()
            asked: list[tuple[MessageQueue, int]] = []

            async def lower(queue: MessageQueue, offset: int, committed: int | None) -> int:
                asked.append((queue, offset))
                return 3

            consumer.adjust_start(lower)
            async with consumer:
                assert await first_offsets(cluster, 1) == {(TOPIC, 0): 3}
            assert asked == [(MessageQueue(TOPIC, "broker-a", 0), 8)]

    run(work())


def test_a_queue_starts_once_the_caller_can_say_where(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer_module, "REBALANCE_RETRY", 0.01)
    refusals = [StoreUnavailable("locked"), StoreUnavailable("locked")]

    async def adjust(queue: MessageQueue, start: int, committed: int | None) -> int:
        if refusals:
            raise refusals.pop()
        return 2

    async def work() -> None:
        async with ScriptedCluster() as cluster:
            cluster.publish(4)
            consumer = cluster.consumer()
            consumer.adjust_start(adjust)
            async with consumer:
                assert await first_offsets(cluster, 1) == {(TOPIC, 0): 2}

    run(work())


def test_every_broker_gets_a_heartbeat_before_anything_else() -> None:
    async def work() -> None:
        async with ScriptedCluster(brokers=2) as cluster, cluster.consumer():
            for broker in cluster.brokers:
                await broker.until_told(PULL)
                assert broker.calls[0].code == Request.HEART_BEAT

    run(work())


# --- a start that fails ---------------------------------------------------------------------------------


def test_an_unknown_topic_ends_the_start() -> None:
    async def work() -> None:
        async with ScriptedCluster() as cluster:
            with pytest.raises(TopicNotFound, match="knows no topic Other") as caught:
                await cluster.consumer(subscriptions={"Other": "*"}).start()
            assert caught.value.remedy
            assert cluster.broker.calls == []

    run(work())


def test_an_unreachable_name_server_ends_the_start() -> None:
    async def work() -> None:
        async with ScriptedCluster() as cluster:
            await cluster.name_server.stop()
            with pytest.raises(ConnectionFailed, match="no name server answered"):
                await cluster.consumer().start()

    run(work())


def test_unreachable_brokers_end_the_start_and_are_named() -> None:
    async def work() -> None:
        async with ScriptedCluster() as cluster:
            await cluster.broker.stop()
            with pytest.raises(ConnectionFailed, match="no broker of the topic") as caught:
                await cluster.consumer().start()
            assert cluster.broker.address in str(caught.value)
            assert "brokerIP1" in caught.value.remedy

    run(work())


@pytest.mark.parametrize(
    ("code", "remark"),
    [
        (
            1,
            "org.apache.rocketmq.acl.common.AclException: Check signature failed for accessKey=consumer01, x.java",
        ),
        (1, "org.apache.rocketmq.acl.common.AclException: No acl config for consumer01, x.java"),
        (16, "check signature failed."),
        (16, "username cannot be null."),
        (16, "User:consumer01 has no permission to access Topic:T from 127.0.0.1, no matched policies."),
    ],
)
@pytest.mark.parametrize(
    "request_code", [Request.HEART_BEAT, Request.GET_CONSUMER_LIST_BY_GROUP, QUERY, Request.GET_MIN_OFFSET]
)
def test_refused_keys_end_the_start(request_code: Request, code: int, remark: str) -> None:
    async def work() -> None:
        async with ScriptedCluster(queues=3) as cluster:
            cluster.broker.on(request_code, refusing(code, remark))
            with pytest.raises(CredentialsRefused, match=request_code.name):
                await cluster.consumer().start()
            await cluster.broker.until(lambda: not cluster.broker.channels)

    run(work())


def test_a_consumer_is_started_once() -> None:
    async def work() -> None:
        async with ScriptedCluster() as cluster, cluster.consumer() as consumer:
            with pytest.raises(ConfigurationError, match="started once"):
                await consumer.start()

    run(work())


def test_a_start_that_is_cancelled_leaves_nothing_behind() -> None:
    async def work() -> None:
        async with ScriptedCluster() as cluster:
            cluster.broker.on(QUERY, silent)
            starting = asyncio.create_task(cluster.consumer().start())
            await cluster.broker.until_told(QUERY)
            starting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await starting
            await cluster.broker.until(lambda: not cluster.broker.channels)

    run(work())


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"subscriptions": {}}, "at least one topic"),
        ({"group": ""}, "1 to 120"),
        ({"group": "g" * 121}, "1 to 120"),
        (
            {"group": "g" * 110, "client": ClientSettings(("h:1",), namespace=Namespace("MQ_INST_1234"))},
            "with its namespace",
        ),
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, object], complaint: str) -> None:
    fields = {"client": ClientSettings(("h:1",)), "group": "g", "subscriptions": {"T": "*"}} | changes
    with pytest.raises(ConfigurationError, match=complaint):
        ConsumerSettings(**fields)  # type: ignore[arg-type]
