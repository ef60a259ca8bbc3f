"""The loop of the bridge: receive, decode, land, and only then settle.

    source ──batches──▶ decode ──▶ store.land ──commit──▶ source.settle
                          └─undecodable──▶ dead letter (same transaction)

Decoding and landing run in one worker thread, the sources on the event loop: while one transaction commits, the
next batches gather, so that a lone message lands at once and a flood lands in large transactions.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol

from .errors import CredentialsRefused, DecodeError, SourceError, StoreUnavailable, UndecodableError
from .ports import Batch, DeadLetter, Delivery, Landed, Landing, Message, Position, QueueKey, Source, Store
from .worker import Worker

__all__ = ["Bridge", "BridgeSettings", "Decode"]

log = logging.getLogger(__name__)

RETRY_FIRST: Final = 0.1
RETRY_LAST: Final = 5.0
"""Seconds between tries while the store is down."""
LETTERS_SHOWN: Final = 5
"""Log lines about dead letters per landing at most: a producer gone mad must not fill the log's disk."""


class Decode(Protocol):
    """Types one delivery. Raises UndecodableError and nothing else."""

    def decode(self, delivery: Delivery) -> Message: ...


@dataclass(frozen=True, slots=True)
class BridgeSettings:
    """Times in seconds."""

    stop_deadline: float = 10.0
    """How long a stop waits for the landing in flight."""
    leave_after: float = 60.0
    """How long the store may be down before the group is left to healthy members."""


