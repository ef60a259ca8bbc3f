"""Landing alone, into a fresh SQLite file: messages/s and CPU per message at several transaction sizes.

    python tests/bench/bench_landing.py [--messages N] [--apart N] [--busy] [--dir DIR]

Distinct trade messages with bodies of 650 bytes, three per order, the three of an order close together
(--apart spreads them), one order in four with a line of its own. The values are made before the clock starts:
decoding is another bench. `--busy` keeps a second thread running Python beside it, as the bridge's event loop
does; its own CPU is taken off. Run it where nothing else runs, and compare CPU rather than messages/s.
"""

from __future__ import annotations

import argparse
import random
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from jst_bridge.messages.families import Trade
from jst_bridge.ports import Landing, Message, PlainDelivery, Position, QueueKey
from jst_bridge.store import open_store

QUEUE = QueueKey("jushita", "GID_bridge", "", "broker-a", "rmq_sys_jst_12345678", 0)
LIFE = (
    ("taobao_trade_TradeCreate", "WAIT_BUYER_PAY"),
    ("taobao_trade_TradeBuyerPay", "WAIT_SELLER_SEND_GOODS"),
    ("taobao_trade_TradeSellerShip", "WAIT_BUYER_CONFIRM_GOODS"),
)
APART = 50
"""Orders that begin between two steps of one order: many make each message touch a state row of its own."""
SIZES = (1, 32, 256, 2_000)


def traffic(count: int, apart: int = APART) -> list[Message]:
    """`count` messages in the order of their publishing, the same ones at each call."""
    dice = random.Random(1)
    begun = [(order + dice.random() * apart, order) for order in range(count // 3 + 1)]
    moments = sorted((start + step * apart, order, step) for start, order in begun for step in range(3))
    return [_message(number, order, step) for number, (_, order, step) in enumerate(moments[:count])]


def _message(number: int, order: int, step: int) -> Message:
    topic, status = LIFE[step]
    tid = 2918_000_000_000_000_000 + order * 7_919_000_003
    oid = tid + 1 if order % 4 == 0 else tid
    published_at = 1_700_000_000_000 + number
    body = b'{"number":%d,"content":"%s"}' % (number, b"x" * 650)
    return Message(
        key=f"tb:12345678:{4_130_201_825_909_791_653 + number * 1_009}",
        source=QUEUE.source,
        topic=topic,
        seller=f"seller {order % 50}",
        user_id=str(733_741_520 + order % 50),
        tid=str(tid),
        oid=str(oid),
        refund_id=None,
        num_iid=str(41_000_000_000 + order % 5_000),
        published_at=published_at,
        published_from="publish_time",
        content=Trade(
            tid=tid,
            oid=oid,
            status=status,
            type="guarantee_trade",
            payment=Decimal("59.78"),
            buyer_nick="b**",
            buyer_open_uid="AAHabcdefghijklmnopqrstu",
        ),
        delivery=PlainDelivery(
            body=body[:650],
            tag=topic,
            keys=str(tid),
            transport_id=f"7F000001{number:024X}",
            origin_id=f"7F000001{number:024X}",
            offset=number,
            born_at=published_at,
        ),
    )


@contextmanager
def company(busy: bool) -> Iterator[list[float]]:
    """A second thread that computes while the block runs; yields a list that then holds its CPU seconds."""
    spent: list[float] = []
    stop = threading.Event()

    def compute() -> None:
        while not stop.is_set():
            sum(range(200))
        spent.append(time.thread_time())

    thread = threading.Thread(target=compute)
    if busy:
        thread.start()
    yield spent
    stop.set()
    if busy:
        thread.join()


def measure(directory: Path, messages: list[Message], size: int, busy: bool) -> str:
    path = directory / f"landing-{size}.db"
    store = open_store(f"sqlite:///{path}")
    store.open()
    with company(busy) as spent:
        wall, cpu, own = time.perf_counter(), time.process_time(), time.thread_time()
        for start in range(0, len(messages), size):
            batch = messages[start : start + size]
            store.land(Landing(batch, [], [Position(QUEUE, start + len(batch))], []))
        wall, cpu, own = time.perf_counter() - wall, time.process_time() - cpu, time.thread_time() - own
    cpu = own if spent else cpu
    store.close()
    megabytes = path.stat().st_size / 1e6
    path.unlink()
    return (
        f"{size:>6} {len(messages):>9} {len(messages) / wall:>11,.0f} {cpu / len(messages) * 1e6:>9.1f}"
        f" {wall / -(-len(messages) // size) * 1e3:>9.2f} {megabytes:>7.0f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--messages", type=int, default=200_000)
    parser.add_argument("--apart", type=int, default=APART, help="orders begun between two steps of one")
    parser.add_argument("--dir", type=Path, help="where the database goes (default: the temporary directory)")
    parser.add_argument("--busy", action="store_true", help="keep a second Python thread busy")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="messages per transaction")
    options = parser.parse_args()
    messages = traffic(options.messages, options.apart)
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print("  size  messages  messages/s  CPU µs/m  ms/trans   MB db")
    with tempfile.TemporaryDirectory(dir=options.dir) as directory:
        for size in options.sizes:
            # A commit waits for the disk: fewer of the small ones tell as much.
            sample = messages[: min(len(messages), size * 3_000)]
            print(measure(Path(directory), sample, size, options.busy), flush=True)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base
    print(f"peak RSS over the messages themselves: {grown / 1024:.0f} MB")


if __name__ == "__main__":
    main()
