"""What the sandbox's cluster does wrong when it is told to, seen on the wire and by the project's own client."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from jst_bridge.errors import ConfigurationError, ConnectionFailed, TopicNotFound
from jst_bridge.rocketmq import Client, ClientSettings, Consumer, ConsumerSettings, Producer, codes
from jst_bridge.sandbox.rocketmq import (
    BinaryHeader,
    ClusterThread,
    Delay,
    Drop,
    Duplicate,
    Fault,
    Garbage,
    Lose,
    NoRoute,
    Redeliver,
    Refuse,
    Reorder,
    Request,
    SandboxCluster,
    SandboxSettings,
    Silence,
)
from tests.sandbox_asker import Asker, messages_of, play
from tests.scripted import run

ONE_QUEUE: dict[str, Any] = {"topics": {"T": 1}}


def test_a_refusal_strikes_so_many_times_and_the_right_requests_only() -> None:
    async def script(cluster: SandboxCluster, broker: Asker) -> None:
        cluster.inject(
            Refuse(2, "[REJECTREQUEST]"), request=Request.PULL_MESSAGE, topic="T", times=2, every=2
        )
        codes = [(await broker.pull("T", 0)).code for _ in range(6)]
        assert codes == [19, 2, 19, 2, 19, 19]
        assert cluster.faults.struck == 2
        cluster.inject(Refuse(215), times=None)
        assert (await broker.send("T")).code == 215
        assert cluster.broker.state.store.stored == 0
        cluster.clear_faults()
        cluster.inject(Refuse(1, acted=True))
        assert (await broker.send("T")).code == 1
        assert cluster.broker.state.store.stored == 1

    play(script, **ONE_QUEUE)


@pytest.mark.parametrize(("fault", "stored"), [(Drop(), 0), (Drop(acted=True), 1), (Garbage(), 0)])
def test_a_connection_is_cut_before_or_after_the_work(fault: Fault, stored: int) -> None:
    async def script(cluster: SandboxCluster, broker: Asker) -> None:
        cluster.inject(fault, request=Request.SEND_MESSAGE_V2)
        producer = Client(ClientSettings((cluster.name_server,)))
        with pytest.raises(ConnectionFailed):
            await producer.call(
                cluster.broker.address, codes.Request.SEND_MESSAGE_V2, {"b": "T", "e": "0", "g": "1"}, b"x"
            )
        await producer.close()
        assert cluster.broker.state.store.stored == stored

    play(script, **ONE_QUEUE)


def test_a_producer_whose_answer_was_cut_sends_again_and_doubles() -> None:
    async def script(cluster: SandboxCluster, broker: Asker) -> None:
        cluster.inject(Drop(acted=True), request=Request.SEND_MESSAGE_V2)
        async with Producer(ClientSettings((cluster.name_server,))) as producer:
            await producer.send("T", b"twice")
        cluster.inject(Duplicate(), request=Request.SEND_MESSAGE_V2)
        await broker.send("T", b"again")
        bodies = [message.body for message in messages_of(await broker.pull("T", 0))]
        assert bodies == [b"twice", b"twice", b"again", b"again"]

    play(script, **ONE_QUEUE)


def test_an_answer_is_delayed_or_never_comes() -> None:
    async def script(cluster: SandboxCluster, broker: Asker) -> None:
        cluster.inject(Delay(0.1), request=Request.GET_MAX_OFFSET)
        cluster.inject(Silence(acted=True), request=Request.SEND_MESSAGE_V2)
        slow = asyncio.create_task(broker.ask(Request.GET_MAX_OFFSET, topic="T", queueId=0))
        silent = asyncio.create_task(broker.send("T"))
        assert (await broker.ask(Request.GET_MIN_OFFSET, topic="T", queueId=0)).code == 0
        assert not slow.done()
        assert (await slow).ext == {"offset": "1"}
        assert not silent.done()
        silent.cancel()

    play(script, **ONE_QUEUE)


def test_a_send_back_is_lost_though_it_was_confirmed() -> None:
    async def script(cluster: SandboxCluster, broker: Asker) -> None:
        await broker.send("T")
        cluster.inject(Lose(), request=Request.CONSUMER_SEND_MSG_BACK)
        for expected in (1, 2):
            answer = await broker.ask(Request.CONSUMER_SEND_MSG_BACK, offset=0, group="G", delayLevel=1)
            assert (answer.code, cluster.broker.state.store.stored) == (0, expected)

    play(script, **ONE_QUEUE)


def test_a_pull_brings_old_messages_again_or_all_in_reverse() -> None:
    async def script(cluster: SandboxCluster, broker: Asker) -> None:
        for number in range(4):
            cluster.publish("T", b"%d" % number)
        cluster.inject(Redeliver(3), request=Request.PULL_MESSAGE)
        again = await broker.pull("T", 4)
        assert [message.queue_offset for message in messages_of(again)] == [1, 2, 3]
        cluster.inject(Reorder(), request=Request.PULL_MESSAGE)
        backwards = await broker.pull("T", 0)
        assert [message.queue_offset for message in messages_of(backwards)] == [3, 2, 1, 0]
        assert (await broker.pull("T", 4)).code == 19

    play(script, **ONE_QUEUE)


def test_a_route_goes_and_returns() -> None:
    async def script(cluster: SandboxCluster, broker: Asker) -> None:
        client = Client(ClientSettings((cluster.name_server,)))
        cluster.inject(NoRoute(), topic="T")
        cluster.inject(NoRoute(empty=True), topic="T")
        with pytest.raises(TopicNotFound):
            await client.fetch_route("T")
        assert (await client.fetch_route("T")).read_queues() == []
        assert len((await client.fetch_route("T")).read_queues()) == 1
        await client.close()

    play(script, **ONE_QUEUE)


def test_answers_come_with_a_binary_header() -> None:
    async def script(cluster: SandboxCluster, broker: Asker) -> None:
        cluster.inject(BinaryHeader(), times=None)
        sent = await broker.send("T", b"x", properties="UNIQ_KEY\x01AB\x02")
        assert sent.ext["transactionId"] == "AB"
        pulled = await broker.pull("T", 0)
        assert (pulled.code, pulled.remark, pulled.language) == (0, "FOUND", "JAVA")
        assert messages_of(pulled)[0].body == b"x"

    play(script, **ONE_QUEUE)


def test_a_consumer_gets_everything_once_through_a_storm_of_faults() -> None:
    """Not by luck: the seventh, the eleventh, ... of every pull meets its fault."""

    async def work() -> None:
        count = 3000
        async with SandboxCluster(SandboxSettings(topics={"T": 4}, park_tick=0.1)) as cluster:
            for fault, every in (
                (Drop(), 31),
                (Refuse(2), 11),
                (Refuse(215), 7),
                (Delay(0.02), 5),
                (Garbage(), 43),
            ):
                cluster.inject(fault, request=Request.PULL_MESSAGE, times=None, every=every)
            cluster.inject(NoRoute(), times=None, every=2)
            for number in range(count):
                cluster.publish("T", b"%d" % number)
            settings = ConsumerSettings(
                ClientSettings((cluster.name_server,)), group="G", subscriptions={"T": "*"}
            )
            bodies: list[bytes] = []
            for _ in range(20):
                try:
                    async with Consumer(settings) as consumer:
                        while len(bodies) < count:
                            batches = await consumer.receive()
                            bodies += [message.body for batch in batches for message in batch.messages]
                            consumer.settle(batches)
                    break
                except TopicNotFound:
                    continue
            assert sorted(bodies, key=int) == [b"%d" % number for number in range(count)]
            assert cluster.faults.struck > 20

    run(work(), seconds=60)


def test_a_stopped_broker_comes_back_on_its_port_with_what_it_held() -> None:
    async def script(cluster: SandboxCluster, broker: Asker) -> None:
        await broker.send("T", b"kept")
        address = cluster.broker.address
        await cluster.broker.stop()
        await broker.until(lambda: broker.closed)
        client = Client(ClientSettings((cluster.name_server,)))
        with pytest.raises(TopicNotFound):
            await client.fetch_route("T")
        await cluster.broker.start()
        assert cluster.broker.address == address
        await client.fetch_route("T")
        await client.close()
        async with await Asker.of(address) as again:
            assert messages_of(await again.pull("T", 0))[0].body == b"kept"
            cluster.drop_connections()
            await again.until(lambda: again.closed)

    play(script, **ONE_QUEUE)


def test_a_taken_port_is_said_in_a_sentence_and_nothing_stays_open() -> None:
    async def script(cluster: SandboxCluster, broker: Asker) -> None:
        taken = SandboxCluster(name_server_port=cluster.name_servers.port)
        with pytest.raises(ConfigurationError, match="name server cannot listen on"):
            await taken.start()
        assert not taken.broker.running

    play(script)


def test_settings_and_faults_that_cannot_be_meant_are_refused() -> None:
    for wrong in (
        {"flavour": "3.2"},
        {"brokers": 0},
        {"max_bytes": 1},
        {"delay_levels": ()},
        {"park_tick": 0},
    ):
        with pytest.raises(ConfigurationError):
            SandboxSettings(**wrong)
    with pytest.raises(ValueError, match="600"):
        Delay(601)
    with pytest.raises(ValueError, match="count from 1"):
        SandboxCluster().inject(Drop(), times=0)


def test_a_cluster_in_a_thread_serves_code_without_an_event_loop() -> None:
    with ClusterThread(SandboxSettings(topics={"T": 1})) as sandbox:
        sandbox.call(lambda cluster: cluster.publish("T", b"x"))

        async def ask() -> None:
            async with await Asker.of(sandbox.call(lambda cluster: cluster.broker.address)) as broker:
                assert messages_of(await broker.pull("T", 0))[0].body == b"x"

        run(ask())
        with (
            pytest.raises(ConfigurationError),
            ClusterThread(name_server_port=int(sandbox.name_server.rpartition(":")[2])),
        ):
            pass


def test_garbage_and_claims_of_gigabytes_close_the_connection_and_cost_nothing() -> None:
    async def script(cluster: SandboxCluster, broker: Asker) -> None:
        for data in (b"GET / HTTP/1.1\r\n\r\n", b"\x7f\xff\xff\xff\0\0\0\0", b"\0\0\0\x08\0\0\0\x04{[}]"):
            reader, writer = await asyncio.open_connection("127.0.0.1", cluster.broker.port)
            writer.write(data)
            with_rest = await asyncio.wait_for(_rest(reader), 5)
            assert with_rest == b""
            writer.close()
        assert (await broker.pull("T", 0)).code == 19

    play(script)


async def _rest(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""
