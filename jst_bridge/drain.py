"""When is everything landed that waited at the start? The mark of `run --drain`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final, Self

from .errors import DecodeError, SourceError
from .rocketmq import Client, ConsumerSettings, MessageQueue
from .rocketmq.offsets import committed_offset, max_offset

__all__ = ["DrainMark"]

log = logging.getLogger(__name__)

POLL: Final = 0.2
"""Seconds between looks at the committed offsets."""


class DrainMark:
    """The end of each queue of a source's topics at one moment, and how far the group is from it.

    It asks the brokers, so it is reached whoever owns the queues.
    """

    def __init__(self, client: Client, group: str, ends: dict[MessageQueue, int]) -> None:
        self._client = client
        self._group = group
        self._missing = {queue: end for queue, end in ends.items() if end > 0}

    @classmethod
    async def take(cls, settings: ConsumerSettings) -> Self:
        """Note the ends now. Raises SourceError."""
        client = Client(settings.client)
        try:
            queues = await client.queues_of_group(settings.subscriptions, settings.group)
            ends = await asyncio.gather(*(max_offset(client, queue) for queue in queues))
        except BaseException:
            await client.close()
            raise
        return cls(client, settings.group, dict(zip(queues, ends, strict=True)))

    @property
    def missing(self) -> Sequence[MessageQueue]:
        """The queues that have not reached their mark yet, as of the last look."""
        return sorted(self._missing)

    async def reached(self) -> bool:
        """Look once. A server that does not answer now counts as not reached."""
        queues = list(self._missing)
        try:
            offsets = await asyncio.gather(
                *(committed_offset(self._client, self._group, queue) for queue in queues)
            )
        except (SourceError, DecodeError) as error:
            log.debug("drain: the committed offsets cannot be read now: %s", error)
            return False
        for queue, offset in zip(queues, offsets, strict=True):
            if offset is not None and offset >= self._missing[queue]:
                del self._missing[queue]
        return not self._missing

    async def close(self) -> None:
        await self._client.close()
