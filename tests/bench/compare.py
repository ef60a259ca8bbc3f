"""One topic, many consumers in turn: this project's, the official Java client and rocketmq-client-go, in one run.

    python tests/bench/compare.py [--messages 200000] [--rounds 2] [--only NAME ...]

Starts a real name server and broker, floods 8 queues with distinct ONS envelopes of about 650 bytes, warms the
broker, and lets each peer read all of it with a group of its own. Each figure is the median over the rounds.
Tuned is what was best here for the default broker, which answers at most 32 messages per pull whatever is asked.
Where Go is missing its client is left out, with the reason.
CPU is that of the whole process since its first message; of the bridge that of the whole process, less that of a
run that finds nothing to land.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.bridge_process import Installation  # noqa: E402
from tests.cluster import Cluster  # noqa: E402
from tests.go.toolchain import go_client  # noqa: E402
from tests.java.client import flags  # noqa: E402
from tests.java.toolchain import ToolMissing, toolchain  # noqa: E402
from tests.servers import THOROUGH  # noqa: E402
from tests.traffic import traffic  # noqa: E402


@dataclass(frozen=True, slots=True)
class Measured:
    """One peer, one round."""

    seconds: float
    cpu: float
    rss_kb: int

    def per_million(self, messages: int) -> float:
        return self.cpu / messages * 1e6


class Bench:
    """The topic and the peers that read it."""

    def __init__(self, cluster: Cluster, topic: str, messages: int, scratch: Path) -> None:
        self.cluster = cluster
        self.topic = topic
        self.messages = messages
        self.scratch = scratch
        self._groups = 0

    def peers(self) -> dict[str, Callable[[], Measured]]:
        return {
            "Java push consumer, default": lambda: self.java(),
            "Java push consumer, tuned": lambda: self.java(pull_batch=1024, consume_batch=1024, threads=2),
            **self.go_peers(),
            "Consumer, unpacked only": lambda: self.consumer("raw"),
            "Consumer, parsed as in Java": lambda: self.consumer("parse"),
            "Consumer, typed messages": lambda: self.consumer("decode"),
            "whole bridge into SQLite": self.bridge,
        }

    def go_peers(self) -> dict[str, Callable[[], Measured]]:
        try:
            program = go_client()
        except ToolMissing as missing:
            print(f"without rocketmq-client-go: {missing}", file=sys.stderr)
            return {}
        return {
            "rocketmq-client-go, default": lambda: self.go(program, {}),
            "rocketmq-client-go, tuned": lambda: self.go(
                program, {"GOGC": "400"}, pull_batch=1024, consume_batch=1024, goroutines=2
            ),
        }

    def group(self) -> str:
        self._groups += 1
        return f"GID_bench_{self._groups}"

    def java(self, **options: int) -> Measured:
        # The first quarter is where the JVM compiles; a process that runs for weeks is past it.
        warm_up = self.messages // 4
        counted = self.messages - warm_up
        told = self.cluster.consume(self.topic, self.group(), counted, warm_up=warm_up, **options)
        scale = self.messages / counted
        return Measured(told["seconds"] * scale, told["cpu_seconds_since_first"] * scale, told["peak_rss_kb"])

    def go(self, program: Path, environ: dict[str, str], **options: int) -> Measured:
        warm_up = self.messages // 4
        where = {"name_server": self.cluster.name_server, "topic": self.topic, "group": self.group()}
        counts = {"messages": self.messages - warm_up, "warm_up": warm_up}
        done = subprocess.run(
            [str(program), "consume", *flags({**where, **counts, **options})],
            env={**os.environ, **environ}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        told = json.loads(done.stdout)
        scale = self.messages / counts["messages"]
        return Measured(told["seconds"] * scale, told["cpu_seconds_since_first"] * scale, told["peak_rss_kb"])

    def consumer(self, mode: str) -> Measured:
        script = Path(__file__).with_name("consume.py")
        arguments = [self.cluster.name_server, self.topic, self.group(), str(self.messages), mode]
        done = subprocess.run(
            [sys.executable, str(script), *arguments], capture_output=True, text=True, check=True, cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        told = json.loads(done.stdout)
        return Measured(told["seconds"], told["cpu_seconds_since_first"], told["peak_rss_kb"])

    def bridge(self) -> Measured:
        """`run --drain` on everything, less a `run --drain` that finds nothing left to do: the start and the end."""
        with tempfile.TemporaryDirectory(dir=self.scratch) as name:
            installation = Installation(Path(name), self.cluster.name_server, self.topic, self.group())
            whole, idle = self._drain(installation), self._drain(installation)
        return Measured(whole.seconds - idle.seconds, whole.cpu - idle.cpu, whole.rss_kb)

    def _drain(self, installation: Installation) -> Measured:
        begun = time.perf_counter()
        process = subprocess.Popen(
            installation.command("run", "--drain"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd=ROOT,
        )
        assert process.stderr is not None
        errors = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - begun
        process.stderr.close()
        if process.returncode or installation.count() != self.messages:
            raise SystemExit(
                f"the bridge landed {installation.count()} of {self.messages}: {errors.decode()}"
            )
        return Measured(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--messages", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=[], help="parts of peers' names")
    options = parser.parse_args()
    topic = "rmq_sys_jst_12345678"
    # A real broker is another machine: here its files stay in memory, or its flushing would hold up the bridge's.
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with (
        tempfile.TemporaryDirectory(prefix="jst-bench-", dir=memory) as servers,
        tempfile.TemporaryDirectory(prefix="jst-bench-") as name,
    ):
        scratch = Path(name)
        lines = scratch / "lines.json"
        with lines.open("w") as file:
            for fact in traffic(options.messages, sellers=200):
                file.write(json.dumps(fact.line(topic)) + "\n")
        with Cluster(toolchain(), Path(servers), server_options=THOROUGH) as cluster:
            cluster.flood(topic, lines, options.messages)
            bench = Bench(cluster, topic, options.messages, scratch)
            peers = {
                name: run
                for name, run in bench.peers().items()
                if not options.only or any(part.lower() in name.lower() for part in options.only)
            }
            bench.consumer("raw")  # warms the broker: a cold one serves a third of the rate
            rounds = [{name: run() for name, run in peers.items()} for _ in range(options.rounds)]
    report(rounds, options.messages)


def report(rounds: list[dict[str, Measured]], messages: int) -> None:
    peers = list(rounds[0])
    references = [next((name for name in peers if word in name), None) for word in ("Java", "go, tuned")]
    print(
        f"| who ({messages:,} messages, median of {len(rounds)})"
        " | CPU s per million | of Java's | of tuned Go's | messages/s | peak RSS MB |"
    )
    print("|---|---|---|---|---|---|")
    for name in peers:
        cpu = statistics.median(entry[name].per_million(messages) for entry in rounds)
        # Paired within a round, so that a drift of the machine's speed cancels out.
        ratios = [
            f"{statistics.median(entry[name].cpu / entry[peer].cpu for entry in rounds):.2f}" if peer else "-"
            for peer in references
        ]
        rate = statistics.median(messages / entry[name].seconds for entry in rounds)
        rss = max(entry[name].rss_kb for entry in rounds) / 1024
        print(f"| {name} | {cpu:.1f} | {' | '.join(ratios)} | {rate:,.0f} | {rss:.0f} |")


if __name__ == "__main__":
    main()
