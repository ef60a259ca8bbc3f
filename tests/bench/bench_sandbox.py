"""What the sandbox's broker costs beside the Consumer, in one run: CPU seconds per million messages, and memory.

    python tests/bench/bench_sandbox.py [MESSAGES]

The sandbox, the sender and the consumer are processes of their own, so that each one's CPU is its own. Messages are
ONS envelopes of 651 bytes, sent in batches of 32 (request 320) and, a quarter as many, one by one (310), and pulled 32
at a time. The goal: send and pull together at most four times the Consumer's own. Prints one JSON line; of one that is
sent alone most is the cost of a socket's read and write. Messages that the sandbox let expire are not consumed.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import sys
import time
from multiprocessing.connection import Connection as Pipe
from typing import Any

import psutil

from jst_bridge.rocketmq import Client, ClientSettings, Consumer, ConsumerSettings, codes
from jst_bridge.sandbox.rocketmq import SandboxCluster, SandboxSettings
from tests.sandbox_asker import packed

TOPIC, QUEUES, SENDERS, BATCH = "rmq_sys_jst_12345678", 8, 16, 32
MAX_BYTES = 256 << 20
PROPERTIES = (
    "KEYS\x01123\x02UNIQ_KEY\x01520DE356D49001A202AD9E8B00000700\x02TAGS\x01taobao_trade_TradeBuyerPay\x02"
)
BODY = json.dumps(
    {"content": "x" * 560, "topic": "taobao_trade_TradeBuyerPay", "user_nick": "seller"}
).encode()


def serve(pipe: Pipe) -> None:
    """Run the sandbox; answer each question with CPU seconds and memory so far, until told to end."""

    async def work() -> None:
        async with SandboxCluster(SandboxSettings(topics={TOPIC: QUEUES}, max_bytes=MAX_BYTES)) as cluster:
            pipe.send(cluster.name_server)
            loop = asyncio.get_running_loop()
            while await loop.run_in_executor(None, pipe.recv) != "end":
                store = cluster.broker.state.store
                pipe.send({
                    "cpu": time.process_time(),
                    "rss": psutil.Process().memory_info().rss,
                    "stored": store.stored,
                    "held": store.held_bytes,
                })  # fmt: skip

    asyncio.run(work())


def send(name_server: str, count: int, batch: int) -> None:
    """Send so many messages, `batch` in each request (1: by 310, else by 320), `SENDERS` requests at once."""

    async def work() -> None:
        left = iter(range(0, count, batch))
        client = Client(ClientSettings((name_server,)))
        broker = (await client.fetch_route(TOPIC)).brokers["broker-a"][0]

        async def sender() -> None:
            for number in left:
                fields = {
                    "a": "P", "b": TOPIC, "c": "TBW102", "d": "8", "e": str(number // batch % QUEUES), "f": "0",
                    "g": "1795000000000", "h": "0", "i": PROPERTIES if batch == 1 else "", "j": "0", "k": "false",
                }  # fmt: skip
                if batch == 1:
                    await client.call(broker, codes.Request.SEND_MESSAGE_V2, fields, BODY)
                else:
                    connection = await client.connection(broker)
                    body = packed([(BODY, PROPERTIES)] * batch)
                    answer = await connection.request(320, fields | {"m": "true"}, body, timeout=30)
                    assert answer.code == 0, answer.remark

        await asyncio.gather(*(sender() for _ in range(SENDERS)))
        await client.close()

    asyncio.run(work())


def consume(name_server: str, count: int, pipe: Pipe) -> None:
    async def work() -> None:
        settings = ConsumerSettings(
            ClientSettings((name_server,)), group="GID_bench", subscriptions={TOPIC: "*"}
        )
        async with Consumer(settings) as consumer:
            seen, begun = 0, 0.0
            while seen < count:
                batches = await consumer.receive()
                begun = begun or time.process_time()
                seen += sum(len(batch.messages) for batch in batches)
                consumer.settle(batches)
            pipe.send({"cpu": time.process_time() - begun, "seen": seen})

    asyncio.run(work())


def main(count: int) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    sandbox = context.Process(target=serve, args=(there,), daemon=True)
    sandbox.start()
    name_server = here.recv()

    def asked() -> dict[str, Any]:
        here.send("tell")
        return dict(here.recv())

    def run(target: Any, *arguments: Any) -> None:
        child = context.Process(target=target, args=arguments)
        child.start()
        child.join()
        assert child.exitcode == 0, f"{target.__name__} failed"

    before = asked()
    run(send, name_server, count // 4, 1)
    single = asked()
    run(send, name_server, count, BATCH)
    sent = asked()
    ours, theirs = context.Pipe()
    run(consume, name_server, count, theirs)
    told, after = ours.recv(), asked()
    here.send("end")
    sandbox.join(10)
    million = 1_000_000 / count
    single_send = (single["cpu"] - before["cpu"]) * million * 4
    batched_send = (sent["cpu"] - single["cpu"]) * million
    pull, consumer = (after["cpu"] - sent["cpu"]) * million, told["cpu"] * million
    return {
        "messages": count,
        "single_send": single_send,
        "batched_send": batched_send,
        "pull": pull,
        "consumer": consumer,
        "ratio_batched": (batched_send + pull) / consumer,
        "ratio_single": (single_send + pull) / consumer,
        "rss_mb_before": before["rss"] >> 20,
        "rss_mb": after["rss"] >> 20,
        "held_mb": after["held"] >> 20,
    }


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]) if len(sys.argv) > 1 else 200_000)))
