"""Killed, stopped, joined: whatever happens to the processes, every message lands, and lands once."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.bridge_process import BridgeProcess, Installation, lag
from tests.cluster import ROCKETMQ_VERSIONS, Cluster, ClusterError, RunningCluster, wait_until
from tests.traffic import Fact, Truth, traffic

MESSAGES = int(os.environ.get("JST_TEST_KILL_MESSAGES", "6000"))
KILLS = int(os.environ.get("JST_TEST_KILLS", "5"))
SEED = int(os.environ.get("JST_TEST_SEED", "1"))


@pytest.fixture
def installation(tmp_path: Path, cluster: RunningCluster, topic: str, group: str) -> Installation:
    return Installation(tmp_path, cluster.name_server, topic, group)


@contextmanager
def publishing(cluster: RunningCluster, topic: str, facts: Sequence[Fact]) -> Iterator[threading.Thread]:
    """Publish in the background, so that the faults happen under traffic; done at the latest on leaving."""
    lines = [fact.line(topic) for fact in facts]
    cluster.publish(lines[:8])  # the topic exists before anybody subscribes
    failures: list[BaseException] = []

    def work() -> None:
        try:
            cluster.publish(lines[8:])
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work, name="publish")
    thread.start()
    try:
        yield thread
    finally:
        thread.join()
    assert not failures, failures


@pytest.mark.timeout(900)
def test_killed_at_random_moments_nothing_is_lost_and_nothing_twice(
    installation: Installation, cluster: RunningCluster
) -> None:
    facts = list(traffic(MESSAGES, seed=SEED))
    dice = random.Random(SEED)
    marks = sorted(dice.randrange(1, MESSAGES) for _ in range(KILLS))
    with publishing(cluster, installation.topic, facts):
        for mark in marks:
            with installation.start() as bridge:
                installation.wait_for(mark)
                bridge.kill()
    assert installation.run("run", "--drain").code == 0
    installation.assert_equals(Truth.of(facts))
    assert set(lag(cluster, installation.group, installation.topic).values()) == {0}


def owned(process: BridgeProcess) -> set[str]:
    """The queues a process says it reads now."""
    queues: set[str] = set()
    for line in process.log().splitlines():
        for sign, change in ((" from ", queues.add), (", settled up to", queues.discard)):
            _, found, rest = line.partition("eading rmq_sys_jst_")
            if found and sign in rest:
                change(rest.partition(sign)[0])
    return queues


@pytest.mark.alone
@pytest.mark.timeout(300)
def test_members_share_the_queues_and_take_over_from_each_other(
    installation: Installation, cluster: RunningCluster
) -> None:
    facts = list(traffic(4000, seed=SEED))
    with ExitStack() as stack:
        stack.enter_context(publishing(cluster, installation.topic, facts))
        members = [stack.enter_context(installation.start()) for _ in range(3)]

        def shared(*processes: BridgeProcess) -> bool:
            parts = [owned(process) for process in processes]
            sizes = sorted(map(len, parts))
            return len(set().union(*parts)) == sum(sizes) == 8 and sizes[-1] - sizes[0] <= 1

        first, second, third = members
        wait_until(lambda: shared(first, second, third), "three members sharing 8 queues as 3, 3, 2", 30)
        first.signal(signal.SIGTERM)
        assert first.wait().code == 0
        wait_until(lambda: shared(second, third), "the queues of the stopped member", 2)
        second.kill()
        fourth = stack.enter_context(installation.start())
        wait_until(lambda: shared(third, fourth), "the queues of the killed member", 30)
    assert installation.run("run", "--drain").code == 0
    installation.assert_equals(Truth.of(facts))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_signal_under_load_stops_in_order(
    installation: Installation, cluster: RunningCluster, number: signal.Signals
) -> None:
    facts = list(traffic(3000, seed=SEED))
    with publishing(cluster, installation.topic, facts), installation.start() as bridge:
        installation.wait_for(300)
        bridge.signal(number)
        outcome = bridge.wait(15)
        landed = installation.count()
    assert outcome.code == 0, outcome.err
    assert "Traceback" not in outcome.err
    assert outcome.summary["landed"] == landed
    # What is committed is exactly what landed: nothing comes twice, nothing is skipped.
    rest = installation.run("run", "--drain")
    assert rest.code == 0
    assert rest.summary["duplicates"] == 0
    installation.assert_equals(Truth.of(facts))


def test_a_second_signal_quits_at_once(installation: Installation, cluster: RunningCluster) -> None:
    facts = list(traffic(2000, seed=SEED))
    cluster.publish(fact.line(installation.topic) for fact in facts[:1000])
    with installation.start() as bridge:
        installation.wait_for(1000)
        with installation_locked(installation):  # so that the first signal has something to wait for
            cluster.publish(fact.line(installation.topic) for fact in facts[1000:])
            bridge.wait_for_log("the store is down")
            bridge.signal(signal.SIGINT)
            bridge.wait_for_log("once more quits at once")
            bridge.signal(signal.SIGINT)
            outcome = bridge.wait(3)
    assert outcome.code == 130
    assert "Traceback" not in outcome.err


@contextmanager
def installation_locked(installation: Installation) -> Iterator[None]:
    import sqlite3

    connection = sqlite3.connect(installation.database, timeout=30, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield
    finally:
        connection.close()


@pytest.mark.one_broker
@pytest.mark.timeout(180)
def test_a_locked_store_holds_everything_back_and_goes_on_by_itself(
    installation: Installation, cluster: RunningCluster
) -> None:
    facts = list(traffic(1500, seed=SEED))
    cluster.publish(fact.line(installation.topic) for fact in facts[:500])
    with installation.start() as bridge:
        installation.wait_for(500)
        with installation_locked(installation):
            cluster.publish(fact.line(installation.topic) for fact in facts[500:])
            bridge.wait_for_log("the store is down")
            assert installation.count() == 500
        installation.wait_for(1500)
        bridge.wait_for_log("the store is back")
        bridge.signal(signal.SIGTERM)
        assert bridge.wait().code == 0
    installation.assert_equals(Truth.of(facts))


@pytest.mark.timeout(180)
def test_a_store_that_stays_locked_makes_it_leave_the_group_until_it_is_back(
    tmp_path: Path, cluster: RunningCluster, topic: str, group: str
) -> None:
    impatient = {"JST_RUN__LEAVE_AFTER": "0.5"}
    installation = Installation(tmp_path, cluster.name_server, topic, group, environ=impatient)
    facts = list(traffic(900, seed=SEED))
    cluster.publish(fact.line(topic) for fact in facts[:300])
    with installation.start() as bridge:
        installation.wait_for(300)
        with installation_locked(installation):
            cluster.publish(fact.line(topic) for fact in facts[300:600])
            bridge.wait_for_log("leaves its consumer group")
            with pytest.raises(ClusterError, match="online"):
                cluster.admin("consumerConnection", "-g", group)
        bridge.wait_for_log("rejoined its consumer group")
        cluster.publish(fact.line(topic) for fact in facts[600:])
        installation.wait_for(900)
        bridge.signal(signal.SIGTERM)
        assert bridge.wait().code == 0
    installation.assert_equals(Truth.of(facts))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("own_cluster", ROCKETMQ_VERSIONS, indirect=True)
def test_a_broker_that_is_killed_and_comes_back_loses_nothing(
    tmp_path: Path, own_cluster: Callable[..., Cluster], topic: str, group: str
) -> None:
    cluster = own_cluster(properties={"flushDiskType": "SYNC_FLUSH"})
    installation = Installation(tmp_path, cluster.name_server, topic, group)
    facts = list(traffic(600, seed=SEED))
    cluster.publish(fact.line(topic) for fact in facts[:300])
    with installation.start() as bridge:
        installation.wait_for(300)
        cluster.kill_broker()
        cluster.start_broker()
        cluster.publish(fact.line(topic) for fact in facts[300:])
        installation.wait_for(600, seconds=10)
        bridge.signal(signal.SIGTERM)
        outcome = bridge.wait()
    assert outcome.code == 0, outcome.err
    installation.assert_equals(Truth.of(facts))
