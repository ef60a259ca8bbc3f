"""Landing alone: messages/s and CPU per message, by database and by messages per transaction, in one run.

    python tests/bench/bench_landing.py [--databases sqlite postgresql mariadb] [--messages N] [--sizes 1 32 ...]
    python tests/bench/bench_landing.py --url postgresql://user@host/database
    python tests/bench/bench_landing.py --bridge 200000

Distinct trade messages with bodies of 650 bytes, three per order, the three of an order close together
(--apart spreads them), one order in four with a line of its own. The values are made before the clock starts:
decoding is another bench. `--databases` starts servers of its own, and each measurement has an empty database;
`--url` adds messages of orders of their own to what is there. `--busy` keeps a second thread running Python
beside it, as the bridge's event loop does; its own CPU is taken off. `--bridge` fills a topic of a real broker and
lets the whole program drain it into each database. Run it where nothing else runs, and compare CPU rather than
messages/s.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from jst_bridge.messages.families import Trade  # noqa: E402
from jst_bridge.ports import Landing, Message, PlainDelivery, Position, QueueKey  # noqa: E402
from jst_bridge.store import open_store  # noqa: E402
from tests.bridge_process import Installation  # noqa: E402
from tests.cluster import Cluster  # noqa: E402
from tests.databases import MariadbServer, PostgresqlServer  # noqa: E402
from tests.databases.server import PrivateServer  # noqa: E402
from tests.java.toolchain import toolchain  # noqa: E402
from tests.servers import THOROUGH  # noqa: E402
from tests.traffic import traffic as envelopes  # noqa: E402

QUEUE = QueueKey("jushita", "GID_bridge", "", "broker-a", "rmq_sys_jst_12345678", 0)
LIFE = (
    ("taobao_trade_TradeCreate", "WAIT_BUYER_PAY"),
    ("taobao_trade_TradeBuyerPay", "WAIT_SELLER_SEND_GOODS"),
    ("taobao_trade_TradeSellerShip", "WAIT_BUYER_CONFIRM_GOODS"),
)
APART = 50
"""Orders that begin between two steps of one order: many make each message touch a state row of its own."""
SIZES = (1, 32, 256, 2_000)
KINDS = ("sqlite", "postgresql", "mariadb")
SERVERS: dict[str, tuple[Callable[..., PrivateServer], dict[str, object]]] = {
    # The caches both are installed with, and room for the log so that no checkpoint is forced.
    "postgresql": (PostgresqlServer, {"shared_buffers": "128MB", "max_wal_size": "1GB"}),
    "mariadb": (MariadbServer, {"innodb-buffer-pool-size": "128M", "innodb-log-file-size": "96M"}),
}


# --- what is landed -------------------------------------------------------------------------------------


def traffic(count: int, apart: int = APART, first: int = 0, since: int = 1_700_000_000_000) -> list[Message]:
    """`count` messages in the order of their publishing, 1 ms apart from `since` on (epoch ms).

    The same ones for the same number `first` of the first order.
    """
    dice = random.Random(1)
    begun = [(order + dice.random() * apart, order) for order in range(count // 3 + 1)]
    moments = sorted((start + step * apart, order, step) for start, order in begun for step in range(3))
    return [
        _message(first * 3 + number, first + order, step, since + number)
        for number, (_, order, step) in enumerate(moments[:count])
    ]


def _message(number: int, order: int, step: int, published_at: int) -> Message:
    topic, status = LIFE[step]
    tid = 2918_000_000_000_000_000 + order * 7_919_000_003
    oid = tid + 1 if order % 4 == 0 else tid
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


# --- where it is landed ---------------------------------------------------------------------------------


class Place:
    """One database system. `fresh` gives the URL of an empty database, `drop` ends the last one."""

    name: str
    server: psutil.Process | None = None
    """Where it has a process of its own that we may look at."""

    def fresh(self) -> str:
        raise NotImplementedError

    def drop(self) -> None:
        raise NotImplementedError

    def cpu(self) -> float:
        """CPU seconds of the server so far, its sessions' processes included; 0 without one."""
        if self.server is None:
            return 0.0
        of_all = [process.cpu_times() for process in (self.server, *self.server.children(recursive=True))]
        ended = of_all[0].children_user + of_all[0].children_system
        return ended + sum([times.user + times.system for times in of_all])


class SqlitePlace(Place):
    name = "sqlite"

    def __init__(self, directory: Path) -> None:
        self._path = directory / "landing.db"

    def fresh(self) -> str:
        return f"sqlite:///{self._path}"

    def drop(self) -> None:
        for end in ("", "-wal", "-shm"):
            Path(f"{self._path}{end}").unlink(missing_ok=True)


class ServerPlace(Place):
    def __init__(self, server: PrivateServer) -> None:
        self.name = server.kind
        self.server = psutil.Process(server.pid)
        self._databases = server

    def fresh(self) -> str:
        return self._databases.create_database("landing")

    def drop(self) -> None:
        self._databases.drop_database("landing")


class UrlPlace(Place):
    """A database of the user's: nothing in it is removed."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.name = url.partition(":")[0]

    def fresh(self) -> str:
        return self._url

    def drop(self) -> None:
        return


@contextmanager
def places(kinds: Sequence[str], directory: Path | None = None) -> Iterator[list[Place]]:
    """Start what these kinds of database need, with their files in `directory`. Raises ToolMissing."""
    with ExitStack() as stack:
        found: list[Place] = []
        for kind in kinds:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory("", "jst-bench-", directory)))
            if kind == "sqlite":
                found.append(SqlitePlace(scratch))
            else:
                server, settings = SERVERS[kind]
                found.append(ServerPlace(stack.enter_context(server(scratch, settings=settings))))
        yield found


# --- landing alone --------------------------------------------------------------------------------------


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


class Cost(NamedTuple):
    """What a number of messages cost, in seconds."""

    messages: int
    transactions: int
    wall: float
    own: float
    server: float

    @property
    def rate(self) -> float:
        return self.messages / self.wall

    def per_message(self, seconds: float) -> float:
        """µs."""
        return seconds / self.messages * 1e6


def measure(place: Place, messages: list[Message], size: int, busy: bool) -> Cost:
    """Land `messages` into an empty database, `size` in a transaction."""
    store = open_store(place.fresh())
    store.open()
    served = place.cpu()
    with company(busy) as spent:
        wall, cpu, thread = time.perf_counter(), time.process_time(), time.thread_time()
        for start in range(0, len(messages), size):
            batch = messages[start : start + size]
            store.land(Landing(batch, [], [Position(QUEUE, start + len(batch))], []))
        wall, cpu, thread = time.perf_counter() - wall, time.process_time() - cpu, time.thread_time() - thread
    served = place.cpu() - served
    store.close()
    place.drop()
    own = thread if spent else cpu
    return Cost(len(messages), -(-len(messages) // size), wall, own, served)


def landing_alone(found: list[Place], options: argparse.Namespace) -> None:
    first = random.SystemRandom().randrange(700_000_000) if options.url else 0
    print("| size | database | messages/s | of the first | our CPU µs/m | server's µs/m | ms/transaction |")
    print("|---|---|---|---|---|---|---|")
    for size in options.sizes:
        # A commit waits for the disk: fewer of the small ones tell as much.
        count = min(options.messages, size * options.transactions)
        rounds: list[list[Cost]] = []
        for _ in range(options.rounds):
            messages = traffic(count, options.apart, first)
            rounds.append([measure(place, messages, size, options.busy) for place in found])
            first += count if options.url else 0
        for number, place in enumerate(found):
            print(_line(size, place, [costs[number] for costs in rounds], [costs[0] for costs in rounds]))
        sys.stdout.flush()


def _line(size: int, place: Place, costs: list[Cost], firsts: list[Cost]) -> str:
    rate = statistics.median(cost.rate for cost in costs)
    # Paired within a round, so that a drift of the machine's speed cancels out.
    ratio = statistics.median(cost.rate / first.rate for cost, first in zip(costs, firsts, strict=True))
    own = statistics.median(cost.per_message(cost.own) for cost in costs)
    served = statistics.median(cost.per_message(cost.server) for cost in costs)
    pace = statistics.median(cost.wall / cost.transactions * 1e3 for cost in costs)
    return (
        f"| {size} | {place.name} | {rate:,.0f} | {ratio:.2f} | {own:.1f}"
        f" | {f'{served:.1f}' if place.server else '-'} | {pace:.2f} |"
    )


# --- the whole bridge -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Drained:
    """One `run --drain`."""

    seconds: float
    cpu: float
    server: float


def whole_bridge(found: list[Place], messages: int, rounds: int) -> None:
    """`run --drain` on everything, less a `run --drain` that finds nothing left to do: the start and the end."""
    topic = "rmq_sys_jst_12345678"
    # A real broker is another machine: here its files stay in memory, or its flushing would hold up the databases'.
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    results: dict[str, list[Drained]] = {place.name: [] for place in found}
    with (
        tempfile.TemporaryDirectory(prefix="jst-bench-", dir=memory) as servers,
        tempfile.TemporaryDirectory(prefix="jst-bench-") as scratch,
    ):
        lines = Path(scratch) / "lines.json"
        with lines.open("w") as file:
            for fact in envelopes(messages, sellers=200):
                file.write(json.dumps(fact.line(topic)) + "\n")
        with Cluster(toolchain(), Path(servers), server_options=THOROUGH) as cluster:
            cluster.flood(topic, lines, messages)
            for number in range(rounds + 1):
                for place in found:
                    group = f"GID_bench_{place.name}_{number}"
                    directory = Path(scratch) / group
                    directory.mkdir()
                    installation = Installation(
                        directory, cluster.name_server, topic, group, store=place.fresh()
                    )
                    whole = _drain(installation, place, messages)
                    idle = _drain(installation, place, messages)
                    installation.store.close()
                    place.drop()
                    if number:  # the first round warms the broker: a cold one serves a third of the rate
                        results[place.name].append(_less(whole, idle))
    print(
        f"| whole bridge ({messages:,} messages, median of {rounds}) | messages/s | CPU s per million | server's |"
    )
    print("|---|---|---|---|")
    for place in found:
        drained = results[place.name]
        rate = statistics.median(messages / one.seconds for one in drained)
        cpu = statistics.median(one.cpu / messages * 1e6 for one in drained)
        served = statistics.median(one.server / messages * 1e6 for one in drained)
        print(f"| into {place.name} | {rate:,.0f} | {cpu:.1f} | {f'{served:.1f}' if place.server else '-'} |")


def _drain(installation: Installation, place: Place, messages: int) -> Drained:
    begun, served = time.perf_counter(), place.cpu()
    process = subprocess.Popen(
        installation.command("run", "--drain"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=ROOT
    )
    assert process.stderr is not None
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    drained = Drained(
        time.perf_counter() - begun, usage.ru_utime + usage.ru_stime, max(0.0, place.cpu() - served)
    )
    process.stderr.close()
    if process.returncode or installation.count() != messages:
        raise SystemExit(f"the bridge landed {installation.count()} of {messages}: {errors.decode()}")
    return drained


def _less(whole: Drained, idle: Drained) -> Drained:
    return Drained(whole.seconds - idle.seconds, whole.cpu - idle.cpu, max(0.0, whole.server - idle.server))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument(
        "--databases", nargs="+", choices=KINDS, default=KINDS[:1], help="the first is the measure"
    )
    parser.add_argument("--url", help="this database instead; its user knows what it does to it")
    parser.add_argument("--messages", type=int, default=200_000)
    parser.add_argument("--apart", type=int, default=APART, help="orders begun between two steps of one")
    parser.add_argument("--dir", type=Path, help="where the databases go (default: the temporary directory)")
    parser.add_argument("--busy", action="store_true", help="keep a second Python thread busy")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="messages per transaction")
    parser.add_argument("--transactions", type=int, default=3_000, help="at most so many of each size")
    parser.add_argument("--rounds", type=int, default=1, help="medians over so many rounds")
    parser.add_argument(
        "--bridge", type=int, metavar="N", help="drain N messages of a broker with the program"
    )
    options = parser.parse_args()
    if options.url and options.bridge:
        parser.error("--bridge needs empty databases: use it with --databases")
    with places(() if options.url else options.databases, options.dir) as found:
        found = [UrlPlace(options.url)] if options.url else found
        if options.bridge:
            whole_bridge(found, options.bridge, options.rounds)
            return
        base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        landing_alone(found, options)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base
        print(f"\npeak RSS over that at the start: {grown / 1024:.0f} MB")


if __name__ == "__main__":
    main()
