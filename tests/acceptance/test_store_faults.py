"""Faults of the store under a running bridge: it holds everything back, says why, and goes on by itself.

The bridge here is the whole program with less patience than a user's, so that a fault is over in seconds;
`JST_TEST_PATIENT=1` runs it with the patience it has.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from tests.bridge_process import BridgeProcess, Installation
from tests.cluster import RunningCluster, ask, wait_until
from tests.cutting_proxy import CuttingProxy
from tests.databases import MariadbServer, PostgresqlServer
from tests.databases.running import mysql_connection
from tests.stores import COMMIT
from tests.traffic import Fact, Truth, traffic

pytestmark = pytest.mark.one_broker
PATIENT = bool(os.environ.get("JST_TEST_PATIENT"))
LOCKED_SECONDS = float(os.environ.get("JST_TEST_LOCKED_SECONDS", "0"))
"""How long the write lock is held at least; in any case until the bridge has left its group."""
SEED = int(os.environ.get("JST_TEST_SEED", "1"))
DOWN, LEFT, BACK = "the store is down, nothing is settled", "leaves its consumer group", "the store is back"
GET_CONSUME_STATS = 208
SECONDS = 120.0 if PATIENT else 30.0

IMPATIENT = """
from jst_bridge.__main__ import main
from jst_bridge.store import database, server, sqlite
server.ServerDatabase.answer_seconds = 2
server.ServerDatabase.lock_seconds = 1
database.REDO_SECONDS = 1
sqlite.SqliteDatabase.__init__.__kwdefaults__["busy_timeout"] = 0.5
main()
"""

AnyServer = PostgresqlServer | MariadbServer
Own = Callable[..., AnyServer]


class HastyInstallation(Installation):
    """Runs the program with less patience; `obedient` to file permissions even where it is root's."""

    obedient = False

    def command(self, *arguments: str) -> list[str]:
        whole = super().command(*arguments)
        if not PATIENT:
            whole = [sys.executable, "-c", IMPATIENT, *whole[3:]]
        if self.obedient and os.geteuid() == 0:
            whole = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *whole]
        return whole


class Ordeal:
    """One running bridge on its way through faults, and what was published to it."""

    def __init__(self, installation: Installation, cluster: RunningCluster) -> None:
        self.installation = installation
        self.published: list[Fact] = []
        self._cluster = cluster
        self._facts = traffic(5000, seed=SEED)
        self._bridge: BridgeProcess | None = None

    @property
    def bridge(self) -> BridgeProcess:
        assert self._bridge is not None
        return self._bridge

    @contextmanager
    def running(self) -> Iterator[None]:
        """Start the bridge; it lands its first messages."""
        self.publish(40)  # the topic has to exist
        with self.installation.start() as self._bridge:
            self.land(40)
            yield

    def publish(self, count: int) -> None:
        facts = list(itertools.islice(self._facts, count))
        self._cluster.publish(fact.line(self.installation.topic) for fact in facts)
        self.published += facts

    def land(self, count: int) -> None:
        """Publish so many, and wait until everything is durable."""
        self.publish(count)
        self.installation.wait_for(len(self.published), SECONDS)

    def settled(self) -> int:
        """Messages of the topic that the group has committed, by the broker's books."""
        group, topic = self.installation.group, self.installation.topic
        _, stats = ask(self._cluster.broker_address, GET_CONSUME_STATS, consumerGroup=group, topic=topic)
        return sum(int(offset) for offset in re.findall(rb'"consumerOffset":(-?\d+)', stats))

    def lines(self, *levels: str) -> list[str]:
        """What was logged at these levels (all by default)."""
        records = [json.loads(line) for line in self.bridge.log().splitlines() if line.startswith("{")]
        return [record["event"] for record in records if not levels or record["level"] in levels]

    def wait_for(self, text: str, times: int) -> None:
        """Wait until `text` was logged so many times."""

        def said() -> bool:
            assert self.bridge.process.poll() is None, self.bridge.log()
            return sum(text in line for line in self.lines()) >= times

        try:
            wait_until(said, f"{text!r} in the log, {times} times", SECONDS)
        except BaseException:
            print(self.bridge.log())
            raise

    def lasting(self, fault: Callable[[], object], mend: Callable[[], object], *words: str) -> None:
        """A fault that lasts until the group is left. One ERROR says the `words`, one that the group is left."""
        landed, before = len(self.published), self.lines("error")
        times = sum(LEFT in line for line in before) + 1
        fault()
        self.publish(120)
        self.wait_for(LEFT, times)
        # What leaves the group commits all that was settled: what had landed, and nothing more.
        settled = self.settled()
        assert settled == landed or landed < settled <= self.installation.count()
        mend()
        self.wait_for(BACK, times)
        self.land(40)
        down, left = self.lines("error")[len(before) :]
        assert DOWN in down
        assert LEFT in left
        for word in words:
            assert word in down

    def momentary(self, fault: Callable[[], object], *words: str) -> None:
        """A fault that is over before the group is left."""
        before, times = self.lines("error"), sum(BACK in line for line in self.lines()) + 1
        fault()
        self.land(60)
        self.wait_for(BACK, times)
        [down] = self.lines("error")[len(before) :]
        assert DOWN in down
        for word in words:
            assert word in down

    def finish(self, *secrets: str) -> None:
        """Stop in order; the store must equal the truth, and the log hold neither tracebacks nor secrets."""
        self.bridge.signal(signal.SIGTERM)
        outcome = self.bridge.wait()
        assert outcome.code == 0, outcome.err
        assert "Traceback" not in outcome.err
        for secret in secrets:
            assert secret not in outcome.err + outcome.out
        self.installation.assert_equals(Truth.of(self.published))


