"""Servers that answer late, twice, in pieces, in the wrong order, or with something else: all messages arrive, once."""

from __future__ import annotations

import asyncio
import struct
from functools import partial

import pytest

from jst_bridge.rocketmq.codes import Request, Response
from jst_bridge.rocketmq.frame import Frame, decode_frame, encode_frame
from tests.conversation import CONVERSATION, MESSAGES, Nth, converse, side_by_side
from tests.scripted import Call, Channel, run
from tests.scripted_cluster import ScriptedCluster, receive_offsets

GARBAGE = {
    "HTTP": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "TLS alert": b"\x15\x03\x03\x00\x02\x02\x28",
    "zeros": bytes(40),
    "a frame without a header": struct.pack(">II", 4, 0),
    "a header that is no JSON": struct.pack(">II", 12, 8) + b"garbage!",
    "an unknown header form": struct.pack(">II", 6, 7 << 24 | 2) + b"{}",
    "2 GiB": struct.pack(">I", 2**31 - 1) + b"x" * 50,
    "4 GiB": struct.pack(">I", 2**32 - 1) + b"x" * 50,
    "a header longer than its frame": struct.pack(">II", 20, 0xFFFFFF) + b"x" * 16,
    "no bytes at all, and the end": b"",
}


async def undisturbed() -> int:
    """How many frames the servers send when nothing is wrong."""
    whole = Nth(-1, Channel.send)
    await converse(whole)
    return whole.written


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
def test_garbage_in_place_of_any_answer_costs_a_connection_and_nothing_else(garbage: bytes) -> None:
    def instead(channel: Channel, data: bytes) -> None:
        channel.send(garbage)
        if not garbage:
            channel.finish()

    async def work() -> None:
        frames = await undisturbed()
        await side_by_side(partial(converse, Nth(number, instead)) for number in range(frames))

    run(work(), seconds=100)


@pytest.mark.parametrize("body", [b"\xff\xfe", b"[" * 100_000, b"null", b'{"a":' + b"9" * 5000 + b"}"])
def test_an_unreadable_body_in_any_answer_is_survived(body: bytes) -> None:
    """The frame is sound, so the connection stays; what was asked is asked again."""

    def instead(channel: Channel, data: bytes) -> None:
        frame = decode_frame(data)
        channel.send(encode_frame(Frame(frame.code, frame.opaque, frame.flag, frame.ext, body, frame.remark)))

    async def work() -> None:
        frames = await undisturbed()
        await side_by_side(partial(converse, Nth(number, instead)) for number in range(frames))

    run(work(), seconds=100)


def test_answers_that_trickle_in_byte_by_byte_are_read() -> None:
    class Trickle:
        """Passes on one byte per turn of the loop, of each connection in its order."""

        def __init__(self) -> None:
            self._waiting: dict[Channel, bytearray] = {}

        def __call__(self, channel: Channel, data: bytes) -> None:
            if channel in self._waiting:
                self._waiting[channel] += data
            else:
                self._waiting[channel] = bytearray(data)
                self._next(channel)

        def _next(self, channel: Channel) -> None:
            waiting = self._waiting[channel]
            channel.send(bytes(waiting[:1]))
            del waiting[:1]
            if waiting:
                asyncio.get_running_loop().call_soon(self._next, channel)
            else:
                del self._waiting[channel]

    run(converse(Trickle()), seconds=60)


def test_every_answer_twice_changes_nothing() -> None:
    run(converse(lambda channel, data: channel.send(data + data)))


def test_answers_to_questions_nobody_asked_change_nothing() -> None:
    def writer(channel: Channel, data: bytes) -> None:
        frame = decode_frame(data)
        for opaque in (frame.opaque + 1_000_000, -1, frame.opaque - 1):
            channel.send(encode_frame(Frame(frame.code, opaque, frame.flag, frame.ext, frame.body)))
        channel.send(data)

    run(converse(writer))


def test_answers_in_the_wrong_order_reach_their_own_questions() -> None:
    async def work() -> None:
        held: list[tuple[Channel, bytes]] = []

        def release() -> None:
            while held:
                channel, data = held.pop()
                channel.send(data)

        def writer(channel: Channel, data: bytes) -> None:
            held.append((channel, data))
            if len(held) == 1:
                asyncio.get_running_loop().call_later(0.02, release)  # by then all queues have asked

        async with ScriptedCluster(queues=8) as cluster:
            for queue_id in range(8):
                cluster.publish(MESSAGES, queue_id)
            cluster.broker.writer = writer
            async with cluster.consumer(pull_batch=2) as consumer:
                seen: dict[int, list[int]] = {queue_id: [] for queue_id in range(8)}
                async with asyncio.timeout(10):
                    while sum(map(len, seen.values())) < 8 * MESSAGES:
                        batches = await consumer.receive()
                        for batch in batches:
                            seen[batch.queue.queue_id] += [message.queue_offset for message in batch.messages]
                        consumer.settle(batches)
        assert seen == {queue_id: list(range(MESSAGES)) for queue_id in range(8)}

    run(work())


@pytest.mark.parametrize("code", CONVERSATION)
@pytest.mark.parametrize("answer", [Response.SYSTEM_BUSY, Response.SYSTEM_ERROR])
def test_a_server_that_is_busy_for_a_while_is_asked_again(code: Request, answer: Response) -> None:
    def refuse(call: Call) -> None:
        call.answer(answer, remark="[TIMEOUT_CLEAN_QUEUE]broker busy, start flow control for a while")

    def prepare(cluster: ScriptedCluster) -> None:
        for peer in (cluster.name_server, cluster.broker):
            peer.once(code, *[refuse] * 3)

    run(converse(prepare=prepare), seconds=60)


def test_a_name_server_that_is_restarted_interrupts_nothing() -> None:
    async def work() -> None:
        async with ScriptedCluster() as cluster, cluster.consumer() as consumer:
            for number in range(5):
                await cluster.name_server.stop()
                cluster.publish(1)
                assert await receive_offsets(consumer, 1) == [2 * number]
                await cluster.name_server.start()
                cluster.publish(1)
                assert await receive_offsets(consumer, 1) == [2 * number + 1]

    run(work())
