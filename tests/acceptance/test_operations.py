"""Operating a consumer group from the command line, on real brokers: offsets, members, looking at messages."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from jst_bridge.cli import cli
from jst_bridge.rocketmq import Client, ClientSettings, Credentials, Producer
from tests.bridge_process import Installation, Outcome
from tests.cluster import Cluster, RunningCluster, ask, wait_until
from tests.traffic import Fact, Truth, traffic

pytestmark = pytest.mark.conformance

FACTS = list(traffic(240))
GET_CONSUMER_CONNECTION_LIST = 203


@pytest.fixture
def installation(tmp_path: Path, cluster: RunningCluster, topic: str, group: str) -> Installation:
    return Installation(tmp_path, cluster.name_server, topic, group)


def publish(cluster: RunningCluster, installation: Installation, facts: list[Fact]) -> None:
    cluster.publish(fact.line(installation.topic) for fact in facts)


def attempt(installation: Installation, *words: str) -> Outcome:
    """A command, within this process: starting one costs more than what most of them do."""
    arguments = [*words, "-c", str(installation.config)]
    secrets = {name: value for name, value in installation.environ.items() if name.startswith("JST_")}
    result = CliRunner().invoke(cli, arguments, env=secrets)
    return Outcome(result.exit_code, result.stdout, result.stderr)


def call(installation: Installation, *words: str) -> Outcome:
    """A command that succeeds."""
    outcome = attempt(installation, *words)
    assert outcome.code == 0, outcome.err
    return outcome


def run(installation: Installation) -> Outcome:
    """`run --drain`, which succeeds."""
    outcome = installation.run("run", "--drain")
    assert outcome.code == 0, outcome.err
    return outcome


def drain(installation: Installation) -> tuple[int, int]:
    """Run until nothing waits: messages landed, and those that were there already."""
    summary = run(installation).summary
    return summary["landed"], summary["duplicates"]


def lines(outcome: Outcome) -> list[dict[str, Any]]:
    return [json.loads(line) for line in outcome.out.splitlines()]


# --- offsets ------------------------------------------------------------------------------------------


@pytest.mark.timeout(180)
def test_what_is_read_again_is_absorbed_and_what_is_skipped_stays_skipped(
    installation: Installation, cluster: RunningCluster
) -> None:
    publish(cluster, installation, FACTS[:100])
    assert drain(installation) == (100, 0)
    shown = lines(call(installation, "offsets", "show", "--json"))
    mine = [row for row in shown if row["system_topic"] == installation.topic]
    assert len(mine) == cluster.queues
    assert all(row["committed"] == row["position"] == row["end"] and row["lag"] == 0 for row in mine)
    assert all(row["committed_at"] > 1_600_000_000_000 for row in mine)

    planned = lines(call(installation, "offsets", "reset", "--to", "first", "--dry-run", "--json"))
    assert sum(row["again"] for row in planned) == 100
    assert drain(installation) == (0, 0)
    call(installation, "offsets", "reset", "--to", "first", "--yes")
    assert drain(installation) == (0, 100)

    publish(cluster, installation, FACTS[100:200])
    skipped = lines(call(installation, "offsets", "reset", "--to", "last", "--yes", "--json"))
    assert sum(row["skipped"] for row in skipped) == 100
    outcome = run(installation)
    assert outcome.summary["landed"] == 0
    assert "this store has landed" not in outcome.err  # its positions followed
    publish(cluster, installation, FACTS[200:])
    assert drain(installation) == (40, 0)
    assert installation.count("gaps") == 0


@pytest.mark.one_broker
@pytest.mark.timeout(180)
def test_a_shared_store_does_not_undo_a_skip(
    tmp_path: Path, cluster: RunningCluster, topic: str, group: str, server_url: str
) -> None:
    installation = Installation(tmp_path, cluster.name_server, topic, group, store=server_url)
    publish(cluster, installation, FACTS[:100])
    assert drain(installation) == (100, 0)
    publish(cluster, installation, FACTS[100:200])
    call(installation, "offsets", "reset", "--to", "last", "--yes")
    assert drain(installation) == (0, 0)
    call(installation, "offsets", "reset", "--to", "first", "--yes")
    assert drain(installation) == (100, 100)
    installation.assert_equals(Truth.of(FACTS[:200]))


@pytest.mark.timeout(180)
def test_a_restored_copy_gets_back_what_it_lacks(
    installation: Installation, cluster: RunningCluster, tmp_path: Path
) -> None:
    publish(cluster, installation, FACTS[:100])
    drain(installation)
    shutil.copy(installation.database, tmp_path / "copy.db")
    publish(cluster, installation, FACTS[100:200])
    drain(installation)
    (tmp_path / "copy.db").rename(installation.database)
    moved = lines(call(installation, "offsets", "reset", "--to", "store", "--yes", "--json"))
    assert sum(row["again"] for row in moved) == 100
    assert drain(installation) == (100, 0)
    installation.assert_equals(Truth.of(FACTS[:200]))


@pytest.mark.timeout(180)
def test_a_time_divides_what_comes_again(installation: Installation, cluster: RunningCluster) -> None:
    publish(cluster, installation, FACTS[:100])
    before = drain(installation)
    stored = [row["stored_at"] for row in lines(call(installation, "peek", "--limit", "100", "--json"))]
    wait_until(lambda: time.time() > max(stored) / 1000 + 2, "two seconds without messages", 30)
    publish(cluster, installation, FACTS[100:140])
    drain(installation)
    at = datetime.fromtimestamp(max(stored) / 1000 + 1.5, UTC).isoformat()
    moved = lines(call(installation, "offsets", "reset", "--to", at, "--yes", "--json"))
    assert before == (100, 0)
    # 4.9 gives the message nearest in time, which of each queue may be the last one before.
    assert 40 <= sum(row["again"] for row in moved) <= 40 + cluster.queues
    landed, again = drain(installation)
    assert landed == 0
    assert again >= 40


@pytest.mark.timeout(180)
def test_a_group_that_nobody_ever_joined_can_begin_where_one_likes(
    installation: Installation, cluster: RunningCluster
) -> None:
    publish(cluster, installation, FACTS[:100])
    call(installation, "offsets", "reset", "--to", "last", "--yes")
    publish(cluster, installation, FACTS[100:140])
    assert drain(installation) == (40, 0)


@pytest.mark.timeout(180)
def test_a_running_group_is_not_moved_and_is_told_apart(
    installation: Installation, cluster: RunningCluster
) -> None:
    publish(cluster, installation, FACTS[:100])
    with installation.start() as bridge:
        installation.wait_for(100)
        bridge.wait_for_log("reading %RETRY%")
        refused = attempt(installation, "offsets", "reset", "--to", "first", "--yes")
        assert refused.code == 75
        [group] = lines(call(installation, "consumers", "--json"))
        [member] = group["members"]
        assert member["client_id"] in refused.err
        assert (member["language"], member["here"]) == ("PYTHON", True)
        assert group["subscriptions"] == {installation.topic: ["*"]}
        read = {queue for queue in member["queues"] if queue.startswith(installation.topic)}
        assert len(read) == cluster.queues
        bridge.signal(signal.SIGTERM)
        assert bridge.wait().code == 0
    assert installation.count() == 100
    assert drain(installation) == (0, 0)
    assert "offline" in call(installation, "consumers").out


@pytest.mark.timeout(180)
def test_a_reset_by_the_admin_tool_that_nobody_met_yet_gives_way(
    installation: Installation, cluster: RunningCluster
) -> None:
    if cluster.version.startswith("4"):
        pytest.skip("brokers 4.9 reset no group that is offline")
    publish(cluster, installation, FACTS[:100])
    drain(installation)
    cluster.admin("resetOffsetByTime", "-g", installation.group, "-t", installation.topic, "-s", "0")
    call(installation, "offsets", "reset", "--to", "last", "--yes")
    shown = lines(call(installation, "offsets", "show", "--json"))
    assert sum(row["lag"] for row in shown) == 0
    assert drain(installation) == (0, 0)
    publish(cluster, installation, FACTS[100:140])
    assert drain(installation) == (40, 0)


def online(cluster: RunningCluster, group: str) -> bool:
    """Whether somebody is in the group, cheaply: a Java client takes its time to start on a busy machine."""
    return ask(cluster.broker_address, GET_CONSUMER_CONNECTION_LIST, consumerGroup=group)[0] == 0


# --- members ------------------------------------------------------------------------------------------


@pytest.mark.timeout(400)
def test_a_java_member_that_reads_otherwise_is_named_and_the_group_not_joined(
    tmp_path: Path, cluster: RunningCluster, topic: str, group: str
) -> None:
    tags = {"tags": "taobao_trade_TradeCreate"}
    installation = Installation(tmp_path, cluster.name_server, topic, group, source=tags)
    publish(cluster, installation, FACTS[:20])
    words = ("--topic", topic, "--group", group, "--messages", "40", "--timeout", "300")
    with ThreadPoolExecutor(1) as threads:
        java = threads.submit(cluster.java, "Consume", *words)

        def members() -> list[dict[str, Any]]:
            return list(lines(call(installation, "consumers", "--json"))[0]["members"])

        wait_until(lambda: java.done() or online(cluster, group), "the Java member to be there", 240)
        assert not java.done(), java.result()
        wait_until(lambda: members()[0]["queues_from"] == "member", "it to answer", 60)
        [member] = members()
        assert member["language"] == "JAVA"
        assert re.fullmatch(r"\d\.\d+\.\d", member["version"])
        refused = installation.run("run", "--drain")
        assert refused.code == 78
        assert member["client_id"] in refused.err
        assert "'*'" in refused.err
        assert "'taobao_trade_TradeCreate'" in refused.err
        [seen] = lines(call(installation, "consumers", "--json"))
        assert seen["subscriptions"] == {topic: ["*"]}  # nobody overwrote it
        publish(cluster, installation, FACTS[20:40])
        assert java.result()["messages"] == 40  # all of them: nothing was taken from it
    with installation.start("run", "--allow-mixed-subscriptions") as bridge:
        bridge.wait_for_log("reading %RETRY%")
        (tmp_path / "other").mkdir()
        other = Installation(tmp_path / "other", cluster.name_server, topic, group)
        assert other.run("run", "--drain").code == 78
        bridge.signal(signal.SIGTERM)
        assert bridge.wait().code == 0


# --- looking at messages ------------------------------------------------------------------------------


@pytest.mark.timeout(180)
def test_peek_shows_the_newest_without_moving_or_joining(
    installation: Installation, cluster: RunningCluster
) -> None:
    publish(cluster, installation, FACTS[:100])
    found = lines(call(installation, "peek", "--limit", "100", "--json"))
    published = [f"tb:12345678:{fact.outgoing_id}" for fact in FACTS[:100]]
    assert sorted(row["message_key"] for row in found) == sorted(published)
    stored = [row["stored_at"] for row in found]
    assert stored == sorted(stored, reverse=True)
    newest = lines(call(installation, "peek", "--limit", "5", "--json"))
    assert [row["stored_at"] for row in newest] == stored[:5]
    assert "offline" in call(installation, "consumers").out
    assert drain(installation) == (100, 0)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("version", ["5.3.3", "4.9.7"])
def test_looking_takes_permissions_and_a_refusal_names_them(
    tmp_path: Path, own_cluster: Callable[..., Cluster], topic: str, group: str, version: str
) -> None:
    dead = f"%DLQ%{group}"
    cluster = own_cluster(version=version, **access_control(version, topic, group))

    async def prepare() -> None:
        root = ClientSettings((cluster.name_server,), Credentials("rootroot", ROOT))
        async with Producer(root) as producer:
            for fact in FACTS[:10]:
                await producer.send(topic, fact.body, tag=fact.tag)
            await producer.send(dead, FACTS[0].body, tag=FACTS[0].tag)
        if version.startswith("5"):
            await allow(
                Client(root),
                cluster.broker_address,
                {f"Topic:{topic}": "Sub,Get", f"Group:{group}": "Sub,Get"},
            )

    asyncio.run(prepare())
    installation = Installation(
        tmp_path, cluster.name_server, topic, group, environ={"JST_APP__SECRET": MEMBER}
    )
    wait_until(
        lambda: attempt(installation, "peek").code == 0, "a broker that has just started to be swift", 60
    )
    # One send may have been repeated by a producer that waited for its answer in vain.
    assert len({row["message_key"] for row in lines(call(installation, "peek", "--json"))}) == 10
    refused = attempt(installation, "peek", "--dead")
    assert refused.code == 77, refused.err
    assert f"Sub and Get on topic {dead}" in refused.err
    assert MEMBER not in refused.err
    assert "Traceback" not in refused.err
    assert call(installation, "consumers").out
    assert call(installation, "offsets", "show").out


ROOT, MEMBER = "canary-root-secret", "canary-member-secret"
PROVIDERS = "org.apache.rocketmq.auth"


def access_control(version: str, topic: str, group: str) -> dict[str, Any]:
    """A cluster with a root and an account 12345678 that may read the topic in the group."""
    if version.startswith("5"):
        kinds = {"authentication": "Authentication", "authorization": "Authorization"}
        providers = {
            f"{kind}MetadataProvider": f"{PROVIDERS}.{kind}.provider.Local{name}MetadataProvider"
            for kind, name in kinds.items()
        }
        enabled = {f"{kind}Enabled": "true" for kind in kinds}
        return {
            "properties": {
                **providers,
                **enabled,
                "initAuthenticationUser": json.dumps({"username": "rootroot", "password": ROOT}),
                "innerClientAuthenticationCredentials": json.dumps(
                    {"accessKey": "inner", "secretKey": "inner-secret"}
                ),
            }
        }
    accounts = f"""
