"""Leases: who of several processes may do something that one at a time should do.

A lease is a row of `leases` with a holder and the time it runs out, by the database's clock, because those of the
hosts differ. It protects work that does no harm when two do it (a holder that is suspended for longer than its lease
wakes up beside the next one), and names that only one process should use.
"""

from __future__ import annotations

import os
import secrets
import socket
from typing import Any

from jst_bridge.store.database import Database
from jst_bridge.store.plain_sql import clock_ms, marked

__all__ = ["acquire", "new_holder", "release", "renew"]


def new_holder() -> str:
    """A name for this process that no other one has, telling people where to look for it."""
    return f"{socket.gethostname()[:200]} pid {os.getpid()} {secrets.token_hex(4)}"


def acquire(database: Database, name: str, holder: str, seconds: float) -> str | None:
    """Take the lease `name` for so long when it is free, has run out, or is `holder`'s already: None.

    Else the other holder's name. Raises StoreUnavailable, StoreError.
    """

    def work(cursor: Any) -> str | None:
        found = _locked(cursor, database, name)
        now = clock_ms(cursor, database)  # after waiting for the row
        expires_at = now + round(seconds * 1000)
        if found is None:
            # Of two who insert it at once the second meets a unique violation, and is done again from the start.
            statement = "INSERT INTO leases (holder, expires_at, name) VALUES (?, ?, ?)"
        elif found[0] != holder and found[1] > now:
            return found[0]
        else:
            statement = "UPDATE leases SET holder = ?, expires_at = ? WHERE name = ?"
        cursor.execute(marked(database, statement), (holder, expires_at, name))
        return None

    return database.transact(work)


def renew(database: Database, name: str, holder: str, seconds: float) -> bool:
    """Let `holder`'s lease end so many seconds from now. False: it is not `holder`'s any more.

    One that ran out may be renewed while nobody else has taken it. Raises StoreUnavailable, StoreError.
    """

    def work(cursor: Any) -> bool:
        found = _locked(cursor, database, name)
        if found is None or found[0] != holder:
            return False
        expires_at = clock_ms(cursor, database) + round(seconds * 1000)
        statement = marked(database, "UPDATE leases SET expires_at = ? WHERE name = ?")
        cursor.execute(statement, (expires_at, name))
        return True

    return database.transact(work)


def release(database: Database, name: str, holder: str) -> None:
    """Give the lease back; nothing happens when it is not `holder`'s. Raises StoreUnavailable, StoreError."""
    statement = marked(database, "DELETE FROM leases WHERE name = ? AND holder = ?")

    def work(cursor: Any) -> None:
        cursor.execute(statement, (name, holder))

    database.transact(work)


def _locked(cursor: Any, database: Database, name: str) -> tuple[str, int] | None:
    """(holder, expires_at) of the lease, which nobody else changes until the transaction ends."""
    lock = " FOR UPDATE" if database.shared else ""  # SQLite's transactions exclude each other anyway
    statement = f"SELECT holder, expires_at FROM leases WHERE name = ?{lock}"  # noqa: S608
    cursor.execute(marked(database, statement), (name,))
    row = cursor.fetchone()
    return None if row is None else (str(row[0]), int(row[1]))
