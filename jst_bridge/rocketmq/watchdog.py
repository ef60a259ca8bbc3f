"""Looking for queues that stand still though they have news, whatever the reason, and starting them anew."""

from __future__ import annotations

import asyncio
import logging
from time import monotonic
from typing import Final

from ..errors import BrokerRefused, ConnectionFailed, DecodeError, SourceError
from .assignment import Assignment
from .client import Client
from .offsets import max_offset
from .share import Share

__all__ = ["Watchdog"]

log = logging.getLogger(__name__)

TICK: Final = 5.0
"""Seconds between two looks; a quarter of the patience where that is less."""
OVERSLEPT: Final = 10.0
"""Seconds too late for a look: this process must have been frozen, and its queues have not waited."""


class Watchdog:
    """Watches the queues of one share. A queue whose loop waits for our own limits is no stall of the broker's.

    A queue is stalled when no pull was good for `patience` seconds and the broker says, asked apart, that its end
    is elsewhere than where we are. It is then marked (`Assignment.stalled`), told as an ERROR, and read by a new
    loop; over a new connection, unless the broker did answer the last pull and refused it.
    """

    def __init__(self, client: Client, share: Share, patience: float) -> None:
        self._client = client
        self._share = share
        self._patience = patience
        self._tick = min(TICK, patience / 4)
        self._patient_from: dict[Assignment, float] = {}
        """When a queue's time began to count anew: it was held back, or its loop rebuilt."""
        self._awake_since = self._looked_at = monotonic()
        self._quiet_until = 0.0

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(self._tick)
            await self.look()

    async def look(self) -> None:
        """One round."""
        now = monotonic()
        if now - self._looked_at > self._tick + OVERSLEPT:
            self._awake_since = now
        self._looked_at = now
        queues = list(self._share.assignments.values())
        self._patient_from = {one: at for one, at in self._patient_from.items() if one in queues}
        held = [one for one in queues if one.held_since is not None]
        self._patient_from |= dict.fromkeys(held, now)
        self._report(held, now)
        late = [one for one in queues if one not in held and now - self._since(one) > self._patience]
        await asyncio.gather(*(self._examine(one) for one in late))

    def _since(self, assignment: Assignment) -> float:
        return max(assignment.last_good_pull, self._patient_from.get(assignment, 0.0), self._awake_since)

    def _report(self, held: list[Assignment], now: float) -> None:
        """Say that it is us who are slow, in one line for all queues."""
        longest = max((now - one.held_since for one in held if one.held_since is not None), default=0.0)
        if longest > self._patience and now >= self._quiet_until:
            self._quiet_until = now + self._patience
            log.warning(
                "%d queues are not read for up to %.0f s because what was read is not settled: %d messages wait",
                len(held), longest, sum(one.cached for one in held),
            )  # fmt: skip

    async def _examine(self, assignment: Assignment) -> None:
        queue = assignment.queue
        try:
            address = self._client.master(queue.broker)
            if not self._client.connected(address):
                raise ConnectionFailed(f"{address} is not connected")
            end = await max_offset(self._client, queue)
        except (SourceError, DecodeError) as error:
            # A broker that is away is told of by its link; the queue's time counts from when it is back.
            log.debug("whether %s stands still cannot be told: %s", queue, error)
            self._patient_from[assignment] = monotonic()
            return
        silent = monotonic() - self._since(assignment)
        if end == assignment.pull_offset or silent <= self._patience or assignment.dropped:
            return
        trouble = assignment.trouble
        log.error(
            "%s stands still: it ends at %d, we are at %d, and no pull was good for %.0f s (%s); reading it anew",
            queue, end, assignment.pull_offset, monotonic() - assignment.last_good_pull, trouble or "no answer",
        )  # fmt: skip
        assignment.stalled = True
        self._patient_from[assignment] = monotonic()
        if not isinstance(trouble, (BrokerRefused, DecodeError)):
            self._client.reconnect(address, f"{queue} stands still")
        self._share.read_anew(assignment)
