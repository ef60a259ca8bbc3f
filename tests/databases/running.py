"""What tests do with any database server that is up, ours or one named in the environment."""

from __future__ import annotations

import re
import sqlite3
from abc import ABC, abstractmethod
from contextlib import closing
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

import psycopg
import pymysql

from tests.cluster import ClusterError, wait_until

__all__ = ["DatabaseRefused", "RunningDatabases", "RunningMariadb", "RunningPostgresql", "query"]

CONNECT_SECONDS = 5
ANSWER_SECONDS = 60
ACCESS_DENIED = {1044, 1045, 1142, 1227}


class DatabaseRefused(ClusterError):
    """The login that a test was given may not create databases."""


def query(url: str, sql: str) -> list[tuple[Any, ...]]:
    """Run one statement on a connection of its own, in autocommit; the rows, if it has any.

    `url` begins with postgresql://, mysql:// or sqlite:///. Raises what psycopg, PyMySQL or sqlite3 raise.
    """
    scheme = urlsplit(url).scheme
    if scheme == "sqlite":
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)) as file:
            return file.execute(sql).fetchall()
    if scheme == "postgresql":
        with psycopg.connect(url, autocommit=True, connect_timeout=CONNECT_SECONDS) as connection:
            cursor = connection.execute(sql.encode())
            return cursor.fetchall() if cursor.description else []
    with closing(mysql_connection(url)) as session, session.cursor() as rows:
        rows.execute(sql)
        return list(rows.fetchall())


def mysql_connection(url: str) -> pymysql.Connection[Any]:
    """An autocommitting PyMySQL connection to a mysql:// URL."""
    parts = urlsplit(url)
    return pymysql.connect(
        host=parts.hostname or "127.0.0.1",
        port=parts.port or 3306,
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        database=parts.path.removeprefix("/") or None,
        charset="utf8mb4",
        autocommit=True,
        connect_timeout=CONNECT_SECONDS,
        read_timeout=ANSWER_SECONDS,
    )


class RunningDatabases(ABC):
    """A server on which a login, the one in `url`, may create databases and use them."""

    kind: ClassVar[str]
    """`postgresql` or `mariadb`, as test ids have it."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._made: set[str] = set()

    def url(self, database: str) -> str:
        """Of one of its databases, with user and password."""
        return urlsplit(self._url)._replace(path=f"/{database}").geturl()

    def admin(self, sql: str) -> list[tuple[Any, ...]]:
        """`query` with the most rights there are."""
        return query(self._admin_url, sql)

    def query(self, url: str, sql: str) -> list[tuple[Any, ...]]:
        """See `query` of this module."""
        return query(url, sql)

    def create_database(self, name: str) -> str:
        """Make an empty database that the login owns; returns its URL. Raises DatabaseRefused."""
        if not re.fullmatch("[a-z][a-z0-9_]{0,50}", name):
            raise ValueError(f"not a name for a test's database: {name}")
        self._create(name)
        self._made.add(name)
        return self.url(name)

    def drop_database(self, name: str) -> None:
        """Drop it, whoever is still connected to it."""
        self._drop(name)
        self._made.discard(name)

    def kill_sessions(self) -> None:
        """End every session of the login in the databases made here, and wait until the server is rid of them."""
        if self._made:
            self._kill(sorted(self._made))

    @property
    def _admin_url(self) -> str:
        return self._url

    @abstractmethod
    def _create(self, name: str) -> None: ...

    @abstractmethod
    def _drop(self, name: str) -> None: ...

    @abstractmethod
    def _kill(self, databases: list[str]) -> None: ...


class RunningPostgresql(RunningDatabases):
    """PostgreSQL, 13 or newer."""

    kind = "postgresql"
    _owner_clause = ""

    def _create(self, name: str) -> None:
        try:
            self.admin(f"CREATE DATABASE {name} {self._owner_clause}")
        except psycopg.errors.InsufficientPrivilege:
            raise DatabaseRefused("the PostgreSQL login may not create databases") from None

    def _drop(self, name: str) -> None:
        self.admin(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def _kill(self, databases: list[str]) -> None:
        names = ", ".join(f"'{name}'" for name in databases)
        sessions = f"FROM pg_stat_activity WHERE datname IN ({names}) AND pid <> pg_backend_pid()"
        self.admin(f"SELECT pg_terminate_backend(pid) {sessions}")
        wait_until(lambda: not self.admin(f"SELECT pid {sessions}"), "the sessions to end", ANSWER_SECONDS)


class RunningMariadb(RunningDatabases):
    """MariaDB or MySQL."""

    kind = "mariadb"

    def _create(self, name: str) -> None:
        try:
            self.admin(f"CREATE DATABASE {name}")
        except pymysql.err.OperationalError as refusal:
            if refusal.args[0] not in ACCESS_DENIED:
                raise
            raise DatabaseRefused("the MySQL login may not create databases named jst_test_...") from None

    def _drop(self, name: str) -> None:
        self._kill([name])  # a transaction left open would make it wait for the tables' locks
        self.admin(f"DROP DATABASE IF EXISTS {name}")

    def _kill(self, databases: list[str]) -> None:
        names = ", ".join(f"'{name}'" for name in databases)
        sessions = (
            f"SELECT id FROM information_schema.processlist WHERE db IN ({names}) AND id <> CONNECTION_ID()"
        )

        def none_left() -> bool:
            left = self.admin(sessions)
            for (session,) in left:
                self._end_session(session)
            return not left

        wait_until(none_left, "the sessions to end", ANSWER_SECONDS)

    def _end_session(self, session: int) -> None:
        no_such_thread = 1094
        try:
            self.admin(f"KILL CONNECTION {session}")
        except pymysql.err.MySQLError as error:
            if error.args[0] != no_such_thread:
                raise
