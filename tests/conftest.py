"""What every test shares: a clean environment, real servers, and an account of what was not run.

`cluster` is one real RocketMQ cluster for the whole session, `own_cluster` makes one for a test that kills
servers. `JST_TEST_NAMESRV=host:port` uses a cluster that runs already. Where Java or Maven is missing these
tests fail in CI and are skipped elsewhere, with the reason.

`postgresql` and `mariadb` are one database server each for the session, `own_postgresql` and `own_mariadb` make
one for a test that kills it; `database_server` and `own_database_server` are both in turn. `database_url` runs a
test once per kind of database, `server_url` once per kind of server, each time with an empty database.
`JST_TEST_POSTGRESQL` and `JST_TEST_MYSQL` name servers that run already, as URLs of a login that may create
databases there.
"""

from __future__ import annotations

import itertools
import logging
import os
import random
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import pytest
from hypothesis import settings

from tests.cluster import Cluster, RunningCluster
from tests.databases import (
    DatabaseRefused,
    MariadbServer,
    PostgresqlServer,
    RunningDatabases,
    RunningMariadb,
    RunningPostgresql,
)
from tests.java.toolchain import Toolchain, ToolMissing, toolchain

MARKED_FIXTURES = {
    "broker": {"cluster", "own_cluster"},
    "database": {"postgresql", "mariadb", "own_postgresql", "own_mariadb"},
}
"""Which marker the users of a fixture carry. Fixtures with parameters mark those that need servers."""
DATABASE_SERVERS = [
    pytest.param("postgresql", marks=pytest.mark.database),
    pytest.param("mariadb", marks=pytest.mark.database),
]
IN_CI = bool(os.environ.get("CI"))

settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if IN_CI else "here")

AnyServer = TypeVar("AnyServer", PostgresqlServer, MariadbServer)

serial = itertools.count(random.SystemRandom().randrange(10_000_000, 90_000_000))
"""Numbers for fresh names; random at first, because servers that run already remember former sessions."""


@pytest.fixture(scope="session", autouse=True)
def clean_environment() -> Iterator[None]:
    """Settings of the developer's shell (JST_*) never reach a test; the tests' own (JST_TEST_*) stay."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith("JST_") and not name.startswith("JST_TEST_"):
                patch.delenv(name)
        yield


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """The command line configures logging for its process, which here is everybody's."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    root.setLevel(level)
    root.handlers[:] = handlers


@pytest.fixture(scope="session")
def java() -> Toolchain:
    """Java with RocketMQ's jars; fails (CI) or skips (elsewhere) when this machine has none."""
    try:
        return toolchain()
    except ToolMissing as missing:
        not_here(missing)


@pytest.fixture(scope="session")
def cluster(java: Toolchain) -> Iterator[RunningCluster]:
    """The real cluster that most tests share: fresh topics and groups keep them apart."""
    elsewhere = os.environ.get("JST_TEST_NAMESRV")
    with scratch_directory() as name:
        scratch = Path(name)
        running = RunningCluster(elsewhere, java, scratch) if elsewhere else Cluster(java, scratch)
        with running:
            yield running


@pytest.fixture
def own_cluster(java: Toolchain) -> Iterator[Callable[..., Cluster]]:
    """A factory of clusters to stop, kill and configure: `own_cluster(queues=4, properties={...})`."""
    if os.environ.get("JST_TEST_NAMESRV"):
        pytest.skip("kills servers of its own, and JST_TEST_NAMESRV names a cluster to use instead")
    with ExitStack() as stack:

        def start(**options: Any) -> Cluster:
            scratch = Path(stack.enter_context(scratch_directory()))
            return stack.enter_context(Cluster(java, scratch, **options))

        yield start


@pytest.fixture(scope="session")
def postgresql() -> Iterator[RunningPostgresql]:
    """The PostgreSQL server that most tests share: fresh databases keep them apart."""
    elsewhere = os.environ.get("JST_TEST_POSTGRESQL")
    if elsewhere:
        yield RunningPostgresql(elsewhere)
        return
    with scratch_directory() as name, private_server(PostgresqlServer, Path(name)) as server:
        yield server


@pytest.fixture(scope="session")
def mariadb() -> Iterator[RunningMariadb]:
    """The MariaDB server that most tests share: fresh databases keep them apart."""
    elsewhere = os.environ.get("JST_TEST_MYSQL")
    if elsewhere:
        yield RunningMariadb(elsewhere)
        return
    with scratch_directory() as name, private_server(MariadbServer, Path(name)) as server:
        yield server


@pytest.fixture
def own_postgresql() -> Iterator[Callable[..., PostgresqlServer]]:
    """A factory of servers to stop, kill and configure: `own_postgresql(data=path, settings={...})`."""
    with ExitStack() as stack:
        yield own_servers(stack, PostgresqlServer, "JST_TEST_POSTGRESQL")


