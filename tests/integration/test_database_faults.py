"""What a mistake with a database, and a server that does not answer, look like to the store and its user."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner

from jst_bridge.cli import cli
from jst_bridge.errors import ConfigurationError, StoreUnavailable
from jst_bridge.ports import Position
from jst_bridge.store import LandingStore, open_store
from jst_bridge.store.server import ServerDatabase
from tests.bridge_process import Installation
from tests.cluster import free_port
from tests.cutting_proxy import CuttingProxy
from tests.databases import MariadbServer, PostgresqlServer, RunningDatabases, query
from tests.stores import QUEUE, landing, message, rows

AnyServer = PostgresqlServer | MariadbServer
Own = Callable[..., AnyServer]
NOWHERE = "127.0.0.1:1"
"""A name server that nobody asks before the store."""


def configuration(directory: Path, url: str) -> str:
    return str(Installation(directory, NOWHERE, "rmq_sys_jst_1", "GID_x", store=url).config)


def assert_refused(directory: Path, url: str, code: int, *words: str) -> None:
    """`run` ends with one clear error and `check --connect` says the same; neither names the password."""
    config = configuration(directory, url)
    run = CliRunner().invoke(cli, ["run", "-c", config])
    check = CliRunner().invoke(cli, ["check", "--connect", "-c", config])
    error, remedy = run.stderr.splitlines()[-2:]
    assert error.startswith("error: ")
    assert remedy.startswith("  remedy: ")
    assert run.stderr.count("error:") == 1
    for word in words:
        assert word in error + remedy
    assert (run.exit_code, check.exit_code) == (code, code), run.output + check.output
    assert remedy.strip() in check.stdout
    assert urlsplit(url).path.removeprefix("/") in check.stdout
    said = run.output + check.output
    assert "Traceback" not in said
    assert (urlsplit(url).password or "no password") not in said


def changed(url: str, **parts: str) -> str:
    """The URL with another `password`, `host`, `port` or `path`."""
    split = urlsplit(url)
    password = parts.get("password", split.password)
    place = f"{parts.get('host', split.hostname)}:{parts.get('port', split.port)}"
    return split._replace(
        netloc=f"{parts.get('user', split.username)}:{password}@{place}", path=parts.get("path", split.path)
    ).geturl()


def test_a_login_or_a_place_that_is_wrong(tmp_path: Path, server_url: str) -> None:
    assert_refused(tmp_path, changed(server_url, password="not-this"), 77, "password", "password_file")
    assert_refused(tmp_path, changed(server_url, user="nobody-such"), 77, "user", "[store] url")
    assert_refused(tmp_path, changed(server_url, path="/nowhere"), 75, "nowhere", "store")
    assert_refused(
        tmp_path, changed(server_url, port=str(free_port(0))), 75, "start the server", "[store] url"
    )
    assert_refused(tmp_path, changed(server_url, host="nohost.invalid"), 75, "nohost", "[store] url")
    with pytest.raises(ConfigurationError, match=r"no\.\.host") as caught:
        open_store(changed(server_url, host="no..host"))
    assert caught.value.remedy


def test_a_schema_of_another_version(tmp_path: Path, server_url: str) -> None:
    store = open_store(server_url)
    store.open()
    store.close()
    query(server_url, "UPDATE schema_migrations SET version = 1")
    assert_refused(tmp_path, server_url, 78, "schema 1", "`jst-bridge store migrate`")
    query(server_url, "UPDATE schema_migrations SET version = 99")
    assert_refused(tmp_path, server_url, 78, "schema 99", "upgrade jst-bridge")


def test_rights_that_lack_and_a_server_that_only_reads(tmp_path: Path, own_database_server: Own) -> None:
    server = own_database_server()
    url = server.create_database("jst_test_rights")
    reader = changed(url, user="reader", password="look-only")
    if server.kind == "postgresql":
        server.admin("CREATE ROLE reader LOGIN PASSWORD 'look-only'")
        grant = "GRANT USAGE ON SCHEMA public TO reader; GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA public TO reader"
    else:
        server.admin("CREATE USER reader@127.0.0.1 IDENTIFIED BY 'look-only'")
        grant = ""
        server.admin("GRANT SELECT, INSERT ON jst_test_rights.* TO reader@127.0.0.1")
    made = CliRunner().invoke(
        cli, ["run", "-c", configuration(tmp_path, reader)]
    )  # a check would make nothing
    assert made.exit_code == 75
    assert "does not permit" in made.stderr
    assert "CREATE" in made.stderr
    store = open_store(url)
    store.open()
    store.close()
    if grant:
        query(url, grant)
    assert_refused(tmp_path, reader, 75, "does not permit", "grant", "UPDATE and DELETE")

    if server.kind == "postgresql":
        server.admin("ALTER SYSTEM SET default_transaction_read_only = on")
        server.admin("SELECT pg_reload_conf()")
    else:
        server.admin("SET GLOBAL read_only = 1")
    assert_refused(tmp_path, url, 75, "read-only", "primary")


def test_an_encoding_that_holds_no_chinese(tmp_path: Path, own_postgresql: Own) -> None:
    server = own_postgresql()
    server.admin(
        "CREATE DATABASE jst_test_ascii OWNER jst ENCODING 'SQL_ASCII' LOCALE 'C' LOCALE_PROVIDER libc"
        " TEMPLATE template0"
    )
    assert_refused(tmp_path, server.url("jst_test_ascii"), 69, "SQL_ASCII", "ENCODING 'UTF8'")


def test_packets_too_small_for_a_message(tmp_path: Path, own_mariadb: Own) -> None:
    server = own_mariadb(settings={"max-allowed-packet": "1M"})
    url = server.create_database("jst_test_packet")
    assert_refused(tmp_path, url, 69, "1,048,576", "max_allowed_packet")


# --- a server that does not answer --------------------------------------------------------------------


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stores that await an answer for a second only."""
    monkeypatch.setattr(ServerDatabase, "answer_seconds", 1.0)


