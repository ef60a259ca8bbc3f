"""Three processes of one group on two brokers, under traffic throughout: some are killed, all the time.

JST_TEST_KILL_PROCESSES and JST_TEST_KILL_BROKERS say how often, JST_TEST_KILL_SEED in which order and when.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import pytest

from tests.bridge_process import BridgeProcess, Installation
from tests.cluster import Cluster, ClusterError, wait_until
from tests.servers import Broker
from tests.traffic import Fact, Truth, traffic

MEMBERS = 3
PROCESS_KILLS = int(os.environ.get("JST_TEST_KILL_PROCESSES", "5"))
BROKER_RESTARTS = int(os.environ.get("JST_TEST_KILL_BROKERS", "1"))
SEED = int(os.environ.get("JST_TEST_KILL_SEED", "1"))
CHUNK = 30
CHUNKS_PER_SECOND = 10
PATIENCE = 300.0
"""Seconds for some hundred messages to land while a broker is away and the machine has other things to do."""


class Publisher:
    """Publishes an endless sale through the official Java client, a few hundred messages a second."""

    def __init__(self, cluster: Cluster, topic: str) -> None:
        self.sent: list[Fact] = []
        """Every message that a broker acknowledged."""
        self.repeated = 0
        """Messages sent again because the outcome of a send beside them was unknown: brokers may hold them twice."""
        self._cluster = cluster
        self._topic = topic
        self._sale = traffic(1 << 40, seed=SEED)
        self._ended = threading.Event()
        self._failure: BaseException | None = None

    def publish(self, count: int) -> None:
        """Publish the next messages; what fails is sent again until it is acknowledged."""
        facts = list(islice(self._sale, count))
        lines = [fact.line(self._topic) for fact in facts]
        limit = time.monotonic() + PATIENCE
        while True:
            try:
                self._cluster.publish(lines)
            except ClusterError:
                if time.monotonic() > limit:
                    raise
                self.repeated += count
            else:
                self.sent += facts
                return

    @contextmanager
    def publishing(self) -> Iterator[None]:
        thread = threading.Thread(target=self._work, name="publish")
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()
        assert self._failure is None, self._failure

    def _work(self) -> None:
        try:
            while not self._ended.wait(1 / CHUNKS_PER_SECOND):
                self.publish(CHUNK)
        except BaseException as error:
            self._failure = error


class Members:
    """Processes with one configuration. Leaving the `with` kills those that still run."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        self._running: list[BridgeProcess] = []

    def __enter__(self) -> Members:
        self._running = [self._installation.start() for _ in range(MEMBERS)]
        return self

    def land(self, messages: int) -> None:
        """Wait until so many messages more are durable, while no process ends by itself."""
        self.have_landed(self._installation.count() + messages)

    def have_landed(self, messages: int) -> None:
        """Wait until so many messages are durable, while no process ends by itself."""

        def enough() -> bool:
            assert all(member.process.poll() is None for member in self._running), "a process ended"
            return self._installation.count() >= messages

        try:
            wait_until(enough, f"{messages} landed messages", PATIENCE)
        except (AssertionError, ClusterError) as error:
            logs = "\n".join(member.log()[-3000:] for member in self._running)
            pytest.fail(f"{error}; {self._installation.count()} landed\n{logs}")

    def kill(self, number: int) -> None:
        """SIGKILL, and another in its place."""
        member = self._running[number]
        member.kill()
        member.__exit__(None, None, None)
        self._running[number] = self._installation.start()

    def stop(self) -> None:
        """SIGTERM to all; each must end in order."""
        for member in self._running:
            member.wait_for_log("reading ", 120)  # just started, it may not listen to signals yet
            member.signal(signal.SIGTERM)
        for member in self._running:
            outcome = member.wait(60)
            assert outcome.code == 0, outcome.err[-4000:]
            assert "Traceback" not in outcome.err

    def __exit__(self, *_: object) -> None:
        for member in self._running:
            member.__exit__(None, None, None)


def restart(broker: Broker, how: signal.Signals) -> None:
    if how == signal.SIGKILL:
        broker.kill()
    else:
        broker.stop()
    broker.start()


@pytest.mark.slow
@pytest.mark.timeout(600 + 60 * PROCESS_KILLS + 180 * BROKER_RESTARTS)
@pytest.mark.parametrize(
    "database_server", [pytest.param("postgresql", marks=pytest.mark.database)], indirect=True
)
def test_processes_and_brokers_killed_at_random_lose_nothing_and_land_nothing_twice(
    tmp_path: Path, own_cluster: Callable[..., Cluster], topic: str, group: str, server_url: str
) -> None:
    cluster = own_cluster(queues=4)
    cluster.add_broker("broker-b")
    dice = random.Random(SEED)
    events = ["process"] * PROCESS_KILLS + ["broker"] * BROKER_RESTARTS
    dice.shuffle(events)
    # On both brokers from the first message on, which only the admin tool can do, and not for rmq_sys_ names.
    topic = topic.removeprefix("rmq_sys_")
    cluster.admin("updateTopic", "-c", "DefaultCluster", "-t", topic, "-r", "4", "-w", "4")
    wait_until(
        lambda: len(cluster.wait_for_route(topic)["brokerDatas"]) == 2, "the topic on both brokers", 60
    )
    installation = Installation(tmp_path, cluster.name_server, topic, group, store=server_url)
    publisher = Publisher(cluster, topic)

    with Members(installation) as members:
        with publisher.publishing():
            members.land(200)
            for event in events:
                members.land(dice.randrange(10, 600))
                if event == "process":
                    members.kill(dice.randrange(MEMBERS))
                else:
                    restart(dice.choice(cluster.brokers), dice.choice((signal.SIGKILL, signal.SIGTERM)))
            members.land(300)
        members.have_landed(len(publisher.sent))
        members.stop()

    print(f"seed {SEED}: {events}; {len(publisher.sent)} messages, {publisher.repeated} sent again")
    installation.assert_equals(Truth.of(publisher.sent))
    behind = [row for row in cluster.consumer_progress(group) if row.topic == topic]
    assert len(behind) == 8
    assert {row.diff for row in behind} == {0}
