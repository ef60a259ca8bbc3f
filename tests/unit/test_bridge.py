"""The bridge's loop against a source and a store of the test: what is settled, and when."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

import pytest

from jst_bridge.bridge import LETTERS_SHOWN, Bridge, BridgeSettings, compose
from jst_bridge.errors import (
    CredentialsRefused,
    SourceError,
    StoreError,
    StoreUnavailable,
    TopicNotFound,
    UndecodableError,
)
from jst_bridge.ports import (
    Batch,
    Delivery,
    Gap,
    Landed,
    Landing,
    Message,
    PlainDelivery,
    Position,
    QueueKey,
)
from jst_bridge.worker import Worker

QUEUE = QueueKey("s", "g", "", "b", "t", 0)


class Decoder:
    """Types by the first byte: `!` is undecodable, `?` is a bug of ours."""

    def decode(self, delivery: Delivery) -> Message:
        if delivery.body.startswith(b"!"):
            raise UndecodableError("not_json", "no JSON")
        if delivery.body.startswith(b"?"):
            raise ZeroDivisionError("a bug")
        key = delivery.body.decode()
        return Message(key, "s", "topic", "", "", None, None, None, None, 1, "born", None, delivery)


class Script:
    """A source that hands over the given batches, and remembers what was said to it."""

    name = "s"

    def __init__(self, *batches: Batch) -> None:
        self.left = list(batches)
        self.settled: list[Batch] = []
        self.said: list[str] = []
        self._quiet = asyncio.Event()

    async def start(self) -> None:
        self.said.append("start")
        self._quiet.clear()

    async def receive(self) -> list[Batch]:
        if self.left and not self._quiet.is_set():
            return [self.left.pop(0)]
        await self._quiet.wait()
        return []

    def settle(self, batches: Sequence[Batch]) -> None:
        self.settled += batches

    async def commit(self) -> None:
        self.said.append("commit")

    def quiesce(self) -> None:
        self._quiet.set()

    async def stop(self) -> None:
        self.quiesce()
        self.said.append("stop")


class Shelf:
    """A store that keeps landings, after raising what it was told to."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.landings: list[Landing] = []
        self.restored: int | None = None
        """The position in a copy that took this store's place."""

    def open(self) -> None: ...

    def land(self, landing: Landing) -> Landed:
        if self.failures:
            raise self.failures.pop(0)
        self.landings.append(landing)
        return Landed(landed=len(landing.messages))

    def positions(self, source: str, group: str, instance: str) -> dict[QueueKey, int]:
        if self.restored is not None:
            return {QUEUE: self.restored}
        return {moved.queue: moved.offset for landing in self.landings for moved in landing.positions}

    def close(self) -> None: ...


def batch(*bodies: bytes, position: int = 0, rewound: bool = False, gaps: tuple[Gap, ...] = ()) -> Batch:
    deliveries: list[Delivery] = [PlainDelivery(body, "", "", f"T{body!r}", "", 0, 1) for body in bodies]
    return Batch(QUEUE, deliveries, position, sum(map(len, bodies)), rewound, gaps)


@contextlib.contextmanager
def worker() -> Iterator[Worker]:
    made = Worker("test store")
    try:
        yield made
    finally:
        assert made.close(5)


def run(
    source: Callable[[], Script],
    store: Shelf,
    until: Callable[[Script], bool],
    settings: BridgeSettings | None = None,
    chore: Callable[[], Coroutine[Any, Any, None]] | None = None,
) -> Script:
    """Run a bridge until a condition holds, then stop it; raises what it raises."""

    async def work() -> Script:
        with worker() as thread:
            made = source()
            chores = () if chore is None else (chore,)
            bridge = Bridge([made], {"s": Decoder()}, store, thread, settings, chores=chores)
            running = asyncio.create_task(bridge.run())
            async with asyncio.timeout(10):
                while not until(made) and not running.done():
                    await asyncio.wait([running], timeout=0.005)
                bridge.stop()
                await running
            assert made.said[-1] == "stop"
            assert bridge.total.landed == sum(len(landing.messages) for landing in store.landings)
            return made

    return asyncio.run(work())


def test_a_batch_is_settled_after_it_is_durable() -> None:
    store = Shelf()
    source = run(
        lambda: Script(batch(b"a", b"b", position=2), batch(b"c", position=3)), store, lambda s: not s.left
    )
    assert [batch.position for batch in source.settled] == [2, 3]
    assert [[message.key for message in landing.messages] for landing in store.landings] == [
        ["a", "b"],
        ["c"],
    ]
    assert [landing.positions for landing in store.landings] == [[Position(QUEUE, 2)], [Position(QUEUE, 3)]]


def test_a_store_that_is_down_settles_nothing_and_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    store = Shelf(StoreUnavailable("locked"), StoreUnavailable("locked"))
    source = run(lambda: Script(batch(b"a", position=1)), store, lambda s: bool(s.settled))
    assert len(store.landings) == 1
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]  # said once, and its end
    assert source.said == ["start", "stop"]


