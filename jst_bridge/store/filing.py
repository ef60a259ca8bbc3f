"""Which messages a rebuild has to read: of each refund, and of what landed lately.

`messages` has no index on refund_id, and of one refund the messages may name different orders or none. One pass
through the table by its primary key files the pairs (refund_id, id) in a private temporary file, which vanishes
with its connection; whatever lands meanwhile is caught up with, a few rows at a time.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, Final, Literal, NamedTuple

from jst_bridge.store.database import Database, now_ms
from jst_bridge.store.plain_sql import marked

__all__ = ["Filing"]

_ROWS: Final = 10_000
"""Rows of `messages`, without their bodies, read at once."""
_OPEN_MS: Final = 600_000
"""Ids that were given out are asked for this long; a landing is done or undone within a tenth of it."""

Kind = Literal["tid", "refund_id"]


class _Gap(NamedTuple):
    """Ids that are given out, but not committed: not yet, or never."""

    first: int
    last: int
    landed_at: int
    """Of the message behind the gap: those missing, if they ever come, began to land about then."""


class Filing:
    """An index of messages, as large as a file may be. Use it as the rebuild goes, from one thread; close it.

    Ids are given out before their transaction commits, so a lower one may appear after a higher one was seen: the
    ids missing among young messages are remembered, and asked for again at each catching up. So after `catch_up`,
    and only then, every message is filed that the transaction can see.
    """

    def __init__(self, database: Database) -> None:
        self._file = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._file.execute("PRAGMA journal_mode = OFF")
        self._file.execute(
            "CREATE TABLE filed (refund_id TEXT, id INTEGER, PRIMARY KEY (refund_id, id)) WITHOUT ROWID"
        )
        self._file.execute(
            "CREATE TABLE touched (kind TEXT, value TEXT, PRIMARY KEY (kind, value)) WITHOUT ROWID"
        )
        self._last = 0
        self._gaps: list[_Gap] = []
        found = "SELECT id, refund_id, landed_at FROM messages WHERE"
        self._next = marked(database, f"{found} id > ? ORDER BY id LIMIT {_ROWS}")
        self._between = marked(database, f"{found} id BETWEEN ? AND ? ORDER BY id")
        later = "landed_at >= ? AND (landed_at > ? OR id > ?) ORDER BY landed_at, id"
        landed = f"SELECT landed_at, id, tid, refund_id FROM messages WHERE {later} LIMIT {_ROWS}"  # noqa: S608
        self._landed = marked(database, landed)

    def close(self) -> None:
        self._file.close()

    def catch_up(self, cursor: Any) -> int:
        """File up to _ROWS more messages; the highest id so far, 0 when there were no more."""
        horizon = now_ms() - _OPEN_MS
        found: list[tuple[int, str | None, int]] = []
        gaps: list[_Gap] = []
        for gap in self._gaps:
            if gap.landed_at > horizon:
                cursor.execute(self._between, (gap.first, gap.last))
                came = list(cursor.fetchall())
                found += came
                gaps += _gaps(gap.first, [*came, (gap.last + 1, None, gap.landed_at)], horizon)
        cursor.execute(self._next, (self._last,))
        new = list(cursor.fetchall())
        gaps += _gaps(self._last + 1, new, horizon)
        self._insert(
            "filed", [(refund_id, number) for number, refund_id, _ in chain(found, new) if refund_id]
        )
        self._gaps = gaps
        if not new:
            return 0
        self._last = new[-1][0]
        return self._last

    def touch(self, cursor: Any, since: int, place: tuple[int, int]) -> tuple[int, int] | None:
        """Note what up to _ROWS more messages landed `since` speak of. Returns the next `place`; begin at (0, 0)."""
        cursor.execute(self._landed, (since, *place))
        rows = cursor.fetchall()
        self._insert("touched", {("tid", tid) for _, _, tid, _ in rows if tid})
        self._insert("touched", {("refund_id", refund_id) for _, _, _, refund_id in rows if refund_id})
        return (rows[-1][0], rows[-1][1]) if rows else None

    def touched(self, kind: Kind, after: str, limit: int) -> list[str]:
        """The next keys that were noted, in order."""
        query = "SELECT value FROM touched WHERE kind = ? AND value > ? ORDER BY value LIMIT ?"
        return [value for (value,) in self._file.execute(query, (kind, after, limit))]

    def count_touched(self, kind: Kind) -> int:
        return int(self._file.execute("SELECT count(*) FROM touched WHERE kind = ?", (kind,)).fetchone()[0])

    def count_filed(self) -> int:
        """How many messages speak of refunds."""
        return int(self._file.execute("SELECT count(*) FROM filed").fetchone()[0])

    def refunds(self, after: str, limit: int) -> list[str]:
        """The next refund ids, in order."""
        query = "SELECT DISTINCT refund_id FROM filed WHERE refund_id > ? ORDER BY refund_id LIMIT ?"
        return [refund_id for (refund_id,) in self._file.execute(query, (after, limit))]

    def messages(self, refund_ids: Sequence[str]) -> list[int]:
        """The ids, not sorted, of the messages of these refunds; some may be pruned by now."""
        found: list[int] = []
        for refund_id in refund_ids:
            query = "SELECT id FROM filed WHERE refund_id = ?"
            found += [number for (number,) in self._file.execute(query, (refund_id,))]
        return found

    def _insert(self, table: str, rows: Any) -> None:
        # Twice the same does no harm: a transaction that is done again catches up again.
        self._file.execute("BEGIN")
        self._file.executemany(f"INSERT OR IGNORE INTO {table} VALUES (?, ?)", rows)  # noqa: S608
        self._file.execute("COMMIT")


def _gaps(expected: int, rows: Iterable[tuple[int, str | None, int]], horizon: int) -> Iterator[_Gap]:
    """What is missing from `expected` to the last of the `rows`, before rows that landed after the `horizon`."""
    for number, _, landed_at in rows:
        if number != expected and landed_at > horizon:
            yield _Gap(expected, number - 1, landed_at)
        expected = number + 1
