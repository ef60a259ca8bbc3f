"""PostgreSQL, through psycopg."""

from __future__ import annotations

import logging
import time
from collections.abc import Generator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, TypeVar

import psycopg
from psycopg import errors
from psycopg.abc import Buffer
from psycopg.adapt import Dumper
from psycopg.pq import TransactionStatus
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.engine import URL

from jst_bridge.errors import StoreCredentialsRefused, StoreError, StoreUnavailable
from jst_bridge.store.database import VALUE_ERRORS, Verdict
from jst_bridge.store.schema import METADATA
from jst_bridge.store.server import ServerDatabase

__all__ = ["PostgresqlDatabase"]

log = logging.getLogger(__name__)

_SCHEMA_LOCK: Final = 0x6A73745F62726467
"""A number of our own (jst_brdg) for pg_advisory_xact_lock."""

_CONTENDED: Final = (
    errors.UniqueViolation,
    errors.SerializationFailure,
    errors.DeadlockDetected,
    errors.LockNotAvailable,
)
_REFUSED: Final = (errors.DataError, errors.IntegrityError, errors.ProgramLimitExceeded)

_REMEDIES: Final = {
    # By class of SQLSTATE, or the whole of it (PostgreSQL's appendix A).
    "53": "the server lacks space, memory or connections: make room; it goes on by itself",
    "57": "the server was stopped or ended the session: it goes on by itself when the server is back",
    "25006": "the server is read-only (a standby?): point [store] url to the primary",
    "08": "look at the network and at the server; it goes on by itself",
    "": "start the server, or correct [store] url; look at the network; it goes on by itself",
}

_SEQUENCES: Final = {
    f"{table.name}_{table.autoincrement_column.name}_seq"
    for table in METADATA.tables.values()
    if table.autoincrement_column is not None
}

_GRANTS: Final = (
    "grant this user SELECT, INSERT, UPDATE and DELETE on the tables and USAGE on the sequences; to make them, CREATE"
    " on the schema, or give an administrator the output of `jst-bridge store migrate --print-sql`"
)

_T = TypeVar("_T")


class _Text(Dumper):
    """An integer as text of unknown type: statements then have one form, whatever the size of their numbers."""

    def dump(self, obj: Any) -> Buffer | None:
        return b"%d" % obj


class _Connection(psycopg.Connection[tuple[Any, ...]]):
    """A connection on which no answer counts as a broken one, after `answer_seconds`."""

    answer_seconds: float = ServerDatabase.answer_seconds

    def wait(self, gen: Generator[Any, Any, _T], *args: Any, **kwargs: Any) -> _T:
        return super().wait(_answered_in_time(gen, self.answer_seconds), *args, **kwargs)


def _answered_in_time(gen: Generator[Any, Any, _T], seconds: float) -> Generator[Any, Any, _T]:
    deadline = time.monotonic() + seconds
    try:
        wanted = next(gen)
        while True:
            ready = yield wanted
            if not ready and time.monotonic() > deadline:
                raise psycopg.OperationalError(f"no answer for {seconds:g} s")
            wanted = gen.send(ready)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]


