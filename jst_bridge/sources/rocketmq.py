"""A RocketMQ system topic as a source: pulled batches become batches of deliveries, settled through the group."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import msgspec

from ..errors import ConfigurationError, DecodeError, SourceError
from ..ports import Batch, Gap, QueueKey
from ..rocketmq import Consumer, ConsumerSettings, MessageExt, MessageQueue, PulledBatch, QueueProgress
from ..rocketmq.offsets import offset_at
from ..settings import BEIJING

__all__ = ["LandingLimits", "RocketmqSource"]

log = logging.getLogger(__name__)

MINUTE: Final = 60_000
RETENTION_AT_MOST: Final = 32 * 24 * 60 * MINUTE
"""Milliseconds that a broker keeps messages, and more."""

Stored = Callable[[], Awaitable[Mapping[QueueKey, int]]]
"""Gives the positions that the store has of one source."""


@dataclass(frozen=True, slots=True)
class LandingLimits:
    """How much goes into one transaction at most."""

    messages: int = 2000
    size: int = 4 * 1024 * 1024
    """Bytes of bodies."""


class RocketmqSource:
    """One consumer group's share of a system topic, and of the retry topic behind it."""

    def __init__(
        self,
        name: str,
        settings: ConsumerSettings,
        limits: LandingLimits,
        stored: Stored,
        *,
        shared: bool,
        instance: str = "",
    ) -> None:
        """`instance`: whose positions these are in broadcasting, '' in clustering."""
        self.name = name
        self.settings = settings
        self.instance = instance
        self._limits = limits
        self._stored = stored
        self._shared = shared
        """The store is the one store of all members: its position may correct the broker's offset."""
        self._consumer: Consumer | None = None
        self._lacking: dict[MessageQueue, int] = {}
        """From what time (epoch ms) this store may lack messages that the group has committed."""
        self._advised: frozenset[MessageQueue] = frozenset()
        """Those of the former that were told with their remedy."""

    async def start(self) -> None:
        """Join the group with a new consumer. Raises SourceError."""
        consumer = Consumer(self.settings)
        consumer.adjust_start(self._compare_with_position)
        self._consumer = consumer
        await consumer.start()

    async def receive(self) -> list[Batch]:
        self._advise()
        pulled = await self._running.receive(max_messages=self._limits.messages, max_bytes=self._limits.size)
        return [self._batch(batch) for batch in pulled]

    def settle(self, batches: Sequence[Batch]) -> None:
        self._running.settle(batch.receipt for batch in batches if batch.receipt is not None)

    async def commit(self) -> None:
        if self._consumer is not None:
            await self._consumer.commit()

    def quiesce(self) -> None:
        if self._consumer is not None:
            self._consumer.quiesce()

    async def stop(self) -> None:
        if self._consumer is not None:
            await self._consumer.stop()

    def progress(self) -> list[QueueProgress]:
        """The queues this process reads now; empty while it is not in the group."""
        return self._consumer.progress() if self._consumer is not None else []

    async def position(self, queue: MessageQueue) -> int | None:
        """The offset below which the store has everything of this queue; None when it never had any."""
        return (await self._stored()).get(self._key(queue))

    @property
    def _running(self) -> Consumer:
        if self._consumer is None:
            raise ConfigurationError(f"source {self.name} was not started")
        return self._consumer

    def _key(self, queue: MessageQueue) -> QueueKey:
        return QueueKey(
            self.name, self.settings.group, self.instance, queue.broker, queue.topic, queue.queue_id
        )

    def _batch(self, pulled: PulledBatch) -> Batch:
        key = self._key(pulled.queue)
        return Batch(
            queue=key,
            deliveries=[delivery(message, key) for message in pulled.messages],
            position=pulled.next_offset,
            size=pulled.size,
            rewound=pulled.rewound,
            gaps=tuple(Gap(key, hole.first, hole.last, hole.reason) for hole in pulled.holes),
            receipt=pulled,
        )

    async def _compare_with_position(self, queue: MessageQueue, start: int, committed: int | None) -> int:
        """Where to start, given where the broker says the group is (design, section 3: positions)."""
        position = await self.position(queue)
        if position is not None and position >= start:
            return start  # what comes again is absorbed
        if position is not None and (self._shared or committed is None):
            log.warning(
                "%s: starting at %d, up to which the store has landed, not at %d", queue, position, start
            )
            return position
        if committed:
            explained = self.settings.subscriptions.get(queue.topic, "*") != "*"
            log.log(
                logging.INFO if explained else logging.WARNING,
                "%s: the group has committed %d, this store has landed up to %d. Fine when another host's store "
                "has the rest, or tags filtered it out; after losing or restoring the store it is not",
                queue, committed, position or 0,
            )  # fmt: skip
            if not explained and self._consumer is not None:
                self._lacking[queue] = await _time_before(self._consumer, queue, position or 0)
        return start

    def _advise(self) -> None:
        """Say what to run, once for all queues; by time, because the positions rise from here on."""
        if self._lacking.keys() <= self._advised:
            return
        self._advised = frozenset(self._lacking)
        since = min(self._lacking.values())
        to = f"{datetime.fromtimestamp(since // 1000, BEIJING):%Y-%m-%dT%H:%M:%S}" if since else "first"
        queues = [
            f"--queue {queue.broker}:{queue.queue_id}"
            if queue.topic in self.settings.subscriptions
            else f"--queue {queue}"
            for queue in sorted(self._lacking)
        ]
        log.warning(
            "to land again what this store may lack: stop every member of the group, run `jst-bridge offsets reset "
            "--source %s --to %s %s`, and start them (what is there already is absorbed)",
            self.name, to, " ".join(queues),
        )  # fmt: skip


async def _time_before(consumer: Consumer, queue: MessageQueue, position: int) -> int:
    """A time, epoch ms, for which the broker finds no offset beyond `position`; 0 when only its beginning will do."""
    now = time.time_ns() // 1_000_000
    back = MINUTE
    while position and back < RETENTION_AT_MOST:
        try:
            if await offset_at(consumer.client, queue, now - back) <= position:
                return now - back
        except (SourceError, DecodeError):
            break
        back *= 2
    return 0


class RocketmqDelivery(msgspec.Struct, gc=False):
    """A Delivery over a stored message: what lies in its properties is looked for when somebody asks."""

    body: bytes
    fault: str
    born_at: int
    queue: QueueKey
    message: MessageExt

    @property
    def offset(self) -> int:
        return self.message.queue_offset

    @property
    def tag(self) -> str:
        return self.message.tag

    @property
    def keys(self) -> str:
        return self.message.keys

    @property
    def transport_id(self) -> str:
        return self.message.offset_message_id

    @property
    def origin_id(self) -> str:
        return self.message.origin_message_id

    @property
    def attempt(self) -> int:
        return self.message.reconsume_times


def delivery(message: MessageExt, queue: QueueKey) -> RocketmqDelivery:
    return RocketmqDelivery(message.body, message.fault, message.born_timestamp, queue, message)
