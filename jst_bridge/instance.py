"""The name of one instance of a broadcasting source, held by one process at a time through a lease in the store.

The positions of an instance are kept under its name, so two processes under one name would each move them for the
other. A process that was suspended until another one took its name lands nothing more: the landing itself asks.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from functools import partial
from typing import Any, Final

from .errors import InstanceTaken, StoreError, StoreUnavailable
from .store import Database, leases
from .store.leases import Held
from .worker import Worker

__all__ = ["InstanceLease"]

log = logging.getLogger(__name__)

LASTS: Final = 12.0
"""Seconds after which a holder that no longer says that it lives is taken for dead."""
RENEWED: Final = 3.0
POLL: Final = 0.3
"""Seconds between renewals, and between looks at somebody else's lease."""


class InstanceLease:
    """`take` it before the source starts, `run` it beside, `fence` each landing with it, `release` it at the end."""

    def __init__(
        self,
        database: Database,
        worker: Worker,
        source: str,
        instance: str,
        holder: str,
        *,
        lasts: float = LASTS,
    ) -> None:
        """`holder`: see `leases.new_holder`. `lasts`: seconds."""
        self._database = database
        self._worker = worker
        self._source = source
        self._instance = instance
        self._holder = holder
        self._lasts = lasts

    @property
    def name(self) -> str:
        """What the lease is called in the store."""
        return f"instance:{self._source}:{self._instance}"

    async def take(self) -> None:
        """Wait for as long as the last holder may be dead. Raises InstanceTaken when it lives, StoreUnavailable.

        One that ran here and is gone is not waited for; one that renews its lease lives.
        """
        first: Held | None = None
        gone = ""
        while (other := await self._claim(gone)) is not None:
            gone = other.holder if leases.departed(other.holder) else ""
            if gone:
                log.info("%s, which ended without giving %s back, is followed", other.process, self.name)
                continue
            if first is None:
                first = other
                log.warning(
                    "instance %s of source %s is in use by %s: waiting up to %.0f s for a sign of life, or the end "
                    "of its lease",
                    self._instance, self._source, other.process, other.seconds_left,
                )  # fmt: skip
            if other[:2] != first[:2]:
                raise self._taken(other)
            await asyncio.sleep(min(POLL, other.seconds_left))

    async def run(self) -> None:
        """Renew the lease until cancelled. Raises InstanceTaken once it is another's."""
        while True:
            await asyncio.sleep(min(RENEWED, self._lasts / 4))
            try:
                other = await self._claim()
            except StoreUnavailable as error:  # who lands says so, loudly
                log.debug("the lease %s cannot be renewed now: %s", self.name, error)
                continue
            if other is not None:
                raise self._taken(other)

    def fence(self, cursor: Any) -> None:
        """Let nothing land in the transaction of `cursor` when the instance is another's: raises InstanceTaken."""
        other = leases.usurper(cursor, self._database, self.name, self._holder)
        if other is not None:
            raise self._taken(other)

    async def release(self) -> None:
        """Give it back, when the store can be asked; otherwise it runs out."""
        with contextlib.suppress(StoreError):
            await self._worker.call(partial(leases.release, self._database, self.name, self._holder))

    async def _claim(self, gone: str = "") -> Held | None:
        claim = partial(leases.claim, self._database, self.name, self._holder, self._lasts, instead_of=gone)
        return await self._worker.call(claim)

    def _taken(self, other: Held) -> InstanceTaken:
        return InstanceTaken(
            f"instance {self._instance} of source {self._source} is in use by another process: {other.process}",
            remedy="stop that one, or give each process an `instance` of its own",
        )
