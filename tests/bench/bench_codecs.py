"""What each step of a message's way through the process costs, without network and database.

    python tests/bench/bench_codecs.py [--messages N] [--profile]

Pull answers of 32 stored messages, ONS envelopes of about 600 bytes. CPU µs per message; the best of five.
"""

from __future__ import annotations

import argparse
import cProfile
import itertools
import pstats
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from jst_bridge.messages import Decoder
from jst_bridge.ports import QueueKey
from jst_bridge.rocketmq import MessageExt
from jst_bridge.rocketmq.frame import Frame, FrameReader, encode_frame
from jst_bridge.rocketmq.message import decode_messages, encode_message, pack_host
from jst_bridge.rocketmq.properties import encode_properties
from jst_bridge.sources.rocketmq import delivery
from tests.traffic import traffic

QUEUE = QueueKey("bench", "GID_bench", "", "broker-a", "rmq_sys_jst_12345678", 0)


def frames(count: int) -> list[bytes]:
    """Pull answers as a 5.3.3 broker writes them, properties included."""
    answers = []
    host, now = pack_host("127.0.0.1", 10911), int(time.time() * 1000)
    facts = traffic(count)
    for number in range(-(-count // 32)):
        chunk = itertools.islice(facts, 32)
        stored = b""
        for offset, fact in enumerate(chunk, number * 32):
            properties = {
                "KEYS": fact.keys, "MSG_REGION": "DefaultRegion", "UNIQ_KEY": f"7F000001{offset:024X}",
                "CLUSTER": "DefaultCluster", "WAIT": "true", "TRACE_ON": "true", "TAGS": fact.tag,
            }  # fmt: skip
            message = MessageExt(
                QUEUE.system_topic, fact.body, encode_properties(properties), 0, offset, offset * 1000, now, now, 0, 0,
                host, host,
            )  # fmt: skip
            stored += encode_message(message)
        ext = {"nextBeginOffset": str(number * 32 + 32), "minOffset": "0", "maxOffset": "999999"}
        ext |= {"suggestWhichBrokerId": "0", "topicSysFlag": "0", "groupSysFlag": "0"}
        answers.append(encode_frame(Frame(0, number, 1, ext, stored, "FOUND", "JAVA", 479)))
    return answers


def best(work: Callable[[], object], count: int) -> float:
    """CPU µs per message."""
    times = []
    for _ in range(5):
        begun = time.process_time()
        work()
        times.append(time.process_time() - begun)
    return min(times) / count * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--messages", type=int, default=32_000)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    answers = frames(options.messages)
    bodies = [frame.body for data in answers for frame in FrameReader().feed(data)]
    stored = [message for body in bodies for message in decode_messages(body)[0]]
    deliveries = [delivery(message, QUEUE) for message in stored]
    decoder = Decoder("bench", "12345678")

    def read() -> None:
        reader = FrameReader()
        for data in answers:
            reader.feed(data)

    steps: Sequence[tuple[str, Callable[[], object]]] = (
        ("frame and header", read),
        ("unpack stored messages", lambda: [decode_messages(body) for body in bodies]),
        ("make deliveries", lambda: [delivery(message, QUEUE) for message in stored]),
        ("type envelope and content", lambda: [decoder.decode(one) for one in deliveries]),
    )
    print(f"{options.messages:,} messages, {sum(len(m.body) for m in stored) / len(stored):.0f} bytes a body")
    total = 0.0
    for name, work in steps:
        cost = best(work, len(stored))
        total += cost
        print(f"{name:<28}{cost:6.2f} µs")
    print(f"{'together':<28}{total:6.2f} µs")
    if options.profile:
        with cProfile.Profile() as profile:
            for _, work in steps:
                work()
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)


if __name__ == "__main__":
    main()
