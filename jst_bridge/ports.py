"""The contract of the bridge in one screen: what flows, and between whom.

    Source ──Batch of Delivery──▶ decode ──Message / DeadLetter──▶ Store.land ──commit──▶ Source.settle

Values are plain and immutable by convention (msgspec Structs: creating one costs about 100 ns). Times are
epoch milliseconds UTC. Ids are canonical decimal text, because 19 digits exceed 2^53 and sometimes 2^63.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

__all__ = [
    "Batch",
    "DeadLetter",
    "Delivery",
    "Gap",
    "Landed",
    "Landing",
    "Message",
    "PlainDelivery",
    "Position",
    "QueueKey",
    "Source",
    "Store",
]


class QueueKey(NamedTuple):
    """One message queue as one consumer group reads it; the key of a stored position.

    `instance` is '' in clustering and the configured instance name in broadcasting.
    """

    source: str
    group: str
    instance: str
    broker: str
    system_topic: str
    queue_id: int


class Delivery(Protocol):
    """One message as a source handed it over, before anyone looked into its body.

    A protocol, so that a source hands over its own records and works out only what is asked for: of an ordinary
    message that is the body.
    """

    @property
    def body(self) -> bytes:
        """As published, decompressed. With `fault` set: as stored, possibly still compressed."""

    @property
    def fault(self) -> str:
        """Why the body could not be opened (unknown compression, corrupt data); '' normally."""

    @property
    def born_at(self) -> int:
        """When the producer made it: epoch ms by the producer's clock."""

    @property
    def queue(self) -> QueueKey | None:
        """Where it came from; None for a body that is read again from the store."""

    @property
    def offset(self) -> int:
        """Position in its queue."""

    @property
    def tag(self) -> str:
        """The broker's tag, '' when absent. Jushita sets it to the message type."""

    @property
    def keys(self) -> str:
        """The broker's keys joined by one space, '' when absent."""

    @property
    def transport_id(self) -> str:
        """Unique per stored copy: RocketMQ's offset message id."""

    @property
    def origin_id(self) -> str:
        """`transport_id` of the first copy; differs only on a copy that went through a retry topic."""

    @property
    def attempt(self) -> int:
        """How often it was sent back before (RocketMQ's reconsumeTimes)."""


class PlainDelivery(msgspec.Struct, gc=False):
    """A delivery whose facts are all known beforehand."""

    body: bytes
    tag: str
    keys: str
    transport_id: str
    origin_id: str
    offset: int
    born_at: int
    attempt: int = 0
    fault: str = ""
    queue: QueueKey | None = None


class Gap(msgspec.Struct, frozen=True):
    """Offsets `first` to `last`, both included, were skipped without being landed."""

    queue: QueueKey
    first: int
    last: int
    reason: str


class Batch(msgspec.Struct, gc=False):
    """Deliveries of one queue in offset order. Once they are durable, everything below `position` is."""

    queue: QueueKey
    deliveries: list[Delivery]
    position: int
    size: int
    """Sum of the body lengths in bytes."""
    rewound: bool = False
    """The source went back (offset reset, store of the broker lost): the position may fall."""
    gaps: tuple[Gap, ...] = ()
    receipt: Any = None
    """The source's own note on this batch; nobody else looks at it."""


class Message(msgspec.Struct, gc=False):
    """A delivery decoded and typed."""

    key: str
    """Exactly-once identity: ASCII, at most 128 characters."""
    source: str
    topic: str
    """The message type, e.g. taobao_trade_TradeBuyerPay."""
    seller: str
    """The seller's nick (user_nick), '' when the message names none."""
    user_id: str
    """The seller's user id as decimal text, '' when absent."""
    tid: str | None
    oid: str | None
    refund_id: str | None
    num_iid: str | None
    published_at: int
    published_from: str
    """Where `published_at` comes from: publish_time, pub_time, modified or born."""
    content: Any
    """The typed content: a Struct of jst_bridge.messages.families."""
    delivery: Delivery


class DeadLetter(msgspec.Struct, gc=False):
    """A delivery given up on, kept with its payload and the reason until replayed or dropped."""

    queue: QueueKey
    delivery: Delivery
    reason: str
    """A stable word: see UndecodableError.reason, or store_refused, decode_failed."""
    detail: str
    """The sentence for people: what was wrong and where."""


class Position(msgspec.Struct, frozen=True):
    """Everything of `queue` below `offset` is landed. Only `rewound` lets it fall."""

    queue: QueueKey
    offset: int
    rewound: bool = False


class Landing(msgspec.Struct, gc=False):
    """What goes into the store in one transaction."""

    messages: list[Message]
    dead_letters: list[DeadLetter]
    positions: list[Position]
    gaps: list[Gap]


class Landed(msgspec.Struct):
    """What one landing did; adds up over a run."""

    landed: int = 0
    """Messages that were new."""
    duplicates: int = 0
    """Messages whose key and body the store already held."""
    collisions: int = 0
    """Landed under key + body hash, because another body holds the key already."""
    dead_letters: int = 0
    """Dead letters that were new."""
    gaps: int = 0
    without_id: int = 0
    """Messages of a stateful family with a zero or missing id: landed, but no state row."""
    redone: int = 0
    """Transactions done again because another writer was in the way (deadlock, unique violation)."""
    topics: dict[str, int] = msgspec.field(default_factory=dict)
    """New messages per topic."""

    def add(self, other: Landed) -> None:
        self.landed += other.landed
        self.duplicates += other.duplicates
        self.collisions += other.collisions
        self.dead_letters += other.dead_letters
        self.gaps += other.gaps
        self.without_id += other.without_id
        self.redone += other.redone
        for topic, count in other.topics.items():
            self.topics[topic] = self.topics.get(topic, 0) + count


class Source(Protocol):
    """Where messages come from. `name` is stable: it is part of every stored row.

    A stop goes in two steps, so that what is being landed can still be settled: quiesce, then stop.
    After a stop it may be started again.
    """

    name: str

    async def start(self) -> None:
        """Connect and begin to fetch. Raises SourceError or ConfigurationError."""

    async def receive(self) -> list[Batch]:
        """Wait for deliveries; return what is there, within the landing limits. Empty once quiesced.

        Raises whatever ended the source's own background work.
        """

    def settle(self, batches: Sequence[Batch]) -> None:
        """The batches are durable: the source may forget them."""

    async def commit(self) -> None:
        """Tell the broker now what is settled, instead of at the next occasion."""

    def quiesce(self) -> None:
        """Fetch nothing more: `receive` returns an empty list from now on."""

    async def stop(self) -> None:
        """Commit what was settled, leave the group, close. Idempotent."""


class Store(Protocol):
    """The bridge's database, used from one thread at a time.

    Every method may raise StoreUnavailable (try again later) or StoreError.
    """

    def open(self) -> None:
        """Connect, and bring the schema up to date or raise SchemaOutdated."""

    def land(self, landing: Landing) -> Landed:
        """Write all of it in one transaction, or nothing. Durable when it returns. Duplicates are absorbed."""

    def positions(self, source: str, group: str, instance: str) -> dict[QueueKey, int]:
        """The stored positions of one source in one consumer group."""

    def close(self) -> None: ...