@pytest.fixture
def impatient(cluster: RunningCluster, topic: str, group: str) -> Callable[..., HastyInstallation]:
    """Makes an installation whose bridge leaves its group after half a second without a store."""

    def make(directory: Path, store: str | None = None) -> HastyInstallation:
        return HastyInstallation(
            directory, cluster.name_server, topic, group, store=store, environ={"JST_RUN__LEAVE_AFTER": "0.5"}
        )

    return make


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts file systems of so many MiB; skips where that is not permitted."""
    with ExitStack() as stack:

        def mount(size: int) -> Path:
            place = tmp_path / f"disk{size}"
            place.mkdir()
            command = ["mount", "-t", "tmpfs", "-o", f"size={size}m,mode=755", "tmpfs", str(place)]
            outcome = subprocess.run(command, capture_output=True, text=True, check=False)
            if outcome.returncode:
                pytest.skip(f"cannot mount a small disk: {outcome.stderr.strip()}")
            stack.callback(subprocess.run, ["umount", "-l", str(place)], check=True)
            return place

        yield mount


def fill(disk: Path) -> Callable[[], None]:
    """Take all the room there is; what it returns gives it back."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError as error:
            assert error.errno == errno.ENOSPC  # noqa: PT017 - it also ends the loop
    return filler.unlink


# --- SQLite -------------------------------------------------------------------------------------------


@pytest.mark.timeout(300)
def test_a_locked_file_and_a_full_disk_hold_everything_back(
    impatient: Callable[..., HastyInstallation], cluster: RunningCluster, small_disk: Callable[[int], Path]
) -> None:
    disk = small_disk(32)
    installation = impatient(disk)
    ordeal = Ordeal(installation, cluster)
    with ordeal.running():
        with closing(
            sqlite3.connect(installation.database, isolation_level=None, check_same_thread=False)
        ) as other:
            since = time.monotonic()

            def release() -> None:
                wait_until(lambda: time.monotonic() - since >= LOCKED_SECONDS, "the end of the lock", 60)
                other.execute("ROLLBACK")

            ordeal.lasting(
                lambda: other.execute("BEGIN IMMEDIATE"), release, "locked", str(installation.database)
            )
        full: list[Callable[[], None]] = []
        ordeal.lasting(lambda: full.append(fill(disk)), lambda: full.pop()(), "full", "make room")
        ordeal.finish()


