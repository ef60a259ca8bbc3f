"""A clustering consumer that hands out batches and takes back settlements.

async with Consumer(ConsumerSettings(client, group="GID_x", subscriptions={"topic": "*"})) as consumer:
    while batches := await consumer.receive():
        ...                       # make them durable
        consumer.settle(batches)  # only now may the committed offset pass them
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections import deque
from collections.abc import Coroutine, Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Literal

from ..errors import (
    ConfigurationError,
    ConnectionFailed,
    CredentialsRefused,
    DecodeError,
    SourceError,
)
from .assignment import Assignment, PulledBatch
from .client import Client, ClientSettings
from .codes import Request
from .connection import Connection
from .frame import Frame
from .membership import Membership
from .message import MessageQueue
from .puller import Puller
from .share import AdjustStart, Share
from .subscription import Subscription

__all__ = ["Consumer", "ConsumerSettings", "QueueProgress"]

log = logging.getLogger(__name__)

HEARTBEAT_PERIOD: Final = 30.0
ROUTE_PERIOD: Final = 30.0
REBALANCE_PERIOD: Final = 20.0
"""Seconds, as every other client (reference 4.1); a notification rebalances at once."""
REBALANCE_RETRY: Final = 1.0
MAX_GROUP: Final = 120
"""Characters: longer names lose their retries on 4.9 brokers (reference 2.10)."""


@dataclass(frozen=True, slots=True)
class ConsumerSettings:
    """What to read, as whom, and how much of it to hold. Times in seconds."""

    client: ClientSettings
    group: str
    subscriptions: Mapping[str, str]
    """Topic -> tag expression (`*`, or `A || B`)."""
    start_from: Literal["first", "last"] | int = "first"
    """Where a group without any committed offset on a topic begins; an int is a store time in epoch ms."""
    pull_batch: int = 32
    """Messages asked for in one pull; most brokers give at most 32."""
    queue_limit: int = 4096
    """Messages of one queue cached, from pull to settlement."""
    memory_limit: int = 12 * 1024 * 1024
    """Bytes of all queues cached, from pull to settlement, with what a message takes beside its body."""
    commit_period: float = 5.0

    def __post_init__(self) -> None:
        if not self.subscriptions:
            raise ConfigurationError("a consumer needs at least one topic to subscribe")
        if not 0 < len(self.group.encode()) <= MAX_GROUP:
            raise ConfigurationError(
                f"a consumer group's name has 1 to {MAX_GROUP} characters: {self.group!r}"
            )


@dataclass(frozen=True, slots=True)
class QueueProgress:
    """How far one assigned queue is."""

    queue: MessageQueue
    settled: int
    pulled: int
    end: int
    """The broker's maximum offset when the last pull was answered."""


