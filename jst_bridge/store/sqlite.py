"""SQLite: one file that several processes of a host may share."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from pathlib import Path
from typing import Any, Final

from sqlalchemy.dialects import sqlite

from jst_bridge.errors import StoreError, StoreUnavailable
from jst_bridge.store.database import VALUE_ERRORS, Database, Verdict

__all__ = ["SqliteDatabase"]

_REFUSALS: Final = (
    # What a value can do to the driver or to folding: the message is at fault, not the database.
    sqlite3.IntegrityError,
    sqlite3.DataError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    *VALUE_ERRORS,
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


class SqliteDatabase(Database):
    """A database in one file, made (mode 0600) when it is not there.

    `busy_timeout`: seconds to wait for another process's transaction.
    """

    shared = False
    migrates_itself = True
    # IMMEDIATE: a transaction that reads before it takes the write lock fails at once when another process writes
    # in between, whatever the timeout.
    begin = "BEGIN IMMEDIATE"
    snapshot = ("BEGIN",)
    clock = "CAST(round((julianday('now') - 2440587.5) * 86400000) AS INTEGER)"

    def __init__(self, path: Path, *, busy_timeout: float = 5.0) -> None:
        self.path = path.absolute()
        super().__init__(str(self.path), sqlite.dialect())
        self._busy_timeout = busy_timeout
        self._identity: tuple[int, int] | None = None

    def look(self) -> int:
        if self.path.exists():
            return super().look()
        if not os.access(self.path.parent, os.W_OK | os.X_OK):
            raise StoreUnavailable(
                f"{self.path} is not there, and cannot be made",
                remedy=f"make the directory {self.path.parent}, writable for this user",
            )
        return 0

    def connect_reading(self) -> sqlite3.Connection:
        if not self.path.exists():
            raise StoreError(
                f"there is no store at {self.path}",
                remedy="start `jst-bridge run` once, or correct [store] url",
            )
        try:
            return sqlite3.connect(
                f"{self.path.as_uri()}?mode=ro", uri=True, isolation_level=None, check_same_thread=False
            )
        except sqlite3.Error as error:
            raise self.fault(error) from error

    def verdict(self, error: BaseException) -> Verdict:
        return Verdict.REFUSED if isinstance(error, _REFUSALS) else Verdict.UNAVAILABLE

    def fault(self, error: BaseException) -> StoreError:
        if self._connection is not None:  # an error of a file that was taken away is about that
            try:
                self._check()
            except StoreUnavailable as taken_away:
                return taken_away
        if isinstance(error, sqlite3.Error):
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
            remedy = _REMEDIES.get(code)
            if remedy is None:
                return StoreError(f"the store {self.path} refused: {error}", remedy="report this as a defect")
            return StoreUnavailable(f"the store {self.path} is unavailable: {error}", remedy=remedy)
        if isinstance(error, OSError):
            return StoreUnavailable(
                f"the store {self.path} is unavailable: {error}",
                remedy="let this user write the file and its directory",
            )
        return StoreError(
            f"the store {self.path} failed: {type(error).__name__}: {error}", remedy="report this as a defect"
        )

    def trusts(self, error: BaseException) -> bool:
        return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY

    def close(self) -> None:
        super().close()
        self._identity = None

    def _connect(self) -> sqlite3.Connection:
        self._create_file()
        identity = _identity(self.path)
        connection = sqlite3.connect(
            self.path, timeout=self._busy_timeout, isolation_level=None, check_same_thread=False
        )
        try:
            self._enter_wal(connection)
            connection.execute("PRAGMA synchronous = FULL")
            # Not every build of SQLite has it on: without it, landing leaves copies of rows that purge cannot reach.
            connection.execute("PRAGMA secure_delete = ON")
            connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
            connection.execute(f"PRAGMA wal_autocheckpoint = {_WAL_PAGES}")
            self._identity = identity
            self._check()
        except BaseException:
            connection.close()
            raise
        return connection

    def _create_file(self) -> None:
        # Exclusively: closing a second descriptor of a file that SQLite holds would drop its locks.
        with contextlib.suppress(FileExistsError):
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))

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

    def _lost_transaction(self) -> bool:
        return not self._connection.in_transaction

    def _roll_back(self, cursor: Any) -> None:
        if self._connection.in_transaction:  # after some errors SQLite has rolled back already
            super()._roll_back(cursor)

    def _check(self) -> None:
        """A transaction commits happily into a file that was removed: nobody would ever read it.

        And a file put in its place shares its -wal and -shm by name: not one write more into that.
        """
        try:
            same = _identity(self.path) == self._identity
        except OSError:
            same = False
        if not same:
            self.close()
            raise StoreUnavailable(
                f"the store {self.path} was removed or replaced while in use",
                remedy="stop the bridge before moving its store; it goes on with the file now at that path",
            )


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino
