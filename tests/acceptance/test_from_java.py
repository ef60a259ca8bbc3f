"""Coming from the Java client: what it sent back, what it left behind, and both in one group for a while."""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import signal
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.test_faults import owned
from tests.bridge_process import Installation, lag
from tests.cluster import RunningCluster, wait_until
from tests.traffic import Fact, Truth, traffic

pytestmark = pytest.mark.conformance

SEED = int(os.environ.get("JST_TEST_SEED", "1"))
FAILED = 100


@pytest.fixture
def installation(tmp_path: Path, cluster: RunningCluster, topic: str, group: str) -> Installation:
    return Installation(tmp_path, cluster.name_server, topic, group)


def refuse(cluster: RunningCluster, installation: Installation, messages: int) -> dict[str, Any]:
    """Let a Java consumer of the group fail so many messages and leave: how many it refused, and how many again."""
    where = ("--topic", installation.topic, "--group", installation.group)
    return cluster.java("Refuse", *where, "--messages", str(messages))


@pytest.mark.timeout(600)
def test_what_a_java_consumer_failed_and_left_lands_once_under_its_own_topic_and_key(
    installation: Installation, cluster: RunningCluster
) -> None:
    facts = list(traffic(FAILED, seed=SEED))
    cluster.publish(fact.line(installation.topic) for fact in facts)
    left = refuse(cluster, installation, FAILED)
    assert left["refused"] == FAILED
    assert installation.count() == 0

    with installation.start() as bridge:
        installation.wait_for(FAILED, 120)
        bridge.signal(signal.SIGTERM)
        outcome = bridge.wait()

    assert outcome.code == 0, outcome.err
    assert (outcome.summary["landed"], outcome.summary["dead_letters"]) == (FAILED, 0)
    installation.assert_equals(Truth.of(facts))
    landed = dict(installation.rows("SELECT message_key, topic FROM messages"))
    assert landed == {f"tb:12345678:{fact.outgoing_id}": fact.topic for fact in facts}
    came = dict(
        installation.rows("SELECT system_topic, sum(next_offset) FROM positions GROUP BY system_topic")
    )
    assert came[f"%RETRY%{installation.group}"] >= FAILED
    assert set(lag(cluster, installation.group, f"%RETRY%{installation.group}").values()) == {0}


@pytest.mark.timeout(600)
def test_java_and_the_bridge_in_one_group_while_messages_flow(
    installation: Installation, cluster: RunningCluster
) -> None:
    """The Java member fails whatever it gets, and leaves in the middle: everything lands with the bridge."""
    endless = traffic(1_000_000, seed=SEED)
    facts: list[Fact] = []

    def publish() -> None:
        facts.extend(itertools.islice(endless, 100))
        cluster.publish(fact.line(installation.topic) for fact in facts[-100:])

    publish()
    with installation.start() as bridge, ThreadPoolExecutor(1) as threads:
        wait_until(lambda: len(owned(bridge)) == 8, "the bridge to read all queues", 60)
        java = threads.submit(refuse, cluster, installation, FAILED)
        while not java.done():
            publish()
            wait([java], timeout=0.2)
        publish()
        installation.wait_for(len(facts), 120)
        bridge.signal(signal.SIGTERM)
        outcome = bridge.wait()
    left = java.result()
    assert outcome.code == 0, outcome.err
    assert left["refused"] >= FAILED
    print(left, outcome.summary)
    installation.assert_equals(Truth.of(facts))
    assert set(lag(cluster, installation.group, installation.topic).values()) == {0}


@pytest.mark.timeout(600)
def test_a_broadcasting_java_consumer_is_followed_exactly_by_its_offsets_file(
    tmp_path: Path, cluster: RunningCluster, topic: str, group: str
) -> None:
    keys = {"mode": "broadcasting", "instance": "ecs-1", "start_from": "last"}
    installation = Installation(tmp_path, cluster.name_server, topic, group, source=keys)
    facts = list(traffic(200, seed=SEED))
    lines = [fact.line(topic) | {"queues": 2} for fact in facts]
    cluster.publish(lines[:100])
    cluster.consume(topic, group, 100, broadcasting=1, timeout=300)
    cluster.publish(lines[100:])

    [file] = cluster._scratch.glob(f".rocketmq_offsets/*/{group}/offsets.json")
    entries = re.findall(r"\{([^{}]*)\}\s*:\s*(\d+)", file.read_text())
    assert len(entries) == 2
    for entry, offset in entries:
        queue = json.loads(f"{{{entry}}}")
        where = f"{queue['brokerName']}:{queue['queueId']}"
        moved = installation.run("offsets", "reset", "--queue", where, "--to", offset, "--yes")
        assert moved.code == 0, moved.err

    outcome = installation.run("run", "--drain")
    assert outcome.code == 0, outcome.err
    assert outcome.summary["landed"] == 100
    installation.assert_equals(Truth.of(facts[100:]))


def commands() -> list[str]:
    """What the page tells people to run."""
    page = (Path(__file__).parents[2] / "docs" / "migrate.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    lines = [line.partition("#")[0].strip() for block in blocks for line in block.splitlines()]
    return sorted({line for line in lines if line.startswith("jst-bridge ")})


@pytest.mark.timeout(600)
def test_the_commands_of_the_page_work(installation: Installation, cluster: RunningCluster) -> None:
    cluster.publish(fact.line(installation.topic) for fact in traffic(20, seed=SEED))
    assert installation.run("run", "--drain").code == 0
    for command in commands():
        outcome = installation.run(*shlex.split(command)[1:])
        assert outcome.code == 0, (command, outcome)
        assert "Traceback" not in outcome.err
