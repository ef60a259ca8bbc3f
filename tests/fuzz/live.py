"""A running consumer on loopback whose servers answer nonsense: short lives, each with its own dice.

What must hold: whatever is raised is ours; what it got wrong never ends a consumer that has started (only refused
keys do); nothing fails unseen and no task is left; and when its servers speak sense again, it reads on.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import struct
import time
import traceback
import tracemalloc
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import Final
from unittest.mock import patch

import msgspec

from jst_bridge.errors import CredentialsRefused, DecodeError, SourceError
from jst_bridge.rocketmq import ClientSettings, Consumer
from jst_bridge.rocketmq import consumer as consumer_module
from jst_bridge.rocketmq.codes import FrameFlag, Request
from jst_bridge.rocketmq.frame import Frame, decode_frame, encode_frame
from jst_bridge.rocketmq.route import decode_cluster, decode_route
from tests.fuzz.corpus import captures, frames
from tests.fuzz.engine import CASE_MEMORY, Failure, Report
from tests.fuzz.mutation import Mutator
from tests.scripted import Channel, Peer
from tests.scripted_cluster import GROUP, TOPIC, ScriptedCluster

__all__ = ["converse"]

AT_ONCE: Final = 8
PERIODS: Final = ("HEARTBEAT_PERIOD", "ROUTE_PERIOD", "REBALANCE_PERIOD")
"""Shortened from half a minute: more is asked, and what nonsense spoiled is asked again within a life."""
SPOILED: Final = (0.05, 0.15, 0.4)
"""Part of the answers that are not what the server meant, in one life or another."""
NONSENSE_SECONDS: Final = 0.25
RECOVERY_SECONDS: Final = 60.0
"""Far more than it takes: most is the pause of a pull that was refused."""
STOP_SECONDS: Final = 30.0
RESET_BODY: Final = b'{"offsetTable":{{"brokerName":"broker-a","queueId":0,"topic":"T"}:5}}'
PUSHED: Final = (40, 220, 221, 307, 309, 39, 1500, 9999)


class Spoiler:
    """Writes for a scripted peer: mostly what the peer means, sometimes anything else."""

    def __init__(self, dice: random.Random, own_addresses: Iterable[str]) -> None:
        self.active = True
        self._spoiled = dice.choice(SPOILED)
        self._dice = dice
        self._mutator = Mutator(dice)
        self._own = set(own_addresses)
        self._others = tuple(captures().values())

    def write(self, channel: Channel, data: bytes) -> None:
        if not self.active or self._dice.random() > self._spoiled:
            channel.send(data)
            return
        for piece in self._instead_of(decode_frame(data), data):
            if self._is_harmless(piece):
                channel.send(piece)
        if self._dice.random() < 0.1:
            channel.finish()

    def _instead_of(self, frame: Frame, data: bytes) -> Iterator[bytes]:
        other = self._dice.choice(self._others)
        match self._dice.randrange(9):
            case 0 | 1:
                yield self._mutator.mutate(data, other)
            case 2:  # an answer to another question
                seen = self._dice.choice(frames())
                yield encode_frame(
                    msgspec.structs.replace(seen, opaque=frame.opaque, flag=FrameFlag.RESPONSE)
                )
            case 3 | 4:  # a sound frame with an unsound body or field
                body = self._mutator.mutate(frame.body, decode_frame(other).body)
                ext = {name: self._field(value) for name, value in frame.ext.items()}
                yield encode_frame(msgspec.structs.replace(frame, body=body, ext=ext))
            case 5:
                yield data
                yield data
            case 6:  # to a question nobody asked, then perhaps not at all to the one that was
                yield encode_frame(msgspec.structs.replace(frame, opaque=self._dice.randrange(2**31)))
                if self._dice.random() < 0.5:
                    yield data
            case 7:
                yield struct.pack(">I", self._dice.choice((0, 3, 2**24 + 1, 2**31 - 1, 2**32 - 1))) + data
            case _:
                yield data[: self._dice.randrange(len(data))]
                yield self._dice.randbytes(self._dice.randrange(40))

    def _field(self, value: str) -> str:
        return (
            self._mutator.mutate(value.encode(), b"").decode("utf-8", "replace")
            if self._dice.random() < 0.4
            else value
        )

    def _is_harmless(self, data: bytes) -> bool:
        """Whether nobody else's address can be read from it: a client would go there."""
        try:
            body = decode_frame(data).body
        except DecodeError:
            return True
        named: set[str] = set()
        for brokers in (_brokers_of_route, decode_cluster):
            with contextlib.suppress(DecodeError):
                named |= {address for ids in brokers(body).values() for address in ids.values()}
        return named <= self._own

    def push(self, peer: Peer) -> None:
        """Requests of the server's own, as strange as the answers."""
        for channel in list(peer.channels):
            seen = self._dice.choice(frames())
            body = self._dice.choice((seen.body, RESET_BODY))
            if self._dice.random() < 0.7:
                body = self._mutator.mutate(body, seen.body)
            ext = seen.ext | (
                {"topic": TOPIC} | dict.fromkeys(("group", "consumerGroup"), GROUP) if body else {}
            )
            code, flag = self._dice.choice(PUSHED), self._dice.choice((0, int(FrameFlag.ONEWAY)))
            channel.send(
                encode_frame(msgspec.structs.replace(seen, code=code, flag=flag, ext=ext, body=body))
            )


