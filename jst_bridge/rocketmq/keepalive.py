"""Finding connections that went silent without closing: half-open ones (reference 1.9, 9).

TCP tells of a peer that vanished only after minutes, and pulls are parked for 20 s anyway. So a connection without
a byte for `SILENCE` is asked something, and one that stays silent for `PATIENCE` more is cut; whoever waits on it
fails, and opens another. Any byte is a sign of life: a broker that is only slow is not cut.
"""

from __future__ import annotations

import asyncio
import logging
from time import monotonic
from typing import Final

from .client import Client
from .connection import Connection
from .membership import Membership

__all__ = ["Keepalive"]

log = logging.getLogger(__name__)

TICK: Final = 0.5
SILENCE: Final = 3.0
PATIENCE: Final = 5.0
"""Seconds: together well below the 10 s after which operators look up, and above any pause of a healthy broker."""


class Keepalive:
    """Looks after one client's connections to brokers."""

    def __init__(self, client: Client, membership: Membership) -> None:
        self._client = client
        self._membership = membership
        self._waited: dict[Connection, int] = {}
        """Ticks since a silent connection was asked. Not seconds: a process that was frozen has not waited."""

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(TICK)
            self.look()

    def look(self) -> None:
        """One round: ask who is silent, cut who did not answer."""
        now = monotonic()
        silent = [one for one in self._client.broker_connections() if now - one.heard_at > SILENCE]
        waited, self._waited = self._waited, {}
        for connection in silent:
            ticks = waited.get(connection)
            if ticks is None:
                self._membership.poke(connection)
                ticks = 0
            if ticks * TICK < PATIENCE:
                self._waited[connection] = ticks + 1
            else:
                seconds = now - connection.heard_at
                log.warning("%s is silent for %.1f s: connecting anew", connection.address, seconds)
                connection.abort(f"silent for {seconds:.1f} s")
