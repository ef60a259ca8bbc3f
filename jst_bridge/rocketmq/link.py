"""The way to one server: its connection, and how it is opened again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final

from ..errors import ConnectionFailed, SourceError, TlsFailed
from .connection import Connection

__all__ = ["Link"]

log = logging.getLogger(__name__)

_BACKOFF_FIRST: Final = 0.05
_BACKOFF_LAST: Final = 0.5
"""Seconds. Short on purpose: a broker that is back should be read within a second."""
_COMPLAINT_PERIOD: Final = 60.0
_BACKOFF_TLS: Final = 5.0
"""Seconds until a certificate is looked at again: somebody has to change something first."""


class Link:
    """The way to one server: its connection, and one shared attempt to open it, with backoff."""

    def __init__(self, address: str, dial: Callable[[str], Awaitable[Connection]]) -> None:
        """`dial` answers with a connection that may be used."""
        self._address = address
        self._dial = dial
        self._opening: asyncio.Task[Connection] | None = None
        self._failures = 0
        self._not_before = 0.0
        self._quiet_until = 0.0
        self.used_at = 0.0
        """When somebody last wanted it, on the monotonic clock."""
        self.connection: Connection | None = None
        self._retired: Connection | None = None
        """The one before, which may still wait for answers."""

    async def open(self) -> Connection:
        """All who wait share one attempt, so that a dead server is not dialled once per queue."""
        if self._opening is None or self._opening.done():
            self._opening = asyncio.create_task(self._attempt(), name=f"connect {self._address}")
            self._opening.add_done_callback(_retrieve)
        opening = self._opening
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if opening.cancelled() and task is not None and not task.cancelling():
                # The attempt was given up by `close`, not whoever waits for it.
                raise ConnectionFailed(f"{self._address} was left before it was reached") from None
            raise

    async def _attempt(self) -> Connection:
        wait = self._not_before - time.monotonic()
        if wait > 0:
            await asyncio.sleep(wait)
        try:
            connection = await self._dial(self._address)
        except BaseException as error:
            self._failures += 1
            self._complain(error)
            pause = min(_BACKOFF_LAST, _BACKOFF_FIRST * 2.0 ** min(self._failures, 10))
            if isinstance(error, TlsFailed):
                pause = _BACKOFF_TLS
            self._not_before = time.monotonic() + pause * random.uniform(0.5, 1.0)
            raise
        if self._failures > 1:
            log.info("%s is reached again, at attempt %d", self._address, self._failures + 1)
        self._failures = 0
        self._retired, self.connection = self.connection, connection
        return connection

    def _complain(self, error: BaseException) -> None:
        """Once for all who wait, and again each minute. A first failure is told by whoever asked."""
        if self._failures > 1 and time.monotonic() >= self._quiet_until:
            self._quiet_until = time.monotonic() + _COMPLAINT_PERIOD
            log.warning("%s, tried %d times, and goes on trying", error, self._failures)

    async def close(self) -> None:
        if self._opening is not None and not self._opening.done():
            self._opening.cancel()
            with contextlib.suppress(asyncio.CancelledError, SourceError):
                await self._opening
        for connection in (self.connection, self._retired):
            if connection is not None:
                await connection.close()


def _retrieve(task: asyncio.Task[Connection]) -> None:
    """Everyone who waited may be gone: look at the outcome, so that asyncio does not complain."""
    if not task.cancelled():
        task.exception()