class Bridge:
    """Serves its sources into one store until it is told to stop, or one of them fails."""

    def __init__(
        self,
        sources: Sequence[Source],
        decoders: Mapping[str, Decode],
        store: Store,
        worker: Worker,
        settings: BridgeSettings | None = None,
        *,
        chores: Sequence[Callable[[], Coroutine[Any, Any, None]]] = (),
    ) -> None:
        """`chores` run beside the sources until the bridge stops; one that ends before that ends the bridge."""
        self.total = Landed()
        """What was landed so far; grows while the bridge runs."""
        self.store_down_since: float | None = None
        """time.monotonic() of the first failure, None while the store is well."""
        self._sources = sources
        self._decoders = decoders
        self._store = store
        self._worker = worker
        self._settings = settings or BridgeSettings()
        self._chores = chores
        self.interrupted = False
        """Whether it was a signal that asked it to stop."""
        self._stopping = asyncio.Event()
        self._landed: dict[QueueKey, int] = {}
        """The position of each queue in the store, as of its last landing."""
        self._remedies: set[str] = set()
        """Those that were logged since the store is down."""
        self._doubted: set[str] = set()
        """Sources that the store failed, and that have not compared it with `_landed` since."""

    @property
    def stopping(self) -> bool:
        return self._stopping.is_set()

    def interrupt(self) -> None:
        """Stop, because somebody outside asked for it."""
        self.interrupted = True
        self.stop()

    def stop(self) -> None:
        """Ask it to stop: no more fetching, what is being landed is finished and committed. Returns at once."""
        self._stopping.set()
        for source in self._sources:
            source.quiesce()

    async def run(self) -> Landed:
        """Serve until `stop`. Raises what ended a source or the store. Either way every source is stopped first."""
        try:
            for source in self._sources:
                await source.start()
            await self._serve_all()
        finally:
            self.stop()
            await asyncio.gather(*(source.stop() for source in self._sources))
        return self.total

    async def _serve_all(self) -> None:
        serving = [
            asyncio.create_task(self._serve(source), name=f"serve {source.name}") for source in self._sources
        ]
        others = [asyncio.create_task(chore(), name="chore") for chore in self._chores]
        others.append(asyncio.create_task(self._wait_for_stop(), name="wait for stop"))
        try:
            await asyncio.wait([*serving, *others], return_when=asyncio.FIRST_COMPLETED)
            self.stop()
            for task in others:
                task.cancel()
            _, late = await asyncio.wait(serving, timeout=self._settings.stop_deadline)
            if late:
                log.warning(
                    "the landing in flight did not end within %g s: it is not committed and will come again",
                    self._settings.stop_deadline,
                )
        finally:
            for task in (*serving, *others):
                task.cancel()
            outcomes = await asyncio.gather(*serving, *others, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome

    async def _wait_for_stop(self) -> None:
        await self._stopping.wait()

    async def _serve(self, source: Source) -> None:
        decoder = self._decoders[source.name]
        while batches := await source.receive():
            landing = await self._worker.call(lambda: compose(decoder, batches))
            if await self._land(source, landing):
                source.settle(batches)

    async def _land(self, source: Source, landing: Landing) -> bool:
        """Land until it is durable. False: the group was left meanwhile, so there is nothing to settle."""
        left_group = False
        pause = RETRY_FIRST
        while True:
            try:
                if source.name in self._doubted and await self._went_back(source):
                    self._store_is_well()
                    await source.stop()
                    await self._rejoin(source)
                    return False
                landed = await self._worker.call(lambda: self._store.land(landing))
            except StoreUnavailable as error:
                down = self._store_failed(error)
                if down > self._settings.leave_after and not left_group:
                    log.error(
                        "the store is down for %.0f s: source %s leaves its consumer group until it is back",
                        down, source.name,
                    )  # fmt: skip
                    await source.stop()
                    left_group = True
                await asyncio.sleep(pause * random.uniform(0.7, 1.0))
                pause = min(RETRY_LAST, pause * 2)
            else:
                self._store_is_well()
                self._landed.update((position.queue, position.offset) for position in landing.positions)
                self._count(source, landing, landed)
                if left_group:
                    await self._rejoin(source)
                return not left_group

    async def _went_back(self, source: Source) -> bool:
        """After a failure: whether the store holds less of the source than was landed into it.

        Then it was replaced, or restored from a copy, and landing what is at hand would put its positions beyond what
        it lost: the source has to start again, where the positions are looked at.
        """
        known = {queue: offset for queue, offset in self._landed.items() if queue.source == source.name}
        stored: dict[QueueKey, int] = {}
        for reader in {queue[:3] for queue in known}:
            stored |= await self._worker.call(partial(self._store.positions, *reader))
        self._doubted.discard(source.name)
        behind = [queue for queue, offset in known.items() if stored.get(queue, -1) < offset]
        if not behind:
            return False
        log.warning(
            "the store lacks what was landed into it, in %d queues of source %s: it was replaced, or restored from a "
            "copy; the source starts again",
            len(behind), source.name,
        )  # fmt: skip
        for queue in known:
            del self._landed[queue]
        return True

    async def _rejoin(self, source: Source) -> None:
        """Start a source that left its group. A server that is away, or has no route yet, is no reason to end."""
        pause = RETRY_FIRST
        while not self._stopping.is_set():
            try:
                await source.start()
            except CredentialsRefused:
                raise
            except (SourceError, DecodeError) as error:
                log.warning("source %s cannot rejoin its consumer group yet: %s", source.name, error)
                await asyncio.sleep(pause * random.uniform(0.7, 1.0))
                pause = min(RETRY_LAST, pause * 2)
            else:
                log.warning("source %s rejoined its consumer group", source.name)
                return

    def _count(self, source: Source, landing: Landing, landed: Landed) -> None:
        self.total.add(landed)
        for gap in landing.gaps:
            log.error(
                "gap: offsets %d to %d of queue %d of %s on %s were never landed: %s",
                gap.first, gap.last, gap.queue.queue_id, gap.queue.system_topic, gap.queue.broker, gap.reason,
            )  # fmt: skip
        for letter in landing.dead_letters[:LETTERS_SHOWN]:
            log.warning(
                "dead letter from source %s: %s (%s), transport id %s, tag %s",
                source.name, letter.reason, letter.detail, letter.delivery.transport_id, letter.delivery.tag,
            )  # fmt: skip
        if len(landing.dead_letters) > LETTERS_SHOWN:
            log.warning(
                "and %d more dead letters from source %s: see the table dead_letters",
                len(landing.dead_letters) - LETTERS_SHOWN, source.name,
            )  # fmt: skip

    def _store_failed(self, error: StoreUnavailable) -> float:
        """Say it once per remedy; return the seconds it lasts."""
        now = time.monotonic()
        self._doubted.update(source.name for source in self._sources)
        if self.store_down_since is None:
            self.store_down_since = now
            self._remedies = {error.remedy}
            log.error("the store is down, nothing is settled until it is back: %s (%s)", error, error.remedy)
        elif error.remedy not in self._remedies:
            self._remedies.add(error.remedy)
            log.warning("the store is still down, now for another reason: %s (%s)", error, error.remedy)
        return now - self.store_down_since

    def _store_is_well(self) -> None:
        if self.store_down_since is not None:
            log.warning("the store is back after %.1f s", time.monotonic() - self.store_down_since)
            self.store_down_since = None


def compose(decoder: Decode, batches: Sequence[Batch]) -> Landing:
    """Decode batches into what is landed in one transaction. Nothing a message holds can make it fail."""
    messages: list[Message] = []
    dead_letters: list[DeadLetter] = []
    decode: Callable[[Delivery], Message] = decoder.decode
    for batch in batches:
        for delivery in batch.deliveries:
            try:
                messages.append(decode(delivery))
            except UndecodableError as error:
                dead_letters.append(DeadLetter(batch.queue, delivery, error.reason, str(error)))
            except Exception as error:
                log.exception(
                    "defect: decoding failed in a way it must not, transport id %s", delivery.transport_id
                )
                dead_letters.append(DeadLetter(batch.queue, delivery, "decode_failed", repr(error)))
    return Landing(
        messages, dead_letters, _positions(batches), [gap for batch in batches for gap in batch.gaps]
    )


def _positions(batches: Sequence[Batch]) -> list[Position]:
    """The last word on each queue; that it was moved back on the way stays known."""
    positions: dict[QueueKey, Position] = {}
    for batch in batches:
        before = positions.get(batch.queue)
        rewound = batch.rewound or (before is not None and before.rewound)
        positions[batch.queue] = Position(batch.queue, batch.position, rewound)
    return list(positions.values())
