"""Offset requests (reference 2.5, 2.6, 2.9): all go to the master of the queue's broker."""

from __future__ import annotations

from ..errors import DecodeError
from .client import Client
from .codes import Request, Response
from .frame import Frame
from .message import MessageQueue

__all__ = ["commit_offset", "committed_offset", "max_offset", "min_offset", "offset_at"]


async def committed_offset(client: Client, group: str, queue: MessageQueue) -> int | None:
    """The next offset the group has to read; None when the broker stores none.

    `setZeroIfNotFound=false` makes 5.x brokers say so; 4.9 ignores it and answers 0 for young queues.
    """
    frame = await client.call_master(
        queue,
        Request.QUERY_CONSUMER_OFFSET,
        {"consumerGroup": group, "setZeroIfNotFound": "false"},
        accept=(Response.SUCCESS, Response.QUERY_NOT_FOUND),
    )
    if frame.code == Response.QUERY_NOT_FOUND:
        return None
    offset = number(frame, "offset")
    return offset if offset >= 0 else None  # the broker reports a stored -1 as is (reference 2.6)


async def commit_offset(client: Client, group: str, queue: MessageQueue, offset: int) -> None:
    """Store the group's next offset, acknowledged. The broker takes any value: never send a lower one lightly."""
    await client.call_master(
        queue, Request.UPDATE_CONSUMER_OFFSET, {"consumerGroup": group, "commitOffset": str(offset)}
    )


async def max_offset(client: Client, queue: MessageQueue) -> int:
    """The offset the next message of the queue will get."""
    return number(await client.call_master(queue, Request.GET_MAX_OFFSET, {}), "offset")


async def min_offset(client: Client, queue: MessageQueue) -> int:
    """The offset of the oldest message the broker still has."""
    return max(0, number(await client.call_master(queue, Request.GET_MIN_OFFSET, {}), "offset"))


async def offset_at(client: Client, queue: MessageQueue, timestamp: int) -> int:
    """The first offset stored at or after `timestamp` (epoch ms), as exactly as the broker's version can say."""
    ext = {"timestamp": str(timestamp), "boundaryType": "LOWER"}
    offset = number(await client.call_master(queue, Request.SEARCH_OFFSET_BY_TIMESTAMP, ext), "offset")
    return max(0, offset)


def number(frame: Frame, name: str) -> int:
    """A decimal field of an answer, within 64 bits. Raises DecodeError."""
    try:
        value = int(frame.ext[name])
    except (KeyError, ValueError):
        raise DecodeError(f"answer lacks the number {name!r}") from None
    if not -(2**63) <= value < 2**63:
        raise DecodeError(f"the number {name!r} of the answer goes beyond 64 bits")
    return value
