"""The RocketMQ source in broadcasting: one instance gets every message, and only the store knows how far it is."""

from __future__ import annotations

import asyncio
from typing import Final

from ..ports import Batch, QueueKey
from ..rocketmq import ConsumerSettings, MessageQueue
from ..rocketmq.offsets import min_offset
from .rocketmq import LandingLimits, RocketmqSource, Stored

__all__ = ["BroadcastingSource"]

TELL_PERIOD: Final = 5.0
"""Seconds after which positions that no message moved are handed over: each time is a transaction."""


class BroadcastingSource(RocketmqSource):
    """Every queue of a system topic, from the positions of `instance` in the store.

    Positions land with the messages. Where no message moves one (at the first start, where tags filter), an empty
    batch tells the store of it: else a queue without messages would begin anew, or seem to lag, after a restart.
    """

    def __init__(
        self, name: str, settings: ConsumerSettings, limits: LandingLimits, stored: Stored, instance: str
    ) -> None:
        super().__init__(name, settings, limits, stored, shared=True, instance=instance)
        self._known: frozenset[str] | None = None
        """The topics that had positions when this run began; None until somebody asks."""
        self._told: dict[QueueKey, int] = {}
        """The positions that were handed over, and land in this order."""
        self._tell_at = 0.0
        """When to hand over positions that no message moved: a time of the loop."""
        self._waiting: asyncio.Timeout | None = None

    async def start(self) -> None:
        self._known = None
        self._told.clear()
        self._tell_at = 0.0
        await super().start()

    async def receive(self) -> list[Batch]:
        loop = asyncio.get_running_loop()
        while True:
            if loop.time() >= self._tell_at:
                self._tell_at = loop.time() + TELL_PERIOD
                if moved := self._moved():
                    return moved
            try:
                async with asyncio.timeout_at(self._tell_at) as self._waiting:
                    batches = await super().receive()
            except TimeoutError:
                continue
            finally:
                self._waiting = None
            self._told.update((batch.queue, batch.position) for batch in batches)
            return batches

    async def commit(self) -> None:
        """Nothing to tell the broker: it is the store that has to know."""
        self._tell_at = asyncio.get_running_loop().time()
        if self._waiting is not None:
            self._waiting.reschedule(self._tell_at)

    def _moved(self) -> list[Batch]:
        moved = {
            key: queue.settled
            for queue in self.progress()
            if queue.settled > self._told.get(key := self._key(queue.queue), -1)
        }
        self._told |= moved
        return [Batch(key, [], offset, 0) for key, offset in moved.items()]

    async def _compare_with_position(self, queue: MessageQueue, start: int, committed: int | None) -> int:
        """The store alone knows where to go on. `start_from` is for an instance that it did not know at the start."""
        stored = await self._stored()
        if self._known is None:
            self._known = frozenset(known.system_topic for known in stored)
        position = stored.get(self._key(queue))
        if position is not None:
            return position
        if queue.topic in self._known:
            return await min_offset(self._running.client, queue)  # it was added while nobody looked
        return start
