"""The books of one queue against a plain model, and the division of queues among members."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from jst_bridge.rocketmq.allocation import allocate_averagely
from jst_bridge.rocketmq.assignment import OVERHEAD, Assignment, Hole, PulledBatch
from jst_bridge.rocketmq.message import MessageExt, MessageQueue, pack_host

QUEUE = MessageQueue("T", "b", 0)
HOST = pack_host("127.0.0.1", 10911)


def message(offset: int, body: bytes = b"12345") -> MessageExt:
    return MessageExt("T", body, b"", 0, offset, offset, 0, 0, 0, 0, HOST, HOST)


@dataclass
class Entry:
    """What the model knows of one batch: the offsets it answers for, from `first` on."""

    batch: PulledBatch
    first: int
    handed_out: bool = False
    settled: bool = False
    overtaken: bool = False
    """An admin's reset came after it: it may be passed."""


class Books(RuleBasedStateMachine):
    """Pull, skip, move, hand out and settle in any order."""

    @initialize(offset=st.integers(0, 50), filtered=st.booleans())
    def begin(self, offset: int, filtered: bool) -> None:
        self.assignment = Assignment(QUEUE, offset, filtered=filtered)
        self.filtered = filtered
        self.entries: list[Entry] = []
        self.settled_before = offset

    def enter(self, batch: PulledBatch | None, first: int) -> None:
        if batch is not None:
            self.entries.append(Entry(batch, first))

    @rule(present=st.lists(st.booleans(), min_size=1, max_size=8), data=st.data())
    def pull(self, present: list[bool], data: st.DataObject) -> None:
        first = self.assignment.pull_offset
        found = [message(first + at) for at, there in enumerate(present) if there]
        kept = [m for m in found if data.draw(st.booleans())] if self.filtered else found
        batch = self.assignment.pulled(found, kept, first + len(present))
        assert self.assignment.pull_offset == first + len(present)
        if batch is None:
            assert not kept
            assert self.filtered
        else:
            assert batch.messages == kept
            assert batch.size == 5 * len(kept)
            assert batch.weight == batch.size + OVERHEAD * len(kept)
            self.check_cover(batch, first, first + len(present))
        self.enter(batch, first)

    def check_cover(self, batch: PulledBatch, first: int, end: int) -> None:
        lost = [offset for hole in batch.holes for offset in range(hole.first, hole.last + 1)]
        if self.filtered:
            assert lost == []
            return
        assert sorted([m.queue_offset for m in batch.messages] + lost) == list(range(first, end))

    @rule(step=st.integers(0, 10))
    def skip(self, step: int) -> None:
        first = self.assignment.pull_offset
        batch = self.assignment.skipped(first + step, "lost")
        assert self.assignment.pull_offset == first + step
        if self.filtered or not step:
            assert batch is None
        else:
            assert batch is not None
            assert batch.holes == (Hole(first, first + step - 1, "lost"),)
        self.enter(batch, first)

    @rule(place=st.integers(0, 120), reset=st.booleans())
    def move(self, place: int, reset: bool) -> None:
        first = self.assignment.pull_offset
        batch = self.assignment.moved(place, "moved", reset=reset)
        assert self.assignment.pull_offset == place
        assert batch is not None
        back = reset or place <= first
        assert batch.rewound is back
        assert batch.holes == (() if back else (Hole(first, place - 1, "moved"),))
        if reset:
            for entry in self.entries:
                entry.overtaken = True
        self.enter(batch, place if back else first)
        if back:
            assert self.assignment.uncommitted
            assert self.assignment.settled_offset <= place
            self.settled_before = self.assignment.settled_offset

    @precondition(lambda self: any(not entry.handed_out for entry in self.entries))
    @rule(data=st.data())
    def hand_out(self, data: st.DataObject) -> None:
        entry = data.draw(st.sampled_from([entry for entry in self.entries if not entry.handed_out]))
        entry.handed_out = True
        self.assignment.hand_out(entry.batch)

    @precondition(lambda self: any(entry.handed_out for entry in self.entries))
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        entry = data.draw(st.sampled_from([entry for entry in self.entries if entry.handed_out]))
        entry.settled = True
        self.assignment.settle(entry.batch)

    @rule()
    def finish(self) -> None:
        """Whatever happened: once all is settled, all is forgotten and the commit reaches the last pull."""
        for entry in self.entries:
            if not entry.handed_out:
                self.assignment.hand_out(entry.batch)
                entry.handed_out = True
            entry.settled = True
            self.assignment.settle(entry.batch)
        assert self.assignment.idle
        assert self.assignment.cached == 0
        assert self.assignment.settled_offset == self.assignment.pull_offset

    @invariant()
    def the_commit_never_passes_what_is_not_durable(self) -> None:
        for entry in self.entries:
            if not entry.settled and not entry.overtaken:
                assert self.assignment.settled_offset <= entry.first

    @invariant()
    def the_commit_falls_only_by_a_move(self) -> None:
        assert self.assignment.settled_offset >= self.settled_before
        self.settled_before = self.assignment.settled_offset

    @invariant()
    def what_is_cached_is_counted_until_all_before_it_is_settled(self) -> None:
        waiting = self.entries[:]
        while waiting and waiting[0].settled:
            waiting.pop(0)
        assert self.assignment.cached == sum(len(entry.batch.messages) for entry in waiting)
        assert self.assignment.idle is not bool(waiting)
        in_flight = any(entry.handed_out and not entry.settled for entry in self.entries)
        assert self.assignment.in_flight is in_flight