def moved(files: Path, aside: Path) -> None:
    """Move the store at `files` and what belongs to it, as somebody with `mv` does."""
    aside.mkdir()
    for file in files.parent.glob(f"{files.name}*"):
        file.rename(aside / file.name)


def copied(store: Path, to: Path) -> None:
    """A backup, as SQLite makes them beside a running bridge."""
    with closing(sqlite3.connect(store)) as one, closing(sqlite3.connect(to)) as other:
        one.backup(other)


def outgoing_ids(store: Path) -> set[str]:
    with closing(sqlite3.connect(store)) as file:
        return {key.rpartition(":")[2] for (key,) in file.execute("SELECT message_key FROM messages")}


def restored_command(ordeal: Ordeal) -> list[str]:
    """The last command that the log names: its arguments."""
    found = [
        line.split("`jst-bridge ")[1].split("`")[0]
        for line in ordeal.lines("warning")
        if "`jst-bridge " in line
    ]
    assert found[-1].startswith("offsets reset ")
    return found[-1].split()


@pytest.mark.timeout(300)
def test_a_file_removed_replaced_or_restored_loses_nothing(
    impatient: Callable[..., HastyInstallation], cluster: RunningCluster, tmp_path: Path
) -> None:
    (tmp_path / "home").mkdir()
    installation = impatient(tmp_path / "home")
    store, ordeal = installation.database, Ordeal(installation, cluster)
    gone = "removed or replaced"
    with ordeal.running():
        copied(store, tmp_path / "copy.db")
        ordeal.land(60)

        moved(store, tmp_path / "first")
        ordeal.publish(60)
        ordeal.wait_for(BACK, 1)
        wait_until(lambda: installation.count() >= 60, "the new file to hold the new messages", SECONDS)

        moved(store, tmp_path / "second")
        (tmp_path / "copy.db").rename(store)
        ordeal.publish(60)
        ordeal.wait_for(BACK, 2)
        wait_until(lambda: installation.count() >= 80 + 60, "the copy to hold the new messages", SECONDS)

        everything = {str(fact.outgoing_id) for fact in ordeal.published}
        kept = [outgoing_ids(tmp_path / part / store.name) for part in ("first", "second")]
        assert set().union(*kept, outgoing_ids(store)) == everything
        assert [gone in line for line in ordeal.lines("error")] == [True, True]
        ordeal.bridge.signal(signal.SIGTERM)
        assert ordeal.bridge.wait().code == 0

        # What only the files moved away hold comes again by the command that the log names.
        assert installation.run(*restored_command(ordeal), "--yes").code == 0
        assert installation.run("run", "--drain").code == 0
    installation.assert_equals(Truth.of(ordeal.published))


@pytest.mark.timeout(300)
def test_a_directory_that_cannot_be_written_holds_everything_back(
    impatient: Callable[..., HastyInstallation], cluster: RunningCluster, tmp_path: Path
) -> None:
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        pytest.skip("root writes everywhere, and setpriv is not here to take that from a process")
    home = tmp_path / "home"
    home.mkdir()
    store = home / "bridge.db"
    installation = impatient(tmp_path, f"sqlite:///{store}")
    installation.obedient = True
    ordeal = Ordeal(installation, cluster)

    def lock_away() -> None:
        moved(store, tmp_path / "first")
        home.chmod(0o500)

    def give_back() -> None:
        home.chmod(0o700)
        for file in (tmp_path / "first").iterdir():
            file.rename(home / file.name)

    with ordeal.running():
        ordeal.lasting(lock_away, give_back, "removed or replaced", str(store))
        assert any(
            "another reason" in line and "Permission denied" in line for line in ordeal.lines("warning")
        )
        ordeal.finish()


# --- PostgreSQL and MariaDB ---------------------------------------------------------------------------


