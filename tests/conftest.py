"""What every test shares: a clean environment, real servers, and an account of what was not run.

`cluster` is one real RocketMQ cluster for the whole session, `own_cluster` makes one for a test that kills
servers. `JST_TEST_NAMESRV=host:port` uses a cluster that runs already. Where Java or Maven is missing these
tests fail in CI and are skipped elsewhere, with the reason.
"""

from __future__ import annotations

import itertools
import logging
import os
import random
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.cluster import Cluster, RunningCluster
from tests.java.toolchain import Toolchain, ToolMissing, toolchain

SERVER_FIXTURES = {"cluster", "own_cluster"}
IN_CI = bool(os.environ.get("CI"))

settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if IN_CI else "here")

serial = itertools.count(random.SystemRandom().randrange(10_000_000, 90_000_000))
"""Numbers for fresh names; random at first, because JST_TEST_NAMESRV's cluster remembers former sessions."""


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
        reason = str(missing)
    if IN_CI:
        pytest.fail(f"CI must run the tests with real servers: {reason}", pytrace=False)
    pytest.skip(reason)


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


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever uses real servers carries the marker `broker`, so that `-m "not broker"` leaves it out."""
    for item in items:
        if not SERVER_FIXTURES.isdisjoint(getattr(item, "fixturenames", ())):
            item.add_marker("broker")


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
        if "broker" in report.keywords and isinstance(report.longrepr, tuple):
            skipped[report.longrepr[2].removeprefix("Skipped: ")].append(report.nodeid)
    if skipped:
        terminalreporter.section("not run here")
        for reason, tests in sorted(skipped.items()):
            terminalreporter.line(f"{len(tests)} with real servers: {reason}")
            for test in sorted(tests):
                terminalreporter.line(f"    {test}")
