"""The whole talk of a consumer with a scripted cluster, from start to leave, for tests that spoil it somewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from jst_bridge.errors import DecodeError, SourceError
from jst_bridge.rocketmq import Consumer
from jst_bridge.rocketmq.codes import Request
from tests.scripted import Channel
from tests.scripted_cluster import ScriptedCluster

__all__ = ["CONVERSATION", "MESSAGES", "Nth", "converse", "side_by_side"]

CONVERSATION = (
    Request.GET_ROUTEINFO_BY_TOPIC,
    Request.HEART_BEAT,
    Request.GET_CONSUMER_LIST_BY_GROUP,
    Request.QUERY_CONSUMER_OFFSET,
    Request.GET_MIN_OFFSET,
    Request.PULL_MESSAGE,
    Request.UPDATE_CONSUMER_OFFSET,
    Request.UNREGISTER_CLIENT,
)
"""What is asked in it."""
MESSAGES = 5
SECONDS = 120.0
"""Bound of one conversation, for machines with much else to do: one that is cut takes 0.3 s here."""
AT_ONCE = 25
"""Conversations side by side: most of one is waiting to try again."""

Writer = Callable[[Channel, bytes], None]


class Nth:
    """A writer for `Peer.writer` that does something else with one frame of all that the servers send."""

    def __init__(self, number: int, instead: Writer) -> None:
        self.written = 0
        """Frames so far."""
        self._number = number
        self._instead = instead

    def __call__(self, channel: Channel, data: bytes) -> None:
        if self.written == self._number:
            self._instead(channel, data)
        else:
            channel.send(data)
        self.written += 1


async def converse(
    writer: Writer = Channel.send, *, prepare: Callable[[ScriptedCluster], None] | None = None
) -> None:
    """Start, read everything in three pulls, commit after each, leave; all messages must arrive, in order, once.

    A start that fails is tried again, as a supervisor would, by a new consumer.
    """
    async with ScriptedCluster() as cluster:
        cluster.name_server.writer = cluster.broker.writer = writer
        if prepare is not None:
            prepare(cluster)
        cluster.publish(MESSAGES)
        async with asyncio.timeout(SECONDS):
            consumer = await _started(cluster)
            offsets = await _read(consumer)
            await consumer.stop()
        assert offsets == list(range(MESSAGES))
        commits = cluster.queue().commits
        assert commits == sorted(commits)
        assert set(commits) <= set(range(MESSAGES + 1))


async def _started(cluster: ScriptedCluster) -> Consumer:
    while True:
        consumer = cluster.consumer(pull_batch=2)
        try:
            await consumer.start()
        except (SourceError, DecodeError):
            continue
        return consumer


async def _read(consumer: Consumer) -> list[int]:
    offsets: list[int] = []
    while len(offsets) < MESSAGES:
        batches = await consumer.receive()
        offsets += [message.queue_offset for batch in batches for message in batch.messages]
        consumer.settle(batches)
        await consumer.commit()
    return offsets


async def side_by_side(works: Iterable[Callable[[], Awaitable[None]]]) -> None:
    """All of them, some at once."""
    turn = asyncio.Semaphore(AT_ONCE)

    async def one(work: Callable[[], Awaitable[None]]) -> None:
        async with turn:
            await work()

    async with asyncio.TaskGroup() as group:
        for work in works:
            group.create_task(one(work))
