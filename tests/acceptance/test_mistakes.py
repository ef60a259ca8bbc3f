"""A user's mistakes: one clear message naming the remedy, the right exit code, no traceback."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bridge_process import Installation, Outcome
from tests.cluster import RunningCluster
from tests.false_route import routing_to
from tests.traffic import traffic


def assert_clear(outcome: Outcome, code: int, *words: str) -> None:
    assert outcome.code == code, outcome.err
    assert "Traceback" not in outcome.err
    assert "remedy" in outcome.err
    for word in words:
        assert word in outcome.err, outcome.err
    assert outcome.err.count("error:") == 1, outcome.err


@pytest.fixture
def dead_port() -> Iterator[int]:
    """A port that nobody listens on, and nobody else gets meanwhile."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


def test_an_unknown_key_names_the_nearest_right_one(tmp_path: Path) -> None:
    installation = Installation(tmp_path, "127.0.0.1:9876", "t", "g", source={"start_form": "first"})
    assert_clear(installation.run("run"), 78, "jst-bridge.toml", "start_form", "start_from")


def test_a_missing_file_and_broken_toml(tmp_path: Path) -> None:
    installation = Installation(tmp_path, "127.0.0.1:9876", "t", "g")
    installation.config.write_text("[app\n")
    assert_clear(installation.run("run"), 78, "jst-bridge.toml", "line 1")
    installation.config.unlink()
    assert_clear(installation.run("run"), 78, "jst-bridge.toml")


def test_an_unreachable_name_server(tmp_path: Path, dead_port: int) -> None:
    installation = Installation(tmp_path, f"127.0.0.1:{dead_port}", "rmq_sys_jst_1", "GID_x")
    assert_clear(installation.run("run"), 69, f"127.0.0.1:{dead_port}", "name_servers")


def test_an_unreachable_broker(tmp_path: Path, dead_port: int) -> None:
    with routing_to(f"127.0.0.1:{dead_port}") as name_server:
        installation = Installation(tmp_path, name_server, "rmq_sys_jst_1", "GID_x")
        assert_clear(installation.run("run"), 69, f"127.0.0.1:{dead_port}", "advertises")
        check = installation.run("check", "--connect")
    assert check.code == 69
    assert "FAILED" in check.out
    assert f"127.0.0.1:{dead_port}" in check.out
    assert "remedy" in check.out


def test_a_missing_topic(tmp_path: Path, cluster: RunningCluster, topic: str, group: str) -> None:
    installation = Installation(tmp_path, cluster.name_server, topic, group)
    assert_clear(installation.run("run"), 69, topic, "system_topic")
    check = installation.run("check", "--connect")
    assert check.code == 69
    assert topic in check.out


@pytest.mark.one_broker
def test_a_drain_that_does_not_end_in_time(
    tmp_path: Path, cluster: RunningCluster, topic: str, group: str
) -> None:
    installation = Installation(tmp_path, cluster.name_server, topic, group)
    cluster.publish(fact.line(topic) for fact in traffic(20))
    assert_clear(installation.run("run", "--drain", "--drain-timeout", "0.001"), 75, topic, "status")


@pytest.mark.one_broker
def test_a_store_that_cannot_be_written(
    tmp_path: Path, cluster: RunningCluster, topic: str, group: str
) -> None:
    installation = Installation(tmp_path, cluster.name_server, topic, group)
    nowhere = {"JST_STORE__URL": f"sqlite:///{tmp_path}/no/such/directory/x.db"}
    outcome = installation.run("run", environ=nowhere)
    assert outcome.code in (69, 75)
    assert "no/such/directory" in outcome.err
    assert "Traceback" not in outcome.err
    check = installation.run("check", "--connect", environ=nowhere)
    assert check.code == 75
    assert "no/such/directory" in check.out


def test_a_check_of_what_works_says_so(
    tmp_path: Path, cluster: RunningCluster, topic: str, group: str
) -> None:
    installation = Installation(tmp_path, cluster.name_server, topic, group)
    cluster.publish(fact.line(topic) for fact in traffic(8))
    check = installation.run("check", "--connect")
    assert check.code == 0, check.out + check.err
    assert "FAILED" not in check.out
    assert cluster.broker_address in check.out
    assert not installation.database.exists()  # a check looks, it makes nothing
