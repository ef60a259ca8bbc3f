"""Settings become objects here, and only here: the one place that knows every class."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from .bridge import Bridge, BridgeSettings
from .drain import POLL, DrainMark
from .errors import DecodeError, DrainTimeout, JstBridgeError, SourceError
from .inspection import Hop, QueueLag, hops, lags
from .messages import Decoder
from .ops.progress import Snapshot
from .ports import Landed, QueueKey
from .retention import Retention
from .rocketmq import ClientSettings, ConsumerSettings, Credentials
from .settings import RocketmqSource as SourceSettings
from .settings import Settings
from .sources.rocketmq import LandingLimits, RocketmqSource
from .store import LandingStore, open_database, open_reader, open_store
from .store.leases import new_holder
from .worker import Worker

__all__ = ["Hop", "QueueLag", "Status", "check_connections", "run", "status"]

log = logging.getLogger(__name__)

WORKER_GRACE: Final = 2.0
"""Seconds the store's thread gets at the end to finish a call nobody waits for any more."""


class Report(Protocol):
    """Who shows the progress of a run."""

    def watch(self, take: Callable[[], Snapshot]) -> None: ...


# --- run ------------------------------------------------------------------------------------------------


async def run(
    settings: Settings, *, drain: bool = False, drain_timeout: float = 300.0, report: Report | None = None
) -> Landed:
    """Land what the sources deliver until SIGTERM, SIGINT or, with `drain`, until all that waits now is landed.

    Raises JstBridgeError: what ended it, or DrainTimeout after `drain_timeout` seconds.
    """
    store = open_store(*settings.store.login)
    worker = Worker("store")
    try:
        await worker.call(store.open)
        try:
            sources = [_source(settings, source, store, worker) for source in settings.source]
            bridge = Bridge(
                sources,
                {source.name: Decoder(source.name, settings.app.key) for source in sources},
                store,
                worker,
                BridgeSettings(settings.run.stop_deadline, settings.run.leave_after),
                chores=_chores(settings, store, worker),
            )
            if report is not None:
                report.watch(lambda: _snapshot(bridge, sources))
            # What was made so far stays to the end: a full collection that looks at it again stalls for 40 ms.
            gc.collect()
            gc.freeze()
            with _signals(bridge):
                return await (_drain(bridge, sources, drain_timeout) if drain else bridge.run())
        finally:
            closing = asyncio.ensure_future(worker.call(store.close))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(closing, WORKER_GRACE)
    finally:
        worker.close(WORKER_GRACE)


async def _drain(bridge: Bridge, sources: list[RocketmqSource], timeout: float) -> Landed:
    """Run the bridge until every source's group has committed what was there at the start."""
    marks = [await DrainMark.take(source.settings) for source in sources]
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
    app = settings.app
    credentials = None
    if app.secret is not None:
        credentials = Credentials(app.key, app.secret.get_secret_value(), channel=source.channel)
    start = source.start_from
    return ConsumerSettings(
        client=ClientSettings(name_servers=source.name_servers, credentials=credentials),
        group=source.group,
        subscriptions={source.system_topic or f"rmq_sys_jst_{app.key}": source.tags},
        start_from=start if isinstance(start, str) else int(start.timestamp() * 1000),
    )


def _source(
    settings: Settings, source: SourceSettings, store: LandingStore, worker: Worker
) -> RocketmqSource:
    async def position_of(queue: QueueKey) -> int | None:
        stored = await worker.call(lambda: store.positions(queue.source, queue.group, queue.instance))
        return stored.get(queue)

    return RocketmqSource(
        source.name,
        _consumer_settings(settings, source),
        LandingLimits(settings.run.max_batch_messages, settings.run.max_batch_bytes),
        position_of,
        shared=store.shared,
    )


def _chores(
    settings: Settings, store: LandingStore, worker: Worker
) -> list[Callable[[], Coroutine[Any, Any, None]]]:
    """What a running bridge does beside landing."""
    keep = settings.store.keep_messages
    return [] if keep is None else [Retention(store.database, worker, keep, new_holder()).run]


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
            found.queues.extend(await lags(source.name, _consumer_settings(settings, source), positions))
        except (SourceError, DecodeError) as error:
            found.problems.append(error)
    return found


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
