"""What a consumer does when brokers stop, hang, refuse or lose something, against scripted peers."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import socket
import time
from collections.abc import Callable

import msgspec
import psutil
import pytest

from jst_bridge.errors import BrokerRefused, ConnectionFailed
from jst_bridge.rocketmq import Client, ClientSettings, Consumer, PulledBatch, keepalive, link, puller
from jst_bridge.rocketmq.codes import Request, Response
from jst_bridge.rocketmq.message import encode_message
from tests.scripted import Call, Channel, Peer, peers, refusing, run, silent
from tests.scripted_cluster import (
    TOPIC,
    ScriptedCluster,
    play,
    pull_ext,
    pulled,
    rebalanced,
    receive,
    receive_offsets,
    stored,
)

PULL, HEARTBEAT = Request.PULL_MESSAGE, Request.HEART_BEAT
ASK = Request.GET_MAX_OFFSET


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence is noticed within half a second."""
    monkeypatch.setattr(keepalive, "TICK", 0.02)
    monkeypatch.setattr(keepalive, "SILENCE", 0.1)
    monkeypatch.setattr(keepalive, "PATIENCE", 0.3)


async def receive_all(consumer: Consumer, count: int) -> list[tuple[int, int]]:
    """Receive and settle until so many messages came; their queues and offsets."""
    found: list[tuple[int, int]] = []
    while len(found) < count:
        batches = await receive(consumer)
        found += [(one.queue_id, one.queue_offset) for batch in batches for one in batch.messages]
        consumer.settle(batches)
    return found


# --- connections that go silent -------------------------------------------------------------------------


@pytest.mark.usefixtures("impatient")
def test_a_connection_that_goes_silent_is_replaced_and_all_queues_are_read_beside_our_own_ghost() -> None:
    async def work() -> None:
        async with ScriptedCluster(queues=4) as cluster, cluster.consumer() as consumer:
            await pulled(cluster, 0, 1, 2, 3)
            cluster.members = ["me", "me"]
            cluster.broker.channels[0].silent = True
            for queue_id in range(4):
                cluster.publish(2, queue_id)
            assert sorted(await receive_all(consumer, 8)) == [(q, n) for q in range(4) for n in range(2)]
            assert cluster.broker.accepted == 2
            await rebalanced(cluster)
            assert len(consumer.progress()) == 4

    run(work())


@pytest.mark.alone
@pytest.mark.usefixtures("impatient")
def test_a_broker_that_is_slow_but_says_anything_at_all_is_not_cut() -> None:
    async def work() -> None:
        async with ScriptedCluster() as cluster, cluster.consumer():
            await pulled(cluster, 0)
            cluster.broker.on(HEARTBEAT, silent)
            asked = len(cluster.broker.told(HEARTBEAT))
            for _ in range(20):  # two seconds, much more than the patience
                cluster.broker.push(Request.NOTIFY_CONSUMER_IDS_CHANGED, {"consumerGroup": "another"})
                await asyncio.sleep(0.1)
            assert cluster.broker.accepted == 1
            assert len(cluster.broker.told(HEARTBEAT)) - asked < 20

    run(work())


@pytest.mark.alone
@pytest.mark.usefixtures("impatient")
def test_an_idle_connection_is_asked_for_a_sign_of_life_and_kept() -> None:
    async def work() -> None:
        async with ScriptedCluster() as cluster, cluster.consumer():
            await pulled(cluster, 0)
            await cluster.broker.until_told(HEARTBEAT, 8)
            assert cluster.broker.accepted == 1
            assert {call.json()["clientID"] for call in cluster.broker.told(HEARTBEAT)} == {
                cluster.broker.channels[0].client_id
            }

    run(work())


def test_a_request_without_an_answer_does_not_cut_a_connection_on_which_others_are_answered() -> None:
    async def work() -> None:
        async with peers() as (server,):
            client = Client(ClientSettings((server.address,), request_timeout=0.2))
            server.on(ASK, lambda call: call.answer() if call.ext["n"] == "quick" else None)
            slow = asyncio.create_task(client.call(server.address, ASK, {"n": "slow"}))
            await server.until_told(ASK)
            await client.call(server.address, ASK, {"n": "quick"})
            await asyncio.wait([slow])
            assert "did not answer" in str(slow.exception())
            await client.call(server.address, ASK, {"n": "quick"})
            assert server.accepted == 1
            await client.close()

    run(work())


