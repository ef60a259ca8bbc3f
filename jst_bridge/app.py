"""Settings become objects here, and only here: the one place that knows every class."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from .bridge import Bridge, BridgeSettings
from .drain import POLL, DrainMark
from .errors import ConfigurationError, DecodeError, DrainTimeout, JstBridgeError, SourceError
from .inspection import Hop, QueueLag, hops, lags
from .instance import InstanceLease
from .messages import Decoder
from .operations import SourceGroup, offsets
from .operations.members import refuse_mixed
from .ops.progress import Snapshot
from .ports import Landed, QueueKey
from .reaching import client_settings
from .retention import Retention
from .rocketmq import ConsumerSettings
from .settings import RocketmqSource as SourceSettings
from .settings import Settings
from .sources.broadcasting import BroadcastingSource
from .sources.rocketmq import LandingLimits, RocketmqSource
from .store import LandingStore, open_database, open_reader, open_store
from .store.leases import new_holder
from .worker import Worker

__all__ = [
    "Hop",
    "QueueLag",
    "Status",
    "check_connections",
    "move_offsets",
    "positions",
    "run",
    "source_groups",
    "status",
]

log = logging.getLogger(__name__)

WORKER_GRACE: Final = 2.0
"""Seconds the store's thread gets at the end to finish a call nobody waits for any more."""


class Report(Protocol):
    """Who shows the progress of a run."""

    def watch(self, take: Callable[[], Snapshot]) -> None: ...


# --- run ------------------------------------------------------------------------------------------------


async def run(
    settings: Settings,
    *,
    drain: bool = False,
    drain_timeout: float = 300.0,
    allow_mixed_subscriptions: bool = False,
    report: Report | None = None,
) -> Landed:
    """Land what the sources deliver until SIGTERM, SIGINT or, with `drain`, until all that waits now is landed.

    Raises JstBridgeError: what ended it, or DrainTimeout after `drain_timeout` seconds.
    """
    store = open_store(*settings.store.login)
    worker = Worker("store")
    holder = new_holder()
    try:
        await worker.call(store.open)
        leases = _instance_leases(settings, store, worker, holder)
        try:
            for lease in leases:
                await lease.take()
            sources = [_source(settings, source, store, worker) for source in settings.source]
            bridge = Bridge(
                sources,
                {source.name: Decoder(source.name, settings.app.key) for source in sources},
                store,
                worker,
                BridgeSettings(settings.run.stop_deadline, settings.run.leave_after),
                chores=[*_chores(settings, store, worker, holder), *(lease.run for lease in leases)],
            )
            if report is not None:
                report.watch(lambda: _snapshot(bridge, sources))
            # What was made so far stays to the end: a full collection that looks at it again stalls for 40 ms.
            gc.collect()
            gc.freeze()
            with _signals(bridge):
                await _look_before_joining(settings, allow_mixed=allow_mixed_subscriptions)
                return await (_drain(bridge, sources, drain_timeout) if drain else bridge.run())
        finally:
            closing = asyncio.ensure_future(_close(store, worker, leases))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(closing, WORKER_GRACE)
    finally:
        worker.close(WORKER_GRACE)


async def _close(store: LandingStore, worker: Worker, leases: list[InstanceLease]) -> None:
    for lease in leases:
        await lease.release()
    await worker.call(store.close)


async def _look_before_joining(settings: Settings, *, allow_mixed: bool) -> None:
    """Refuse to join a group whose members read otherwise, unless it is allowed."""
    if not allow_mixed:
        await refuse_mixed(source_groups(settings))


async def _drain(bridge: Bridge, sources: list[RocketmqSource], timeout: float) -> Landed:
    """Run the bridge until every source's group is done with what was there at the start."""
    marks = [await DrainMark.take(source.settings, source.position) for source in sources]
    running = asyncio.create_task(bridge.run(), name="bridge")
    reached = False
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while not reached and not running.done():
                    await asyncio.wait([running], timeout=POLL)
                    for source in sources:
                        await source.commit()
                    reached = all([await mark.reached() for mark in marks])
        bridge.stop()
        total = await running
    finally:
        running.cancel()
        for mark in marks:
            await mark.close()
    if not reached and not bridge.interrupted:
        waiting = ", ".join(str(queue) for mark in marks for queue in mark.missing)
        raise DrainTimeout(
            f"after {timeout:g} s these queues had not been drained: {waiting}",
            remedy="see `jst-bridge status` for the lag, and give --drain-timeout more seconds",
        )
    return total


@contextlib.contextmanager
def _signals(bridge: Bridge) -> Iterator[None]:
    """The first SIGTERM or SIGINT stops in order, the second quits at once."""
    loop = asyncio.get_running_loop()

    def on_signal(number: signal.Signals) -> None:
        if bridge.interrupted:
            if sys.stderr.isatty():
                sys.stderr.write("\x1b[?25h\n")  # the live line hides the cursor
            sys.stderr.flush()
            os._exit(128 + number)
        log.warning("%s: finishing what is being landed; once more quits at once", number.name)
        bridge.interrupt()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


def _snapshot(bridge: Bridge, sources: list[RocketmqSource]) -> Snapshot:
    if bridge.stopping:
        state = "stopping"
    elif bridge.store_down_since is not None:
        state = "store unavailable"
    else:
        state = "consuming"
    lag = sum(max(0, queue.end - queue.settled) for source in sources for queue in source.progress())
    return Snapshot(bridge.total, state, lag)


