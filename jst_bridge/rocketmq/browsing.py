"""Looking at the newest messages of a topic without being in a group and without moving an offset (reference 2.15).

    found = await browse(client, "orders", limit=20)              # the newest 20 of all queues
    found = await browse(client, "%DLQ%GID_x", group="GID_x")     # what group GID_x has given up on
    found = await browse(client, "%RETRY%GID_x", group="GID_x")   # what it was sent back

With access control the key needs, for topic and group as they are given here: ACL 2.0 (5.x) Sub and Get on the topic,
Sub on the group; plain ACL (4.9) SUB on both. A dead letter topic is not covered by the permission for its group, it
wants an entry of its own; a retry topic is its group's. Brokers older than 4.9 make dead letter topics that nobody may
read: `mqadmin updateTopicPerm -t %DLQ%GROUP -p 6` changes that.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final

from ..errors import SourceError
from .client import Client
from .codes import PullFlag, Request, Response
from .frame import Frame
from .message import MessageExt, MessageQueue, decode_messages
from .offsets import max_offset, min_offset, number
from .subscription import ALL

__all__ = ["TOOLS_GROUP", "Browsed", "browse"]

TOOLS_GROUP: Final = "TOOLS_CONSUMER"
"""A group that every broker knows from the start, meant for this: nothing of anybody's group is touched."""
EXAMINED: Final = 20_000
"""Messages looked at before giving up, unless told otherwise."""
EXAMINED_BYTES: Final = 64 << 20
_FIRST_STEP: Final = 4
_LAST_STEP: Final = 512
_PULL: Final = 32
"""Messages in one pull: brokers give no more."""
_PULL_ANSWERS: Final = frozenset(
    {
        Response.SUCCESS,
        Response.PULL_NOT_FOUND,
        Response.PULL_RETRY_IMMEDIATELY,
        Response.PULL_OFFSET_MOVED,
    }
)


_Found = tuple[MessageQueue, MessageExt]


@dataclass(frozen=True, slots=True)
class Browsed:
    """What was found, and how far back the look went."""

    messages: list[_Found]
    """The newest first, by the time the broker stored them."""
    examined: int
    """Messages looked at."""
    back_to: int | None
    """Nothing stored after that time (epoch ms) was left out; None: everything the broker has was looked at."""


def everything(message: MessageExt) -> bool:
    return True


