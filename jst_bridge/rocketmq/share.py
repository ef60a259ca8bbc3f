"""This consumer's share of the queues: taken, read, given away, committed (reference 4.4, 4.5).

In clustering the average of what the members of the group share, in broadcasting every queue, for ever.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Literal, NamedTuple
from weakref import WeakSet

from ..errors import BrokerRefused, CredentialsRefused, DecodeError, JstBridgeError, SourceError
from .allocation import allocate_averagely
from .assignment import Assignment, PulledBatch
from .background import Background
from .client import Client
from .handover import Absences, committed_at_rest, of_living_members
from .membership import Membership
from .message import MessageQueue
from .offsets import commit_offset, committed_offset, max_offset, min_offset, offset_at
from .subscription import Subscription

__all__ = ["AdjustStart", "Mode", "Share"]

log = logging.getLogger(__name__)

Mode = Literal["clustering", "broadcasting"]
Read = Callable[[Subscription, Assignment], asyncio.Task[None]]
AdjustStart = Callable[[MessageQueue, int, int | None], Awaitable[int]]


async def _as_given(queue: MessageQueue, start: int, committed: int | None) -> int:
    return start


class _Unlearned(NamedTuple):
    """Why a queue's start is not known yet, told once, and since when, in epoch ms."""

    kind: object
    since: int


