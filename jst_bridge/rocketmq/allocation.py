"""Which queues of a topic are mine: the average strategy (reference 4.4, AllocateMessageQueueAveragely)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .message import MessageQueue

__all__ = ["allocate_averagely"]


def allocate_averagely(queues: Sequence[MessageQueue], members: Iterable[str], me: str) -> list[MessageQueue]:
    """My contiguous slice of the sorted queues; empty when I am not a member.

    Members are made unique first: after a silent connection the broker may list one client twice, and a
    client that counts its own ghost leaves half its queues to nobody.
    """
    ids = sorted(set(members))
    if me not in ids:
        return []
    ordered = sorted(queues)
    total, count, index = len(ordered), len(ids), ids.index(me)
    spare = total % count
    size = 1 if total <= count else total // count + (1 if index < spare else 0)
    start = index * size if index < spare else index * size + spare
    return ordered[start : start + size] if start < total else []
