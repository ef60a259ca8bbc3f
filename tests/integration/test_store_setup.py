"""The lines of docs/store.md for user, database and rights, executed on real servers: enough, and not too much."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

import psycopg
import pymysql
import pytest

from jst_bridge.store import open_database, open_reader, open_store
from tests.databases import DatabaseRefused, RunningDatabases, query
from tests.store_page import SECTIONS, statements
from tests.stores import DATABASE_ERRORS, dead, landing, message

serial = itertools.count(random.SystemRandom().randrange(10_000_000, 90_000_000))


class Site:
    """A server on which the page's statements are executed, with names of their own. Raises DatabaseRefused."""

    def __init__(self, server: RunningDatabases) -> None:
        self._server = server
        self._number = next(serial)
        self.databases = ("jushita", "second")

    def own(self, text: str) -> str:
        return re.sub(r"\b(jushita|second|jst_(?:bridge|report|views))\b", rf"\g<1>_{self._number}", text)

    def admin(self, database: str = "") -> str:
        parts = urlsplit(self._server._admin_url)
        return parts._replace(path=f"/{self.own(database)}").geturl() if database else parts.geturl()

    def url(self, user: str, password: str, database: str = "jushita") -> str:
        parts = urlsplit(self._server.url(self.own(database)))
        return parts._replace(netloc=f"{self.own(user)}:{password}@{parts.hostname}:{parts.port}").geturl()

    def execute(self, *statements: str, inside: str = "") -> None:
        """As the administrator, in the database `inside` if it is named."""
        try:
            for statement in statements:
                query(self.admin(inside), self.own(statement))
        except psycopg.errors.InsufficientPrivilege as error:
            raise DatabaseRefused(f"the PostgreSQL login may not do this: {error}") from None
        except pymysql.err.OperationalError as error:
            raise DatabaseRefused(f"the MySQL login may not do this: {error}") from None

    def user(self, name: str, password: str) -> None:
        role = self._server.kind == "postgresql"
        self.execute(
            f"CREATE ROLE {name} LOGIN PASSWORD '{password}'"
            if role
            else f"CREATE USER {name} IDENTIFIED BY '{password}'"
        )

    def clear(self) -> None:
        for database in self.databases:
            self._server.drop_database(self.own(database))
        kind = "ROLE" if self._server.kind == "postgresql" else "USER"
        for user in ("jst_bridge", "jst_report", "jst_views"):
            self.execute(f"DROP {kind} IF EXISTS {user}")


@dataclass(frozen=True)
class Page:
    """The blocks of one kind of server."""

    make: list[str]
    readers: list[str]
    fewer_rights: list[str]


@pytest.fixture
def site(database_server: RunningDatabases) -> Iterator[tuple[Site, Page]]:
    """A server set up by the page's first block."""
    title = {"postgresql": "PostgreSQL", "mariadb": "MySQL and MariaDB"}[database_server.kind]
    page = Page(*statements(SECTIONS[title]))
    made = Site(database_server)
    try:
        made.execute(*page.make)
    except DatabaseRefused as refusal:
        with suppress(DatabaseRefused):
            made.clear()
        pytest.skip(str(refusal))
    yield made, page
    made.clear()


def test_the_bridge_and_its_readers_have_the_rights_they_need(site: tuple[Site, Page]) -> None:
    place, page = site
    bridge, report = place.url("jst_bridge", "change-me"), place.url("jst_report", "change-me-too")
    land_one(bridge)
    place.execute(*page.readers, inside="jushita")
    with open_reader(report) as reader:
        assert len(reader.messages()) == 1
    query(bridge, "CREATE VIEW later AS SELECT 1 AS one")  # as a migration makes views anew
    assert query(report, "SELECT one FROM later") == [(1,)]
    with pytest.raises(DATABASE_ERRORS, match="denied"):
        query(report, "DELETE FROM messages")


def test_a_bridge_that_may_not_make_tables_lands_into_those_of_an_administrator(
    site: tuple[Site, Page],
) -> None:
    place, page = site
    place.execute("CREATE DATABASE second")
    database = open_database(place.admin("second"))
    place.execute(*database.pending(), inside="second")
    database.close()
    place.execute(
        *[statement.replace("jushita", "second") for statement in page.fewer_rights], inside="second"
    )
    bridge = place.url("jst_bridge", "change-me", "second")
    land_one(bridge)
    with pytest.raises(DATABASE_ERRORS, match=r"denied|must be owner"):
        query(bridge, "DROP VIEW v_trades")


def test_a_reader_of_the_views_sees_no_bodies(site: tuple[Site, Page]) -> None:
    place, _ = site
    land_one(place.url("jst_bridge", "change-me"))
    [grants] = statements(SECTIONS["Readers without the bodies"])
    place.user("jst_views", "change-me")
    place.execute(*grants, inside="jushita")
    views = place.url("jst_views", "change-me")
    for grant in grants:
        view = grant.split()[3]
        assert b"tb:1:1" not in {value for row in query(views, f"SELECT * FROM {view}") for value in row}
        with pytest.raises(DATABASE_ERRORS, match="denied"):
            query(views, f"SELECT * FROM {view.removeprefix('v_')}")


def land_one(url: str) -> None:
    store = open_store(url)
    store.open()
    assert store.land(landing(message(), dead_letters=[dead()])).landed == 1
    store.close()