@pytest.fixture
def own_mariadb() -> Iterator[Callable[..., MariadbServer]]:
    """A factory of servers to stop, kill and configure: `own_mariadb(data=path, settings={...})`."""
    with ExitStack() as stack:
        yield own_servers(stack, MariadbServer, "JST_TEST_MYSQL")


@pytest.fixture(params=["sqlite", *DATABASE_SERVERS])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database nobody used before, once of each kind; dropped after the test."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'bridge.db'}"
    else:
        with fresh_database(request.getfixturevalue(request.param)) as url:
            yield url


@pytest.fixture(params=DATABASE_SERVERS)
def database_server(request: pytest.FixtureRequest) -> RunningDatabases:
    """`postgresql` and `mariadb` in turn."""
    server: RunningDatabases = request.getfixturevalue(request.param)
    return server


@pytest.fixture(params=DATABASE_SERVERS)
def own_database_server(request: pytest.FixtureRequest) -> Callable[..., PostgresqlServer | MariadbServer]:
    """`own_postgresql` and `own_mariadb` in turn."""
    factory: Callable[..., PostgresqlServer | MariadbServer] = request.getfixturevalue(f"own_{request.param}")
    return factory


@pytest.fixture
def server_url(database_server: RunningDatabases) -> Iterator[str]:
    """An empty database on each kind of server, for what SQLite has no part in."""
    with fresh_database(database_server) as url:
        yield url


@pytest.fixture
def topic() -> str:
    """A system topic nobody used before; it comes to be with the first message."""
    return f"rmq_sys_jst_{next(serial)}"


@pytest.fixture
def group() -> str:
    """A consumer group nobody used before."""
    return f"GID_test_{next(serial)}"


def scratch_directory() -> tempfile.TemporaryDirectory[str]:
    """Not pytest's tmp_path: that one is kept for three sessions, and commit logs are large."""
    return tempfile.TemporaryDirectory(prefix="jst-bridge-", ignore_cleanup_errors=True)


def not_here(missing: ToolMissing) -> NoReturn:
    """Real servers cannot run: CI must not go on without them, a developer may."""
    if IN_CI:
        pytest.fail(f"CI must run the tests with real servers: {missing}", pytrace=False)
    pytest.skip(str(missing))


def private_server(kind: type[AnyServer], scratch: Path, **options: Any) -> AnyServer:
    """A server yet to be started; fails (CI) or skips (elsewhere) where it is not installed."""
    try:
        return kind(scratch, **options)
    except ToolMissing as missing:
        not_here(missing)


def own_servers(stack: ExitStack, kind: type[AnyServer], variable: str) -> Callable[..., AnyServer]:
    """What an `own_` fixture yields; the stack ends the servers."""
    if os.environ.get(variable):
        pytest.skip(f"kills servers of its own, and {variable} names a server to use instead")

    def start(**options: Any) -> AnyServer:
        scratch = Path(stack.enter_context(scratch_directory()))
        return stack.enter_context(private_server(kind, scratch, **options))

    return start


@contextmanager
def fresh_database(server: RunningDatabases) -> Iterator[str]:
    """The URL of an empty database; skips where the login may not create one (a server of the developer's)."""
    name = f"jst_test_{next(serial)}"
    try:
        url = server.create_database(name)
    except DatabaseRefused as refusal:
        pytest.skip(str(refusal))
    yield url
    server.drop_database(name)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever uses real servers carries a marker, so that `-m "not broker and not database"` leaves it out."""
    for item in items:
        for marker, fixtures in MARKED_FIXTURES.items():
            if not fixtures.isdisjoint(getattr(item, "fixturenames", ())):
                item.add_marker(marker)


def pytest_collection_finish(session: pytest.Session) -> None:
    """The first download of the jars can take minutes, which no time limit of a test should count."""
    wanted = any(item.get_closest_marker("broker") for item in session.items)
    if wanted and not session.config.option.collectonly:
        try:
            toolchain()
        except ToolMissing:
            return  # the fixture `java` says so, test by test


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the server-backed tests that were skipped: a green run must not hide what it did not look at."""
    skipped: dict[str, list[str]] = defaultdict(list)
    for report in terminalreporter.stats.get("skipped", []):
        if not MARKED_FIXTURES.keys().isdisjoint(report.keywords) and isinstance(report.longrepr, tuple):
            skipped[report.longrepr[2].removeprefix("Skipped: ")].append(report.nodeid)
    if skipped:
        terminalreporter.section("not run here")
        for reason, tests in sorted(skipped.items()):
            terminalreporter.line(f"{len(tests)} with real servers: {reason}")
            for test in sorted(tests):
                terminalreporter.line(f"    {test}")
