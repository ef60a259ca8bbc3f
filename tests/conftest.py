"""What every test shares: a clean environment, real servers, and an account of what was not run.

`cluster` is a real RocketMQ cluster, one of 5.3.3 and one of 4.9.7 for the whole session: a test that takes it
runs on both. Marked `conformance` it runs unchanged on the sandbox too, as it plays the one and the other. Where the
broker only carries messages to what is tested (a database, a command, a page of the documentation) the marker
`one_broker` says so, and it runs on 5.3.3. `own_cluster` makes a cluster for a test that
kills or configures servers: of 5.3.3, unless the test says `own_cluster(version="4.9.7")` or is parametrised with
`parametrize("own_cluster", ROCKETMQ_VERSIONS, indirect=True)`. `JST_TEST_NAMESRV=host:port` uses a cluster 5.3.3
that runs already, `JST_TEST_NAMESRV_497` one of 4.9.7; when only one of them is given, the tests of the other
version are skipped. Where Java, Maven or the jars of a version are missing these tests fail in CI and are skipped
elsewhere, with the reason.

`postgresql` and `mariadb` are one database server each for the session, `own_postgresql` and `own_mariadb` make
one for a test that kills it; `database_server` and `own_database_server` are both in turn. `database_url` runs a
test once per kind of database, `server_url` once per kind of server, each time with an empty database.
`JST_TEST_POSTGRESQL` and `JST_TEST_MYSQL` name servers that run already, as URLs of a login that may create
databases there.
"""

from __future__ import annotations

import gc
import itertools
import logging
import os
import random
import tempfile
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import pytest
import trustme
from hypothesis import settings

from jst_bridge.sandbox.rocketmq import ClusterThread, SandboxSettings
from jst_bridge.sandbox.rocketmq.settings import Flavour
from tests.cluster import ROCKETMQ_VERSION, ROCKETMQ_VERSIONS, Cluster, RunningCluster
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
    "broker": {"cluster", "cluster_533", "cluster_497", "own_cluster"},
    "database": {"postgresql", "mariadb", "own_postgresql", "own_mariadb"},
}
"""Which marker the users of a fixture carry. Fixtures with parameters mark those that need servers."""
DATABASE_SERVERS = [
    pytest.param("postgresql", marks=pytest.mark.database),
    pytest.param("mariadb", marks=pytest.mark.database),
]
SANDBOXES = ("sandbox-5.3", "sandbox-4.9")
RUNNING_CLUSTERS = dict(zip(ROCKETMQ_VERSIONS, ("JST_TEST_NAMESRV", "JST_TEST_NAMESRV_497"), strict=True))
"""Which variable names a cluster that runs already, by its version."""
IN_CI = bool(os.environ.get("CI"))

settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if IN_CI else "here")

AnyServer = TypeVar("AnyServer", PostgresqlServer, MariadbServer)