def _brokers_of_route(body: bytes) -> dict[str, dict[int, str]]:
    return decode_route("", body).brokers


def converse(seconds: float, seed: int, lives: int | None = None) -> Report:
    """Lives for so long, or so many; the n-th has the seed `seed` + n, so that one can be lived again."""
    report = Report("live")
    began = time.monotonic()
    tracemalloc.start(1)
    while report.cases < lives if lives is not None else time.monotonic() - began < seconds:
        at_once = AT_ONCE if lives is None else min(AT_ONCE, lives - report.cases)
        numbers = range(seed + report.cases, seed + report.cases + at_once)
        report.cases += at_once
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        with ExitStack() as shortened:
            for period in PERIODS:
                shortened.enter_context(patch.object(consumer_module, period, 0.3))
            failed = asyncio.run(_lives(numbers, report))
        for number, error in failed:
            what = "".join(traceback.format_exception(error)[-6:])
            again = f"python -m tests.fuzz --target live --seed {number} --lives {at_once}"
            report.failures.append(Failure(what, again))
        report.peak = max(report.peak, tracemalloc.get_traced_memory()[1] - before)
    tracemalloc.stop()
    if report.peak > CASE_MEMORY:
        report.failures.append(Failure(f"{report.peak >> 20} MiB in {AT_ONCE} lives", f"--seed {seed}"))
    report.seconds = time.monotonic() - began
    return report


async def _lives(numbers: range, report: Report) -> list[tuple[int, BaseException]]:
    """Several lives side by side, because most of one is waiting; which of them failed, and how."""
    unseen: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unseen.append(str(context)))
    outcomes = await asyncio.gather(*(_life(number, report) for number in numbers), return_exceptions=True)
    await asyncio.sleep(0)
    failed = [(number, error) for number, error in zip(numbers, outcomes, strict=True) if error is not None]
    left = [task.get_name() for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    if left or unseen:
        failed.append(
            (numbers.start, AssertionError(f"of {len(numbers)} lives: left {left}, unseen {unseen}"))
        )
    return failed


async def _life(number: int, report: Report) -> None:
    dice, began = random.Random(number), time.monotonic()
    async with ScriptedCluster(queues=2, brokers=2) as cluster:
        peers = (cluster.name_server, *cluster.brokers)
        spoiler = Spoiler(dice, (peer.address for peer in peers))
        for peer in peers:
            peer.writer = spoiler.write
            peer.binary = dice.random() < 0.3
            peer.on(Request.SEARCH_OFFSET_BY_TIMESTAMP, lambda call: call.answer(ext={"offset": "0"}))
        for queue_id in range(2):
            cluster.publish(dice.randrange(40), queue_id, size=dice.choice((10, 3000)))
        quick = ClientSettings((cluster.name_server.address,), connect_timeout=1.0, request_timeout=0.4)
        consumer = cluster.consumer(client=quick, commit_period=0.05, start_from=dice.choice(("first", 1)))
        try:
            await consumer.start()
        except (SourceError, DecodeError):
            report.refused += 1
        else:
            await _read_on(cluster, consumer, spoiler, dice)
        finally:
            async with asyncio.timeout(STOP_SECONDS):
                await consumer.stop()
    report.slowest = max(report.slowest, time.monotonic() - began)


async def _read_on(
    cluster: ScriptedCluster, consumer: Consumer, spoiler: Spoiler, dice: random.Random
) -> None:
    """Some time of nonsense, then sense: a message published then must arrive."""
    awaited = {(broker, queue_id) for broker in range(2) for queue_id in range(2)}
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(NONSENSE_SECONDS):
                while True:
                    consumer.settle(await consumer.receive())
                    spoiler.push(dice.choice(cluster.brokers))
                    cluster.publish(1, dice.randrange(2), broker=dice.randrange(2))
                    await asyncio.sleep(0.005)
        spoiler.active = False
        for peer in (cluster.name_server, *cluster.brokers):
            peer.cut()
        async with asyncio.timeout(RECOVERY_SECONDS):
            while awaited:
                # Again and again: one may be passed over, where nonsense had moved the queue beyond its end.
                for broker, queue_id in awaited:
                    cluster.publish(1, queue_id, broker=broker, tag="mark")
                awaited -= await _marked(consumer)
    except CredentialsRefused:
        return
    except TimeoutError:
        raise AssertionError(f"not read on: {sorted(awaited)} of {consumer.progress()}") from None


async def _marked(consumer: Consumer) -> set[tuple[int, int]]:
    """The queues, by broker and id, whose marks arrive within half a second."""
    seen: set[tuple[int, int]] = set()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.5):
            while len(seen) < 4:
                batches = await consumer.receive()
                consumer.settle(batches)
                for batch in batches:
                    if any(message.tag == "mark" for message in batch.messages):
                        seen.add((("broker-a", "broker-b").index(batch.queue.broker), batch.queue.queue_id))
    return seen
