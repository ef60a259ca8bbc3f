"""When queues change hands: not before their former owner has committed, and not because a broker restarts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from time import monotonic
from typing import Final

from .allocation import allocate_averagely
from .message import MessageQueue
from .route import Route

__all__ = ["Absences", "committed_at_rest", "of_living_members"]

REST: Final = 0.15
"""Seconds a committed offset must hold still; the former owner hears of its loss, and commits, within 20 ms."""
LONGEST: Final = 0.4
"""Seconds after which a queue is taken over all the same: better read twice than unread."""
GRACE: Final = 300.0
"""Seconds after which a broker that no route names any more is given up."""


def of_living_members(
    queues: Sequence[MessageQueue], before: Collection[str], now: Collection[str], me: str
) -> set[MessageQueue]:
    """The queues that belonged, by the member list `before`, to others who are still there `now`."""
    others = set(before) & set(now) - {me}
    return {queue for member in others for queue in allocate_averagely(queues, before, member)}


async def committed_at_rest(ask: Callable[[], Awaitable[int | None]]) -> int | None:
    """What `ask` says is committed, once it says so twice in a row.

    The former owner and we learn at the same moment that a queue changes hands: asked at once, the broker names
    an offset that the former owner is about to raise, and what lies between would be read twice.
    """
    limit = monotonic() + LONGEST
    offset = await ask()
    while monotonic() < limit:
        await asyncio.sleep(REST)
        before, offset = offset, await ask()
        if before == offset:
            break
    return offset


class Absences:
    """Brokers that the route of a topic has lost: restarting most likely, gone for good perhaps."""

    def __init__(self) -> None:
        self._since: dict[tuple[str, str], float] = {}
        """Topic and broker -> since when, monotonic seconds."""

    def among(self, route: Route, held: Iterable[MessageQueue]) -> set[MessageQueue]:
        """Which of the queues held stay with us, though the route does not name their broker at all now.

        Nobody else reads them, and a broker that restarts serves clients some 10 s before its route is back
        (reference 4.16). A broker that is still named but no longer readable is not absent.
        """
        now, named = monotonic(), {entry.broker for entry in route.queues}
        missing = {queue for queue in held if queue.topic == route.topic and queue.broker not in named}
        since = {(queue.topic, queue.broker) for queue in missing}
        others = {key: at for key, at in self._since.items() if key[0] != route.topic}
        self._since = others | {key: self._since.get(key, now) for key in since}
        return {queue for queue in missing if now - self._since[queue.topic, queue.broker] < GRACE}