@pytest.mark.alone
@pytest.mark.usefixtures("impatient")
def test_a_clock_that_jumps_stops_nothing_and_cuts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    true_time, jump = time.time, 0.0
    monkeypatch.setattr(time, "time", lambda: true_time() + jump)

    async def script(cluster: ScriptedCluster, consumer: Consumer) -> None:
        nonlocal jump
        for count, seconds in enumerate((1e6, -1e6, 0.0)):
            jump = seconds
            cluster.publish(2)
            assert await receive_offsets(consumer, 2) == [2 * count, 2 * count + 1]
            await cluster.broker.until_told(HEARTBEAT, len(cluster.broker.told(HEARTBEAT)) + 2)
            await cluster.broker.until(lambda count=count: cluster.queue().committed == 2 * count + 2)  # type: ignore[misc]
        assert cluster.broker.accepted == 1

    play(script, commit_period=0.05)


def test_a_thousand_failed_connects_leave_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "_BACKOFF_FIRST", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"

    async def work() -> None:
        client = Client(ClientSettings((address,)))

        async def fail(times: int) -> tuple[int, int, int]:
            for _ in range(times):
                with pytest.raises(ConnectionFailed):
                    await client.call(address, ASK)
            gc.collect()
            return len(asyncio.all_tasks()), psutil.Process().num_fds(), len(gc.get_objects())

        tasks, descriptors, objects = await fail(50)
        after = await fail(1000)
        assert after[:2] == (tasks, descriptors)
        assert after[2] < objects + 500
        await client.close()

    asyncio.run(work())


# --- servers that say no --------------------------------------------------------------------------------


def test_a_server_that_sends_us_away_is_left_once_its_last_answers_came() -> None:
    async def work() -> None:
        async with peers() as (server,):
            client = Client(ClientSettings((server.address,), request_timeout=2.0))
            server.once(ASK, silent, refusing(Response.GO_AWAY, "please go away"))
            server.on(ASK, lambda call: call.answer())
            waiting = asyncio.create_task(client.call(server.address, ASK))
            await server.until_told(ASK)
            await client.call(server.address, ASK)
            assert server.accepted == 2
            assert len(server.channels) == 2
            server.told(ASK)[0].answer(ext={"was": "waited for"})
            assert (await waiting).ext == {"was": "waited for"}
            await server.until(lambda: len(server.channels) == 1)
            await client.call(server.address, ASK)
            assert server.accepted == 2
            await client.close()

    run(work())


