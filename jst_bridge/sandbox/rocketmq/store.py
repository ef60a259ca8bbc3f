"""Topics, their queues, and the one log that holds their messages. Pure: no clock, no I/O.

A record is encoded once, when it is stored; a pull answer is a join of records. A queue knows its messages by their
place in the log, so that expiring the oldest is cutting the head of one list.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from .records import Draft, pack_record, physical_offset, store_time, tag_hash

__all__ = [
    "INHERIT",
    "MOST_QUEUES",
    "READ",
    "WRITE",
    "Place",
    "Queue",
    "Reading",
    "Search",
    "Store",
    "StoreFull",
    "Topic",
    "legal_topic",
]

READ, WRITE, INHERIT = 4, 2, 1
MOST_QUEUES: Final = 1024
"""Of one topic."""
MOST_TOPICS: Final = 10_000
MOST_SCANNED: Final = 800
"""Messages that one pull looks at, at most (reference 2.7.3)."""
MOST_TRANSFERRED: Final = 256 << 10
"""Bytes of one pull answer, but for a first message that is larger."""
_OVERHEAD: Final = 64
"""Bytes that a record costs beside its content: the object, its places in log and queue."""
Search = Literal["lower", "upper", "nearest"]
"""lower: the first stored then or later, else the end; upper: the last stored by then; nearest: as 4.9 does."""

_SHORT: Final = 127
_LEGAL: Final = re.compile(r"[%|a-zA-Z0-9_-]+")


class StoreFull(Exception):
    """There are as many topics as the sandbox bears."""


class Queue:
    """One queue of a topic: the log sequence of each of its messages, the first being that of `minimum`."""

    __slots__ = ("entries", "minimum", "parked", "queue_id", "topic")

    def __init__(self, topic: Topic, queue_id: int) -> None:
        self.topic = topic
        self.queue_id = queue_id
        self.minimum = 0
        self.entries = array("q")
        self.parked = 0
        """Pulls that wait for its next message."""

    @property
    def maximum(self) -> int:
        """The offset that the next message gets."""
        return self.minimum + len(self.entries)


@dataclass(slots=True, eq=False)
class Topic:
    """A topic as one broker has it."""

    name: str
    read_queues: int
    write_queues: int
    perm: int = READ | WRITE
    order: bool = False
    encoded: bytes = b""
    queues: list[Queue] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.encoded = self.name.encode()
        self.widen(self.read_queues, self.write_queues)

    def widen(self, read_queues: int, write_queues: int) -> None:
        """Set the counts. Queues beyond them keep what they hold."""
        self.read_queues, self.write_queues = read_queues, write_queues
        for queue_id in range(len(self.queues), max(read_queues, write_queues)):
            self.queues.append(Queue(self, queue_id))


class Place(NamedTuple):
    """Where a message was stored."""

    queue: Queue
    offset: int
    physical_offset: int


class Reading(NamedTuple):
    """What a pull finds. `status` is the store's word for it, sent as the remark."""

    status: str
    next_offset: int
    records: list[bytes]