# --- building -------------------------------------------------------------------------------------------


def _consumer_settings(settings: Settings, source: SourceSettings) -> ConsumerSettings:
    start = source.start_from
    return ConsumerSettings(
        client=client_settings(settings, source),
        group=source.group,
        mode=source.mode,
        subscriptions={source.system_topic or f"rmq_sys_jst_{settings.app.key}": source.tags},
        start_from=start if isinstance(start, str) else int(start.timestamp() * 1000),
    )


def _source(
    settings: Settings, source: SourceSettings, store: LandingStore, worker: Worker
) -> RocketmqSource:
    instance = source.instance or ""
    reading = _consumer_settings(settings, source)
    limits = LandingLimits(settings.run.max_batch_messages, settings.run.max_batch_bytes)

    async def stored() -> dict[QueueKey, int]:
        return await worker.call(lambda: store.positions(source.name, source.group, instance))

    if instance:
        return BroadcastingSource(source.name, reading, limits, stored, instance)
    return RocketmqSource(source.name, reading, limits, stored, shared=store.shared)


def _instance_leases(
    settings: Settings, store: LandingStore, worker: Worker, holder: str
) -> list[InstanceLease]:
    """The names that the broadcasting sources go by. Nothing lands under one that another process took."""
    leases = [
        InstanceLease(store.database, worker, source.name, source.instance, holder)
        for source in settings.source
        if source.instance
    ]
    store.fences = [lease.fence for lease in leases]
    return leases


def _chores(
    settings: Settings, store: LandingStore, worker: Worker, holder: str
) -> list[Callable[[], Coroutine[Any, Any, None]]]:
    """What a running bridge does beside landing."""
    keep = settings.store.keep_messages
    return [] if keep is None else [Retention(store.database, worker, keep, holder).run]


# --- looking --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Status:
    """How far every queue is, and what could not be learned."""

    queues: list[QueueLag] = field(default_factory=list)
    problems: list[JstBridgeError] = field(default_factory=list)


async def status(settings: Settings) -> Status:
    """Ask the brokers and the store. Never raises for a server that does not answer: see `problems`."""
    found = Status()
    positions: dict[QueueKey, int] = {}
    try:
        reader = open_reader(*settings.store.login)
        try:
            positions = reader.all_positions()
        finally:
            reader.close()
    except JstBridgeError as error:
        found.problems.append(error)
    for source in settings.source:
        try:
            reading = _consumer_settings(settings, source)
            found.queues.extend(await lags(source.name, reading, positions, instance=source.instance or ""))
        except (SourceError, DecodeError) as error:
            found.problems.append(error)
    return found


# --- operating ------------------------------------------------------------------------------------------


def source_groups(settings: Settings, name: str | None = None) -> list[SourceGroup]:
    """The consumer groups of all sources, or of the one called `name`. Raises ConfigurationError for none."""
    found = [source for source in settings.source if name in (None, source.name)]
    if not found:
        names = ", ".join(source.name for source in settings.source)
        raise ConfigurationError(
            f"{settings.file or 'environment'}: there is no source{f' called {name}' if name else ''}",
            remedy=f"its sources are {names}"
            if names
            else "add a [[source]] with type, name_servers and group",
        )
    return [
        SourceGroup(source.name, _consumer_settings(settings, source), source.instance or "")
        for source in found
    ]


def positions(settings: Settings, *, missing_ok: bool = False) -> dict[QueueKey, int]:
    """Every position in the store. None of a store that is not made yet, if that is `missing_ok`. Raises StoreError."""
    if missing_ok:
        with contextlib.closing(open_database(*settings.store.login)) as database:
            if database.look() == 0:
                return {}
    with open_reader(*settings.store.login) as reader:
        return reader.all_positions()


async def move_offsets(
    settings: Settings, group: SourceGroup, moves: Sequence[offsets.Move]
) -> tuple[list[offsets.Move], list[JstBridgeError]]:
    """Commit a planned reset at the brokers, and record it in the store: the moves made, and what went wrong.

    Raises GroupOnline and InstanceTaken when somebody reads in the group: nothing was moved then. StoreError.
    """
    store, worker = open_store(*settings.store.login), Worker("store")
    lease = InstanceLease(store.database, worker, group.source, group.instance, new_holder())
    made, failures = list(moves), list[JstBridgeError]()
    try:
        await worker.call(store.open)
        if group.broadcasting:
            await lease.take()
        else:
            made, failures = await offsets.commit(group, moves)
        await worker.call(lambda: offsets.record(group, made, store))
        return made, failures
    finally:
        await _close(store, worker, [lease] if group.broadcasting else [])
        worker.close(WORKER_GRACE)


# --- trying ---------------------------------------------------------------------------------------------


async def check_connections(settings: Settings) -> AsyncIterator[Hop]:
    """Try the store, then every hop of every source. One Hop each, in order."""
    yield _check_store(settings)
    for source in settings.source:
        async for hop in hops(source.name, _consumer_settings(settings, source)):
            yield hop


def _check_store(settings: Settings) -> Hop:
    """Opens the store as `run` would; a file that is not there yet is not made, only whether it could be."""
    name = f"store {settings.store.shown_url}"
    database = open_database(*settings.store.login)
    try:
        version = database.look()
    except JstBridgeError as error:
        return Hop.failed(name, error)
    finally:
        database.close()
    if version == 0:
        return Hop(name, True, "holds no tables of jst-bridge yet, the first run makes them")
    return Hop(name, True, f"can be written, schema {version}")
