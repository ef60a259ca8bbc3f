"""MySQL 5.7 and 8, MariaDB 10.5 and newer, through PyMySQL."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import pymysql
from pymysql import err
from pymysql.constants import ER
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import URL

from jst_bridge.errors import StoreCredentialsRefused, StoreError, StoreUnavailable
from jst_bridge.store.database import VALUE_ERRORS, Verdict
from jst_bridge.store.server import ServerDatabase

__all__ = ["MysqlDatabase"]

log = logging.getLogger(__name__)

_PACKET: Final = 16 << 20
"""Bytes of max_allowed_packet we need: a message of 4 MiB, escaped, with the rest of its statement."""
_READ_ONLY: Final = frozenset({ER.OPTION_PREVENTS_STATEMENT, 1792, 1836})
_NO_SPACE: Final = frozenset({ER.DISK_FULL, ER.RECORD_FILE_FULL, ER.ERROR_ON_WRITE, 1030})
_LOGIN: Final = frozenset({ER.ACCESS_DENIED_ERROR, 1698, 1820, 4151})
_RIGHTS: Final = frozenset(
    {ER.DBACCESS_DENIED_ERROR, ER.TABLEACCESS_DENIED_ERROR, ER.COLUMNACCESS_DENIED_ERROR, 1227}
)
_NOT_OURS: Final = frozenset(
    {ER.NO_SUCH_TABLE, ER.BAD_FIELD_ERROR, ER.PARSE_ERROR, ER.WRONG_VALUE_COUNT_ON_ROW, 1060, 1061}
)
_STATEMENT_BINLOG: Final = 1665
_YES: Final = ("1", "true", "yes", "on")
_CONTENDED: Final = frozenset({ER.DUP_ENTRY, ER.LOCK_DEADLOCK, ER.LOCK_WAIT_TIMEOUT, 1020})


class MysqlDatabase(ServerDatabase):
    """A database of MySQL or MariaDB; its tables are utf8mb4 whatever its default is."""

    begin = "START TRANSACTION"
    snapshot = (
        "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
        "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY",
    )
    clock = "CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED)"
    options = (
        "unix_socket",
        "ssl",
        "ssl_ca",
        "ssl_cert",
        "ssl_key",
        "ssl_verify_identity",
        "connect_timeout",
    )

    def __init__(self, url: URL) -> None:
        super().__init__(url, mysql.dialect(paramstyle="format"))

    def verdict(self, error: BaseException) -> Verdict:
        if isinstance(error, VALUE_ERRORS):
            return Verdict.REFUSED
        code = _code(error)
        if code in _CONTENDED:
            return Verdict.CONTENDED
        if (
            isinstance(error, err.DataError | err.IntegrityError)
            or code == ER.TRUNCATED_WRONG_VALUE_FOR_FIELD
        ):
            return Verdict.REFUSED
        return Verdict.UNAVAILABLE

    def fault(self, error: BaseException) -> StoreError:
        code, said = _code(error), _words(error)
        if not isinstance(error, err.MySQLError | OSError):
            return StoreError(
                f"the store {self.label} failed: {type(error).__name__}: {said}",
                remedy="report this as a defect",
            )
        if code in _LOGIN:
            return StoreCredentialsRefused(
                f"the store {self.label} refuses this user or password: {said}",
                remedy="correct the user in [store] url and its password (password_file)",
            )
        if code in _RIGHTS:
            return StoreUnavailable(
                f"the store {self.label} does not permit it: {said}",
                remedy="grant this user SELECT, INSERT, UPDATE and DELETE on the database; to make the tables CREATE,"
                " ALTER, INDEX, DROP and CREATE VIEW too, or give an administrator the output of"
                " `jst-bridge store migrate --print-sql`",
            )
        if code in _NOT_OURS:
            return StoreError(
                f"the store {self.label} is not as jst-bridge made it: {said}",
                remedy="compare it with `jst-bridge store migrate --print-sql`; else report this as a defect",
            )
        if code == ER.BAD_DB_ERROR:
            remedy = "make the database (CREATE DATABASE ... CHARACTER SET utf8mb4), or correct [store] url"
        elif code in _READ_ONLY:
            remedy = "the server is read-only (a replica?): point [store] url to the primary"
        elif code in _NO_SPACE:
            remedy = "make room on the server's disk; it goes on by itself"
        elif code == _STATEMENT_BINLOG:
            remedy = "set binlog_format = ROW (or MIXED) on the server"
        else:
            remedy = "start the server, or correct [store] url; look at the network; it goes on by itself"
        return StoreUnavailable(f"the store {self.label} is unavailable: {said}", remedy=remedy)

    @contextmanager
    def alone(self, cursor: Any) -> Iterator[None]:
        # Statements that change the schema commit by themselves: a lock of the transaction would not last.
        cursor.execute("SELECT GET_LOCK(CONCAT('jst_bridge.', DATABASE()), 25)")
        if cursor.fetchone()[0] != 1:
            raise StoreUnavailable(
                f"the store {self.label} is being migrated by another process", remedy="try again in a minute"
            )
        try:
            yield
        finally:
            cursor.execute("SELECT RELEASE_LOCK(CONCAT('jst_bridge.', DATABASE()))")

    def connect_reading(self) -> Any:
        try:
            connection = self._dial()
            with connection.cursor() as cursor:
                cursor.execute("SET SESSION TRANSACTION READ ONLY")
        except (err.MySQLError, OSError) as error:
            raise self.fault(error) from error
        return connection

    def _connect(self) -> Any:
        connection = self._dial()
        try:
            with connection.cursor() as cursor:
                cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
                cursor.execute(f"SET SESSION innodb_lock_wait_timeout = {int(self.lock_seconds)}")
                cursor.execute(
                    f"SET SESSION lock_wait_timeout = {int(self.lock_seconds)}"
                )  # of a whole table
                self._require_settings(cursor)
        except BaseException:
            connection.close()
            raise
        return connection

    def _dial(self) -> Any:
        url, query = self._url, dict(self._query)
        query.pop("connect_timeout", None)
        if "ssl_verify_identity" in query:
            query["ssl_verify_identity"] = query["ssl_verify_identity"] in _YES
        if query.pop("ssl", "") in _YES:
            query.setdefault("ssl_ca", ssl.get_default_verify_paths().cafile)
        return pymysql.connect(
            host=url.host or "localhost",
            port=url.port or 3306,
            user=url.username,
            password=url.password or "",
            database=url.database,
            charset="utf8mb4",
            collation="utf8mb4_bin",
            autocommit=True,
            connect_timeout=self._connect_seconds,
            read_timeout=self.answer_seconds,
            write_timeout=self.answer_seconds,
            # Values that do not fit are errors, never cut; and a backslash is what our driver takes it for.
            sql_mode="STRICT_ALL_TABLES,NO_ZERO_DATE,NO_ZERO_IN_DATE,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION",
            **query,
        )

    def _require_settings(self, cursor: Any) -> None:
        cursor.execute("SELECT @@max_allowed_packet, @@innodb_flush_log_at_trx_commit")
        packet, flush = cursor.fetchone()
        if packet < _PACKET:
            raise StoreError(
                f"the store {self.label} takes packets of {packet:,} bytes at most, and a message may need {_PACKET:,}",
                remedy="set max_allowed_packet = 16M or more on the server",
            )
        if flush != 1:
            log.warning(
                "the store %s runs with innodb_flush_log_at_trx_commit = %s: after a power cut what was settled may"
                " be missing; set it to 1",
                self.label, flush,
            )  # fmt: skip


def _code(error: BaseException) -> int:
    code = error.args[0] if isinstance(error, err.MySQLError) and error.args else 0
    return code if isinstance(code, int) else 0


def _words(error: BaseException) -> str:
    """What the server said, on one line, without PyMySQL's tuple around it."""
    if isinstance(error, err.MySQLError) and len(error.args) > 1:
        return f"{' '.join(str(error.args[1]).split())} (error {error.args[0]})"
    return " ".join(str(error).split())