class Store:
    """The topics of one broker. The oldest messages are dropped when all take more than `max_bytes`."""

    def __init__(self, *, max_bytes: int, store_host: bytes) -> None:
        self.topics: dict[str, Topic] = {}
        self.store_host = store_host
        self._host_text = store_host.hex().upper()
        self.held_bytes = 0
        self.stored = 0
        """Messages ever stored: the sequence of the next one."""
        self._max_bytes = max_bytes
        self._records: list[bytes] = []
        self._first = 0
        """Sequence of the oldest record."""
        self._end = 0
        """Physical offset of the next record."""
        self._last_time = 0

    # --- topics ------------------------------------------------------------------------------------------

    def create(self, name: str, read_queues: int, write_queues: int, perm: int = READ | WRITE) -> Topic:
        """Make a topic, or change what there is. ValueError: counts out of bounds; StoreFull."""
        if not 0 < max(read_queues, write_queues) <= MOST_QUEUES or min(read_queues, write_queues) < 0:
            raise ValueError(f"a topic has 1 to {MOST_QUEUES} queues")
        topic = self.topics.get(name)
        if topic is None:
            if len(self.topics) >= MOST_TOPICS:
                raise StoreFull(f"the sandbox holds at most {MOST_TOPICS} topics")
            topic = self.topics[name] = Topic(name, read_queues, write_queues, perm)
        else:
            topic.widen(read_queues, write_queues)
            topic.perm = perm
        return topic

    # --- writing -----------------------------------------------------------------------------------------

    def append(self, draft: Draft, stored_at: int) -> Place:
        """Store a message in the queue it names. KeyError, IndexError: there is none such."""
        topic = self.topics[draft.topic]
        queue = topic.queues[draft.queue_id]
        if stored_at < self._last_time:
            stored_at = self._last_time
        self._last_time = stored_at
        offset, physical = queue.minimum + len(queue.entries), self._end
        record = pack_record(draft, offset, physical, stored_at, self.store_host, topic.encoded)
        queue.entries.append(self.stored)
        self._records.append(record)
        self._end = physical + len(record)
        self.stored += 1
        self.held_bytes += len(record) + _OVERHEAD
        if self.held_bytes > self._max_bytes:
            self._make_room()
        return Place(queue, offset, physical)

    def message_id(self, physical: int) -> str:
        """The offset message id: store host and physical offset in upper-case hex (reference 3.4)."""
        return f"{self._host_text}{physical:016X}"

    def _make_room(self) -> None:
        """Drop the oldest sixteenth, as a broker drops whole files; never the newest message."""
        goal, count = self._max_bytes - self._max_bytes // 16, 0
        while self.held_bytes > goal and count < len(self._records) - 1:
            self.held_bytes -= len(self._records[count]) + _OVERHEAD
            count += 1
        del self._records[:count]
        self._first += count
        for topic in self.topics.values():
            for queue in topic.queues:
                self._cut(queue, bisect_left(queue.entries, self._first))

    def expire(self, queue: Queue, minimum: int) -> None:
        """Let the messages of a queue below an offset be gone, though the log may still hold them."""
        self._cut(queue, min(max(0, minimum - queue.minimum), len(queue.entries)))

    @staticmethod
    def _cut(queue: Queue, count: int) -> None:
        if count:
            del queue.entries[:count]
            queue.minimum += count

    # --- reading -----------------------------------------------------------------------------------------

    def read(self, queue: Queue, offset: int, count: int, tags: frozenset[int] | None) -> Reading:
        """Up to `count` messages from `offset` on, those with one of the `tags` hashes (reference 2.7.3)."""
        held = len(queue.entries)
        minimum = queue.minimum
        maximum = minimum + held
        if not maximum:
            return Reading("NO_MESSAGE_IN_QUEUE", 0, [])
        if offset < minimum:
            return Reading("OFFSET_TOO_SMALL", minimum, [])
        if offset >= maximum:
            status = "OFFSET_OVERFLOW_ONE" if offset == maximum else "OFFSET_OVERFLOW_BADLY"
            return Reading(status, maximum, [])
        records: list[bytes] = []
        size = 0
        at = start = offset - minimum
        stop = min(held, start + (MOST_SCANNED if tags else count))
        while at < stop and len(records) < count:
            record = self._records[queue.entries[at] - self._first]
            if tags is None or tag_hash(record) in tags:
                size += len(record)
                if size > MOST_TRANSFERRED and records:
                    break
                records.append(record)
            at += 1
        return Reading("FOUND" if records else "NO_MATCHED_MESSAGE", minimum + at, records)

    def record(self, queue: Queue, offset: int) -> bytes | None:
        """The message at an offset, None when it is gone or not yet there."""
        if not queue.minimum <= offset < queue.maximum:
            return None
        return self._records[queue.entries[offset - queue.minimum] - self._first]

    def matches(self, queue: Queue, offset: int, tags: frozenset[int] | None) -> bool:
        """Whether a message at or after `offset` has one of the tags."""
        for at in range(max(0, offset - queue.minimum), len(queue.entries)):
            if tags is None or tag_hash(self._records[queue.entries[at] - self._first]) in tags:
                return True
        return False

    def view(self, physical: int) -> bytes | None:
        """The message that begins at a physical offset."""
        at = bisect_left(self._records, physical, key=physical_offset)
        if at < len(self._records) and physical_offset(self._records[at]) == physical:
            return self._records[at]
        return None

    def store_time(self, queue: Queue, offset: int) -> int | None:
        """When the message at an offset was stored, in epoch ms; None when it is gone."""
        record = self.record(queue, offset)
        return None if record is None else store_time(record)

    def search(self, queue: Queue, timestamp: int, how: Search = "lower") -> int:
        """The offset at a store time in epoch ms, of a queue that may be empty (reference 2.9)."""

        def when(sequence: int) -> int:
            return store_time(self._records[sequence - self._first])

        if how == "upper":
            return queue.minimum + max(0, bisect_right(queue.entries, timestamp, key=when) - 1)
        at = bisect_left(queue.entries, timestamp, key=when)
        if how == "nearest" and at:
            late = at == len(queue.entries) or timestamp - when(queue.entries[at - 1]) < (
                when(queue.entries[at]) - timestamp
            )
            at -= late
        return queue.minimum + at


def legal_topic(name: str) -> bool:
    """Whether a client may choose the name (reference 2.14)."""
    return len(name) <= _SHORT and _LEGAL.fullmatch(name) is not None
