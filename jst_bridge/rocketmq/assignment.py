"""The books of one assigned queue: what was pulled, what is settled, what may be committed. No I/O.

    pulled ──▶ waiting ──▶ handed out ──▶ settled
                                              └▶ `settled_offset`, which a commit may carry

The committed offset only passes a batch when every batch before it is settled. It falls only when the broker
itself moved the queue back (answer 21).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Final

import msgspec

from .message import MessageExt, MessageQueue

__all__ = ["Assignment", "Hole", "PulledBatch"]

OVERHEAD: Final = 512
"""Bytes a cached message takes beside its body (measured: 450 to 600)."""


class Hole(msgspec.Struct, frozen=True):
    """Offsets `first` to `last`, both included, that the broker skipped without giving or filtering them."""

    first: int
    last: int
    reason: str


class PulledBatch(msgspec.Struct, eq=False):
    """Messages of one queue in offset order; once settled, everything below `next_offset` is."""

    queue: MessageQueue
    messages: list[MessageExt]
    next_offset: int
    size: int
    """Sum of the decompressed body lengths in bytes."""
    assignment: Assignment
    holes: tuple[Hole, ...] = ()
    rewound: bool = False
    """The broker, or an admin, moved the queue to `next_offset`: the position follows, back or forward."""
    void: bool = False
    """Overtaken by an offset reset: settling it moves nothing."""
    settled: bool = False

    @property
    def weight(self) -> int:
        """Memory it is counted with, in bytes."""
        return self.size + OVERHEAD * len(self.messages)


class Assignment:
    """One queue while it is assigned to this member."""

    def __init__(self, queue: MessageQueue, offset: int, *, filtered: bool) -> None:
        self.queue = queue
        self.pull_offset = offset
        """Where the next pull begins."""
        self.settled_offset = offset
        """Everything below is durable: what a commit carries."""
        self.acknowledged_offset: int | None = None
        """The last offset the broker confirmed to have stored."""
        self.committing = asyncio.Lock()
        """Held while a commit is under way."""
        self.max_offset = offset
        """The queue's end as the last pull answer told it."""
        self.cached = 0
        """Messages cached, from pull to settlement."""
        self.dropped = False
        self.last_good_pull = time.monotonic()
        """When a pull was last answered with what the books could take, or reading began; monotonic seconds."""
        self.last_settled = self.last_good_pull
        """When a batch was last settled, or reading began; monotonic seconds."""
        self.stalled = False
        """The watchdog says that it should move and does not."""
        self.held_since: float | None = None
        """Since when no pull is made because our own limits are reached; None while pulls are made."""
        self.trouble: Exception | None = None
        """Why the last pull was not good; None when it was, or is under way."""
        self.newest_stored = 0
        """The broker's time, epoch ms, at which the last pulled message was stored; 0 before the first."""
        self._filtered = filtered
        self._unsettled: deque[PulledBatch] = deque()
        self._handed_out = 0

    @property
    def in_flight(self) -> bool:
        """Some batch was handed out and is not settled."""
        return self._handed_out > 0

    @property
    def idle(self) -> bool:
        return not self._unsettled

    @property
    def cached_offsets(self) -> tuple[int, int]:
        """Offsets of the first and the last message cached; both 0 when there is none."""
        batches = [batch for batch in self._unsettled if batch.messages]
        if not batches:
            return 0, 0
        return batches[0].messages[0].queue_offset, batches[-1].messages[-1].queue_offset

    @property
    def cached_size(self) -> int:
        """Bytes of the bodies cached."""
        return sum(batch.size for batch in self._unsettled)

    @property
    def uncommitted(self) -> bool:
        return self.settled_offset != self.acknowledged_offset

    def pulled(
        self, messages: list[MessageExt], kept: list[MessageExt], next_offset: int
    ) -> PulledBatch | None:
        """Book a pull that found `messages`, of which `kept` passed the tag filter. None: nothing to hand out."""
        holes = self._holes(messages, next_offset)
        self.pull_offset = next_offset
        if kept or holes:
            return self._enter(
                PulledBatch(self.queue, kept, next_offset, sum(len(m.body) for m in kept), self, holes)
            )
        self._advance(next_offset)
        return None

    def skipped(self, next_offset: int, reason: str) -> PulledBatch | None:
        """Book an answer without messages that moved forward (19, 20): filtered, or else a hole."""
        if next_offset <= self.pull_offset:
            return None
        first, self.pull_offset = self.pull_offset, next_offset
        if self._filtered:
            self._advance(next_offset)
            return None
        return self._enter(
            PulledBatch(self.queue, [], next_offset, 0, self, (Hole(first, next_offset - 1, reason),))
        )

    def moved(self, next_offset: int, reason: str, *, reset: bool) -> PulledBatch | None:
        """Book answer 21: the broker moved the queue, by its own limits or (`reset`) on an admin's word."""
        first, self.pull_offset = self.pull_offset, next_offset
        if reset:
            return self.reset(next_offset)
        if next_offset > first:
            hole = Hole(first, next_offset - 1, reason)
            return self._enter(PulledBatch(self.queue, [], next_offset, 0, self, (hole,)))
        # A crash must still find what is being landed.
        return self._rewind(next_offset, min(self.settled_offset, next_offset))

    def reset(self, offset: int) -> PulledBatch:
        """Book an admin's word, which counts at once, forward as well: the batch takes the position along."""
        return self._rewind(offset, offset)

    def _rewind(self, offset: int, settled: int) -> PulledBatch:
        # What was pulled before still lands, but must not carry the committed offset past the new place.
        for batch in self._unsettled:
            batch.void = True
        self.pull_offset, self.settled_offset = offset, settled
        self.acknowledged_offset = None
        return self._enter(PulledBatch(self.queue, [], offset, 0, self, rewound=True))

    def hand_out(self, batch: PulledBatch) -> None:
        self._handed_out += 1

    def settle(self, batch: PulledBatch) -> None:
        """The batch is durable. Settling one twice, or after it was dropped unseen, changes nothing."""
        if batch.settled:
            return
        batch.settled = True
        self._handed_out -= 1
        while self._unsettled and self._unsettled[0].settled:
            head = self._unsettled.popleft()
            self.cached -= len(head.messages)
            if not head.void:
                self.settled_offset = head.next_offset

    def _enter(self, batch: PulledBatch) -> PulledBatch:
        self._unsettled.append(batch)
        self.cached += len(batch.messages)
        return batch

    def _advance(self, next_offset: int) -> None:
        """Nothing of what was passed has to be landed: carry the offset along, behind what still has to."""
        if self._unsettled:
            self._unsettled[-1].next_offset = next_offset
        else:
            self.settled_offset = next_offset

    def _holes(self, messages: list[MessageExt], next_offset: int) -> tuple[Hole, ...]:
        """Offsets between the asked one and the next that no message fills; a tag filter explains any of them."""
        first = self.pull_offset
        if self._filtered or len(messages) == next_offset - first:
            return ()
        holes: list[Hole] = []
        for message in messages:
            if not first <= message.queue_offset < next_offset:
                continue  # a garbled record
            if message.queue_offset > first:
                holes.append(Hole(first, message.queue_offset - 1, "lost at the broker"))
            first = message.queue_offset + 1
        if next_offset > first:
            holes.append(Hole(first, next_offset - 1, "lost at the broker"))
        return tuple(holes)
