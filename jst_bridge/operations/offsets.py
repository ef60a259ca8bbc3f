"""Where a group is on each queue, and moving it: plan, commit at the brokers, then record in the store.

The brokers come first: a move that ends half way has only not been made in the store, and the store's position is the
one of the two that never skips a message (docs/design.md, section 3). Doing it again makes it whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from jst_bridge.errors import DecodeError, GroupOnline, JstBridgeError, SourceError
from jst_bridge.operations.group import SourceGroup
from jst_bridge.ports import Landing, Position, QueueKey, Store
from jst_bridge.rocketmq import Client, MessageQueue
from jst_bridge.rocketmq.admin import committed_times, registration, set_committed
from jst_bridge.rocketmq.offsets import committed_offset, max_offset, min_offset, offset_at

__all__ = [
    "Move",
    "QueueOffsets",
    "Target",
    "WrongTarget",
    "commit",
    "look",
    "plan",
    "record",
    "require_offline",
]


_NAMED: Final = 3
"""Queues that a message names at most."""


class WrongTarget(JstBridgeError):
    """A reset was asked for that cannot be meant."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class QueueOffsets:
    """One queue of a group. None is unknown, or nothing yet."""

    source: str
    queue: MessageQueue
    minimum: int
    """The oldest offset the broker still has."""
    end: int
    committed: int | None
    """The next offset to read, by the broker; None in broadcasting, which commits nothing."""
    position: int | None
    """The same by the store."""
    committed_at: int | None
    """When the last message below `committed` was stored: epoch ms."""

    @property
    def next(self) -> int | None:
        """Where reading goes on: what is committed; in broadcasting the position."""
        return self.position if self.committed is None else self.committed

    @property
    def lag(self) -> int:
        """Messages that wait: with nothing committed, all that the broker has."""
        return max(0, self.end - max(self.minimum, self.next or 0))


@dataclass(frozen=True, slots=True)
class Target:
    """Where to move: `value` is epoch ms for a time, and an offset for an offset."""

    kind: Literal["first", "last", "store", "time", "offset"]
    value: int = 0


@dataclass(frozen=True, slots=True)
class Move:
    """One queue from where it is to where it shall be."""

    at: QueueOffsets
    to: int

    @property
    def queue(self) -> MessageQueue:
        return self.at.queue

    @property
    def again(self) -> int:
        """Messages that come again."""
        return max(0, self._start - self.to)

    @property
    def skipped(self) -> int:
        """Messages that the broker has and that will not come."""
        return max(0, self.to - self._start)

    @property
    def needed(self) -> bool:
        """Something differs: at the broker, or in the store."""
        return self.to != self.at.next or self.at.position not in (None, self.to)

    @property
    def _start(self) -> int:
        return max(self.at.minimum, self.at.next or 0)


async def look(group: SourceGroup, positions: Mapping[QueueKey, int]) -> list[QueueOffsets]:
    """Every queue of the source, by queue. Raises SourceError, DecodeError."""
    client = Client(group.settings.client)
    try:
        return await _look(client, group, await group.queues(client), positions)
    finally:
        await client.close()


async def _look(
    client: Client, group: SourceGroup, queues: Collection[MessageQueue], positions: Mapping[QueueKey, int]
) -> list[QueueOffsets]:
    times = {} if group.broadcasting else await _times(client, group, queues)

    async def one(queue: MessageQueue) -> QueueOffsets:
        minimum, end = await asyncio.gather(min_offset(client, queue), max_offset(client, queue))
        committed = None if group.broadcasting else await committed_offset(client, group.name, queue)
        position = positions.get(group.key(queue))
        return QueueOffsets(group.source, queue, minimum, end, committed, position, times.get(queue))

    ordered = sorted(queues, key=lambda queue: (queue.topic.startswith("%RETRY%"), queue))
    return list(await asyncio.gather(*(one(queue) for queue in ordered)))


async def _times(
    client: Client, group: SourceGroup, queues: Collection[MessageQueue]
) -> dict[MessageQueue, int]:
    """When the last committed message of each queue was stored; what cannot be learned is left out."""
    asked = sorted({(client.master(queue.broker), queue.topic) for queue in queues})
    found = await asyncio.gather(
        *(committed_times(client, address, group.name, topic) for address, topic in asked),
        return_exceptions=True,
    )
    times: dict[MessageQueue, int] = {}
    for outcome in found:
        if isinstance(outcome, dict):
            times |= outcome
        elif not isinstance(outcome, (SourceError, DecodeError)):  # times are an extra, and may be forbidden
            raise outcome
    return times


# --- moving -----------------------------------------------------------------------------------------------