class Holder:
    """A session of somebody else's that holds locks until it is released."""

    def __init__(self, server: AnyServer, url: str) -> None:
        if server.kind == "postgresql":
            self._session: Any = psycopg.connect(url)
            self._whole_table = "LOCK TABLE messages IN EXCLUSIVE MODE"
        else:
            self._session = mysql_connection(url)
            self._session.autocommit(False)
            self._whole_table = "LOCK TABLES messages READ"

    def lock_table(self) -> None:
        self._session.cursor().execute(self._whole_table)

    def lock_rows(self) -> None:
        self._session.cursor().execute("SELECT * FROM positions FOR UPDATE")

    def close(self) -> None:
        """Idempotent."""
        session, self._session = self._session, None
        if session is not None:
            session.close()


def set_read_only(server: AnyServer, *, on: bool) -> None:
    if server.kind == "postgresql":
        server.admin(f"ALTER SYSTEM SET default_transaction_read_only = {'on' if on else 'off'}")
        server.admin("SELECT pg_reload_conf()")
    else:
        server.admin(f"SET GLOBAL read_only = {int(on)}")


@pytest.mark.timeout(400)
def test_a_server_that_stops_dies_or_refuses_is_waited_for(
    impatient: Callable[..., HastyInstallation],
    cluster: RunningCluster,
    own_database_server: Own,
    tmp_path: Path,
) -> None:
    server = own_database_server()
    url = server.create_database("jst_test_faults")
    password, second = password_of(url), "word'of\\another kind"
    ordeal = Ordeal(impatient(tmp_path, url), cluster)
    with ordeal.running():
        ordeal.lasting(server.stop, server.start, "goes on by itself")
        ordeal.lasting(server.kill, server.start)
        ordeal.momentary(server.kill_sessions, "goes on by itself")
        ordeal.lasting(
            lambda: set_read_only(server, on=True), lambda: set_read_only(server, on=False), "read-only"
        )

        def change_password() -> None:
            server.set_password(second)
            server.kill_sessions()

        ordeal.lasting(change_password, lambda: server.set_password(password))
        assert any("refuses this user or password" in line for line in ordeal.lines())
        for lock in (Holder.lock_table, Holder.lock_rows):
            with closing(Holder(server, url)) as holder:
                ordeal.lasting(partial(lock, holder), holder.close, "busy", "locks")
        ordeal.finish(password, second)


@pytest.mark.timeout(300)
def test_a_server_that_falls_silent_is_given_up_on_and_waited_for(
    impatient: Callable[..., HastyInstallation],
    cluster: RunningCluster,
    own_database_server: Own,
    tmp_path: Path,
) -> None:
    server = own_database_server()
    url = server.create_database("jst_test_faults")
    with CuttingProxy(server.port) as proxy:
        ordeal = Ordeal(impatient(tmp_path, f"{proxy.url(url)}?connect_timeout=2"), cluster)
        with ordeal.running():
            ordeal.momentary(proxy.cut_now)
            ordeal.momentary(lambda: proxy.cut_after(COMMIT[url.partition(":")[0]], forward=True))
            ordeal.lasting(proxy.stall, proxy.resume)
            ordeal.lasting(server.freeze, server.thaw)
            ordeal.finish(password_of(url))


@pytest.mark.timeout(300)
def test_a_server_with_a_full_disk_is_waited_for(
    impatient: Callable[..., HastyInstallation],
    cluster: RunningCluster,
    own_database_server: Own,
    small_disk: Callable[[int], Path],
    tmp_path: Path,
) -> None:
    disk = small_disk(400)
    server = own_database_server(data=disk / "data")
    ordeal = Ordeal(impatient(tmp_path, server.create_database("jst_test_faults")), cluster)
    full: list[Callable[[], None]] = []

    def make_room() -> None:
        full.pop()()
        if not server.alive:
            server.start()

    with ordeal.running():
        ordeal.lasting(lambda: full.append(fill(disk)), make_room)
        ordeal.finish()


def password_of(url: str) -> str:
    password = urlsplit(url).password
    assert password
    return password
