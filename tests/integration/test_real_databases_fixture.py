"""The fixtures of the other tests, tested: real database servers that stop, die, freeze and refuse."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import psycopg
import pymysql
import pytest

from tests.cluster import ClusterError, wait_until
from tests.cutting_proxy import CuttingProxy
from tests.databases import MariadbServer, PostgresqlServer, RunningDatabases, query
from tests.databases.process import gone
from tests.databases.running import mysql_connection

Server = PostgresqlServer | MariadbServer
Factory = Callable[..., Server]

REFUSED = (psycopg.OperationalError, pymysql.err.OperationalError)
NOT_ALLOWED = (psycopg.errors.InsufficientPrivilege, pymysql.err.OperationalError)
NO_SUCH_TABLE = (psycopg.errors.UndefinedTable, pymysql.err.ProgrammingError, sqlite3.OperationalError)


def connect(url: str) -> Any:
    """A session that begins a transaction with its first statement."""
    if url.startswith("postgresql"):
        return psycopg.connect(url)
    session = mysql_connection(url)
    session.autocommit(False)
    return session


def keep_a_note(url: str) -> None:
    query(url, "CREATE TABLE notes (text VARCHAR(20))")
    query(url, "INSERT INTO notes VALUES ('kept')")


def notes(url: str) -> list[tuple[Any, ...]]:
    return query(url, "SELECT text FROM notes ORDER BY text")


def tree(server: Server) -> list[psutil.Process]:
    root = psutil.Process(server.pid)
    return [root, *root.children(recursive=True)]


def leashes(server: Server) -> list[psutil.Process]:
    return [one for one in psutil.Process().children() if str(server.pid) in one.cmdline()]


def test_each_test_has_an_empty_database_of_its_own(database_url: str) -> None:
    with pytest.raises(NO_SUCH_TABLE):
        notes(database_url)
    keep_a_note(database_url)
    assert notes(database_url) == [("kept",)]


def test_settings_and_place_can_be_chosen_and_commits_are_durable(
    own_database_server: Factory, tmp_path: Path
) -> None:
    server = own_database_server(data=tmp_path / "elsewhere", settings={"max_connections": 17})
    if isinstance(server, PostgresqlServer):
        assert server.admin("SHOW max_connections") == [("17",)]
        assert server.admin("SHOW fsync") == server.admin("SHOW synchronous_commit") == [("on",)]
    else:
        assert server.admin("SELECT @@max_connections") == [(17,)]
        assert server.admin("SELECT @@innodb_flush_log_at_trx_commit, @@log_bin") == [(1, 0)]
    assert any((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_server_comes_back_with_its_data(own_database_server: Factory, how: str) -> None:
    server = own_database_server()
    url = server.create_database("notebook")
    keep_a_note(url)
    processes = tree(server)

    getattr(server, how)()

    assert all(map(gone, processes))
    with pytest.raises(REFUSED):
        notes(url)
    server.start()
    assert notes(url) == [("kept",)]


def test_a_server_that_died_by_itself_can_be_started_again(own_mariadb: Callable[..., MariadbServer]) -> None:
    server = own_mariadb()
    url = server.create_database("notebook")
    keep_a_note(url)
    os.kill(server.pid, signal.SIGABRT)
    wait_until(lambda: not server.alive, "the server to die", 30)
    server.start()
    assert notes(url) == [("kept",)]


def test_a_frozen_server_lets_clients_wait_and_goes_on_when_thawed(own_database_server: Factory) -> None:
    server = own_database_server()
    url = server.create_database("notebook")
    keep_a_note(url)
    with ThreadPoolExecutor(1) as pool:
        server.freeze()
        answer = pool.submit(notes, url)
        with pytest.raises(TimeoutError):
            answer.result(timeout=0.3)
        server.thaw()
        assert answer.result(timeout=10) == [("kept",)]


def test_a_frozen_server_can_be_stopped_and_killed(own_database_server: Factory) -> None:
    server = own_database_server()
    for end in (server.stop, server.kill):
        processes = tree(server)
        server.freeze()
        end()
        assert all(map(gone, processes))
        server.start()


def test_a_wrong_password_is_refused(own_database_server: Factory) -> None:
    server = own_database_server()
    before = server.create_database("notebook")
    server.set_password("p'a\\s\"s @:/%")
    with pytest.raises(REFUSED, match=r"authentication failed|Access denied"):
        query(before, "SELECT 1")
    assert query(server.url("notebook"), "SELECT 1") == [(1,)]


def test_the_login_has_no_more_rights_than_the_bridge_needs(own_database_server: Factory) -> None:
    server = own_database_server()
    url = server.create_database("notebook")
    with pytest.raises(NOT_ALLOWED):
        query(url, "CREATE DATABASE another")


def test_killed_sessions_are_closed_and_their_work_undone(
    database_server: RunningDatabases, server_url: str
) -> None:
    keep_a_note(server_url)
    session = connect(server_url)
    cursor = session.cursor()
    cursor.execute("INSERT INTO notes VALUES ('lost')")

    database_server.kill_sessions()

    with pytest.raises(REFUSED):
        cursor.execute("SELECT 1")
    session.close()
    assert notes(server_url) == [("kept",)]


def test_a_database_can_be_dropped_under_a_session(
    database_server: RunningDatabases, server_url: str
) -> None:
    keep_a_note(server_url)
    session = connect(server_url)
    session.cursor().execute("SELECT * FROM notes")
    database_server.drop_database(urlsplit(server_url).path[1:])
    session.close()
    with pytest.raises(REFUSED):
        query(server_url, "SELECT 1")


@pytest.mark.parametrize("forward", [True, False], ids=["done", "not_done"])
def test_a_cut_commit_is_done_or_not_as_the_test_wants(server_url: str, forward: bool) -> None:
    keep_a_note(server_url)
    port = urlsplit(server_url).port
    assert port is not None
    with CuttingProxy(port) as proxy:
        session = connect(proxy.url(server_url))
        session.cursor().execute("INSERT INTO notes VALUES ('perhaps')")
        proxy.cut_after(b"COMMIT", forward=forward)
        with pytest.raises(REFUSED):
            session.commit()
        assert proxy.cuts == 1
        session.close()
    assert notes(server_url) == ([("kept",), ("perhaps",)] if forward else [("kept",)])


def test_a_server_that_cannot_start_says_why(own_database_server: Factory) -> None:
    with pytest.raises(ClusterError, match=r"no[_-]such[_-]setting"):
        own_database_server(settings={"no_such_setting": 1})


def test_nothing_is_left_of_a_server(own_database_server: Factory) -> None:
    server = own_database_server()
    processes = [*tree(server), *leashes(server)]
    assert len(processes) >= 2
    server.discard()
    assert all(map(gone, processes))
    assert not server.data.exists()


@pytest.mark.database
@pytest.mark.parametrize(
    ("fixture", "kind"), [("own_postgresql", "PostgresqlServer"), ("own_mariadb", "MariadbServer")]
)
def test_a_server_ends_with_the_process_that_started_it_even_frozen(
    request: pytest.FixtureRequest, fixture: str, kind: str, tmp_path: Path
) -> None:
    request.getfixturevalue(fixture)().discard()  # skips where the server is not installed
    program = (
        "import sys, pathlib\n"
        f"from tests.databases import {kind}\n"
        f"server = {kind}(pathlib.Path(sys.argv[1])).start()\n"
        "server.freeze()\n"
        "print(server.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as owner:
        assert owner.stdout is not None
        root = psutil.Process(int(owner.stdout.readline()))
        processes = [root, *root.children(recursive=True)]
        owner.send_signal(signal.SIGKILL)
    wait_until(lambda: all(map(gone, processes)), "the server to end", 30)
    shutil.rmtree(tmp_path)  # pytest keeps such directories for three sessions