async def plan(
    group: SourceGroup,
    target: Target,
    positions: Mapping[QueueKey, int],
    names: Collection[str] = (),
) -> list[Move]:
    """What a reset would do; `names` narrow it to queues `BROKER:ID` of the system topic, or `TOPIC@BROKER:ID`.

    The retry topic moves along, but not to an OFFSET, which means one of the system topic. Raises
    WrongTarget for what cannot be meant, SourceError, DecodeError.
    """
    client = Client(group.settings.client)
    try:
        queues = await group.queues(client)
        if names:
            queues = _named(group, queues, names)
        elif target.kind == "offset":
            queues = [queue for queue in queues if queue.topic in group.settings.subscriptions]
        found = await _look(client, group, queues, positions)
        moves = [Move(at, await _destination(client, at, target)) for at in found]
    finally:
        await client.close()
    beyond = [f"{move.queue} ends at {move.at.end}" for move in moves if move.to > move.at.end]
    if beyond:
        more = f", and {len(beyond) - _NAMED} more" if len(beyond) > _NAMED else ""
        raise WrongTarget(
            f"offset {target.value} is beyond the end: {', '.join(beyond[:_NAMED])}{more}",
            remedy="name the queues it is meant for with --queue, or skip everything with --to last",
        )
    return moves


def _named(group: SourceGroup, queues: Sequence[MessageQueue], names: Collection[str]) -> list[MessageQueue]:
    known = {str(queue): queue for queue in queues}
    known |= {
        f"{queue.broker}:{queue.queue_id}": queue
        for queue in queues
        if queue.topic in group.settings.subscriptions
    }
    unknown = sorted(set(names) - known.keys())
    if unknown:
        raise WrongTarget(
            f"source {group.source} has no queue {', '.join(unknown)}",
            remedy=f"the queues are {', '.join(sorted({queue.broker for queue in queues}))}:ID, with the ids that "
            "`jst-bridge offsets show` lists",
        )
    return sorted({known[name] for name in names})


async def _destination(client: Client, at: QueueOffsets, target: Target) -> int:
    """Within what the broker has; beyond its end only for a given offset, which the caller refuses."""
    if target.kind == "first":
        return at.minimum
    if target.kind == "last":
        return at.end
    if target.kind == "offset":
        return max(at.minimum, target.value)
    if target.kind == "store":
        wanted = at.position or 0
    else:
        # Of several stored in that very millisecond 4.9 may find any: those of the one before come along.
        wanted = await offset_at(client, at.queue, target.value - 1)
    return max(at.minimum, min(wanted, at.end))


async def commit(group: SourceGroup, moves: Sequence[Move]) -> tuple[list[Move], list[JstBridgeError]]:
    """Commit them at their brokers, while nobody is in the group: the moves that are made, and what went wrong.

    Raises GroupOnline when somebody is, SourceError when a broker cannot say: nothing was moved then.
    """
    client = Client(group.settings.client)
    try:
        await group.queues(client)  # the routes, which say where the brokers are
        await _require_offline(client, group, {move.queue.broker for move in moves})
        outcomes = await asyncio.gather(
            *(set_committed(client, group.name, move.queue, move.to) for move in moves),
            return_exceptions=True,
        )
    finally:
        await client.close()
    made = [move for move, outcome in zip(moves, outcomes, strict=True) if outcome is None]
    failures: list[JstBridgeError] = []
    for outcome in outcomes:
        if isinstance(outcome, JstBridgeError):
            failures.append(outcome)
        elif outcome is not None:
            raise outcome
    return made, failures


async def require_offline(group: SourceGroup) -> None:
    """Raises GroupOnline when somebody reads in the group, SourceError when a broker cannot say. Broadcasting is free:

    there the store's lease of the instance tells whether its process runs.
    """
    if group.broadcasting:
        return
    client = Client(group.settings.client)
    try:
        queues = await group.queues(client)
        await _require_offline(client, group, {queue.broker for queue in queues})
    finally:
        await client.close()


async def _require_offline(client: Client, group: SourceGroup, brokers: Iterable[str]) -> None:
    members: set[str] = set()
    for broker in sorted(brokers):
        found = await registration(client, client.master(broker), group.name)
        members |= {f"{one.client_id} ({one.address})" for one in found.members} if found else set()
    if members:
        raise GroupOnline(
            f"group {group.name} is being read, and its members would undo a reset: {', '.join(sorted(members))}",
            remedy="stop every member of the group (`jst-bridge consumers` lists them), run this again, start them",
        )


def record(group: SourceGroup, moves: Sequence[Move], store: Store) -> None:
    """Let the store's positions follow, in one transaction, or the next start would undo it. Raises StoreError."""
    positions = [Position(group.key(move.queue), move.to, rewound=True) for move in moves]
    store.land(Landing(messages=[], dead_letters=[], positions=positions, gaps=[]))