@pytest.fixture
def landed(
    server_url: str, database_server: RunningDatabases, hasty: None
) -> Iterator[tuple[LandingStore, CuttingProxy]]:
    """A store behind a proxy that holds one message."""
    proxy = CuttingProxy(urlsplit(server_url).port or 0)
    with proxy:
        store = open_store(f"{proxy.url(server_url)}?connect_timeout=1")
        with closing(store):
            store.open()
            store.land(landing(message("a"), positions=[Position(QUEUE, 1)]))
            yield store, proxy


def test_a_half_open_connection_is_given_up_on_in_time(
    landed: tuple[LandingStore, CuttingProxy], server_url: str
) -> None:
    store, proxy = landed
    proxy.stall()
    for _ in ("the connection that was open", "a new one"):
        began = time.monotonic()
        with pytest.raises(StoreUnavailable) as caught:
            store.land(landing(message("b"), positions=[Position(QUEUE, 2)]))
        assert time.monotonic() - began < 5
        assert "by itself" in caught.value.remedy
        assert (urlsplit(server_url).password or "") not in str(caught.value)
    proxy.resume()
    assert store.land(landing(message("b"), positions=[Position(QUEUE, 2)])).landed == 1
    keys = query(server_url, "SELECT message_key FROM messages ORDER BY message_key")
    assert [key for (key,) in keys] == ["a", "b"]


def test_a_frozen_server_is_given_up_on_in_time(own_database_server: Own, hasty: None) -> None:
    server = own_database_server()
    url = server.create_database("jst_test_frozen")
    store = open_store(f"{url}?connect_timeout=1")
    with closing(store):
        store.open()
        server.freeze()
        for _ in ("the connection that was open", "a new one"):
            began = time.monotonic()
            with pytest.raises(StoreUnavailable):
                store.land(landing(message("a")))
            assert time.monotonic() - began < 5
        server.thaw()
        # What was sent before the thaw may be done by now; it counts as not done, and is absorbed.
        landed = store.land(landing(message("a")))
        assert landed.landed + landed.duplicates == 1
        assert rows(store, "SELECT message_key FROM messages") == [("a",)]
