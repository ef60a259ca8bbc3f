"""Landing alone and landing while old messages are pruned beside it, in turn and in one run: the ratio of the rates.

    python tests/bench/bench_retention.py [--databases sqlite postgresql mariadb] [--old N] [--size N]

Fills each database with `--old` messages that landed 30 days ago. Then lands fresh ones as fast as it can, through
the bridge's worker thread: `--stretch` messages alone, as many with the bridge's own `Retention` running, and so on,
the order changing, until no old ones are left. The ratio is the median over the pairs; a pair during which pruning
came to its end does not count.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from jst_bridge.ports import Landing, Position  # noqa: E402
from jst_bridge.retention import Retention  # noqa: E402
from jst_bridge.store import LandingStore, open_store  # noqa: E402
from jst_bridge.store.database import now_ms  # noqa: E402
from jst_bridge.store.landing import LandingWriter  # noqa: E402
from jst_bridge.worker import Worker  # noqa: E402
from tests.bench.bench_landing import KINDS, QUEUE, Place, places, traffic  # noqa: E402

DAYS_30 = 30 * 24 * 3600 * 1000
FILL = 2_000


class Stretch(NamedTuple):
    """So many messages landed."""

    rate: float
    worst: float
    """The longest landing, seconds."""


class Pair(NamedTuple):
    """One stretch alone and one with pruning beside it."""

    alone: Stretch
    beside: Stretch
    pruned: int

    @property
    def ratio(self) -> float:
        return self.beside.rate / self.alone.rate


class Bench:
    """One store, and the thread that everything of it goes through."""

    def __init__(self, store: LandingStore, options: argparse.Namespace) -> None:
        self._store = store
        self._size: int = options.size
        self._stretch: int = options.stretch
        self._worker = Worker("store")
        self._first = 0

    async def fill(self, count: int) -> None:
        """As `land` does, a month ago."""
        writer = LandingWriter(self._store.database)
        for begun in range(0, count, FILL):
            landing = self._landing(min(FILL, count - begun), now_ms() - DAYS_30)
            write = partial(writer.land, landing=landing, now=now_ms() - DAYS_30)
            work = partial(self._store.database.transact, write)
            await self._worker.call(work)

    async def pairs(self) -> list[Pair]:
        found: list[Pair] = []
        left = await self._old()
        while True:
            if len(found) % 2:
                beside = await self._beside()
                alone = await self._land()
            else:
                alone = await self._land()
                beside = await self._beside()
            before, left = left, await self._old()
            if left == 0 and found:
                return found
            found.append(Pair(alone, beside, before - left))

    async def close(self) -> None:
        await self._worker.call(self._store.close)
        self._worker.close()

    async def _beside(self) -> Stretch:
        retention = Retention(
            self._store.database, self._worker, timedelta(days=7), "bench", first=0, every=3_600
        )
        pruning = asyncio.create_task(retention.run())
        try:
            return await self._land()
        finally:
            pruning.cancel()
            await asyncio.wait([pruning])

    async def _land(self) -> Stretch:
        landings = [self._landing(self._size, now_ms()) for _ in range(self._stretch // self._size)]
        began, worst = time.perf_counter(), 0.0
        for landing in landings:
            started = time.perf_counter()
            await self._worker.call(partial(self._store.land, landing))
            worst = max(worst, time.perf_counter() - started)
        return Stretch(len(landings) * self._size / (time.perf_counter() - began), worst)

    def _landing(self, count: int, since: int) -> Landing:
        messages = traffic(count, first=self._first, since=since)
        self._first += count
        return Landing(messages, [], [Position(QUEUE, self._first)], [])

    async def _old(self) -> int:
        return await self._worker.call(partial(self._store.database.transact, _count_old))


def _count_old(cursor: Any) -> int:
    cursor.execute(f"SELECT count(*) FROM messages WHERE landed_at < {now_ms() - DAYS_30 // 2}")
    return int(cursor.fetchone()[0])


async def measure(place: Place, options: argparse.Namespace) -> str:
    store = open_store(place.fresh())
    store.open()
    bench = Bench(store, options)
    try:
        await bench.fill(options.old)
        found = await bench.pairs()
    finally:
        await bench.close()
    place.drop()
    alone, beside = ([getattr(pair, name) for pair in found] for name in ("alone", "beside"))
    seconds = sum(options.stretch / one.rate for one in beside)
    return (
        f"| {place.name} | {statistics.median(one.rate for one in alone):,.0f}"
        f" | {statistics.median(one.rate for one in beside):,.0f}"
        f" | {statistics.median(pair.ratio for pair in found):.2f}"
        f" | {min(pair.ratio for pair in found):.2f} to {max(pair.ratio for pair in found):.2f} ({len(found)})"
        f" | {sum(pair.pruned for pair in found) / seconds:,.0f}"
        f" | {statistics.median(one.worst for one in alone) * 1e3:.0f}"
        f" | {statistics.median(one.worst for one in beside) * 1e3:.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--databases", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--old", type=int, default=200_000, help="messages to prune")
    parser.add_argument("--size", type=int, default=256, help="messages per transaction")
    parser.add_argument("--stretch", type=int, default=10_240, help="messages between two changes")
    parser.add_argument("--dir", type=Path, help="where the databases go (default: the temporary directory)")
    options = parser.parse_args()
    print(
        "| database | alone, messages/s | beside pruning | ratio | from, to (pairs) | pruned/s | longest landing alone,"
        " ms | beside |\n|---|---|---|---|---|---|---|---|"
    )
    with places(options.databases, options.dir) as found:
        for place in found:
            print(asyncio.run(measure(place, options)), flush=True)


if __name__ == "__main__":
    main()
