"""The store on SQLite: one file, its connection, its transactions, and what its errors mean."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeVar

from sqlalchemy.dialects import sqlite

from jst_bridge.errors import StoreError, StoreUnavailable
from jst_bridge.ports import Landed, Landing, QueueKey
from jst_bridge.store import migrations
from jst_bridge.store.landing import LandingWriter

__all__ = ["SqliteStore", "store_fault"]

_REFUSALS: Final = (
    # What a value can do to the driver or to folding: the message is at fault, not the database.
    sqlite3.IntegrityError,
    sqlite3.DataError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    ArithmeticError,
    AttributeError,
    TypeError,
    ValueError,
)

_REMEDIES: Final = {
    sqlite3.SQLITE_BUSY: "another process holds its write lock: find it, or wait until it is done",
    sqlite3.SQLITE_LOCKED: "another process holds its write lock: find it, or wait until it is done",
    sqlite3.SQLITE_FULL: "make room on its disk",
    sqlite3.SQLITE_IOERR: "look at its disk: the operating system could not read or write it",
    sqlite3.SQLITE_READONLY: "let this user write the file and its directory",
    sqlite3.SQLITE_CANTOPEN: "let this user write the file and its directory, which must exist",
    sqlite3.SQLITE_PERM: "let this user write the file and its directory",
    sqlite3.SQLITE_PROTOCOL: "many processes opened it at once: it clears up by itself",
    sqlite3.SQLITE_NOMEM: "the process is out of memory",
    sqlite3.SQLITE_CORRUPT: "restore it from a backup; `sqlite3 FILE .recover` saves what can be read",
    sqlite3.SQLITE_NOTADB: "another program's file is in its place: name another file in [store] url",
}

_WAL_PAGES: Final = 4_000
_CACHE_KIB: Final = 12_288

_Result = TypeVar("_Result")


def store_fault(path: Path, error: Exception) -> StoreError:
    """The error of ours that says what a driver or system error on the file at `path` means."""
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        remedy = _REMEDIES.get(code)
        if remedy is None:
            return StoreError(f"the store {path} refused: {error}", remedy="report this as a defect")
        return StoreUnavailable(f"the store {path} is unavailable: {error}", remedy=remedy)
    return StoreUnavailable(
        f"the store {path} is unavailable: {error}", remedy="let this user write the file and its directory"
    )


class SqliteStore:
    """The Store of ports.py in one SQLite file, which several bridge processes of a host may share.

    Constructing opens nothing. After an error the next call works again, on a new connection where the old one
    cannot be trusted. `busy_timeout`: seconds to wait for another process's transaction.
    """

    def __init__(self, path: Path, *, busy_timeout: float = 5.0) -> None:
        self.path = path.absolute()
        self._busy_timeout = busy_timeout
        self._dialect = sqlite.dialect()
        self._writer: LandingWriter | None = None
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None

    def open(self) -> None:
        """Open or create the file (mode 0600) and bring its schema up to date.

        Raises StoreUnavailable, SchemaOutdated when a newer program wrote the file, or StoreError.
        """
        self._writer = LandingWriter(self._dialect)
        self._connected()

    def land(self, landing: Landing) -> Landed:
        """Write all of it in one transaction, or nothing. Durable when it returns.

        A message refused for its data becomes a dead letter `store_refused`; the rest lands. Raises
        StoreUnavailable when nothing was written, or the file is no longer the one at its path.
        """
        writer, now = self._opened(), time.time_ns() // 1_000_000
        try:
            landed = self._transact(lambda cursor: writer.land(cursor, landing, now))
        except _REFUSALS:
            try:
                landed = self._transact(lambda cursor: writer.land_sparing(cursor, landing, now, _REFUSALS))
            except _REFUSALS as error:
                raise StoreError(
                    f"the store {self.path} refused positions or gaps: {error}",
                    remedy="report this as a defect",
                ) from error
        self._require_same_file(self._identity)
        return landed

    def positions(self, source: str, group: str, instance: str) -> dict[QueueKey, int]:
        """The next offset of each queue of one source in one consumer group ('' = clustering)."""
        writer = self._opened()
        with self._faults():
            return writer.positions(self._connected().cursor(), source, group, instance)

    def close(self) -> None:
        """Close the file. Idempotent."""
        self._writer = None
        self._disconnect()

    def _opened(self) -> LandingWriter:
        if self._writer is None:
            raise StoreError(f"the store {self.path} is not open", remedy="call open() first")
        return self._writer

    def _transact(self, write: Callable[[sqlite3.Cursor], _Result]) -> _Result:
        # IMMEDIATE: a transaction that reads before it takes the write lock fails at once when another
        # process writes in between, whatever the timeout.
        with self._faults():
            connection = self._connected()
            connection.execute("BEGIN IMMEDIATE")
            try:
                result = write(connection.cursor())
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            return result

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        """Turns what the database raises into our errors; what a value raises passes as it is."""
        try:
            yield
        except _REFUSALS:
            raise
        except (sqlite3.Error, OSError) as error:
            if self._connection is not None:  # an error of a file that was taken away is about that
                self._require_same_file(self._identity)
            fault = store_fault(self.path, error)
            if getattr(error, "sqlite_errorcode", None) != sqlite3.SQLITE_BUSY:
                self._disconnect()
            raise fault from error

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            with self._faults():
                self._connection = self._connect()
        else:
            # A file put in its place shares its -wal and -shm by name: not one write more into that.
            self._require_same_file(self._identity)
        return self._connection

    def _connect(self) -> sqlite3.Connection:
        self._create_file()
        identity = _identity(self.path)
        connection = sqlite3.connect(
            self.path, timeout=self._busy_timeout, isolation_level=None, check_same_thread=False
        )
        try:
            self._prepare(connection)
            self._require_same_file(identity)
        except BaseException:
            connection.close()
            raise
        self._identity = identity
        return connection

    def _create_file(self) -> None:
        # Exclusively: closing a second descriptor of a file that SQLite holds would drop its locks.
        with contextlib.suppress(FileExistsError):
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))

    def _prepare(self, connection: sqlite3.Connection) -> None:
        self._enter_wal(connection)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        connection.execute(f"PRAGMA wal_autocheckpoint = {_WAL_PAGES}")
        connection.execute("BEGIN IMMEDIATE")
        try:
            migrations.migrate(connection.cursor(), self._dialect, time.time_ns() // 1_000_000)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def _enter_wal(self, connection: sqlite3.Connection) -> None:
        # The change of mode does not wait its turn: while another process makes it, it is refused at once.
        deadline = time.monotonic() + self._busy_timeout
        while True:
            try:
                connection.execute("PRAGMA journal_mode = WAL").fetchall()
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
            else:
                return

    def _require_same_file(self, identity: tuple[int, int] | None) -> None:
        """A transaction commits happily into a file that was removed: nobody would ever read it."""
        try:
            same = _identity(self.path) == identity
        except OSError:
            same = False
        if not same:
            self._disconnect()
            raise StoreUnavailable(
                f"the store {self.path} was removed or replaced while in use",
                remedy="stop the bridge before moving its store; it goes on with the file now at that path",
            )

    def _disconnect(self) -> None:
        connection, self._connection, self._identity = self._connection, None, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino
