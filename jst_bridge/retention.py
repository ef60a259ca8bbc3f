"""The chore that prunes beside landing: at most a tenth of the store's time, in steps that landing hardly feels."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from datetime import timedelta
from typing import Final

from .errors import StoreError, StoreUnavailable
from .store import Database
from .store.retention import Pruning
from .worker import Worker

__all__ = ["Retention"]

log = logging.getLogger(__name__)

FIRST: Final = 60.0
EVERY: Final = 3600.0
"""Seconds until the first round, and from the end of a round to the next."""


class Retention:
    """Prunes `database` from time to time, in the thread of `worker` and on the connection that lands.

    Of the bridges on one database one at a time does it, whoever takes the lease.
    """

    def __init__(
        self,
        database: Database,
        worker: Worker,
        keep: timedelta,
        holder: str,
        *,
        first: float = FIRST,
        every: float = EVERY,
    ) -> None:
        """`holder`: see `store.leases.new_holder`. `first`, `every`: seconds before and between rounds."""
        self._database = database
        self._worker = worker
        self._keep = keep
        self._holder = holder
        self._first = first
        self._every = every
        self._releasing: asyncio.Future[None] | None = None

    async def run(self) -> None:
        """Prune until cancelled. Raises StoreError when the database is not what it should be."""
        await asyncio.sleep(self._first)
        while True:
            try:
                await self._round()
            except StoreUnavailable as error:  # who lands says so, loudly
                log.debug("pruning ends for now: %s", error)
            await asyncio.sleep(self._every)

    async def _round(self) -> None:
        pruning = Pruning(self._database, self._keep, self._holder)
        started, deleted = time.monotonic(), 0
        try:
            other = await self._worker.call(pruning.begin)
            if other is not None:
                log.debug("%s prunes the store", other)
                return
            more = True
            while more:
                step = await self._worker.call(pruning.step)
                deleted += step.deleted
                more = step.more
                await asyncio.sleep(step.pause)
        except asyncio.CancelledError:
            self._release(pruning)
            raise
        else:
            await self._worker.call(pruning.end)
        finally:
            if deleted:
                log.info(
                    "pruned %d messages that had landed more than %g days ago, in %.1f s",
                    deleted,
                    self._keep / timedelta(days=1),
                    time.monotonic() - started,
                )

    def _release(self, pruning: Pruning) -> None:
        """Let the worker give the lease back, without waiting for it: it may hang, and leases run out."""

        def release() -> None:
            with contextlib.suppress(StoreError):
                pruning.end()

        self._releasing = asyncio.ensure_future(self._worker.call(release))
