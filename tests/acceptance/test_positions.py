"""Positions and gaps: what a store that went back, or a broker that forgot, costs; and that nobody overlooks it."""

from __future__ import annotations

import json
import re
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from jst_bridge.store import Database
from jst_bridge.store.schema import METADATA
from tests.bridge_process import Installation
from tests.cluster import ROCKETMQ_VERSIONS, Cluster, RunningCluster, Sent, ask
from tests.databases import RunningDatabases, RunningPostgresql
from tests.traffic import Fact, Truth, traffic

FACTS = 240
GET_TOPIC_STATS = 202
Copy = dict[str, list[tuple[Any, ...]]]


def publish(cluster: RunningCluster, topic: str, facts: Sequence[Fact]) -> list[Sent]:
    return cluster.publish(fact.line(topic) for fact in facts)


def copy_of(database: Database) -> Copy:
    """Every table as it is at one moment."""

    def read(cursor: Any) -> Copy:
        tables: Copy = {}
        for table in METADATA.sorted_tables:
            cursor.execute(f"SELECT * FROM {table.name}")
            tables[table.name] = list(cursor.fetchall())
        return tables

    return database.read(read)


def restore(database: Database, copy: Copy) -> None:
    """Put a copy in the place of what is there now, on a server."""

    def write(cursor: Any) -> None:
        for name, rows in copy.items():
            cursor.execute(f"DELETE FROM {name}")
            for row in rows:
                cursor.execute(f"INSERT INTO {name} VALUES ({', '.join(['%s'] * len(row))})", row)

    database.transact(write)
    database.close()


@pytest.mark.one_broker
@pytest.mark.timeout(180)
def test_a_shared_store_restored_from_an_older_copy_loses_nothing(
    tmp_path: Path, cluster: RunningCluster, topic: str, group: str, server_url: str
) -> None:
    installation = Installation(tmp_path, cluster.name_server, topic, group, store=server_url)
    facts = list(traffic(FACTS))
    publish(cluster, topic, facts[:100])
    assert installation.run("run", "--drain").code == 0
    copy = copy_of(installation.store)
    publish(cluster, topic, facts[100:200])
    assert installation.run("run", "--drain").code == 0

    restore(installation.store, copy)
    assert installation.count() == 100
    publish(cluster, topic, facts[200:])
    outcome = installation.run("run", "--drain")

    assert outcome.code == 0, outcome.err
    warned = [
        line for line in outcome.err.splitlines() if '"warning"' in line and "the store has landed" in line
    ]
    assert len(warned) == cluster.queues
    assert outcome.summary["landed"] == FACTS - 100
    installation.assert_equals(Truth.of(facts))


@pytest.mark.one_broker
@pytest.mark.timeout(180)
def test_a_shared_store_restored_under_a_running_bridge_loses_nothing(
    tmp_path: Path,
    cluster: RunningCluster,
    topic: str,
    group: str,
    server_url: str,
    database_server: RunningDatabases,
) -> None:
    installation = Installation(tmp_path, cluster.name_server, topic, group, store=server_url)
    facts = list(traffic(FACTS))
    publish(cluster, topic, facts[:100])
    with installation.start() as bridge:
        installation.wait_for(100)
        copy = copy_of(installation.store)
        publish(cluster, topic, facts[100:200])
        installation.wait_for(200)
        installation.store.close()
        database_server.kill_sessions()  # who restores a database has it for himself
        restore(installation.store, copy)
        publish(cluster, topic, facts[200:])
        installation.wait_for(FACTS)
        bridge.wait_for_log("the store lacks what was landed into it")
        bridge.signal(signal.SIGTERM)
        assert bridge.wait().code == 0
    installation.assert_equals(Truth.of(facts))


@pytest.mark.timeout(180)
def test_a_restored_file_is_told_with_the_command_that_brings_back_what_it_lacks(
    tmp_path: Path, cluster: RunningCluster, topic: str, group: str
) -> None:
    installation = Installation(tmp_path, cluster.name_server, topic, group)
    facts = list(traffic(FACTS))
    publish(cluster, topic, facts[:100])
    assert installation.run("run", "--drain").code == 0
    shutil.copy(installation.database, tmp_path / "copy.db")
    publish(cluster, topic, facts[100:200])
    assert installation.run("run", "--drain").code == 0

    (tmp_path / "copy.db").rename(installation.database)
    publish(cluster, topic, facts[200:])  # what lands now takes the positions beyond what the copy lacks
    outcome = installation.run("run", "--drain")

    assert outcome.code == 0, outcome.err
    assert outcome.summary["landed"] == FACTS - 200
    [command] = re.findall(r"`jst-bridge (.*?)`", outcome.err)
    assert command.startswith("offsets reset --source rocketmq --to 20")
    reset = installation.run(*command.split(), "--yes")
    assert reset.code == 0, reset.err
    assert installation.run("run", "--drain").code == 0
    installation.assert_equals(Truth.of(facts))