class PostgresqlDatabase(ServerDatabase):
    """A database of PostgreSQL 12 or newer, encoded in UTF8."""

    begin = "BEGIN ISOLATION LEVEL READ COMMITTED"
    snapshot = ("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",)
    clock = "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)"
    options = (
        "host",
        "sslmode",
        "sslrootcert",
        "sslcert",
        "sslkey",
        "target_session_attrs",
        "options",
        "connect_timeout",
    )

    def __init__(self, url: URL) -> None:
        super().__init__(url, PGDialect(paramstyle="format"))  # type: ignore[no-untyped-call]

    def verdict(self, error: BaseException) -> Verdict:
        if isinstance(error, _CONTENDED):
            return Verdict.CONTENDED
        if isinstance(error, _REFUSED + VALUE_ERRORS):
            return Verdict.REFUSED
        if isinstance(error, psycopg.ProgrammingError) and error.sqlstate is None:
            return Verdict.REFUSED  # psycopg itself cannot adapt the value
        return Verdict.UNAVAILABLE

    def fault(self, error: BaseException) -> StoreError:
        said = " ".join(str(error).split())
        if not isinstance(error, psycopg.Error):
            return StoreError(
                f"the store {self.label} failed: {type(error).__name__}: {said}",
                remedy="report this as a defect",
            )
        state = error.sqlstate or ""
        if state[:2] == "28" or "password" in said:
            return StoreCredentialsRefused(
                f"the store {self.label} refuses this user or password: {said}",
                remedy="correct the user in [store] url and its password (password_file)",
            )
        if state == "3D000" or ('database "' in said and "does not exist" in said):
            return StoreUnavailable(
                f"the store {self.label} does not exist: {said}",
                remedy="make the database (CREATE DATABASE ... ENCODING 'UTF8'), or correct [store] url",
            )
        if state == "42501":
            return StoreUnavailable(
                f"the store {self.label} does not permit it: {said}",
                remedy=_GRANTS,
            )
        if state[:2] == "42":
            return StoreError(
                f"the store {self.label} is not as jst-bridge made it: {said}",
                remedy="compare it with `jst-bridge store migrate --print-sql`; else report this as a defect",
            )
        remedy = _REMEDIES.get(state) or _REMEDIES.get(state[:2]) or _REMEDIES[""]
        return StoreUnavailable(f"the store {self.label} is unavailable: {said}", remedy=remedy)

    def alone(self, cursor: Any) -> AbstractContextManager[None]:
        cursor.execute(f"SELECT pg_advisory_xact_lock({_SCHEMA_LOCK})")
        return nullcontext()

    def connect_reading(self) -> _Connection:
        try:
            connection = self._dial()
            connection.execute("SET default_transaction_read_only = on")
        except psycopg.Error as error:
            raise self.fault(error) from error
        return connection

    def _connect(self) -> _Connection:
        connection = self._dial()
        try:
            self._require_utf8(connection)
            self._require_durability(connection)
            # Less patience than our own with an answer, so that the server says what it waits for.
            connection.execute(f"SET lock_timeout = {int(self.lock_seconds * 1000)}")
            connection.execute(f"SET statement_timeout = {int(self.answer_seconds * 1000 * 5 / 6)}")
            connection.execute(f"SET idle_in_transaction_session_timeout = {int(self.answer_seconds * 2000)}")
            # A plan made while the tables were empty would go on reading them whole, however they grow.
            connection.execute("SET plan_cache_mode = force_custom_plan")
        except BaseException:
            connection.close()
            raise
        connection.adapters.register_dumper(int, _Text)
        return connection

    def _dial(self) -> _Connection:
        url, query = self._url, self._query
        connection = _Connection.connect(
            host=query.get("host") or url.host,
            port=url.port,
            user=url.username,
            password=url.password,
            dbname=url.database,
            autocommit=True,
            connect_timeout=self._connect_seconds,
            client_encoding="UTF8",
            application_name="jst-bridge",
            keepalives_idle=15,
            keepalives_interval=5,
            keepalives_count=3,
            tcp_user_timeout=int(self.answer_seconds * 1000),
            **{name: value for name, value in query.items() if name not in ("host", "connect_timeout")},
        )
        assert isinstance(connection, _Connection)
        connection.answer_seconds = self.answer_seconds
        return connection

    def _lost_transaction(self) -> bool:
        return bool(self._connection.info.transaction_status != TransactionStatus.INTRANS)

    def _try_rights(self, cursor: Any) -> None:
        super()._try_rights(cursor)
        cursor.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = current_schema()::regnamespace"
            " AND CASE WHEN relkind = 'S' THEN NOT has_sequence_privilege(oid, 'USAGE') END"
        )
        lacking = sorted({str(row[0]) for row in cursor.fetchall()} & _SEQUENCES)
        if lacking:
            raise StoreUnavailable(
                f"the store {self.label} does not permit it: no right to use sequence {', '.join(lacking)}",
                remedy=_GRANTS,
            )

    def _require_utf8(self, connection: _Connection) -> None:
        encoding = connection.info.parameter_status("server_encoding")
        if encoding != "UTF8":
            raise StoreError(
                f"the store {self.label} is encoded in {encoding}, which cannot hold every message",
                remedy="make the database anew with ENCODING 'UTF8' TEMPLATE template0",
            )

    def _require_durability(self, connection: _Connection) -> None:
        """A commit must be on disk when it is answered: set what a session may set, and say what it may not."""
        shown = {
            name: str(connection.execute(f"SHOW {name}").fetchone()[0])  # type: ignore[index]
            for name in ("synchronous_commit", "fsync")
        }
        if shown["synchronous_commit"] == "off":
            connection.execute("SET synchronous_commit = on")
        if shown["fsync"] == "off":
            log.warning(
                "the store %s runs with fsync = off: after a power cut what was settled may be missing",
                self.label,
            )