def test_a_store_that_stays_down_makes_the_source_leave_and_come_back() -> None:
    store = Shelf(StoreUnavailable("full"), StoreUnavailable("full"), StoreUnavailable("full"))
    source = run(
        lambda: Script(batch(b"a", position=1)),
        store,
        lambda s: s.said.count("start") == 2,
        BridgeSettings(leave_after=0.05),
    )
    assert source.said == ["start", "stop", "start", "stop"]
    assert len(store.landings) == 1
    assert source.settled == []  # the group was left: what was landed comes again, and is absorbed


def test_a_store_restored_while_it_was_down_starts_the_source_again_and_lands_nothing_beyond_the_hole(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Restored(Shelf):
        def land(self, landing: Landing) -> Landed:
            if self.landings and self.restored is None:
                self.restored = 1
                raise StoreUnavailable("the server was stopped")
            return super().land(landing)

    store = Restored()
    with caplog.at_level(logging.WARNING):
        source = run(
            lambda: Script(batch(b"a", position=5), batch(b"b", position=6)),
            store,
            lambda s: s.said.count("start") == 2,
        )
    assert source.said[:3] == ["start", "stop", "start"]
    assert [settled.position for settled in source.settled] == [5]
    assert len(store.landings) == 1
    assert "restored from a copy" in caplog.text


def test_a_server_that_is_away_at_the_rejoin_is_asked_again() -> None:
    class Away(Script):
        async def start(self) -> None:
            await super().start()
            if len(self.said) == 3:
                raise TopicNotFound("a name server that restarted knows nothing yet")

    store = Shelf(StoreUnavailable("full"), StoreUnavailable("full"))
    source = run(
        lambda: Away(batch(b"a", position=1)),
        store,
        lambda s: s.said.count("start") == 3,
        BridgeSettings(leave_after=0.0),
    )
    assert source.said == ["start", "stop", "start", "start", "stop"]


def test_keys_refused_at_the_rejoin_end_the_bridge() -> None:
    class Refused(Script):
        async def start(self) -> None:
            await super().start()
            if len(self.said) == 3:
                raise CredentialsRefused("the key was revoked")

    store = Shelf(StoreUnavailable("full"), StoreUnavailable("full"))
    with pytest.raises(CredentialsRefused, match="revoked"):
        run(lambda: Refused(batch(b"a", position=1)), store, lambda s: False, BridgeSettings(leave_after=0.0))


def test_a_refusal_for_good_ends_the_bridge_and_settles_nothing() -> None:
    seen: list[Script] = []

    def make() -> Script:
        seen.append(Script(batch(b"a", position=1)))
        return seen[0]

    with pytest.raises(StoreError, match="defect"):
        run(make, Shelf(StoreError("defect")), lambda s: False)
    assert seen[0].settled == []
    assert seen[0].said == ["start", "stop"]


def test_a_source_that_fails_ends_the_bridge() -> None:
    class Broken(Script):
        async def receive(self) -> list[Batch]:
            raise SourceError("gone")

    with pytest.raises(SourceError, match="gone"):
        run(Broken, Shelf(), lambda s: False)


def test_a_chore_that_fails_ends_the_bridge() -> None:
    async def chore() -> None:
        raise StoreError("no such table")

    with pytest.raises(StoreError, match="no such table"):
        run(Script, Shelf(), lambda s: False, chore=chore)


def test_a_chore_is_cancelled_by_a_stop() -> None:
    said: list[str] = []

    async def chore() -> None:
        try:
            said.append("begun")
            await asyncio.Event().wait()
        finally:
            said.append("cancelled")

    source = run(lambda: Script(batch(b"a", position=1)), Shelf(), lambda s: len(s.settled) == 1, chore=chore)
    assert said == ["begun", "cancelled"]
    assert len(source.settled) == 1


def test_a_stop_does_not_wait_longer_than_its_deadline_for_a_store_that_is_down() -> None:
    store = Shelf(*(StoreUnavailable("locked") for _ in range(1000)))
    source = run(
        lambda: Script(batch(b"a", position=1)),
        store,
        lambda s: len(store.failures) < 1000,
        BridgeSettings(stop_deadline=0.05),
    )
    assert source.settled == []


def test_what_cannot_be_read_becomes_a_dead_letter_beside_the_rest(caplog: pytest.LogCaptureFixture) -> None:
    landing = compose(Decoder(), [batch(b"a", b"!b", b"?c", b"d", position=4)])
    assert [message.key for message in landing.messages] == ["a", "d"]
    assert [(letter.reason, letter.delivery.body) for letter in landing.dead_letters] == [
        ("not_json", b"!b"),
        ("decode_failed", b"?c"),
    ]
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


def test_many_dead_letters_of_one_landing_are_few_lines_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    bad = [b"!%d" % number for number in range(1000)]
    run(lambda: Script(batch(*bad, position=1000)), Shelf(), lambda s: bool(s.settled))
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == LETTERS_SHOWN + 1
    assert f"and {1000 - LETTERS_SHOWN} more" in lines[-1]


def test_the_last_position_of_a_queue_counts_and_a_move_back_on_the_way_stays_known() -> None:
    gap = Gap(QUEUE, 5, 8, "expired")
    landing = compose(
        Decoder(), [batch(position=9, gaps=(gap,)), batch(position=2, rewound=True), batch(b"x", position=3)]
    )
    assert landing.positions == [Position(QUEUE, 3, rewound=True)]
    assert landing.gaps == [gap]