# --- gaps ---------------------------------------------------------------------------------------------


def expire(cluster: Cluster, files: Path, topics: Sequence[str]) -> list[dict[int, int]]:
    """Have the broker lose all but its newest file of messages; the oldest offset of each queue, per topic."""
    cluster.stop_broker()
    # It makes the next file before it needs it, and leaves that behind when it had to be killed.
    written = [file for file in sorted((files / "commitlog").iterdir()) if any(file.read_bytes())]
    assert len(written) > 1
    for file in written[:-1]:
        file.unlink()
    cluster.start_broker()
    return [oldest_offsets(cluster, topic) for topic in topics]


def oldest_offsets(cluster: Cluster, topic: str) -> dict[int, int]:
    """Queue id -> offset of the oldest message that the broker still has, by its own word."""
    _, stats = ask(cluster.broker_address, GET_TOPIC_STATS, topic=topic)
    found = re.findall(rb'"queueId":(\d+)[^}]*}:{[^}]*"minOffset":(\d+)', stats)
    assert len(found) == cluster.queues, stats
    return {int(queue): int(offset) for queue, offset in found}


def gaps(installation: Installation) -> dict[int, tuple[int, int]]:
    """Queue id -> first and last offset skipped. Each queue has one gap."""
    found = installation.rows("SELECT queue_id, first_offset, last_offset, reason FROM gaps")
    assert {reason for *_, reason in found} == {"expired at the broker"}
    assert len({queue for queue, *_ in found}) == len(found)
    return {queue: (first, last) for queue, first, last, _ in found}


def assert_gaps(installation: Installation, begun: dict[int, int], oldest: dict[int, int]) -> None:
    """A run finds exactly the offsets between, says so as an error, and `status` shows them."""
    outcome = installation.run("run", "--drain")
    assert outcome.code == 0, outcome.err
    expected = {queue: (begun[queue], oldest[queue] - 1) for queue in oldest}
    assert gaps(installation) == expected
    errors = [json.loads(line)["event"] for line in outcome.err.splitlines() if '"level": "error"' in line]
    assert len(errors) == len(expected)
    status = installation.run("status")
    assert status.code == 0, status.err
    assert f"Gaps: {len(expected)}" in status.out
    for queue, (first, last) in expected.items():
        assert any(f"offsets {first} to {last} of queue {queue}" in error for error in errors)
        assert f"{first}-{last}" in status.out


@pytest.fixture
def fresh_postgresql(postgresql: RunningPostgresql, group: str) -> Iterator[str]:
    """An empty database, for what is the same on every kind of server."""
    name = group.lower()
    yield postgresql.create_database(name)
    postgresql.drop_database(name)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("own_cluster", ROCKETMQ_VERSIONS, indirect=True)
def test_messages_that_expired_unread_are_a_gap_and_the_rest_lands(
    tmp_path: Path, own_cluster: Callable[..., Cluster], fresh_postgresql: str
) -> None:
    files = tmp_path / "broker"
    small = {"mappedFileSizeCommitLog": 256 << 10, "mappedFileSizeConsumeQueue": 60_000}
    cluster = own_cluster(queues=2, properties={"storePathRootDir": files, **small})
    for home in ("host", "shared"):
        (tmp_path / home).mkdir()
    host = Installation(tmp_path / "host", cluster.name_server, "rmq_sys_jst_1", "GID_host")
    shared = Installation(
        tmp_path / "shared", cluster.name_server, "rmq_sys_jst_2", "GID_shared", store=fresh_postgresql
    )
    both = (host, shared)
    facts = list(traffic(1500))

    read = [publish(cluster, installation.topic, facts[:100]) for installation in both]
    assert [installation.run("run", "--drain").code for installation in both] == [0, 0]
    copy = copy_of(shared.store)
    # In turn, so that the newest file has messages of both: 4.9.7 says 0 of a topic that has none left.
    sent = cluster.publish(fact.line(of.topic) for fact in facts[100:] for of in both)
    unread = [sent[0::2], sent[1::2]]
    # The shared store is up to date, and then restored from a copy so old that the broker has forgotten since.
    assert shared.run("run", "--drain").code == 0
    restore(shared.store, copy)
    oldest = expire(cluster, files, [installation.topic for installation in both])

    for installation, before, after, kept in zip(both, read, unread, oldest, strict=True):
        begun = {queue: sum(place.queue == queue for place in before) for queue in kept}
        assert all(begun[queue] < kept[queue] for queue in (0, 1)), (begun, kept)
        assert_gaps(installation, begun, kept)
        left = [
            fact for fact, place in zip(facts[100:], after, strict=True) if place.offset >= kept[place.queue]
        ]
        installation.assert_equals(Truth.of(facts[:100] + left))
    cluster.stop()
    shutil.rmtree(files)
