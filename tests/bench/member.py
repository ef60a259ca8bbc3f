"""A member of a consumer group that writes down what it gets, until it is killed or stopped by SIGTERM.

    python tests/bench/member.py NAME_SERVER TOPIC GROUP FILE

FILE gets `start TIME` when the consumer is started and one `TIME BROKER QUEUE KEY` per message, TIME in epoch
seconds: the peer of tests/java/Member.java. What the consumer logs goes to stderr.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time

from jst_bridge.rocketmq import ClientSettings, Consumer, ConsumerSettings


async def main(name_server: str, topic: str, group: str, path: str) -> None:
    settings = ConsumerSettings(ClientSettings((name_server,)), group=group, subscriptions={topic: "*"})
    consumer = Consumer(settings)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, consumer.quiesce)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    with contextlib.closing(os.fdopen(file, "wb", buffering=0)) as lines:
        lines.write(f"start {time.time():.6f}\n".encode())
        async with consumer:
            while batches := await consumer.receive():
                now = time.time()
                for batch in batches:
                    place = f"{now:.6f} {batch.queue.broker} {batch.queue.queue_id}"
                    lines.write("".join(f"{place} {message.keys}\n" for message in batch.messages).encode())
                consumer.settle(batches)


if __name__ == "__main__":
    logging.basicConfig(
        level=logging.DEBUG if os.environ.get("MEMBER_DEBUG") else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
    )
    asyncio.run(main(*sys.argv[1:]))
