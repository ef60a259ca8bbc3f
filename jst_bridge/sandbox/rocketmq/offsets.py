"""What consumer groups have committed, and the resets a 5.3 broker remembers for them. Pure."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Committed", "Offsets"]


class Committed(NamedTuple):
    """Whose offset of which queue."""

    group: str
    topic: str
    queue_id: int


class Offsets:
    """Offsets of one broker. A negative one counts as none, as in a real one (reference 2.6)."""

    def __init__(self) -> None:
        self._table: dict[Committed, int] = {}
        self._resets: dict[Committed, int] = {}

    def commit(self, key: Committed, offset: int) -> bool:
        """Store whatever is told, lower or beyond the end; False while a reset waits to be told."""
        if key in self._resets:
            return False
        self._table[key] = offset
        return True

    def stored(self, key: Committed) -> int | None:
        """The offset to consume next."""
        offset = self._table.get(key, -1)
        return offset if offset >= 0 else None

    def reset(self, key: Committed, offset: int) -> None:
        """It reads back at once, and commits are refused until a pull was told (reference 2.13)."""
        self._table[key] = self._resets[key] = offset

    def take_reset(self, key: Committed) -> int | None:
        """The reset that waits for this queue, which is over with that."""
        return self._resets.pop(key, None) if self._resets else None

    def topics(self, group: str) -> set[str]:
        """The topics of which the group has an offset."""
        return {key.topic for key in self._table if key.group == group}

    def groups(self, topic: str) -> set[str]:
        """The groups that have an offset of the topic."""
        return {key.group for key in self._table if key.topic == topic}

    def forget(self, *, group: str | None = None, topic: str | None = None) -> None:
        """Drop what a group has, or all groups have of a topic."""
        for table in (self._table, self._resets):
            for key in [key for key in table if group in (None, key.group) and topic in (None, key.topic)]:
                del table[key]