async def browse(
    client: Client,
    topic: str,
    *,
    group: str = TOOLS_GROUP,
    keep: Callable[[MessageExt], bool] = everything,
    limit: int = 20,
    examine: int = EXAMINED,
) -> Browsed:
    """The newest `limit` messages for which `keep` holds, of all queues of a topic, merged by store time.

    Looks backwards, at not many more than `examine` messages. `group` is only what the broker checks permissions
    with, where the key has none for TOOLS_CONSUMER; nothing is committed for it. Raises TopicNotFound,
    CredentialsRefused, and other SourceErrors; DecodeError.
    """
    route = await client.fetch_route(topic)
    queues = route.read_queues()
    if not queues:
        raise SourceError(
            f"topic {topic} may not be read by anybody: its queues lack the read permission",
            remedy=f"`mqadmin updateTopicPerm -t {topic} -p 6` gives it, on each broker",
        )
    ends = await asyncio.gather(*(_ends(client, queue) for queue in queues))
    step = min(_PULL, max(_FIRST_STEP, 2 * limit // len(queues)))
    spans = [
        _Span(client, queue, group, keep, minimum, end, step)
        for queue, (minimum, end) in zip(queues, ends, strict=True)
    ]
    parts = await asyncio.gather(*(span.extend() for span in spans if not span.done))
    found = _newest(limit, chain.from_iterable(parts))
    while True:
        open_ones = [span for span in spans if not span.done]
        youngest = max(open_ones, key=lambda span: span.back_to, default=None)
        if youngest is None:
            break
        if len(found) == limit and found[-1][1].store_timestamp >= youngest.back_to:
            break
        if sum(span.examined for span in spans) >= examine:
            break
        if sum(span.size for span in spans) >= EXAMINED_BYTES:
            break
        found = _newest(limit, chain(found, await youngest.extend()))
    return Browsed(found, sum(span.examined for span in spans), _back_to(found, limit, open_ones))


async def _ends(client: Client, queue: MessageQueue) -> tuple[int, int]:
    minimum, end = await asyncio.gather(min_offset(client, queue), max_offset(client, queue))
    return minimum, end


def _newest(limit: int, found: Iterable[_Found]) -> list[_Found]:
    return heapq.nlargest(
        limit, found, key=lambda entry: (entry[1].store_timestamp, entry[0], entry[1].queue_offset)
    )


def _back_to(found: Sequence[_Found], limit: int, open_ones: Sequence[_Span]) -> int | None:
    """Since when nothing is left out: later than that only what was not asked for."""
    times = [span.back_to for span in open_ones]
    if len(found) == limit:
        times.append(found[-1][1].store_timestamp)
    return max(times, default=None)


@dataclass(slots=True)
class _Span:
    """One queue, looked at from its end back to `lower`."""

    client: Client
    queue: MessageQueue
    group: str
    keep: Callable[[MessageExt], bool]
    minimum: int
    lower: int
    step: int
    examined: int = 0
    size: int = 0
    """Bytes of bodies."""
    back_to: int = 2**63 - 1
    """Store time (epoch ms) of the oldest message looked at."""

    @property
    def done(self) -> bool:
        return self.lower <= self.minimum

    async def extend(self) -> list[_Found]:
        """Look at the next older messages; what is to be kept of them."""
        upper, self.lower = self.lower, max(self.minimum, self.lower - self.step)
        self.step = min(_LAST_STEP, self.step * 2)
        kept: list[_Found] = []
        at = self.lower
        while at < upper:
            frame = await self._pull(at, min(_PULL, upper - at))
            after = number(frame, "nextBeginOffset")
            if frame.code == Response.SUCCESS:
                messages, complete = decode_messages(frame.body)
                if self.client.namespace:
                    self.client.namespace.unwrap_messages(messages)
                kept += [(self.queue, message) for message in messages if self._wanted(message, upper)]
                if not complete:
                    after = messages[-1].queue_offset + 1
            elif frame.code == Response.PULL_OFFSET_MOVED:
                self._moved(frame, min(after, upper))
            if after <= at:
                break  # no sane broker answers so
            at = after
        return kept

    def _wanted(self, message: MessageExt, upper: int) -> bool:
        if message.queue_offset >= upper:
            return False
        self.examined += 1
        self.size += len(message.body)
        self.back_to = min(self.back_to, message.store_timestamp)
        return self.keep(message)

    def _moved(self, frame: Frame, minimum: int) -> None:
        if (
            "RESET" in frame.remark
        ):  # 5.x tells it once, to whoever pulls first for that group (reference 2.13)
            raise SourceError(
                f"a reset of group {self.group} on {self.queue} was told to this look, and its members missed it",
                remedy="reset the offsets again, then start the members, and look after that",
            )
        self.minimum = max(self.minimum, minimum)  # the oldest have expired meanwhile

    async def _pull(self, offset: int, count: int) -> Frame:
        """One pull that neither waits nor commits."""
        return await self.client.call(
            self.client.master(self.queue.broker),
            Request.PULL_MESSAGE,
            {
                "consumerGroup": self.group,
                "topic": self.queue.topic,
                "queueId": str(self.queue.queue_id),
                "queueOffset": str(offset),
                "maxMsgNums": str(count),
                "sysFlag": str(int(PullFlag.SUBSCRIPTION)),
                "commitOffset": "0",
                "suspendTimeoutMillis": "0",
                "subscription": ALL,
                "subVersion": "0",
                "expressionType": "TAG",
            },
            accept=_PULL_ANSWERS,
        )
