"""Retention: old rows of `messages` go, in small transactions; what was folded from them stays.

A row goes by when it landed. Its key is what absorbs a message that the broker delivers again, so no row younger than
KEEP_AT_LEAST goes, whatever is asked for and whatever a clock says: servers judge by their own clock, a SQLite file
by its host's as far as the newest messages bear it out, and a row is young also when its message was born lately,
because the host that stamped it may have lived in the past.
"""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any, Final, NamedTuple

from jst_bridge.errors import StoreError, StoreUnavailable
from jst_bridge.store import leases, schema
from jst_bridge.store.database import Database
from jst_bridge.store.plain_sql import clock_ms, marked, reading
from jst_bridge.store.statements import Delete

__all__ = ["KEEP_AT_LEAST", "Pruning", "Step", "count_prunable", "horizon", "prune_some"]

KEEP_AT_LEAST: Final = timedelta(days=7)
"""The broker keeps a message for 3 days by default and retries for some more."""

LEASE: Final = "prune"
LEASE_SECONDS: Final = 300.0
RENEWED_AFTER: Final = 60.0

STEP_SECONDS: Final = 0.010
"""How long one step should take: so long landing may have to wait for it."""
PAUSE: Final = 9
"""How many times its own duration a step is followed by rest. A tenth of the time spent on pruning costs landing up to
a fifth of its rate, because what was pruned has to be written back as well."""
_FEWEST, _MOST = 50, 1_000
"""Rows per step; below that the commit costs more than the rows."""

_DAY: Final = 24 * 3600 * 1000
_WITNESSES: Final = 101
"""How many of the newest messages say what time it is ..."""
_BELIEVED: Final = 3
"""... and of how many of them it must be past, so that none alone can lie."""
_EARLIEST: Final = 946_656_000_000
"""A message born before the year 2000 does not know when it was born."""
_OLD: Final = "FROM messages WHERE landed_at < ? AND born_at < ?"


class Step(NamedTuple):
    """One small transaction of a pruning."""

    deleted: int
    more: bool
    """Whether another step may find something."""
    seconds: float
    pause: float
    """Seconds to rest before the next one."""


def horizon(database: Database, keep: timedelta) -> int:
    """What landed before this time, epoch ms, is older than `keep`. Raises StoreUnavailable, StoreError."""
    with reading(database) as cursor:
        return _now(cursor, database) - _milliseconds(keep)


def count_prunable(database: Database, before: int) -> int:
    """How many messages `prune_some` would delete in all. Raises StoreUnavailable, StoreError."""
    with reading(database) as cursor:
        cursor.execute(marked(database, f"SELECT count(*) {_OLD}"), (before, before))
        return int(cursor.fetchone()[0])


def prune_some(database: Database, before: int, limit: int = 500) -> int:
    """Delete up to `limit` messages that landed before `before` (epoch ms), oldest first, in one transaction.

    Returns how many. Raises StoreError when `before` lies within KEEP_AT_LEAST, StoreUnavailable.
    """

    def work(cursor: Any) -> int:
        latest = _now(cursor, database) - _milliseconds(KEEP_AT_LEAST)
        if before > latest:
            raise StoreError(
                f"messages that landed in the last {KEEP_AT_LEAST.days} days are never pruned: the broker may deliver"
                " them again, and their keys are what absorbs that",
                remedy=f"prune what landed before {latest} (epoch ms), or earlier",
            )
        return _delete(cursor, database, before, limit)

    return database.transact(work)


class Pruning:
    """One round of pruning under the lease: `begin`, `step` until there is no more, `end`; used from one thread.

    Every method raises StoreUnavailable or StoreError.
    """

    def __init__(self, database: Database, keep: timedelta, holder: str) -> None:
        """`keep` counts as KEEP_AT_LEAST when it is less; `holder` as of `leases.new_holder`."""
        self._database = database
        self._keep = _milliseconds(max(keep, KEEP_AT_LEAST))
        self._holder = holder
        self._renewed = 0.0
        self._limit = 2 * _FEWEST

    def begin(self) -> str | None:
        """Take the lease: None. Else who holds it: then there is nothing to end."""
        other = leases.acquire(self._database, LEASE, self._holder, LEASE_SECONDS)
        self._renewed = time.monotonic()
        return other

    def step(self) -> Step:
        """Delete some. Takes some 10 ms, and does fewer rows next time when it took longer.

        Raises StoreUnavailable, too, when another process took the lease, because this one slept too long.
        """
        self._renew()
        limit, started = self._limit, time.perf_counter()
        deleted = self._database.transact(lambda cursor: self._prune(cursor, limit))
        seconds = time.perf_counter() - started
        wanted = limit * min(2.0, STEP_SECONDS / max(seconds, 0.001))
        self._limit = max(_FEWEST, min(int(wanted) // _FEWEST * _FEWEST, _MOST))
        return Step(deleted, deleted == limit, seconds, max(PAUSE * seconds, STEP_SECONDS))

    def end(self) -> None:
        """Give the lease back."""
        leases.release(self._database, LEASE, self._holder)

    def _prune(self, cursor: Any, limit: int) -> int:
        # The time is asked for at each step: what it is may change with the messages that land meanwhile.
        return _delete(cursor, self._database, _now(cursor, self._database) - self._keep, limit)

    def _renew(self) -> None:
        if time.monotonic() - self._renewed < RENEWED_AFTER:
            return
        if not leases.renew(self._database, LEASE, self._holder, LEASE_SECONDS):
            raise StoreUnavailable(
                f"another process prunes the store {self._database.label} now",
                remedy="leave it to that one, or try again later",
            )
        self._renewed = time.monotonic()


def _delete(cursor: Any, database: Database, before: int, limit: int) -> int:
    oldest = f"SELECT id {_OLD} ORDER BY landed_at LIMIT ?"
    cursor.execute(marked(database, oldest), (before, before, limit))
    ids = [row[0] for row in cursor.fetchall()]
    return Delete(schema.messages.c.id, database.dialect).execute(cursor, ids)


def _now(cursor: Any, database: Database) -> int:
    """Epoch ms: the database's clock; on SQLite, whose clock is the host's, at most a day after the newest messages.

    A host that wakes up years ahead must not take all it holds for old, even when it goes on landing.
    """
    now = clock_ms(cursor, database)
    if database.shared:
        return now
    newest = "SELECT landed_at, born_at FROM messages ORDER BY id DESC LIMIT ?"
    cursor.execute(newest, (_WITNESSES,))
    times: list[int] = sorted(
        min(landed_at, born_at) if born_at >= _EARLIEST else landed_at
        for landed_at, born_at in cursor.fetchall()
    )
    return min([now, *(time + _DAY for time in times[-_BELIEVED:])])


def _milliseconds(span: timedelta) -> int:
    return span // timedelta(milliseconds=1)
