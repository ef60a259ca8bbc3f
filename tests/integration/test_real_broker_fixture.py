"""The fixture of the other tests, tested: real servers, the official Java client, the admin tool."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster import ROCKETMQ_VERSIONS, Cluster, ClusterError, RunningCluster, ask, wait_until
from tests.traffic import traffic

GET_ROUTE = 105


def test_first_send_creates_a_system_topic_with_eight_queues(cluster: RunningCluster, topic: str) -> None:
    assert ask(cluster.name_server, GET_ROUTE, topic=topic)[0] == 17
    sent = cluster.publish([{"topic": topic, "tag": "t", "keys": "1", "body": "{}"}] * 8)
    assert {one.queue for one in sent} == set(range(8))
    assert {one.offset for one in sent} == {0}
    [queues] = cluster.wait_for_route(topic)["queueDatas"]
    assert (queues["readQueueNums"], queues["writeQueueNums"]) == (8, 8)


def test_a_message_can_choose_its_queue_and_how_many_there_are(cluster: RunningCluster, topic: str) -> None:
    sent = cluster.publish([{"topic": topic, "body": "{}", "queues": 3, "queue": 2}] * 3)
    assert [(one.queue, one.offset) for one in sent] == [(2, 0), (2, 1), (2, 2)]
    assert cluster.wait_for_route(topic)["queueDatas"][0]["readQueueNums"] == 3


def test_a_refused_message_is_an_error_and_the_publisher_goes_on(cluster: RunningCluster, topic: str) -> None:
    cluster.publish([{"topic": topic, "body": "{}", "queue": 0}])
    with pytest.raises(ClusterError, match="has no queue 99"):
        cluster.publish(
            [{"topic": topic, "body": "{}", "queue": 99}, {"topic": topic, "body": "{}", "queue": 0}]
        )
    [after] = cluster.publish([{"topic": topic, "body": "{}", "queue": 0}])
    assert after.offset == 2


def test_flooded_messages_are_spread_evenly_and_consumed_by_the_java_client(
    cluster: RunningCluster, topic: str, group: str, tmp_path: Path
) -> None:
    lines = tmp_path / "bodies.jsonl"
    events = [fact.line("") for fact in traffic(1000)]
    lines.write_text("".join(json.dumps(event) + "\n" for event in events))

    assert cluster.flood(topic, lines, 4000)["messages"] == 4000
    eaten = cluster.consume(topic, group, 4000, timeout=60)

    assert eaten["messages"] == 4000
    assert eaten["cpu_seconds"] > 0
    assert eaten["peak_rss_kb"] > 10_000
    assert cluster.progress(group) == sorted(cluster.consumer_progress(group))
    rows = [row for row in cluster.progress(group) if row.topic == topic]
    assert Counter((row.broker_offset, row.consumer_offset, row.diff) for row in rows) == {(500, 500, 0): 8}


def test_many_messages_can_be_published_from_several_threads(cluster: RunningCluster, topic: str) -> None:
    assert cluster.publish_all((fact.line(topic) for fact in traffic(500)), threads=4) == 500


def test_admin_refusal_is_an_error(cluster: RunningCluster) -> None:
    with pytest.raises(ClusterError, match="topicRoute"):
        cluster.admin("topicRoute", "-t", "no_such_topic")


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("own_cluster", ROCKETMQ_VERSIONS, indirect=True)
def test_servers_come_back_where_they_were_with_messages_and_routes(
    own_cluster: Callable[..., Cluster], topic: str
) -> None:
    cluster = own_cluster(queues=4)
    message = {"topic": topic, "body": "{}", "queue": 3}
    cluster.publish([message])
    addresses = cluster.name_server, cluster.broker_address

    for offset, end_broker in enumerate((cluster.kill_broker, cluster.stop_broker), start=1):
        end_broker()
        assert not reachable(addresses[1])
        cluster.start_broker()
        assert cluster.publish([message])[0].offset == offset
    cluster.kill_name_server()
    assert not reachable(addresses[0])
    cluster.start_name_server()

    assert cluster.wait_for_route(topic)["brokerDatas"][0]["brokerAddrs"] == {"0": addresses[1]}
    assert (cluster.name_server, cluster.broker_address) == addresses


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("own_cluster", ROCKETMQ_VERSIONS, indirect=True)
def test_a_broker_joins_a_cluster_and_topics_spread_over_both(
    own_cluster: Callable[..., Cluster], topic: str
) -> None:
    cluster = own_cluster(queues=2)
    second = cluster.add_broker()
    sent = cluster.publish([{"topic": topic, "body": "{}"}] * 16)
    assert {(one.broker, one.queue) for one in sent} == {
        (broker, queue) for broker in ("broker-a", "broker-b") for queue in (0, 1)
    }
    assert sorted(cluster.broker_addresses()) == sorted([cluster.broker_address, second.address])
    second.kill()
    assert not reachable(second.address)
    assert reachable(cluster.broker_address)


@pytest.mark.slow
@pytest.mark.usefixtures("own_cluster")  # where that one is skipped, so is this
def test_servers_die_with_the_process_that_started_them(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib\n"
        "from tests.cluster import Cluster\n"
        "from tests.java.toolchain import toolchain\n"
        "cluster = Cluster(toolchain(), pathlib.Path(sys.argv[1])).start()\n"
        "print(cluster.name_server, cluster.broker_address, flush=True)\n"
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
        addresses = owner.stdout.readline().split()
        assert len(addresses) == 2
        assert all(map(reachable, addresses))
        owner.send_signal(signal.SIGKILL)
    wait_until(lambda: not any(map(reachable, addresses)), "the servers to die", 10)


def reachable(address: str) -> bool:
    try:
        ask(address, GET_ROUTE, topic="TBW102")
    except OSError:
        return False
    return True
