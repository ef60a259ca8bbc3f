"""The sellers that were opened from here: what to ask the platform about, and whose messages to expect.

Rows never hold a session. Times are this host's clock, epoch ms.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from jst_bridge.errors import StoreError
from jst_bridge.store import migrations, schema
from jst_bridge.store.database import Database, Refused, now_ms
from jst_bridge.store.plain_sql import marked, reading
from jst_bridge.store.statements import Insert, Lookup

__all__ = ["LONGEST_NICK", "Activity", "Opened", "SellerRow", "Sellers"]

LONGEST_NICK: Final = 128
"""Characters."""


class Opened(msgspec.Struct, frozen=True):
    """What is remembered of a seller that was just added."""

    nick: str
    user_id: str = ""
    topics: tuple[str, ...] = ()
    """Those asked for; none for all that the app subscribes."""
    is_valid: bool | None = None


class SellerRow(msgspec.Struct, frozen=True):
    """A row of `sellers`."""

    nick: str
    user_id: str
    topics: tuple[str, ...]
    seller_group: str
    added_at: int
    deleted_at: int | None
    checked_at: int | None
    is_valid: bool | None


class Activity(msgspec.Struct, frozen=True):
    """When a seller's newest message was published and landed; None without any."""

    nick: str
    published_at: int | None
    landed_at: int | None


class Sellers:
    """The table `sellers` of one database. Methods raise StoreUnavailable, StoreError, SchemaOutdated."""

    def __init__(self, database: Database) -> None:
        table, dialect = schema.sellers, database.dialect
        self._database = database
        self._insert = Insert(table, dialect, "replace")
        self._lookup = Lookup(table.columns, table.c.nick, dialect, lock=True)
        self._columns = ", ".join(table.columns.keys())

    # --- writing --------------------------------------------------------------------------------------

    def remember(self, opened: Sequence[Opened]) -> None:
        """Write down sellers that the platform has opened. Who was open already keeps `added_at` and group."""

        def work(cursor: Any) -> None:
            rows = self._lookup.rows(cursor, [one.nick for one in opened])
            known = {row.nick: row for row in map(_row, rows) if row.deleted_at is None}
            now = now_ms()
            fresh = [_merged(one, known.get(one.nick), now) for one in opened]
            self._insert.execute(cursor, sorted(fresh))

        if opened:
            self._transact(work)

    def mark_deleted(self, nick: str) -> bool:
        """Whether the seller was remembered as open."""
        statement = "UPDATE sellers SET deleted_at = ?, is_valid = NULL WHERE nick = ? AND deleted_at IS NULL"
        return bool(self._update(statement, [(now_ms(), nick)]))

    def mark_checked(self, found: Iterable[tuple[str, bool | None]]) -> None:
        """What the platform said just now of each nick."""
        now = now_ms()
        rows = [(now, None if valid is None else int(valid), nick) for nick, valid in found]
        self._update("UPDATE sellers SET checked_at = ?, is_valid = ? WHERE nick = ?", rows)

    def put_into_group(self, group: str, nicks: Iterable[str]) -> None:
        """Those of them that are remembered; '' takes them out of any."""
        self._update("UPDATE sellers SET seller_group = ? WHERE nick = ?", [(group, nick) for nick in nicks])

    def dissolve(self, group: str, nicks: Iterable[str] | None = None) -> None:
        """Take those of them that are in `group` out of it; None: everybody."""
        if nicks is None:
            self._update("UPDATE sellers SET seller_group = '' WHERE seller_group = ?", [(group,)])
        else:
            statement = "UPDATE sellers SET seller_group = '' WHERE seller_group = ? AND nick = ?"
            self._update(statement, [(group, nick) for nick in nicks])

    def _update(self, statement: str, rows: Sequence[tuple[Any, ...]]) -> int:
        compiled = marked(self._database, statement)

        def work(cursor: Any) -> int:
            changed = 0
            for row in rows:
                cursor.execute(compiled, row)
                changed += cursor.rowcount
            return changed

        return self._transact(work) if rows else 0

    def _transact(self, work: Any) -> Any:
        try:
            return self._database.transact(work)
        except Refused as refused:
            raise StoreError(
                f"the store {self._database.label} refused what it was to remember of a seller: {refused}",
                remedy="report this as a defect",
            ) from refused

    # --- reading --------------------------------------------------------------------------------------

    def all(self, *, deleted: bool = False) -> list[SellerRow]:
        """By nick; with `deleted` also those that were deleted since."""
        where = "" if deleted else " WHERE deleted_at IS NULL"
        query = f"SELECT {self._columns} FROM sellers{where} ORDER BY nick"  # noqa: S608
        with reading(self._database) as cursor:
            migrations.require_current(cursor, self._database.dialect)
            cursor.execute(query)
            return [_row(row) for row in cursor.fetchall()]

    def activity(self, nicks: Iterable[str]) -> dict[str, Activity]:
        """Of each nick: two steps in an index."""
        query = marked(
            self._database,
            "SELECT published_at, landed_at FROM messages WHERE seller = ? ORDER BY published_at DESC, id DESC LIMIT 1",
        )
        found = {}
        with reading(self._database) as cursor:
            for nick in nicks:
                cursor.execute(query, (nick,))
                row = cursor.fetchone() or (None, None)
                found[nick] = Activity(nick, *row)
        return found

    def require_usable(self) -> None:
        """Open the database for writing now, so that a fault of it comes before anything is done elsewhere."""
        self._database.open()

    def close(self) -> None:
        """Close the database. Idempotent."""
        self._database.close()


def _row(values: Sequence[Any]) -> SellerRow:
    nick, user_id, topics, group, added_at, deleted_at, checked_at, is_valid = values
    valid = None if is_valid is None else bool(is_valid)
    return SellerRow(nick, user_id, tuple(topics.split()), group, added_at, deleted_at, checked_at, valid)


def _merged(opened: Opened, known: SellerRow | None, now: int) -> tuple[Any, ...]:
    """In the order of the table's columns."""
    return (
        opened.nick,
        opened.user_id,
        " ".join(opened.topics),
        "" if known is None else known.seller_group,
        now if known is None else known.added_at,
        None,
        now,
        None if opened.is_valid is None else int(opened.is_valid),
    )
