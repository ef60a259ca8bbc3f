"""Leases: who of several processes may do something that one at a time should do.

A lease is a row of `leases` with a holder and the time it runs out, by the database's clock, because those of the
hosts differ. It protects work that does no harm when two do it (a holder that is suspended for longer than its lease
wakes up beside the next one), and names that only one process should use.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
from contextlib import suppress
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

from jst_bridge.store.database import Database
from jst_bridge.store.plain_sql import clock_ms, marked

__all__ = ["Held", "acquire", "claim", "departed", "new_holder", "release", "renew", "usurper"]


class Held(NamedTuple):
    """A lease that somebody else has."""

    holder: str
    expires_at: int
    """Epoch ms by the database's clock; it rises when the holder renews it."""
    seconds_left: float

    @property
    def process(self) -> str:
        """Host and process id, for people."""
        return self.holder.rpartition(" ")[0] or self.holder


def new_holder() -> str:
    """A name for this process that no other one has, telling people where to look for it."""
    return f"{socket.gethostname()[:200]} pid {os.getpid()} {_pid_space()}.{secrets.token_hex(4)}"


def departed(holder: str) -> bool:
    """Whether the process that `new_holder` named so is known to have ended: it ran here, and its id is free."""
    match = re.search(r" pid (\d+) (\w+)\.\w+$", holder)
    if match is None or match[2] != _pid_space():
        return False
    try:
        os.kill(int(match[1]), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


@cache
def _pid_space() -> str:
    """What two processes have in common when a process id means the same process to both; '' is unknown."""
    with suppress(OSError):
        pids = os.readlink("/proc/self/ns/pid")  # containers count anew, even under one host name
        for machine in (Path("/proc/sys/kernel/random/boot_id"), Path("/etc/machine-id")):
            with suppress(OSError):
                return blake2b(f"{machine.read_text()} {pids}".encode(), digest_size=4).hexdigest()
    return ""


def acquire(database: Database, name: str, holder: str, seconds: float) -> str | None:
    """`claim`, telling only the other holder's name."""
    other = claim(database, name, holder, seconds)
    return None if other is None else other.holder


def claim(database: Database, name: str, holder: str, seconds: float, *, instead_of: str = "") -> Held | None:
    """Take the lease `name` for so long when it is free, has run out, or is `holder`'s already: None.

    Also when it is that of `instead_of`, who is known to be gone. Else who has it. Raises StoreUnavailable, StoreError.
    """

    def work(cursor: Any) -> Held | None:
        found = _locked(cursor, database, name)
        now = clock_ms(cursor, database)  # after waiting for the row
        expires_at = now + round(seconds * 1000)
        if found is None:
            # Of two who insert it at once the second meets a unique violation, and is done again from the start.
            statement = "INSERT INTO leases (holder, expires_at, name) VALUES (?, ?, ?)"
        elif found[0] not in (holder, instead_of) and found[1] > now:
            return Held(*found, (found[1] - now) / 1000)
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


def usurper(cursor: Any, database: Database, name: str, holder: str) -> Held | None:
    """Who has taken `holder`'s lease meanwhile. None: nobody, and nobody can until the transaction of `cursor` ends.

    To be asked first in a transaction that only the holder may commit. Whatever the driver raises passes through.
    """
    found = _locked(cursor, database, name)
    if found is None or found[0] == holder:
        return None
    left = found[1] - clock_ms(cursor, database)
    return Held(*found, left / 1000) if left > 0 else None


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