class Share:
    """Who reads what is decided in `rebalance`, which runs in one task only: so each queue has one reader."""

    def __init__(
        self,
        client: Client,
        membership: Membership,
        subscriptions: Mapping[str, Subscription],
        start_from: Literal["first", "last"] | int,
        mode: Mode,
        background: Background,
        read: Read,
        put: Callable[[PulledBatch], None],
    ) -> None:
        """`read` starts the task, in `background`, that reads one assignment; `put` hands over a batch."""
        self.assignments: dict[MessageQueue, Assignment] = {}
        self.adjust_start: AdjustStart = _as_given
        self._client = client
        self._membership = membership
        self._group = membership.group
        self._subscriptions = subscriptions
        self._start_from = start_from
        self._broadcasting = mode == "broadcasting"
        self._background = background
        self._read = read
        self._put = put
        self._readers: dict[Assignment, asyncio.Task[None]] = {}
        self._leaving: set[Assignment] = set()
        """Taken away while a batch of theirs was handed out: committed once more when it is settled."""
        self._first_seen: dict[str, frozenset[MessageQueue]] = {}
        """Topic -> the queues it had when we began to read it: any other was added under our eyes."""
        self._absences = Absences()
        self._members: dict[str, set[str]] = {}
        """Topic -> the group's members when its queues were shared out last."""
        self._handed_over: set[MessageQueue] = set()
        """Queues that other members, who still live, give up in this round."""
        self._uncommitted: WeakSet[Assignment] = WeakSet()
        """Those whose last commit failed: told once."""
        self._starting: dict[MessageQueue, int | None] = {}
        """Queues whose start is being learned -> where an admin wants them meanwhile."""
        self._unlearned: dict[MessageQueue, _Unlearned] = {}

    async def rebalance(self) -> bool:
        """One round over all topics; runs in one task only. False: something is left for a round soon."""
        complete = True
        for topic in self._subscriptions:
            route = self._client.routes.get(topic)
            if route is None:
                continue
            queues = route.read_queues()
            mine = await self._mine(queues)
            if mine is None:
                complete = False  # and what we have is kept
                continue
            self._first_seen.setdefault(topic, frozenset(queues))
            if self._broadcasting:
                mine |= {queue for queue in self.assignments if queue.topic == topic}  # none is ever given up
            kept = mine | self._absences.among(route, self.assignments)
            lost = [queue for queue in self.assignments if queue.topic == topic and queue not in kept]
            await asyncio.gather(*(self._revoke(queue) for queue in lost))
            complete &= await self._assign(topic, sorted(mine - self.assignments.keys()), queues)
        return complete

    async def _mine(self, queues: list[MessageQueue]) -> set[MessageQueue] | None:
        """Which of a topic's queues this consumer is to read; None when that cannot be said now."""
        if not queues or self._broadcasting:
            return set(queues) or None
        members = await self._membership.members(sorted({queue.broker for queue in queues}))
        if members is None:
            return None
        if self._client.client_id not in members:
            await self._membership.heartbeat()  # the broker forgot us: say that we live
            return None
        me, topic = self._client.client_id, queues[0].topic
        before, self._members[topic] = self._members.get(topic, members - {me}), members
        self._handed_over = of_living_members(queues, before, members, me)
        return set(allocate_averagely(queues, members, me))

    async def _assign(self, topic: str, queues: list[MessageQueue], all_queues: list[MessageQueue]) -> bool:
        """Start to read these queues. False when the start of one could not be learned, or its old life ends first."""
        ending = {assignment.queue for assignment in self._leaving}
        wanted = [queue for queue in queues if queue not in ending]
        others = {queue: told for queue, told in self._starting.items() if queue.topic != topic}
        self._starting = others | {queue: self._starting.get(queue) for queue in wanted}
        self._unlearned = {
            queue: why for queue, why in self._unlearned.items() if queue.topic != topic or queue in wanted
        }
        offsets = await asyncio.gather(
            *(self._start_offset(queue, all_queues) for queue in wanted), return_exceptions=True
        )
        complete = len(wanted) == len(queues)
        subscription = self._subscriptions[topic]
        for queue, found in zip(wanted, offsets, strict=True):
            if isinstance(found, (SourceError, DecodeError)) and not isinstance(found, CredentialsRefused):
                self._not_learned(queue, found)
                complete = False
                continue
            if isinstance(found, BaseException):
                raise found
            try:
                offset = await self.adjust_start(queue, *found)
            except JstBridgeError as error:
                if not error.retriable:
                    raise
                self._not_learned(queue, error)
                complete = False
                continue
            assignment = Assignment(queue, offset, filtered=bool(subscription.tags))
            self._readers[assignment] = self._read(subscription, assignment)
            self.assignments[queue] = assignment
            self._unlearned.pop(queue, None)
            log.info("reading %s from %d", queue, offset)
            if (told := self._starting.pop(queue)) is not None:
                self.reset(queue, told)
        return complete

    async def _start_offset(
        self, queue: MessageQueue, all_queues: list[MessageQueue]
    ) -> tuple[int, int | None]:
        """Where to start, and what is committed (reference 4.5). A failure is never 0."""
        if not self._broadcasting:
            ask = partial(committed_offset, self._client, self._group, queue)
            committed = await (committed_at_rest(ask) if queue in self._handed_over else ask())
            if committed is not None:
                return committed, committed
        return await self._first_start(queue, all_queues), None

    async def _first_start(self, queue: MessageQueue, all_queues: list[MessageQueue]) -> int:
        """Where to start a queue without a committed offset: what the settings say."""
        start = self._start_from
        if start == "first":
            return await min_offset(self._client, queue)
        # A queue that was added later belongs to a group that reads already: from its beginning.
        added = queue.topic.startswith("%RETRY%") or queue not in self._first_seen[queue.topic]
        for other in () if self._broadcasting else all_queues:
            if not added and other != queue:
                added = await committed_offset(self._client, self._group, other) is not None
        if added:
            return await min_offset(self._client, queue)
        if start == "last" and queue in self._unlearned:
            start = self._unlearned[queue].since  # the end has moved on, and what came meanwhile is wanted
        if start == "last":
            return await max_offset(self._client, queue)
        return await offset_at(self._client, queue, start)

    def _not_learned(self, queue: MessageQueue, error: JstBridgeError) -> None:
        """It is tried again every second; told once for each new kind of trouble."""
        kind = error.code if isinstance(error, BrokerRefused) else type(error)
        known = self._unlearned.get(queue)
        if known is None or known.kind != kind:
            log.warning("where to start %s cannot be learned yet: %s", queue, error)
        self._unlearned[queue] = _Unlearned(kind, known.since if known else int(time.time() * 1000))

    async def _revoke(self, queue: MessageQueue) -> None:
        """Give a queue away: no further pull; what was handed out is settled first, then one last commit."""
        assignment = self.assignments.pop(queue)
        assignment.dropped = True
        self._background.cancel(self._readers.pop(assignment))
        log.info("no longer reading %s, settled up to %d", queue, assignment.settled_offset)
        if assignment.in_flight:
            self._leaving.add(assignment)
        else:
            await self._commit(assignment)

    def given_away(self, assignment: Assignment) -> bool:
        """Whether it was taken away meanwhile, and everything handed out is settled: time for `leave`."""
        return assignment in self._leaving and not assignment.in_flight

    async def leave(self, assignment: Assignment) -> None:
        """The last commit of a queue that was taken away, unless its new owner is further by now.

        What lies between the question and the commit, a few ms, cannot be ruled out: the broker takes any value.
        The new owner's next pull carries its own offset again.
        """
        try:
            committed = await committed_offset(self._client, self._group, assignment.queue)
        except (SourceError, DecodeError) as error:
            log.warning("the last offset of %s is not committed: %s", assignment.queue, error)
        else:
            if committed is None or committed < assignment.settled_offset:
                await self._commit(assignment)
        self._leaving.discard(assignment)

    async def commit(self) -> None:
        """Commit what is settled and not yet acknowledged, and wait for the brokers' word. Failures are logged.

        Does nothing in broadcasting, where no broker knows of positions.
        """
        if self._broadcasting:
            return
        kept = [self._commit(entry) for entry in self.assignments.values() if entry.uncommitted]
        # A lost queue whose last batch was settled: its own task may have been cancelled by a stop.
        lost = [self.leave(entry) for entry in self._leaving if not entry.in_flight and entry.uncommitted]
        await asyncio.gather(*kept, *lost)

    def reset(self, queue: MessageQueue, offset: int) -> bool:
        """An admin moves a queue (reference 2.13). False when it is not ours.

        Its pull in flight is abandoned, so no old message can overwrite the new place; what was pulled before still
        lands, but carries no offset.
        """
        if queue in self._starting:
            self._starting[queue] = offset
            return True
        # One that is being given away must not be committed past the reset: the new owner is told as well.
        self._leaving = {entry for entry in self._leaving if entry.queue != queue}
        assignment = self.assignments.get(queue)
        if assignment is None:
            return False
        log.warning("an admin moved %s from %d to %d", queue, assignment.pull_offset, offset)
        self._put(assignment.reset(offset))
        self.read_anew(assignment)
        return True

    def read_anew(self, assignment: Assignment) -> None:
        """Have one of our queues read by a new task in place of the present one, from where it is."""
        self._background.cancel(self._readers[assignment])
        self._readers[assignment] = self._read(self._subscriptions[assignment.queue.topic], assignment)

    def positions(self, topic: str) -> dict[MessageQueue, int]:
        """The settled offset of each of our queues of a topic."""
        return {
            queue: entry.settled_offset for queue, entry in self.assignments.items() if queue.topic == topic
        }

    def clear(self) -> None:
        """Forget everything, at the end."""
        self.assignments.clear()
        self._readers.clear()
        self._leaving.clear()

    async def _commit(self, assignment: Assignment) -> None:
        """One at a time: of two under way a broker may do the later one first, and keep the lower offset.

        Whoever is cancelled meanwhile, as by a stop: what was sent is waited for before the next is.
        """
        await asyncio.shield(self._commit_in_turn(assignment))

    async def _commit_in_turn(self, assignment: Assignment) -> None:
        async with assignment.committing:
            offset = assignment.settled_offset
            if assignment.acknowledged_offset == offset:
                return
            try:
                await commit_offset(self._client, self._group, assignment.queue, offset)
            except SourceError as error:
                # Unknown outcome counts as failed: it is sent again, and messages that come again are absorbed.
                outcome = (
                    "was not taken" if isinstance(error, BrokerRefused) else "is not known to be committed"
                )
                level = logging.DEBUG if assignment in self._uncommitted else logging.WARNING
                log.log(level, "offset %d of %s %s: %s", offset, assignment.queue, outcome, error)
                self._uncommitted.add(assignment)
            else:
                assignment.acknowledged_offset = offset
                self._uncommitted.discard(assignment)
