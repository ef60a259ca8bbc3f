"""Sending traffic to a system topic, as fast as the broker takes it or at a rate."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from jst_bridge.rocketmq import Producer

from .disturbances import Outgoing

__all__ = ["feed"]

_SENDERS: Final = 32
"""Sends in flight at once."""
_TICK: Final = 0.01
"""Seconds: at a rate, what is due by then goes out together."""


async def feed(
    producer: Producer,
    system_topic: str,
    traffic: Iterable[Outgoing | None],
    *,
    rate: float | None = None,
    on_sent: Callable[[Outgoing], None] | None = None,
) -> int:
    """Send what `traffic` gives, at `rate` messages a second or, with None, at once. Returns how many were sent.

    None in the traffic stands for a message that nobody published: it takes its time, and nothing is sent.
    Messages in flight together may overtake each other. Raises SourceError when one cannot be sent.
    """
    sent = 0
    waiting = _due(traffic, rate)

    async def send() -> None:
        nonlocal sent
        for outgoing, due in waiting:
            ahead = due - time.monotonic()
            if ahead > _TICK:
                await asyncio.sleep(ahead)
            if outgoing is None:
                await asyncio.sleep(0)  # perhaps nobody is open: the event loop must go on
                continue
            await producer.send(system_topic, outgoing.body, tag=outgoing.tag, keys=outgoing.keys)
            sent += 1
            if on_sent is not None:
                on_sent(outgoing)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(_SENDERS):
                group.create_task(send())
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None  # the others failed of the same
    return sent


def _due(traffic: Iterable[Outgoing | None], rate: float | None) -> Iterator[tuple[Outgoing | None, float]]:
    """Each message with the time.monotonic() at which it goes out."""
    began = time.monotonic()
    for count, outgoing in enumerate(traffic):
        yield outgoing, began + count / rate if rate else began