def test_a_server_that_sends_everybody_away_is_not_stormed(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        async with ScriptedCluster() as cluster:
            cluster.publish(1)
            cluster.broker.on(PULL, refusing(Response.GO_AWAY, "please go away"))
            async with cluster.consumer():
                await asyncio.sleep(1.0)
            assert len(cluster.broker.told(PULL)) < 20
            with pytest.raises(BrokerRefused, match="please go away"):
                await _ask_once(cluster)

    run(work())
    assert len([one for one in caplog.records if "go away" in one.getMessage()]) == 1


async def _ask_once(cluster: ScriptedCluster) -> None:
    client = Client(ClientSettings((cluster.name_server.address,)))
    try:
        await client.call(cluster.broker.address, PULL, {"topic": TOPIC, "queueId": "0"})
    finally:
        await client.close()


def test_a_busy_broker_is_asked_ever_more_slowly_and_complained_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The remark holds numbers that are never the same twice."""
    turns = iter(range(1000))

    def busy(call: Call) -> None:
        call.answer(Response.SYSTEM_BUSY, remark=f"[TIMEOUT_CLEAN_QUEUE] period in queue: {next(turns)}ms")

    async def script(cluster: ScriptedCluster, consumer: Consumer) -> None:
        await cluster.broker.until_told(PULL, 4)
        assert len(cluster.broker.told(PULL)) < 8
        cluster.broker.on(
            PULL, lambda call: call.answer(Response.PULL_NOT_FOUND, pull_ext(cluster.queue(), 0))
        )
        await cluster.broker.until_told(PULL, 6)

    caplog.set_level(logging.INFO)
    play(script, before=lambda cluster: cluster.broker.on(PULL, busy))
    told = [one.getMessage() for one in caplog.records if "pulling T@" in one.getMessage()]
    assert len(told) == 2
    assert "TIMEOUT_CLEAN_QUEUE" in told[0]
    assert "goes on" in told[1]


def test_flow_control_slows_the_pulls_down() -> None:
    async def script(cluster: ScriptedCluster, consumer: Consumer) -> None:
        await asyncio.sleep(1.0)
        assert 4 <= len(cluster.broker.told(PULL)) <= 12

    play(script, before=lambda cluster: cluster.broker.on(PULL, refusing(Response.FLOW_CONTROL)))


def test_a_broker_that_is_away_is_told_once_for_all_its_queues_and_its_route_asked_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def work() -> None:
        async with ScriptedCluster(queues=8) as cluster, cluster.consumer() as consumer:
            await pulled(cluster, *range(8))
            asked = len(cluster.name_server.calls)
            await cluster.broker.stop()
            await cluster.name_server.until(lambda: len(cluster.name_server.calls) > asked)
            await cluster.broker.start()
            for queue_id in range(8):
                cluster.publish(1, queue_id)
            assert len(await receive_all(consumer, 8)) == 8

    run(work())
    assert len([one for one in caplog.records if one.levelno >= logging.WARNING]) <= 4


# --- slaves -----------------------------------------------------------------------------------------------


def with_slave(cluster: ScriptedCluster) -> Peer:
    """Have the second peer be known as the first one's slave."""
    master, slave = cluster.brokers
    addresses = {"0": master.address, "1": slave.address}
    route = {
        "brokerDatas": [{"brokerName": "broker-a", "brokerAddrs": addresses}],
        "queueDatas": [{"brokerName": "broker-a", "perm": 6, "readQueueNums": 1, "writeQueueNums": 1}],
    }

    def tell(call: Call) -> None:
        if call.ext["topic"] == TOPIC:
            call.answer(body=json.dumps(route).encode())
        else:
            call.answer(Response.TOPIC_NOT_EXIST)

    cluster.name_server.on(Request.GET_ROUTEINFO_BY_TOPIC, tell)
    return slave


def test_a_slave_is_read_while_its_master_is_away_and_the_master_again_when_it_is_back() -> None:
    async def work() -> None:
        async with ScriptedCluster(brokers=2) as cluster:
            slave = with_slave(cluster)
            for broker in (0, 1):
                cluster.publish(3, broker=broker)
            async with cluster.consumer() as consumer:
                assert await receive_offsets(consumer, 3) == [0, 1, 2]
                await cluster.broker.stop()
                cluster.publish(40, broker=1)
                assert await receive_offsets(consumer, 40) == list(range(3, 43))
                assert {int(call.ext["sysFlag"]) & 3 for call in slave.told(PULL)} == {
                    0
                }  # no commit, no parking
                cluster.publish(45, broker=0)
                await cluster.broker.start()
                assert await receive_offsets(consumer, 5) == list(range(43, 48))
                await consumer.commit()
                assert cluster.queue().committed == 48

    run(work())


def test_a_slave_that_lags_behind_moves_nothing() -> None:
    async def work() -> None:
        async with ScriptedCluster(brokers=2) as cluster:
            slave = with_slave(cluster)
            cluster.publish(5)
            cluster.publish(2, broker=1)
            async with cluster.consumer() as consumer:
                assert await receive_offsets(consumer, 5) == [0, 1, 2, 3, 4]
                await cluster.broker.stop()
                await slave.until_told(PULL, 2)  # it answers that it ends at 2
                assert [entry.pulled for entry in consumer.progress()] == [5]
                await cluster.broker.start()
                cluster.publish(1)
                assert await receive_offsets(consumer, 1) == [5]

    run(work())


def test_a_slave_that_the_master_suggests_is_read_without_committing_there() -> None:
    async def work() -> None:
        async with ScriptedCluster(brokers=2) as cluster:
            slave = with_slave(cluster)
            cluster.publish(4)
            cluster.publish(8, broker=1)

            def suggesting(call: Call) -> None:
                messages = b"".join(map(encode_message, cluster.queue().messages))
                call.answer(0, pull_ext(cluster.queue(), 4) | {"suggestWhichBrokerId": "1"}, messages)

            cluster.broker.once(PULL, suggesting)
            async with cluster.consumer() as consumer:
                assert await receive_offsets(consumer, 8) == list(range(8))
                assert [int(call.ext["sysFlag"]) & 3 for call in slave.told(PULL)] == [2]

    run(work())


# --- queues that lost their end, and bodies that cannot be read ---------------------------------------------


def stored_at(cluster: ScriptedCluster, *seconds: int) -> None:
    """Store messages, each at its second."""
    queue = cluster.queue()
    cluster.publish(len(seconds))
    queue.messages[-len(seconds) :] = [
        msgspec.structs.replace(one, store_timestamp=1000 * at)
        for one, at in zip(queue.messages[-len(seconds) :], seconds, strict=True)
    ]


def test_messages_under_offsets_that_a_broker_gives_a_second_time_are_read() -> None:
    """A crash took the end of the queue, or the topic was made anew; new messages came before we asked again."""

    async def script(cluster: ScriptedCluster, consumer: Consumer) -> None:
        assert await receive_offsets(consumer, 10) == list(range(10))
        await cluster.broker.stop()
        del cluster.queue().messages[7:]
        stored_at(cluster, 500, 501)
        await cluster.broker.start()
        batches: list[PulledBatch] = []
        while not any(batch.messages for batch in batches):
            batches += await receive(consumer)
        assert [batch.next_offset for batch in batches if batch.rewound] == [7]
        assert [one.queue_offset for batch in batches for one in batch.messages] == [7, 8]
        consumer.settle(batches)
        await consumer.commit()
        assert cluster.queue().committed == 9

    play(script, before=lambda cluster: stored_at(cluster, *range(100, 300, 20)))


@pytest.mark.parametrize("tags", ["*", "A"])
def test_a_message_with_broken_sizes_becomes_a_gap_and_its_neighbours_are_read(
    tags: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(puller.Puller, "_again", lambda *_, **__: 0.01)

    def pull(call: Call) -> None:
        offset, count = int(call.ext["queueOffset"]), int(call.ext["maxMsgNums"])
        if offset >= 10:
            return
        ids = range(offset, min(10, offset + count))
        body = b"".join(
            encode_message(stored(one)) if one != 4 else b"\x00\x00\x00\x03" + bytes(120) for one in ids
        )
        call.answer(0, pull_ext(call.peer.queue, ids[-1] + 1), body)  # type: ignore[attr-defined]

    def before(cluster: ScriptedCluster) -> None:
        cluster.publish(10)
        cluster.broker.queue = cluster.queue()  # type: ignore[attr-defined]
        cluster.broker.on(PULL, pull)

    async def script(cluster: ScriptedCluster, consumer: Consumer) -> None:
        batches: list[PulledBatch] = []
        while sum(len(batch.messages) for batch in batches) < 9:
            batches += await receive(consumer)
        consumer.settle(batches)
        assert [one.queue_offset for batch in batches for one in batch.messages] == [
            0,
            1,
            2,
            3,
            *range(5, 10),
        ]
        holes = [hole for batch in batches for hole in batch.holes]
        assert [(hole.first, hole.last, hole.reason) for hole in holes] == [
            (4, 4, "unreadable at the broker")
        ]
        await consumer.commit()
        assert cluster.queue().committed == 10

    play(script, before=before, subscriptions={TOPIC: tags})
    assert "offsets 4 to 4 cannot be read" in caplog.text


def test_a_body_that_is_broken_once_loses_nothing() -> None:
    def before(cluster: ScriptedCluster) -> None:
        cluster.publish(3)
        cluster.broker.once(PULL, *[_garbled(cluster)] * 2)

    async def script(cluster: ScriptedCluster, consumer: Consumer) -> None:
        assert await receive_offsets(consumer, 3) == [0, 1, 2]

    play(script, before=before)


def _garbled(cluster: ScriptedCluster) -> Callable[[Call], None]:
    return lambda call: call.answer(0, pull_ext(cluster.queue(), 3), b"\x7f" * 400)


def test_the_silence_of_one_channel_is_not_that_of_another() -> None:
    """The scripted peer itself: a silent channel takes everything and says nothing."""

    async def work() -> None:
        async with peers() as (server,):
            server.on(ASK, lambda call: call.answer())
            client = Client(ClientSettings((server.address,), request_timeout=0.1))
            await client.call(server.address, ASK)
            channel: Channel = server.channels[0]
            channel.silent = True
            with pytest.raises(Exception, match="did not answer"):
                await client.call(server.address, ASK)
            await client.call(server.address, ASK)
            assert server.accepted == 2
            await client.close()

    run(work())
