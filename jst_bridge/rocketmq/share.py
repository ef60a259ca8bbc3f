"""This member's share of the group's queues: taken, read, given away, committed (reference 4.4, 4.5)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Literal

from ..errors import BrokerRefused, CredentialsRefused, DecodeError, JstBridgeError, SourceError
from .allocation import allocate_averagely
from .assignment import Assignment
from .client import Client
from .membership import Membership
from .message import MessageQueue
from .offsets import commit_offset, committed_offset, max_offset, min_offset, offset_at
from .subscription import Subscription

__all__ = ["AdjustStart", "Share"]

log = logging.getLogger(__name__)

Read = Callable[[Subscription, Assignment], asyncio.Task[None]]
AdjustStart = Callable[[MessageQueue, int, int | None], Awaitable[int]]


async def _as_given(queue: MessageQueue, start: int, committed: int | None) -> int:
    return start


class Share:
    """Who reads what is decided in `rebalance`, which runs in one task only: so each queue has one reader."""

    def __init__(
        self,
        client: Client,
        membership: Membership,
        subscriptions: Mapping[str, Subscription],
        start_from: Literal["first", "last"] | int,
        read: Read,
    ) -> None:
        """`read` starts the task that reads one assignment."""
        self.assignments: dict[MessageQueue, Assignment] = {}
        self.adjust_start: AdjustStart = _as_given
        self._client = client
        self._membership = membership
        self._group = membership.group
        self._subscriptions = subscriptions
        self._start_from = start_from
        self._read = read
        self._readers: dict[Assignment, asyncio.Task[None]] = {}
        self._leaving: set[Assignment] = set()
        """Taken away while a batch of theirs was handed out: committed once more when it is settled."""

    @property
    def readers(self) -> list[asyncio.Task[None]]:
        return list(self._readers.values())

    async def rebalance(self) -> bool:
        """One round over all topics; runs in one task only. False: something is left for a round soon."""
        complete = True
        for topic in self._subscriptions:
            route = self._client.routes.get(topic)
            if route is None:
                continue
            queues = route.read_queues()
            members = await self._membership.members(sorted({queue.broker for queue in queues}))
            if members is None or not queues:
                complete = False
                continue
            if self._client.client_id not in members:
                # The broker forgot us: say that we live, and keep what we have.
                await self._membership.heartbeat()
                complete = False
                continue
            mine = set(allocate_averagely(queues, members, self._client.client_id))
            lost = [queue for queue in self.assignments if queue.topic == topic and queue not in mine]
            await asyncio.gather(*(self._revoke(queue) for queue in lost))
            complete &= await self._assign(topic, sorted(mine - self.assignments.keys()), queues)
        return complete

    async def _assign(self, topic: str, queues: list[MessageQueue], all_queues: list[MessageQueue]) -> bool:
        """Start to read these queues. False when the start of one could not be learned, or its old life ends first."""
        ending = {assignment.queue for assignment in self._leaving}
        wanted = [queue for queue in queues if queue not in ending]
        offsets = await asyncio.gather(
            *(self._start_offset(queue, all_queues) for queue in wanted), return_exceptions=True
        )
        complete = len(wanted) == len(queues)
        subscription = self._subscriptions[topic]
        for queue, found in zip(wanted, offsets, strict=True):
            if isinstance(found, (SourceError, DecodeError)) and not isinstance(found, CredentialsRefused):
                log.warning("where to start %s cannot be learned yet: %s", queue, found)
                complete = False
                continue
            if isinstance(found, BaseException):
                raise found
            try:
                offset = await self.adjust_start(queue, *found)
            except JstBridgeError as error:
                if not error.retriable:
                    raise
                log.warning("where to start %s cannot be learned yet: %s", queue, error)
                complete = False
                continue
            assignment = Assignment(queue, offset, filtered=bool(subscription.tags))
            self._readers[assignment] = self._read(subscription, assignment)
            self.assignments[queue] = assignment
            log.info("reading %s from %d", queue, offset)
        return complete

    async def _start_offset(
        self, queue: MessageQueue, all_queues: list[MessageQueue]
    ) -> tuple[int, int | None]:
        """Where to start, and what is committed (reference 4.5). A failure is never 0."""
        committed = await committed_offset(self._client, self._group, queue)
        if committed is not None:
            return committed, committed
        return await self._first_start(queue, all_queues), None

    async def _first_start(self, queue: MessageQueue, all_queues: list[MessageQueue]) -> int:
        """Where to start a queue without a committed offset: what the settings say."""
        start = self._start_from
        if start == "first":
            return await min_offset(self._client, queue)
        others = (other for other in all_queues if other != queue)
        known = queue.topic.startswith("%RETRY%")
        for other in others:
            # A queue that was added later belongs to a group that reads already: from its beginning.
            known = known or await committed_offset(self._client, self._group, other) is not None
        if known:
            return await min_offset(self._client, queue)
        if start == "last":
            return await max_offset(self._client, queue)
        return await offset_at(self._client, queue, start)

    async def _revoke(self, queue: MessageQueue) -> None:
        """Give a queue away: no further pull; what was handed out is settled first, then one last commit."""
        assignment = self.assignments.pop(queue)
        assignment.dropped = True
        self._readers.pop(assignment).cancel()
        log.info("no longer reading %s, settled up to %d", queue, assignment.settled_offset)
        if assignment.in_flight:
            self._leaving.add(assignment)
        else:
            await self._commit(assignment)

    def given_away(self, assignment: Assignment) -> bool:
        """Whether it was taken away meanwhile, and everything handed out is settled: time for `leave`."""
        return assignment in self._leaving and not assignment.in_flight

    async def leave(self, assignment: Assignment) -> None:
        """The last commit of a queue that was taken away."""
        await self._commit(assignment)
        self._leaving.discard(assignment)

    async def commit(self) -> None:
        """Commit what is settled and not yet acknowledged, and wait for the brokers' word. Failures are logged."""
        # A lost queue whose last batch was settled: its own task may have been cancelled by a stop.
        assignments = [*self.assignments.values(), *(entry for entry in self._leaving if not entry.in_flight)]
        await asyncio.gather(*(self._commit(entry) for entry in assignments if entry.uncommitted))

    def clear(self) -> None:
        """Forget everything, at the end."""
        self.assignments.clear()
        self._readers.clear()
        self._leaving.clear()

    async def _commit(self, assignment: Assignment) -> None:
        offset = assignment.settled_offset
        if assignment.acknowledged_offset == offset:
            return
        try:
            await commit_offset(self._client, self._group, assignment.queue, offset)
        except BrokerRefused as error:
            log.warning("offset %d of %s was not taken: %s", offset, assignment.queue, error)
        except SourceError as error:
            # Unknown outcome counts as failed: it is sent again, and messages that come again are absorbed.
            log.warning("offset %d of %s is not known to be committed: %s", offset, assignment.queue, error)
        else:
            assignment.acknowledged_offset = offset
