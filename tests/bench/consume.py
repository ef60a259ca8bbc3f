"""The Consumer of this project on a full topic, as one process: what `compare.py` runs beside the Java client.

    python tests/bench/consume.py NAME_SERVER TOPIC GROUP MESSAGES raw|parse|decode

`raw` only reads and unpacks; `parse` does what the Java program does, both JSON documents into maps and user_nick
read; `decode` makes typed and checked messages of them.
Prints one JSON line: messages, seconds and CPU seconds since the first message, peak RSS in kB.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time

import msgspec

from jst_bridge.bridge import compose
from jst_bridge.messages import Decoder
from jst_bridge.ports import QueueKey
from jst_bridge.rocketmq import ClientSettings, ConsumerSettings
from jst_bridge.sources.rocketmq import LandingLimits, RocketmqSource


def parse(body: bytes) -> int:
    envelope = msgspec.json.decode(body)
    msgspec.json.decode(envelope["content"])
    return len(envelope["user_nick"])


async def nowhere() -> dict[QueueKey, int]:
    return {}


async def main(name_server: str, topic: str, group: str, wanted: int, mode: str) -> dict[str, float]:
    settings = ConsumerSettings(ClientSettings((name_server,)), group=group, subscriptions={topic: "*"})
    source = RocketmqSource("bench", settings, LandingLimits(), nowhere, shared=False)
    decoder = Decoder("bench", "12345678")
    await source.start()
    seen = characters = 0
    begun = cpu = 0.0
    while seen < wanted:
        batches = await source.receive()
        if not seen:
            begun, cpu = time.perf_counter(), time.process_time()
        if mode == "parse":
            characters += sum(parse(one.body) for batch in batches for one in batch.deliveries)
        elif mode == "decode":
            characters += sum(len(message.seller) for message in compose(decoder, batches).messages)
        seen += sum(len(batch.deliveries) for batch in batches)
        source.settle(batches)
    result = {
        "messages": seen,
        "seconds": time.perf_counter() - begun,
        "cpu_seconds_since_first": time.process_time() - cpu,
        "nick_characters": characters,
    }
    await source.stop()
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return result | {"cpu_seconds": usage.ru_utime + usage.ru_stime, "peak_rss_kb": usage.ru_maxrss}


if __name__ == "__main__":
    server, topic, group, count, mode = sys.argv[1:]
    print(json.dumps(asyncio.run(main(server, topic, group, int(count), mode))))