class Consumer:
    """One member of a consumer group. Start, receive, settle, stop; an `async with` starts and stops."""

    def __init__(self, settings: ConsumerSettings) -> None:
        self.settings = settings
        self.client = Client(settings.client)
        now = int(time.time() * 1000)
        self._retry_topic = f"%RETRY%{settings.group}"
        self._subscriptions = {
            topic: Subscription(topic, expression, now)
            for topic, expression in settings.subscriptions.items()
        }
        # Messages that a former consumer of the group sent back wait there (reference 2.2).
        self._subscriptions[self._retry_topic] = Subscription(self._retry_topic, version=now)
        start = settings.start_from
        self._membership = Membership(
            self.client,
            settings.group,
            self._subscriptions.values(),
            start if isinstance(start, str) else "time",
        )
        self._share = Share(self.client, self._membership, self._subscriptions, start, self._read)
        self._ready: deque[PulledBatch] = deque()
        self._weight = 0
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._rebalance_now = asyncio.Event()
        self._heartbeat_now = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None
        self._state: Literal["new", "running", "quiet", "stopped"] = "new"
        self.client.handlers[Request.NOTIFY_CONSUMER_IDS_CHANGED] = self._members_changed

    def adjust_start(self, adjust: AdjustStart) -> None:
        """Have `adjust` awaited for each newly assigned queue: where to start instead.

        It is given the queue, the offset to start at, and the committed offset (None: the group has none).
        """
        self._share.adjust_start = adjust

    # --- life ---------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Find the topics, join the group, begin to pull.

        Raises TopicNotFound, ConnectionFailed (no name server, or none of the brokers), CredentialsRefused.
        """
        if self._state != "new":
            raise ConfigurationError("a Consumer is started once; make a new one")
        self._state = "running"
        try:
            for topic in self.settings.subscriptions:
                await self.client.fetch_route(topic)
            await self._join()
            await self._look_for_retry_topic()
            complete = await self._share.rebalance()
        except BaseException:
            await self.stop()
            raise
        self._spawn("rebalance", self._rebalance_loop(complete))
        self._spawn("heartbeat", self._heartbeat_loop())
        self._spawn("routes", self._route_loop())
        self._spawn("commit", self._commit_loop())

    async def _join(self) -> None:
        failures = await self._membership.heartbeat()
        for error in failures.values():
            if isinstance(error, CredentialsRefused):
                raise error
        if len(failures) == len(self.client.addresses()):
            raise ConnectionFailed(
                "no broker of the topic can be reached: "
                + "; ".join(str(error) for error in failures.values()),
                remedy="the name server advertises these addresses: this host must be able to reach them "
                "(brokerIP1 of the broker, security group, VPC)",
            )
        for address, error in failures.items():
            log.warning("broker %s is left out until it answers: %s", address, error)

    def quiesce(self) -> None:
        """Stop pulling and rebalancing; what was handed out may still be settled. `receive` returns nothing more."""
        if self._state in ("new", "running"):
            self._state = "quiet"
        for task in self._background():
            task.cancel()
        self._ready.clear()
        self._arrived.set()

    def _background(self) -> list[asyncio.Task[None]]:
        return [*self._tasks, *self._share.readers]

    async def stop(self) -> None:
        """Quiesce, commit what is settled, leave the group, close. Idempotent; never raises for a server."""
        if self._state == "stopped":
            return
        self.quiesce()
        self._state = "stopped"
        await asyncio.gather(*self._background(), return_exceptions=True)
        await self.commit()
        await self._membership.leave()
        await self.client.close()
        self._share.clear()

    async def __aenter__(self) -> Consumer:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    # --- the hot path -------------------------------------------------------------------------------

    async def receive(
        self, *, max_messages: int = 2000, max_bytes: int = 4 * 1024 * 1024
    ) -> list[PulledBatch]:
        """Wait until something arrived; return what is there, oldest first, within the limits (at least one batch).

        Returns an empty list once quiesced or stopped. Raises what ended the consumer's background work.
        """
        batches: list[PulledBatch] = []
        messages = size = 0
        while not batches:
            while not self._ready:
                if self._failure is not None:
                    raise self._failure
                if self._state != "running":
                    return []
                self._arrived.clear()
                await self._arrived.wait()
            while self._ready:
                batch = self._ready[0]
                if batches and (
                    messages + len(batch.messages) > max_messages or size + batch.size > max_bytes
                ):
                    break
                self._ready.popleft()
                if batch.assignment.dropped:
                    self._release(batch.weight)
                    continue
                batch.assignment.hand_out(batch)
                batches.append(batch)
                messages += len(batch.messages)
                size += batch.size
        return batches

    @property
    def waiting(self) -> bool:
        """Whether something can be received without waiting."""
        return bool(self._ready)

    def settle(self, batches: Iterable[PulledBatch]) -> None:
        """These batches are durable: the committed offset may pass them, and their memory is free."""
        for batch in batches:
            if batch.settled:
                continue
            assignment = batch.assignment
            assignment.settle(batch)
            self._release(batch.weight)
            if assignment.dropped and self._share.given_away(assignment):
                self._spawn(f"leave {assignment.queue}", self._leave(assignment))

    async def commit(self) -> None:
        """Commit what is settled and not yet acknowledged, and wait for the brokers' word. Failures are logged."""
        await self._share.commit()

    def progress(self) -> list[QueueProgress]:
        """The assigned queues, sorted."""
        return [
            QueueProgress(queue, entry.settled_offset, entry.pull_offset, entry.max_offset)
            for queue, entry in sorted(self._share.assignments.items())
        ]

    # --- intake: what the pull loops call -----------------------------------------------------------

    def put(self, batch: PulledBatch) -> None:
        self._weight += batch.weight
        self._ready.append(batch)
        self._arrived.set()

    async def room(self, assignment: Assignment) -> None:
        while self._weight > self.settings.memory_limit or assignment.cached > self.settings.queue_limit:
            self._room.clear()
            await self._room.wait()

    def _release(self, weight: int) -> None:
        self._weight -= weight
        self._room.set()

    def unregistered(self) -> None:
        self._heartbeat_now.set()

    # --- the share of the queues ----------------------------------------------------------------------------------

    def _members_changed(self, connection: Connection, frame: Frame) -> None:
        if frame.ext.get("consumerGroup", self.settings.group) == self.settings.group:
            self._rebalance_now.set()

    async def _rebalance_loop(self, complete: bool) -> None:
        pause = REBALANCE_PERIOD if complete else REBALANCE_RETRY
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._rebalance_now.wait()
            self._rebalance_now.clear()
            pause = REBALANCE_PERIOD if await self._share.rebalance() else REBALANCE_RETRY

    def _read(self, subscription: Subscription, assignment: Assignment) -> asyncio.Task[None]:
        settings = self.settings
        puller = Puller(self.client, settings.group, subscription, assignment, self, settings.pull_batch)
        task = asyncio.create_task(puller.run(), name=f"pull {assignment.queue}")
        task.add_done_callback(self._ended)
        return task

    async def _leave(self, assignment: Assignment) -> None:
        await self._share.leave(assignment)
        self._rebalance_now.set()  # the queue may have come back meanwhile

    # --- keeping up ---------------------------------------------------------------------------------

    async def _heartbeat_loop(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT_PERIOD):
                    await self._heartbeat_now.wait()
            self._heartbeat_now.clear()
            for address, error in (await self._membership.heartbeat()).items():
                if isinstance(error, CredentialsRefused):
                    raise error
                log.warning("heartbeat to %s: %s", address, error)

    async def _route_loop(self) -> None:
        while True:
            await asyncio.sleep(ROUTE_PERIOD * random.uniform(0.9, 1.1))
            changed = [await self._refresh_route(topic) for topic in self._subscriptions]
            if any(changed):
                await self._membership.heartbeat()
                self._rebalance_now.set()

    async def _refresh_route(self, topic: str) -> bool:
        """Whether it changed. A name server that knows nothing now changes nothing: it may have restarted."""
        before = self.client.routes.get(topic)
        try:
            return await self.client.fetch_route(topic) != before
        except (SourceError, DecodeError) as error:
            level = logging.DEBUG if topic == self._retry_topic else logging.WARNING
            log.log(level, "route of %s kept as it was: %s", topic, error)
            return False

    async def _look_for_retry_topic(self) -> None:
        """The first heartbeat of a group makes its retry topic; the name server knows it a few ms later."""
        for pause in (0.0, 0.01, 0.05):
            await asyncio.sleep(pause)
            if await self._refresh_route(self._retry_topic):
                return

    async def _commit_loop(self) -> None:
        while True:
            await asyncio.sleep(self.settings.commit_period)
            await self.commit()

    # --- tasks --------------------------------------------------------------------------------------

    def _spawn(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name=f"consumer {name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A background task that dies ends the consumer, loudly: the next `receive` raises its error."""
        if task.cancelled():
            return
        error = task.exception()
        if error is not None and self._failure is None:
            self._failure = error
            if not isinstance(error, SourceError):
                log.error("%s died: %r", task.get_name(), error, exc_info=error)
        self._arrived.set()
