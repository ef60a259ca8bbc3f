"""Broadcasting as a user runs it: every instance gets every message, exactly once, whatever happens to its process."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.acceptance.test_faults import publishing
from tests.bridge_process import Installation, Outcome
from tests.cluster import ClusterError, RunningCluster, wait_until
from tests.traffic import Truth, traffic

MESSAGES = int(os.environ.get("JST_TEST_BROADCAST_MESSAGES", "5000"))
KILLS = int(os.environ.get("JST_TEST_BROADCAST_KILLS", "3"))
SEED = int(os.environ.get("JST_TEST_SEED", "1"))
SECONDS = 300 + MESSAGES / 50
"""How long any number of messages may take on a busy machine."""


class Hosts:
    """Makes the hosts of one source in broadcasting: each a directory, with a SQLite file unless told otherwise."""

    def __init__(self, directory: Path, cluster: RunningCluster, topic: str, group: str) -> None:
        self.directory, self.cluster, self.topic, self.group = directory, cluster, topic, group

    def host(self, name: str, instance: str, *, store: str | None = None, **source: object) -> Installation:
        home = self.directory / name
        home.mkdir()
        keys = {"mode": "broadcasting", "instance": instance, **source}
        return Installation(home, self.cluster.name_server, self.topic, self.group, store=store, source=keys)


@pytest.fixture
def hosts(tmp_path: Path, cluster: RunningCluster, topic: str, group: str) -> Hosts:
    return Hosts(tmp_path, cluster, topic, group)


def drained(installation: Installation) -> Outcome:
    outcome = installation.run("run", "--drain", "--drain-timeout", str(SECONDS), timeout=SECONDS + 60)
    assert outcome.code == 0, outcome.err
    return outcome


def killed_at(installation: Installation, marks: Sequence[int]) -> None:
    """Run it, and kill it each time so many messages have landed."""
    for mark in marks:
        with installation.start() as bridge:
            wait_until(
                lambda: installation.count() >= mark or bridge.process.poll() is not None,  # noqa: B023
                f"{mark} messages in {installation.directory.name}",
                SECONDS,
            )
            assert bridge.process.poll() is None, bridge.log()
            bridge.kill()


@pytest.mark.timeout(2 * SECONDS)
def test_two_instances_killed_at_random_get_every_message_once_each(
    hosts: Hosts, cluster: RunningCluster
) -> None:
    facts = list(traffic(MESSAGES, seed=SEED))
    dice = random.Random(SEED)
    both = [hosts.host(name, name) for name in ("ecs-1", "ecs-2")]
    marks = [sorted(dice.randrange(1, MESSAGES) for _ in range(KILLS)) for _ in both]
    print(f"seed {SEED}, killed when so many had landed: {marks}")
    with publishing(cluster, hosts.topic, facts), ThreadPoolExecutor() as threads:
        list(threads.map(killed_at, both, marks))
    for installation in both:
        summary = drained(installation).summary
        print(summary)
        assert (
            summary["duplicates"] == 0
        )  # positions land with the messages: not even a kill makes one come twice
        assert summary["gaps"] == 0
        installation.assert_equals(Truth.of(facts))
    with pytest.raises(ClusterError):  # nobody ever committed anything at the broker
        cluster.consumer_progress(hosts.group)


def test_a_new_host_goes_on_where_the_instance_was(hosts: Hosts, cluster: RunningCluster) -> None:
    facts = list(traffic(500, seed=SEED))
    cluster.publish(fact.line(hosts.topic) for fact in facts[:200])
    old = hosts.host("old", "ecs-1", start_from="first")
    with old.start() as bridge:
        old.wait_for(200)
        bridge.kill()
    cluster.publish(fact.line(hosts.topic) for fact in facts[200:])

    new = hosts.host("new", "ecs-1", store=f"sqlite:///{old.database}", start_from="last")
    summary = drained(new).summary

    assert (summary["landed"], summary["duplicates"]) == (300, 0)
    old.assert_equals(Truth.of(facts))


def test_instances_that_share_a_database_share_its_messages_and_keep_their_own_positions(
    hosts: Hosts, cluster: RunningCluster, server_url: str
) -> None:
    facts = list(traffic(300, seed=SEED))
    cluster.publish(fact.line(hosts.topic) for fact in facts)
    first, second = (hosts.host(name, name, store=server_url) for name in ("ecs-1", "ecs-2"))

    assert drained(first).summary["landed"] == 300
    summary = drained(second).summary

    assert (summary["landed"], summary["duplicates"]) == (0, 300)
    first.assert_equals(Truth.of(facts))
    reached = first.rows("SELECT instance, sum(next_offset) FROM positions GROUP BY instance")
    assert {instance: int(offsets) for instance, offsets in reached} == {"ecs-1": 300, "ecs-2": 300}


def test_where_it_starts_counts_for_every_queue_even_if_killed_before_most_have_a_message(
    hosts: Hosts, cluster: RunningCluster
) -> None:
    facts = list(traffic(101, seed=SEED))
    cluster.publish(fact.line(hosts.topic) for fact in facts[:100])
    host = hosts.host("ecs-1", "ecs-1", start_from="last")
    with host.start() as bridge:
        wait_until(lambda: host.count("positions") == cluster.queues, "the start of each queue", 60)
        cluster.publish([facts[100].line(hosts.topic)])
        host.wait_for(1)
        bridge.kill()

    summary = drained(host).summary

    assert (summary["landed"], summary["duplicates"]) == (0, 0)
    assert host.count() == 1


def test_status_and_check_tell_of_the_instance(hosts: Hosts, cluster: RunningCluster) -> None:
    facts = list(traffic(150, seed=SEED))
    cluster.publish(fact.line(hosts.topic) for fact in facts[:100])
    host = hosts.host("ecs-1", "ecs-1")
    drained(host)
    assert "Queues: 0 messages wait" in host.run("status").out
    cluster.publish(fact.line(hosts.topic) for fact in facts[100:])

    status = host.run("status")
    assert status.code == 0, status.err
    assert "Queues: 50 messages wait" in status.out
    assert "rocketmq ecs-1" in status.out
    check = host.run("check")
    assert "broadcasting" in check.out
    assert "ecs-1" in check.out


def test_tags_that_filter_leave_no_lag(hosts: Hosts, cluster: RunningCluster) -> None:
    facts = list(traffic(300, seed=SEED))
    cluster.publish(fact.line(hosts.topic) for fact in facts)
    host = hosts.host("ecs-1", "ecs-1", tags="taobao_refund_RefundCreated")

    summary = drained(host).summary

    assert summary["topics"] == {
        "taobao_refund_RefundCreated": Truth.of(facts).topics["taobao_refund_RefundCreated"]
    }
    assert "Queues: 0 messages wait" in host.run("status").out


@pytest.mark.timeout(300)
def test_an_instance_is_one_process_and_who_lost_it_lands_nothing_more(
    hosts: Hosts, cluster: RunningCluster
) -> None:
    facts = list(traffic(300, seed=SEED))
    cluster.publish(fact.line(hosts.topic) for fact in facts[:100])
    first = hosts.host("first", "ecs-1")
    second = hosts.host("second", "ecs-1", store=f"sqlite:///{first.database}")
    with first.start() as holder:
        first.wait_for(100)
        refused = second.run("run")
        assert refused.code == 75
        assert (
            f"instance ecs-1 of source rocketmq is in use by another process: {os.uname().nodename}"
            in refused.err
        )
        assert f" pid {holder.process.pid}\n" in refused.err
        assert "remedy: " in refused.err
        assert "Traceback" not in refused.err

        holder.signal(signal.SIGSTOP)
        cluster.publish(fact.line(hosts.topic) for fact in facts[100:200])
        with second.start() as successor:
            second.wait_for(200)
            holder.signal(signal.SIGCONT)
            cluster.publish(fact.line(hosts.topic) for fact in facts[200:])
            outcome = holder.wait(60)
            second.wait_for(300)
            successor.signal(signal.SIGTERM)
            assert successor.wait().summary["landed"] == 200
    assert outcome.code == 75, outcome.err
    assert f"in use by another process: {os.uname().nodename} pid {successor.process.pid}\n" in outcome.err
    assert "Traceback" not in outcome.err
    assert outcome.summary["landed"] == 100
    first.assert_equals(Truth.of(facts))


@pytest.mark.timeout(300)
def test_a_stop_in_order_gives_the_name_back_at_once(hosts: Hosts, cluster: RunningCluster) -> None:
    cluster.publish(fact.line(hosts.topic) for fact in traffic(50, seed=SEED))
    host = hosts.host("ecs-1", "ecs-1")
    with host.start() as bridge:
        host.wait_for(50)
        assert host.count("leases") == 1
        bridge.signal(signal.SIGTERM)
        outcome = bridge.wait()
    assert outcome.code == 0, outcome.err
    assert host.count("leases") == 0
