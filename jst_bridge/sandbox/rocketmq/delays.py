"""When delayed messages are due, and who holds which queue's lock. Pure: the caller brings the time."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence

__all__ = ["Delays", "Locks"]


class Delays:
    """Delayed messages by the time they are due; the messages themselves lie in the store's delay topic."""

    def __init__(self, levels: Sequence[float]) -> None:
        self._levels = tuple(levels)
        self._waiting: list[tuple[float, int]] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def clamp(self, level: int) -> int:
        """A level that there is: more than the last one is the last one."""
        return min(level, len(self._levels))

    def add(self, level: int, physical_offset: int, now: float) -> None:
        """Let the message at that offset be due when the level's seconds are over."""
        heapq.heappush(self._waiting, (now + self._levels[level - 1], physical_offset))

    @property
    def next_due(self) -> float | None:
        """When the next message is due, on the clock of `add`."""
        return self._waiting[0][0] if self._waiting else None

    def due(self, now: float) -> Iterator[int]:
        """The physical offsets of messages that are due, each once."""
        while self._waiting and self._waiting[0][0] <= now:
            yield heapq.heappop(self._waiting)[1]


class Locks:
    """Queue locks of orderly consumers; they outlive the socket (reference 2.11)."""

    def __init__(self, lease: float) -> None:
        self._lease = lease
        self._held: dict[tuple[str, str, str, int], tuple[str, float]] = {}

    def lock(self, group: str, queue: tuple[str, str, int], client_id: str, now: float) -> bool:
        """Lock a queue (topic, broker, id) or renew the lock; False: somebody else holds it."""
        key = (group, *queue)
        holder, until = self._held.get(key, ("", 0.0))
        if holder not in ("", client_id) and until > now:
            return False
        self._held = {each: held for each, held in self._held.items() if held[1] > now}
        self._held[key] = (client_id, now + self._lease)
        return True

    def unlock(self, group: str, queue: tuple[str, str, int], client_id: str) -> None:
        """Nothing happens unless the client holds it."""
        key = (group, *queue)
        if self._held.get(key, ("", 0.0))[0] == client_id:
            del self._held[key]

    def any_held(self, group: str, now: float) -> bool:
        """Whether the group holds a lock."""
        return any(key[0] == group and until > now for key, (_, until) in self._held.items())
