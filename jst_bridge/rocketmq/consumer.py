"""A push consumer that hands out batches and takes back settlements.

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
from types import TracebackType
from typing import Any, Final, Literal

from ..errors import (
    ConfigurationError,
    ConnectionFailed,
    CredentialsRefused,
    SourceError,
)
from .assignment import Assignment, PulledBatch
from .background import Background
from .client import Client
from .health import BrokerHealth, Health, QueueHealth, QueueProgress, judge
from .keepalive import Keepalive
from .membership import Membership
from .message import MessageExt, MessageQueue
from .puller import Puller
from .requests import answer_requests
from .route_watch import RouteWatch
from .running_info import Traffic, running_info
from .send_back import MAX_RECONSUME_TIMES, SentBack, send_back
from .settings import ConsumerSettings
from .share import AdjustStart, Share
from .subscription import Subscription
from .watchdog import Watchdog

__all__ = ["Consumer", "ConsumerSettings"]

log = logging.getLogger(__name__)

HEARTBEAT_PERIOD: Final = 30.0
ROUTE_PERIOD: Final = 30.0
ROUTE_PAUSE: Final = 2.0
REBALANCE_PERIOD: Final = 20.0
"""Seconds, as every other client (reference 4.1); a notification rebalances at once."""
REBALANCE_RETRY: Final = 1.0


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
        if settings.mode == "clustering":
            # Messages that a former consumer of the group sent back wait there (reference 2.2).
            self._subscriptions[self._retry_topic] = Subscription(self._retry_topic, version=now)
        start = settings.start_from
        self._membership = Membership(
            self.client,
            settings.group,
            self._subscriptions.values(),
            start if isinstance(start, str) else "time",
            settings.mode,
        )
        self._routes = RouteWatch(self.client, self._subscriptions)
        self._background = Background(self._failed)
        self._share = Share(
            self.client, self._membership, self._subscriptions, start, settings.mode,
            self._background, self._read, self.put,
        )  # fmt: skip
        self._ready: deque[PulledBatch] = deque()
        self._weight = 0
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._rebalance_now = asyncio.Event()
        self._heartbeat_now = asyncio.Event()
        self._routes_now = asyncio.Event()
        self._traffic = Traffic()
        self._started_at = time.time(), time.monotonic()
        self._failure: BaseException | None = None
        self._state: Literal["new", "running", "quiet", "stopped"] = "new"
        answer_requests(self.client, self)

    def adjust_start(self, adjust: AdjustStart) -> None:
        """Have `adjust` awaited for each newly assigned queue: where to start instead.

        It is given the queue, the offset to start at, and the committed offset (None: the group has none).
        In broadcasting the committed offset is always None, and `adjust` is how positions come back: without it
        every start is a first one. A queue that appears while the consumer runs is given its minimum to start at.
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
            if self.settings.mode == "clustering":
                await self._routes.look_for(self._retry_topic)
            complete = await self._share.rebalance()
        except BaseException:
            await self.stop()
            raise
        self._spawn("rebalance", self._rebalance_loop(complete))
        self._spawn("heartbeat", self._heartbeat_loop())
        self._spawn("keepalive", Keepalive(self.client, self._membership).run())
        self._spawn("watchdog", Watchdog(self.client, self._share, self.settings.stall_after).run())
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
        self._background.cancel()
        self._ready.clear()
        self._arrived.set()

    async def stop(self) -> None:
        """Quiesce, commit what is settled, leave the group, close. Idempotent; never raises for a server."""
        if self._state == "stopped":
            return
        self.quiesce()
        self._state = "stopped"
        await self._background.join()
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
            if self._failure is not None:
                raise self._failure
            while not self._ready:
                if self._state != "running":
                    return []
                self._arrived.clear()
                await self._arrived.wait()
                if self._failure is not None:
                    raise self._failure
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
            assignment.last_settled = time.monotonic()
            self._traffic.settled(batch.queue.topic, len(batch.messages))
            self._release(batch.weight)
            if assignment.dropped and self._share.given_away(assignment):
                self._spawn(f"leave {assignment.queue}", self._leave(assignment), endless=False)

    async def commit(self) -> None:
        """Commit what is settled and not yet acknowledged, and wait for the brokers' word. Failures are logged."""
        await self._share.commit()

    async def send_back(
        self,
        message: MessageExt,
        queue: MessageQueue,
        *,
        delay_level: int = 0,
        max_reconsume_times: int = MAX_RECONSUME_TIMES,
    ) -> SentBack:
        """Have a message of a batch of `queue` again later, or make it a dead letter; then settle the batch.

        See `send_back.send_back`. In broadcasting there are no retries: ConfigurationError.
        """
        if self.settings.mode == "broadcasting":
            raise ConfigurationError("in broadcasting a message cannot be sent back: nobody else gets it")
        return await send_back(
            self.client, self.group, message, queue,
            delay_level=delay_level, max_reconsume_times=max_reconsume_times,
        )  # fmt: skip

    def progress(self) -> list[QueueProgress]:
        """The assigned queues, sorted."""
        return [
            QueueProgress(queue, entry.settled_offset, entry.pull_offset, entry.max_offset)
            for queue, entry in sorted(self._share.assignments.items())
        ]

    def health(self) -> Health:
        """How the consumer is; see `Health`. Cheap: nothing is asked of a server."""
        now = time.monotonic()
        queues = [QueueHealth.of(entry, now) for _, entry in sorted(self._share.assignments.items())]
        heard = self._membership.heard
        brokers = [
            BrokerHealth(
                address, self.client.connected(address), now - heard[address] if address in heard else None
            )
            for address in self.client.addresses()
        ]
        reasons = judge(self._state, self._failure, queues, brokers, self._started_at[1])
        return Health(tuple(reasons), tuple(queues), tuple(brokers), tuple(self._background.names))

    # --- what brokers ask: see requests -------------------------------------------------------------

    @property
    def group(self) -> str:
        return self.settings.group

    def members_changed(self) -> None:
        self._rebalance_now.set()

    def reset_offsets(self, offsets: Mapping[MessageQueue, int]) -> None:
        if self._state != "running":
            return
        if [queue for queue, offset in offsets.items() if self._share.reset(queue, offset)]:
            self._spawn("commit of a reset", self.commit(), endless=False)

    def positions(self, topic: str) -> Mapping[MessageQueue, int]:
        return self._share.positions(topic)

    def running_info(self, *, stacks: bool) -> bytes:
        return running_info(
            name_servers=self.settings.client.name_servers,
            namespace=self.client.namespace,
            started_at=self._started_at[0],
            subscriptions=self._subscriptions,
            assignments=self._share.assignments.values(),
            traffic=self._traffic,
            stacks=self._background.stacks() if stacks else None,
        )

    # --- intake: what the pull loops call -----------------------------------------------------------

    def put(self, batch: PulledBatch) -> None:
        self._traffic.pulled(batch.queue.topic, len(batch.messages))
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

    def unreachable(self) -> None:
        self._routes_now.set()

    # --- the share of the queues ----------------------------------------------------------------------------------

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
        puller = Puller(
            self.client, settings.group, subscription, assignment, self, settings.pull_batch,
            commits=settings.mode == "clustering",
        )  # fmt: skip
        return self._background.spawn(f"pull {assignment.queue}", puller.run())

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
            self._traffic.sample()
            for address, error in (await self._membership.heartbeat()).items():
                if isinstance(error, CredentialsRefused):
                    raise error
                log.warning("heartbeat to %s: %s", address, error)

    async def _route_loop(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ROUTE_PERIOD * random.uniform(0.9, 1.1)):
                    await self._routes_now.wait()
            await asyncio.sleep(min(ROUTE_PAUSE, ROUTE_PERIOD))  # however many brokers cannot be reached
            self._routes_now.clear()
            if await self._routes.refresh():
                await self._membership.heartbeat()
                self._rebalance_now.set()

    async def _commit_loop(self) -> None:
        while True:
            await asyncio.sleep(self.settings.commit_period)
            await self.commit()

    # --- tasks --------------------------------------------------------------------------------------

    def _spawn(self, name: str, work: Coroutine[Any, Any, None], *, endless: bool = True) -> None:
        self._background.spawn(f"consumer {name}", work, endless=endless)

    def _failed(self, name: str, error: BaseException) -> None:
        """A background task that ended ends the consumer, loudly: the next `receive` raises its error."""
        if self._failure is None:
            self._failure = error
            if not isinstance(error, SourceError):
                log.error("%s died: %r", name, error, exc_info=error)
        self._arrived.set()