globalWhiteRemoteAddresses: []
accounts:
  - {{accessKey: rootroot, secretKey: {ROOT}, admin: true}}
  - accessKey: "12345678"
    secretKey: {MEMBER}
    admin: false
    defaultTopicPerm: DENY
    defaultGroupPerm: DENY
    topicPerms: ["{topic}=SUB"]
    groupPerms: ["{group}=SUB"]
"""
    return {"properties": {"aclEnable": "true"}, "files": {"conf/plain_acl.yml": accounts}}


async def allow(client: Client, broker: str, permissions: dict[str, str]) -> None:
    """Make the account of the app with these permissions, on a broker 5.3 (reference 5.5)."""
    user = {"username": "12345678", "password": MEMBER, "userType": "Normal"}
    entries = [
        {"resource": resource, "actions": actions.split(","), "decision": "Allow"}
        for resource, actions in permissions.items()
    ]
    acl = {"subject": "User:12345678", "policies": [{"policyType": "Custom", "entries": entries}]}
    try:
        for code, ext, body in (
            (3001, {"username": "12345678"}, user),
            (3006, {"subject": "User:12345678"}, acl),
        ):
            await client.call(broker, code, ext, json.dumps(body).encode())  # type: ignore[arg-type]
    finally:
        await client.close()
