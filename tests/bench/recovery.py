"""How long consumers read nothing when something fails: ours beside the official Java client, in one run.

    python -m tests.bench.recovery [--scenario NAME ...] [--client ours|java|all] [--rounds 1] [--rate 200]

Starts a real name server and broker of its own; 8 queues get 200 messages a second in turn, so each gives a sign of
life every 40 ms. Every scenario has its own topic and group, and counts what was lost and what came twice. Prints a
table in Markdown, the median of the rounds and their range.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.cluster import Cluster, ClusterError, RunningCluster, wait_until
from tests.cutting_proxy import CuttingProxy
from tests.false_route import routing_to
from tests.java.toolchain import Toolchain, toolchain
from tests.recovery import Account, Kind, Member, Place, Stream, longest_silence

__all__ = ["SCENARIOS", "Lab", "Outcome"]

QUEUES = 8


@dataclass(frozen=True)
class Outcome:
    """What one client did in one scenario. Seconds; each scenario says from when to when."""

    seconds: float
    lost: int
    twice: int
    remark: str = ""


@dataclass
class Lab:
    """One cluster, and fresh names for each scenario."""

    cluster: RunningCluster
    scratch: Path
    toolchain: Toolchain
    rate: float = 200
    serial: int = field(default_factory=lambda: random.SystemRandom().randrange(10_000_000, 90_000_000))
    """Random at first: a cluster that runs already remembers former names."""

    @property
    def own(self) -> Cluster:
        """The cluster, where a scenario stops servers."""
        assert isinstance(self.cluster, Cluster)
        return self.cluster

    @contextmanager
    def traffic(self, *, name_server: str = "") -> Iterator[tuple[Stream, Place]]:
        """A topic that gets messages all the time."""
        self.serial += 1
        topic = f"rmq_sys_jst_{self.serial}"
        server = name_server or self.cluster.name_server
        place = Place(server, topic, f"GID_recovery_{self.serial}", self.scratch, self.toolchain)
        stream = Stream(self.cluster.broker_address, topic, queues=QUEUES, rate=self.rate)
        wait_until(lambda: stream.send("first", 0), "the topic, which its first message makes", 60)
        self.cluster.wait_for_route(topic)
        with stream:
            yield stream, place

    @contextmanager
    def members(
        self, kind: Kind, count: int, *, name_server: str = ""
    ) -> Iterator[tuple[Stream, Place, list[Member]]]:
        """Traffic, and members that share it."""
        with ExitStack() as stack:
            stream, place = stack.enter_context(self.traffic(name_server=name_server))
            members = [stack.enter_context(Member(kind, place)) for _ in range(count)]
            account = Account(stream, members)
            account.wait_for_all_queues(QUEUES)
            time.sleep(3)  # a second member has joined, and the group has settled
            account.wait_for_all_queues(QUEUES, after=time.time())
            yield stream, place, members


def broker_down(lab: Lab, kind: Kind, *, seconds: float = 20) -> Outcome:
    """The broker is stopped and is back after 20 s. From the first send it takes for a queue to a message from it."""
    with lab.members(kind, 1) as (stream, _, members):
        account = Account(stream, members)
        began = time.monotonic()
        lab.own.stop_broker()
        stopped_at = time.time()
        time.sleep(max(0.0, seconds - (time.monotonic() - began)))
        starting = threading.Thread(target=lab.own.start_broker)
        starting.start()
        account.wait_for_all_queues(QUEUES, after=stopped_at, seconds=90)
        starting.join()
        taken_at = stream.first_taken(stopped_at)
        resumed = account.resumed(stopped_at, queues_of(account))
        lost, twice = account.settle()
    # What was sent before the stop and read after it says nothing of the broker's return.
    times = [
        stopped_at + after - taken_at[queue_id]
        for (_, queue_id), after in resumed.items()
        if queue_id in taken_at
    ]
    return Outcome(max(times), lost, twice, f"first {min(times):.2f}")


def name_server_down(lab: Lab, kind: Kind, *, seconds: float = 35, after: float = 30) -> Outcome:
    """The name server is killed and is back after 35 s. The longest silence of a queue, until `after` s later."""
    with lab.members(kind, 1) as (stream, _, members):
        account = Account(stream, members)
        since = time.time()
        lab.own.kill_name_server()
        time.sleep(seconds)
        lab.own.start_name_server()
        time.sleep(after)
        silence = longest_silence(account.receipts(), since, time.time())
        lost, twice = account.settle()
    lab.cluster.wait_for_route("TBW102")
    return Outcome(silence, lost, twice)


def member_killed(lab: Lab, kind: Kind) -> Outcome:
    """One of two members is killed. Until each of its queues gives a message to the other."""
    return taken_over(lab, kind, lambda member: member.kill())


def member_stopped(lab: Lab, kind: Kind) -> Outcome:
    """One of two members is stopped by SIGTERM. Until each of its queues gives a message to the other."""
    return taken_over(lab, kind, lambda member: member.terminate()[0])


def taken_over(lab: Lab, kind: Kind, end: Callable[[Member], float]) -> Outcome:
    with lab.members(kind, 2) as (stream, _, (stays, goes)):
        account = Account(stream, [stays, goes])
        now = time.time()
        account.wait_for_all_queues(QUEUES, after=now)
        owned = {one.queue for one in goes.receipts() if one.at > now}
        ended_at = end(goes)
        heir = Account(stream, [stays])
        heir.wait_for_all_queues(QUEUES, after=ended_at)
        # What was read last by the one that goes is when its queue became silent.
        last = max((one.at for one in goes.receipts()), default=ended_at)
        resumed = heir.resumed(max(ended_at, last), owned)
        lost, twice = account.settle()
    return Outcome(max(resumed.values()), lost, twice, f"{len(owned)} queues")


def member_joins(lab: Lab, kind: Kind) -> Outcome:
    """A second member joins. The longest time that a queue gives a message to nobody."""
    with lab.members(kind, 1) as (stream, place, members):
        since = time.time()
        with Member(kind, place) as joining:
            account = Account(stream, [*members, joining])
            Account(stream, [joining]).wait_for_all_queues(QUEUES // 2)
            time.sleep(3)
            silence = longest_silence(account.receipts(), since, time.time() - 0.5)
            lost, twice = account.settle()
    return Outcome(silence, lost, twice)


def silent_connection(lab: Lab, kind: Kind) -> Outcome:
    """The connection to the broker goes silent and stays open. Until every queue gives a message again."""
    with (
        CuttingProxy(int(lab.cluster.broker_address.rpartition(":")[2])) as proxy,
        routing_to(f"127.0.0.1:{proxy.port}", broker="broker-a", queues=QUEUES) as name_server,
        lab.members(kind, 1, name_server=name_server) as (stream, _, members),
    ):
        account = Account(stream, members)
        at = time.time()
        proxy.silence()
        account.wait_for_all_queues(QUEUES, after=at + 1, seconds=200)
        resumed = account.resumed(at + 1, queues_of(account))
        lost, twice = account.settle()
    return Outcome(1 + max(resumed.values()), lost, twice, f"first {1 + min(resumed.values()):.1f}")


def sigterm(lab: Lab, kind: Kind) -> Outcome:
    """SIGTERM to the only member. Until it has exited; the next one gets the rest."""
    with lab.members(kind, 1) as (stream, place, members):
        _, seconds, code = members[0].terminate()
        with Member(kind, place) as following:
            lost, twice = Account(stream, [*members, following]).settle()
    return Outcome(seconds, lost, twice, f"exit code {code}")


def first_message(lab: Lab, kind: Kind) -> Outcome:
    """A new group starts on a topic that has messages. From the start of the consumer to its first message."""
    with lab.traffic() as (stream, place), Member(kind, place) as member:
        account = Account(stream, [member])
        account.wait_for_all_queues(QUEUES)
        seconds = member.receipts()[0].at - member.started_at
        lost, twice = account.settle()
    return Outcome(seconds, lost, twice)


def queues_of(account: Account) -> set[tuple[str, int]]:
    return {one.queue for one in account.receipts()}


SCENARIOS: dict[str, tuple[Callable[[Lab, Kind], Outcome], str]] = {
    "broker-down": (
        broker_down,
        "broker down 20 s: from a queue's first accepted send to a message of it, the slowest queue",
    ),
    "name-server-down": (name_server_down, "name server away 35 s: longest silence of a queue"),
    "member-killed": (member_killed, "member killed: its queues silent"),
    "member-stopped": (member_stopped, "member stopped: its queues silent"),
    "member-joins": (member_joins, "member joins: longest silence of a queue"),
    "silent-connection": (silent_connection, "connection silent without closing: all queues read again"),
    "sigterm": (sigterm, "SIGTERM under traffic: until the exit"),
    "first-message": (first_message, "new group: from start to its first message"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenario", nargs="*", choices=list(SCENARIOS), default=list(SCENARIOS))
    parser.add_argument("--client", choices=["ours", "java", "all"], default="all")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--rate", type=float, default=200, help="messages a second, to all queues together")
    options = parser.parse_args()
    kinds: list[Kind] = ["ours", "java"] if options.client == "all" else [options.client]
    outcomes: dict[tuple[str, Kind], list[Outcome]] = {}
    java = toolchain()
    with tempfile.TemporaryDirectory(prefix="jst-bench-", ignore_cleanup_errors=True) as name:
        scratch = Path(name)
        with Cluster(java, scratch, queues=QUEUES) as cluster:
            lab = Lab(cluster, scratch, java, options.rate)
            for _ in range(options.rounds):
                for scenario in options.scenario:
                    for kind in kinds:
                        try:
                            outcome = SCENARIOS[scenario][0](lab, kind)
                        except ClusterError as error:  # the others are measured all the same
                            print(scenario, kind, error, file=sys.stderr, flush=True)
                            continue
                        outcomes.setdefault((scenario, kind), []).append(outcome)
                        print(scenario, kind, outcome, file=sys.stderr, flush=True)
    report(options.scenario, kinds, outcomes)


def report(scenarios: list[str], kinds: list[Kind], outcomes: dict[tuple[str, Kind], list[Outcome]]) -> None:
    heads = [word for kind in kinds for word in (f"{kind}, s", "lost", "twice", "")]
    print("| what |", " | ".join(heads), "|")
    print("|---" * (len(heads) + 1) + "|")
    for scenario in scenarios:
        cells = [cell for kind in kinds for cell in cells_of(outcomes.get((scenario, kind), []))]
        print(f"| {SCENARIOS[scenario][1]} |", " | ".join(cells), "|")


def cells_of(found: list[Outcome]) -> list[str]:
    if not found:
        return ["failed", "", "", ""]
    seconds = [one.seconds for one in found]
    median = f"{statistics.median(seconds):.2f}"
    if len(found) > 1:
        median += f" ({min(seconds):.2f}–{max(seconds):.2f})"
    remarks = "; ".join(dict.fromkeys(one.remark for one in found if one.remark))
    return [median, str(sum(one.lost for one in found)), str(sum(one.twice for one in found)), remarks]


if __name__ == "__main__":
    main()