serial = itertools.count(random.SystemRandom().randrange(10_000_000, 90_000_000))
"""Numbers for fresh names; random at first, because servers that run already remember former sessions."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What a test printed may hold half a surrogate pair, which no worker of xdist can send on."""
    report = yield
    report.sections = [
        (name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections
    ]
    return report


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """What a file of tests left open is reported there, not by whichever test happens to collect it."""
    if nextitem is None or nextitem.path != item.path:
        gc.collect()


@pytest.fixture(scope="session", autouse=True)
def clean_environment() -> Iterator[None]:
    """Settings of the developer's shell (JST_*) never reach a test; the tests' own (JST_TEST_*) stay.

    Nor do the machine's certificate authorities: no test needs them, and PyMySQL reads them, 33 ms long, for
    every connection.
    """
    with pytest.MonkeyPatch.context() as patch, trustme.CA().cert_pem.tempfile() as nobody:
        patch.delenv("COVERAGE_PROCESS_START", raising=False)  # ours is measured, not the programs it starts
        patch.setenv("SSL_CERT_FILE", nobody)  # an empty file would be refused
        patch.setenv("SSL_CERT_DIR", f"{nobody}.d")
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
def cluster_533(java: Toolchain) -> Iterator[RunningCluster]:
    """RocketMQ 5.3.3, for the whole session."""
    with shared_cluster(java, "5.3.3") as running:
        yield running


@pytest.fixture(scope="session")
def cluster_497(java: Toolchain) -> Iterator[RunningCluster]:
    """RocketMQ 4.9.7, for the whole session."""
    with shared_cluster(java, "4.9.7") as running:
        yield running


@pytest.fixture(scope="session")
def cluster_sandbox_53(java: Toolchain) -> Iterator[RunningCluster]:
    """The sandbox playing 5.3, for the whole session."""
    with sandbox_cluster(java, "5.3", "5.3.3") as running:
        yield running


@pytest.fixture(scope="session")
def cluster_sandbox_49(java: Toolchain) -> Iterator[RunningCluster]:
    """The sandbox playing 4.9, for the whole session."""
    with sandbox_cluster(java, "4.9", "4.9.7") as running:
        yield running


@pytest.fixture(scope="module")
def cluster(request: pytest.FixtureRequest) -> RunningCluster:
    """The clusters that most tests share, in turn: fresh topics and groups keep them apart."""
    name = request.param.replace(".", "").replace("-", "_")
    running: RunningCluster = request.getfixturevalue(f"cluster_{name}")
    return running


@pytest.fixture
def own_cluster(request: pytest.FixtureRequest, java: Toolchain) -> Iterator[Callable[..., Cluster]]:
    """A factory of clusters to stop, kill and configure: `own_cluster(queues=4, properties={...})`."""
    if named := named_cluster():
        pytest.skip(f"kills servers of its own, and {named} names a cluster to use instead")
    version = getattr(request, "param", ROCKETMQ_VERSION)
    with ExitStack() as stack:

        def start(**options: Any) -> Cluster:
            scratch = Path(stack.enter_context(scratch_directory()))
            return stack.enter_context(private_cluster(java, scratch, **{"version": version, **options}))

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


def named_cluster() -> str | None:
    """The variable that names a cluster to be used instead of ours, if any does."""
    return next((name for name in RUNNING_CLUSTERS.values() if os.environ.get(name)), None)


@contextmanager
def shared_cluster(java: Toolchain, version: str) -> Iterator[RunningCluster]:
    """The one of that version that is named in the environment, else one of our own."""
    with scratch_directory() as name:
        name_server = os.environ.get(RUNNING_CLUSTERS[version])
        if name_server:
            with RunningCluster(name_server, java, Path(name), version=version) as running:
                yield running
        elif named := named_cluster():
            pytest.skip(f"{named} names a cluster to use instead, and {RUNNING_CLUSTERS[version]} none")
        else:
            with private_cluster(java, Path(name), version=version) as own:
                yield own


@contextmanager
def sandbox_cluster(java: Toolchain, flavour: Flavour, version: str) -> Iterator[RunningCluster]:
    """The sandbox in a thread, to be fed and asked by the Java programs as a real cluster of that version."""
    settings = SandboxSettings(flavour=flavour, delay_levels=(1, 1, 1, 2, 2))
    with (
        scratch_directory() as name,
        ClusterThread(settings) as sandbox,
        RunningCluster(sandbox.name_server, java, Path(name), version=version) as running,
    ):
        yield running


@contextmanager
def private_cluster(java: Toolchain, scratch: Path, **options: Any) -> Iterator[Cluster]:
    """A cluster that runs; fails (CI) or skips (elsewhere) where the jars of its version cannot be had."""
    cluster = Cluster(java, scratch, **options)
    try:
        cluster.start()
    except ToolMissing as missing:
        not_here(missing)
    try:
        yield cluster
    finally:
        cluster.stop()


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


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """What takes `cluster` runs on every real broker, unless it says that one is enough; conformance tests in the
    sandbox too."""
    if "cluster" in metafunc.fixturenames:
        one = metafunc.definition.get_closest_marker("one_broker")
        versions = ROCKETMQ_VERSIONS[:1] if one else ROCKETMQ_VERSIONS
        if metafunc.definition.get_closest_marker("conformance"):
            versions = (*versions, *SANDBOXES[: len(versions)])
        metafunc.parametrize("cluster", versions, indirect=True, scope="module")


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
            for version in ROCKETMQ_VERSIONS:
                toolchain().fetch(version)
        except ToolMissing:
            return  # the fixtures say so, test by test


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