TestBooks = Books.TestCase
TestBooks.settings = settings(max_examples=80, stateful_step_count=25, deadline=None)


def test_settling_twice_counts_once() -> None:
    books = Assignment(QUEUE, 0, filtered=False)
    batch = books.pulled([message(0)], [message(0)], 1)
    other = books.pulled([message(1)], [message(1)], 2)
    assert batch is not None
    assert other is not None
    books.hand_out(batch)
    books.hand_out(other)
    books.settle(batch)
    books.settle(batch)
    assert books.in_flight
    assert books.settled_offset == 1


def test_a_late_settlement_does_not_move_the_commit_past_a_reset() -> None:
    books = Assignment(QUEUE, 0, filtered=False)
    batch = books.pulled([message(0), message(1)], [message(0), message(1)], 2)
    assert batch is not None
    books.hand_out(batch)
    rewound = books.moved(1, "offset reset", reset=True)
    assert rewound is not None
    books.settle(batch)
    assert books.settled_offset == 1
    assert books.pull_offset == 1


def test_a_queue_that_lost_its_end_is_not_committed_past_what_is_still_landing() -> None:
    """The broker fell back to 5 while 3 to 8 are handed out: a crash now must find 3 again, not 5."""
    books = Assignment(QUEUE, 3, filtered=False)
    found = [message(offset) for offset in range(3, 8)]
    batch = books.pulled(found, found, 8)
    assert batch is not None
    books.hand_out(batch)
    rewound = books.moved(5, "beyond the end of the queue", reset=False)
    assert rewound is not None
    assert books.settled_offset == 3
    books.settle(batch)
    books.hand_out(rewound)
    books.settle(rewound)
    assert books.settled_offset == 5


@pytest.mark.parametrize("offset", [-1, 2**62])
def test_an_offset_outside_the_pull_makes_no_hole(offset: int) -> None:
    """A record with a garbled offset is one faulty message; it is not a gap of 2^62 offsets."""
    books = Assignment(QUEUE, 10, filtered=False)
    found = [message(10), message(offset)]
    batch = books.pulled(found, found, 13)
    assert batch is not None
    assert all(10 <= hole.first <= hole.last < 13 for hole in batch.holes)


# --- allocation -----------------------------------------------------------------------------------------

queues = st.lists(
    st.builds(MessageQueue, st.just("T"), st.sampled_from(["a", "b", "c"]), st.integers(0, 12)),
    unique=True,
    max_size=24,
)
members = st.lists(st.text("abc@#1", min_size=1, max_size=4), min_size=1, max_size=7, unique=True)


@given(queues, members)
def test_members_share_all_queues_evenly(all_queues: list[MessageQueue], ids: list[str]) -> None:
    slices = [allocate_averagely(all_queues, ids, me) for me in sorted(ids)]
    assert [queue for part in slices for queue in part] == sorted(all_queues)
    sizes = [len(part) for part in slices]
    assert max(sizes) - min(sizes) <= 1
    assert sizes == sorted(sizes, reverse=True)


@given(queues, members, st.data())
def test_order_and_ghosts_change_nothing(
    all_queues: list[MessageQueue], ids: list[str], data: st.DataObject
) -> None:
    me = data.draw(st.sampled_from(ids))
    mine = allocate_averagely(all_queues, ids, me)
    ghosts = data.draw(st.permutations(ids + data.draw(st.lists(st.sampled_from(ids), max_size=4))))
    assert allocate_averagely(data.draw(st.permutations(all_queues)), ghosts, me) == mine


@pytest.mark.parametrize(
    ("total", "count", "sizes"),
    [
        (8, 1, [8]),
        (8, 2, [4, 4]),
        (8, 3, [3, 3, 2]),
        (2, 3, [1, 1, 0]),
        (4, 6, [1, 1, 1, 1, 0, 0]),
        (5, 2, [3, 2]),
        (0, 2, [0, 0]),
    ],
)
def test_the_slices_are_those_of_other_clients(total: int, count: int, sizes: list[int]) -> None:
    all_queues = [MessageQueue("T", "b", queue) for queue in range(total)]
    ids = [f"id{number}" for number in range(count)]
    assert [len(allocate_averagely(all_queues, ids, me)) for me in ids] == sizes


def test_a_stranger_gets_nothing() -> None:
    assert allocate_averagely([QUEUE], ["someone"], "me") == []
    assert allocate_averagely([QUEUE], [], "me") == []


def test_queues_are_sorted_by_number_not_by_text() -> None:
    all_queues = [MessageQueue("T", "b", queue) for queue in (10, 9, 2, 1)]
    assert [queue.queue_id for queue in allocate_averagely(all_queues, ["me"], "me")] == [1, 2, 9, 10]
