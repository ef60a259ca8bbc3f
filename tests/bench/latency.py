"""From send to durable landing, at a steady rate: p50 and p99 in milliseconds.

    python tests/bench/latency.py [--messages 2000] [--rate 200]

A producer in this process sends to a real broker; the whole bridge lands in a process of its own. A message's
latency runs from just before its send to the moment its transaction is committed: `landed_at` is when the landing
began, so this process reads the database file for what is committed and takes the later of the two.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sqlite3
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from jst_bridge.rocketmq import ClientSettings, Producer  # noqa: E402
from tests.bridge_process import Installation  # noqa: E402
from tests.cluster import Cluster  # noqa: E402
from tests.java.toolchain import toolchain  # noqa: E402
from tests.servers import THOROUGH  # noqa: E402
from tests.traffic import Fact, traffic  # noqa: E402


async def send(name_server: str, topic: str, facts: list[Fact], rate: float) -> dict[str, float]:
    """Send at a steady rate; when each send began, by outgoing id."""
    sent: dict[str, float] = {}
    pending: set[asyncio.Task[object]] = set()
    async with Producer(ClientSettings((name_server,))) as producer:
        begun = time.time()
        for number, fact in enumerate(facts):
            await asyncio.sleep(max(0.0, begun + number / rate - time.time()))
            sent[str(fact.outgoing_id)] = time.time()
            task: asyncio.Task[object] = asyncio.create_task(
                producer.send(topic, fact.body, tag=fact.tag, keys=fact.keys)
            )
            pending.add(task)
            task.add_done_callback(pending.discard)
        await asyncio.gather(*pending)
    return sent


def watch(database: Path, count: int, seen: dict[str, float]) -> None:
    """Note when each message is first seen committed by another process."""
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=30)
    last = 0
    while len(seen) < count:
        for row, key in connection.execute("SELECT id, message_key FROM messages WHERE id > ?", (last,)):
            last = max(last, row)
            seen[key.rpartition(":")[2]] = time.time()
        time.sleep(0.0005)
    connection.close()


async def measure(cluster: Cluster, directory: Path, count: int, rate: float) -> list[float]:
    topic = "rmq_sys_jst_12345678"
    warm_up = 5 * int(rate)  # five seconds' worth: a cold broker compiles its code first
    facts = list(traffic(count + warm_up))
    async with Producer(ClientSettings((cluster.name_server,))) as producer:
        await producer.send(topic, facts[0].body, tag=facts[0].tag)
    installation = Installation(directory, cluster.name_server, topic, "GID_latency")
    with installation.start() as bridge:
        await asyncio.to_thread(installation.wait_for, 1)
        seen: dict[str, float] = {}
        watching = asyncio.create_task(asyncio.to_thread(watch, installation.database, len(facts), seen))
        await send(cluster.name_server, topic, facts[1:warm_up], rate)
        sent = await send(cluster.name_server, topic, facts[warm_up:], rate)
        await watching
        bridge.signal(signal.SIGTERM)
        bridge.wait()
    return sorted((seen[key] - at) * 1000 for key, at in sent.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--messages", type=int, default=2000)
    parser.add_argument("--rate", type=float, default=200)
    options = parser.parse_args()
    # A real broker is another machine: here its files stay in memory, or its flushing would hold up our fsync.
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with (
        tempfile.TemporaryDirectory(prefix="jst-bench-", dir=memory) as servers,
        tempfile.TemporaryDirectory(prefix="jst-bench-") as bridge,
        Cluster(toolchain(), Path(servers), server_options=THOROUGH) as cluster,
    ):
        times = asyncio.run(measure(cluster, Path(bridge), options.messages, options.rate))
    p50, p99 = times[len(times) // 2], times[len(times) * 99 // 100]
    print(
        f"{len(times)} messages at {options.rate:g}/s: p50 {p50:.1f} ms, p99 {p99:.1f} ms, worst {times[-1]:.1f} ms"
    )


if __name__ == "__main__":
    main()
