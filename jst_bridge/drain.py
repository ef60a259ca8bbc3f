"""When is everything landed that waited at the start? The mark of `run --drain`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, Self

from .errors import DecodeError, SourceError, StoreUnavailable
from .rocketmq import Client, ConsumerSettings, MessageQueue
from .rocketmq.offsets import committed_offset, max_offset

__all__ = ["DrainMark"]

log = logging.getLogger(__name__)

POLL: Final = 0.2
"""Seconds between looks at the committed offsets."""

HowFar = Callable[[MessageQueue], Awaitable[int | None]]
"""Gives the offset below which a queue is done with; None when nothing is."""


class DrainMark:
    """The end of each queue of a source's topics at one moment, and how far the group is from it.

    It asks the brokers, so it is reached whoever owns the queues; in broadcasting whoever knows instead of them.
    """

    def __init__(self, client: Client, how_far: HowFar, ends: dict[MessageQueue, int]) -> None:
        self._client = client
        self._how_far = how_far
        self._missing = {queue: end for queue, end in ends.items() if end > 0}

    @classmethod
    async def take(cls, settings: ConsumerSettings, how_far: HowFar) -> Self:
        """Note the ends now. `how_far` is asked in broadcasting, the broker in clustering. Raises SourceError."""
        client = Client(settings.client)
        group = settings.group if settings.mode == "clustering" else None
        if group is not None:
            how_far = partial(committed_offset, client, group)
        try:
            queues = await client.queues_of_group(settings.subscriptions, group)
            ends = await asyncio.gather(*(max_offset(client, queue) for queue in queues))
        except BaseException:
            await client.close()
            raise
        return cls(client, how_far, dict(zip(queues, ends, strict=True)))

    @property
    def missing(self) -> Sequence[MessageQueue]:
        """The queues that have not reached their mark yet, as of the last look."""
        return sorted(self._missing)

    async def reached(self) -> bool:
        """Look once. A server that does not answer now counts as not reached."""
        queues = list(self._missing)
        try:
            offsets = await asyncio.gather(*(self._how_far(queue) for queue in queues))
        except (SourceError, StoreUnavailable, DecodeError) as error:
            log.debug("drain: how far the queues are cannot be learned now: %s", error)
            return False
        for queue, offset in zip(queues, offsets, strict=True):
            if offset is not None and offset >= self._missing[queue]:
                del self._missing[queue]
        return not self._missing

    async def close(self) -> None:
        await self._client.close()
