"""A seller's right to be forgotten: what the store holds of one seller goes, from every table.

A row is the seller's when its `seller` is the nick, letter by letter, or when it names no seller and its `user_id` is
one that rows of the nick carry. A dead letter is the seller's when the nick stands in it. Small transactions: a bridge
may land meanwhile, and what it lands after the purge began stays.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any, Final, TypeVar

import msgspec
from sqlalchemy import Table

from jst_bridge.errors import UndecodableError
from jst_bridge.messages import Decoder
from jst_bridge.ports import PlainDelivery
from jst_bridge.store import schema
from jst_bridge.store.database import Database
from jst_bridge.store.folding import BOOKKEEPING, Event, fold, unfold
from jst_bridge.store.plain_sql import marked, reading
from jst_bridge.store.sqlite import SqliteDatabase
from jst_bridge.store.statements import Delete, Insert, Lookup

__all__ = ["Purged", "purge", "spellings", "survey"]

_STATE: Final = (schema.trades, schema.trade_lines, schema.refunds)
_TABLES: Final = (
    schema.messages,
    *_STATE,
    schema.logistics_traces,
    schema.dead_letters,
    schema.sellers,
)
_BATCH: Final = 500
"""Rows changed in one transaction."""
_PAGE: Final = 5_000
"""Rows looked at in one statement; the state tables have no index over sellers."""
_LETTERS: Final = 16
"""Dead letters read at once: a body has up to 4 MiB."""
LOG_SECONDS: Final = 10.0
"""How long to wait for who reads a SQLite file, before giving up to empty its log."""

Row = tuple[Any, ...]
_Result = TypeVar("_Result")


class Purged(msgspec.Struct):
    """Rows per table, as far as the purge has come."""

    deleted: dict[str, int]
    rewritten: dict[str, int]
    """State rows that were folded again without the seller's old events."""
    erased: bool = True
    """False: bytes of what was deleted may still be in the log beside a SQLite file, which somebody is reading."""

    @property
    def rows(self) -> int:
        """All of them."""
        return sum(self.deleted.values()) + sum(self.rewritten.values())


Progress = Callable[[Purged], None]


def purge(
    database: Database, seller: str, before: int | None = None, progress: Progress | None = None
) -> Purged:
    """Forget `seller`, or what was published before `before` (epoch ms) of it. `progress` is called now and then.

    With `before`, state rows are folded again from what they still hold of younger events; a value that an old event
    had hidden comes back with `rebuild`. On SQLite the bytes are gone from the file and its log; servers free them
    when they vacuum (PostgreSQL) or purge (InnoDB), and keep them in their logs and backups as long as you told them
    to. Raises ValueError for an empty nick, StoreUnavailable, StoreError.
    """
    work = _Purge(database, seller, before, progress)
    work.run(_Pen(database))
    if isinstance(database, SqliteDatabase):
        work.count.erased = _truncate_log(database)
    return work.count


def survey(
    database: Database, seller: str, before: int | None = None, progress: Progress | None = None
) -> Purged:
    """What `purge` would do now. Changes nothing. Raises as `purge` does."""
    work = _Purge(database, seller, before, progress)
    work.run(None)
    return work.count


class _Pen:
    """Writes what a purge has decided, a transaction per call."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._deletes = {
            table: Delete(table.c.id, database.dialect) for table in (schema.messages, schema.dead_letters)
        }
        self._writes = {table: Insert(table, database.dialect, "replace") for table in _STATE}
        self._erases = isinstance(database, SqliteDatabase)

    def transact(self, work: Callable[[Any], _Result]) -> _Result:
        def erasing(cursor: Any) -> _Result:
            cursor.execute("PRAGMA secure_delete = ON").fetchall()
            return work(cursor)

        started = time.monotonic()
        result = self._database.transact(erasing if self._erases else work)
        time.sleep(time.monotonic() - started)  # who lands shall find the store free half of the time
        return result

    def delete_ids(self, table: Table, ids: Sequence[int]) -> int:
        return self.transact(lambda cursor: self._deletes[table].execute(cursor, ids))

    def delete_keys(self, cursor: Any, table: Table, keys: Sequence[Row]) -> None:
        by = " AND ".join(f"{column.name} = ?" for column in table.primary_key.columns)
        statement = marked(self._database, f"DELETE FROM {table.name} WHERE {by}")  # noqa: S608
        for key in keys:
            cursor.execute(statement, key)

    def rewrite(self, cursor: Any, table: Table, rows: Sequence[Row]) -> None:
        self._writes[table].execute(cursor, rows)


class _Purge:
    """One purge, or with no pen the counting of one."""

    def __init__(
        self, database: Database, seller: str, before: int | None, progress: Progress | None
    ) -> None:
        if not seller:
            raise ValueError("the nick is empty")
        self.count = Purged(
            {str(table.name): 0 for table in _TABLES},
            {str(table.name): 0 for table in _STATE if before is not None},
        )
        self._database = database
        self._seller = seller
        self._before = before
        self._until = 2**63 - 1 if before is None else before - 1
        self._progress = progress
        self._newest = 0
        """The last message that had landed when the purge began."""
        self._user_ids: set[str] = set()
        messages = schema.messages.c
        self._messages = Lookup(
            [messages.message_key, messages.id, messages.published_at], messages.message_key, database.dialect
        )

    def run(self, pen: _Pen | None) -> None:
        with reading(self._database) as cursor:
            cursor.execute("SELECT max(id) FROM messages")
            self._newest = cursor.fetchone()[0] or 0
            self._user_ids = self._find_user_ids(cursor)
            self._forget_letters(cursor, pen)
            self._forget_traces(cursor, pen)
            for table in _STATE:
                self._forget_state(cursor, table, pen)
            if self._before is None:
                self._forget_seller(cursor, pen)
            # Last, and those with the nick at the very end: begun again after a stop, it finds the user ids in them.
            self._forget_messages(cursor, pen)

    # --- what is the seller's -----------------------------------------------------------------------

    def _find_user_ids(self, cursor: Any) -> set[str]:
        """Of the nick, as any table has them: the messages that carried them may have been pruned."""
        self._execute(cursor, "SELECT DISTINCT seller, user_id FROM messages WHERE seller = ?", self._seller)
        found = set(cursor.fetchall())
        self._execute(cursor, "SELECT nick, user_id FROM sellers WHERE nick = ?", self._seller)
        found.update(cursor.fetchall())
        for table in (*_STATE, schema.logistics_traces):
            for low, high in self._pages(cursor, table):
                key = table.columns[0].name
                query = f"SELECT DISTINCT seller, user_id FROM {table.name}"  # noqa: S608
                query += f" WHERE {key} > ? AND {key} <= ? AND seller = ?"
                self._execute(cursor, query, low, high, self._seller)
                found.update(cursor.fetchall())
        # MySQL takes a name for equal to the same with blanks behind it.
        return {user_id for seller, user_id in found if seller == self._seller} - {"", "0"}

    def _owns(self, seller: str | None, user_id: str | None) -> bool:
        return seller == self._seller or (not seller and user_id in self._user_ids)

    def _pages(self, cursor: Any, table: Table) -> Iterator[tuple[str, str]]:
        """The first column of the primary key in ranges, (from, to], of some thousand rows."""
        key, low = table.columns[0].name, ""
        query = (
            f"SELECT max({key}) FROM"  # noqa: S608
            f" (SELECT {key} FROM {table.name} WHERE {key} > ? ORDER BY {key} LIMIT {_PAGE}) AS page"
        )
        while True:
            self._execute(cursor, query, low)
            high = cursor.fetchone()[0]
            if high is None:
                return
            yield low, high
            low = high

    def _keys(self, cursor: Any, table: Table) -> Iterator[list[str]]:
        """The first column of the primary keys of the seller's rows, some at a time."""
        key, ids = table.columns[0].name, sorted(self._user_ids)
        unnamed = f" OR (seller = '' AND user_id IN ({', '.join('?' * len(ids))}))" if ids else ""
        query = f"SELECT DISTINCT {key} FROM {table.name} WHERE {key} > ? AND {key} <= ? AND (seller = ?{unnamed})"  # noqa: S608
        for low, high in self._pages(cursor, table):
            self._execute(cursor, query, low, high, self._seller, *ids)
            found = [row[0] for row in cursor.fetchall()]
            for start in range(0, len(found), _BATCH):
                yield found[start : start + _BATCH]

    def _execute(self, cursor: Any, statement: str, *values: Any) -> None:
        cursor.execute(marked(self._database, statement), values)

    def _add(self, count: dict[str, int], table: Table, rows: int) -> None:
        count[table.name] += rows
        if self._progress is not None:
            self._progress(self.count)

    # --- messages -----------------------------------------------------------------------------------

    def _forget_messages(self, cursor: Any, pen: _Pen | None) -> None:
        for named in ("", self._seller):
            for ids in self._message_ids(cursor, named) if named or self._user_ids else ():
                gone = pen.delete_ids(schema.messages, ids) if pen is not None and ids else len(ids)
                self._add(self.count.deleted, schema.messages, gone)

    def _message_ids(self, cursor: Any, named: str) -> Iterator[list[int]]:
        """Ids of the seller's messages with `named` in their column `seller`, along its index."""
        query = (
            "SELECT id, seller, user_id, published_at FROM messages"
            " WHERE seller = ? AND published_at >= ? AND (published_at > ? OR id > ?) AND published_at <= ?"
            " ORDER BY published_at, id LIMIT ?"
        )
        at, last = -(2**63), 0
        while True:
            self._execute(cursor, query, named, at, at, last, self._until, _BATCH)
            rows = cursor.fetchall()
            if not rows:
                return
            yield [
                id_ for id_, seller, user_id, _ in rows if id_ <= self._newest and self._owns(seller, user_id)
            ]
            last, at = rows[-1][0], rows[-1][-1]

    def _staying(self, cursor: Any, keys: set[str]) -> set[str]:
        """Those of the message keys whose messages are not forgotten."""
        found = self._messages.rows(cursor, sorted(keys)) if keys else []
        return {key for key, id_, at in found if id_ > self._newest or self._is_young(at)}

    def _is_young(self, published_at: int) -> bool:
        return self._before is not None and published_at >= self._before

    # --- state --------------------------------------------------------------------------------------

    def _forget_state(self, cursor: Any, table: Table, pen: _Pen | None) -> None:
        columns, width = table.columns, len(table.primary_key.columns)
        lookup = Lookup(columns, columns[0], self._database.dialect, lock=pen is not None)

        def work(cursor: Any, keys: Sequence[str]) -> tuple[list[Row], list[Row]]:
            gone, changed = self._refold(cursor, table, lookup.rows(cursor, keys))
            if pen is not None:
                pen.delete_keys(cursor, table, [row[:width] for row in gone])
                pen.rewrite(cursor, table, changed)
            return gone, changed

        for keys in self._keys(cursor, table):
            if pen is None:
                gone, changed = work(cursor, keys)
            else:
                gone, changed = pen.transact(lambda cursor, keys=keys: work(cursor, keys))  # type: ignore[misc]
            self._add(self.count.deleted, table, len(gone))
            if changed:
                self._add(self.count.rewritten, table, len(changed))

    def _refold(self, cursor: Any, table: Table, rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
        """Of some rows the seller's ones that go, and those that change, as they are to be then."""
        fields, width = schema.fields_of(table), len(table.primary_key.columns)
        at = width + len(BOOKKEEPING)  # seller and user_id lead the fields
        held: list[tuple[Row, list[Event]]] = []
        for row in rows:
            seller, user_id = row[at : at + 2]
            if self._owns(seller, user_id):
                said = (*row[width:at], seller or None, user_id or None, *row[at + 2 :])
                held.append((row, unfold(said, fields)))
        staying = self._staying(cursor, {event[2] for _, events in held for event in events})
        gone, changed = [], []
        for row, events in held:
            # An event of time 0 is the weak part of a message, whose own time another one may tell.
            times = {key: time for time, _, key, _ in sorted(events, key=lambda event: event[0])}
            kept = [event for event in events if event[2] in staying or self._is_young(times[event[2]])]
            if not kept:
                gone.append(row)
            elif len(kept) < len(events):
                folded = fold(kept, fields)
                lead = len(BOOKKEEPING)
                named = (folded[lead] or "", folded[lead + 1] or "")
                changed.append((*row[:width], *folded[:lead], *named, *folded[lead + 2 :]))
        return gone, changed

    def _forget_traces(self, cursor: Any, pen: _Pen | None) -> None:
        table = schema.logistics_traces
        columns = table.c.message_key, table.c.seller, table.c.user_id, table.c.published_at
        lookup = Lookup(columns, table.c.message_key, self._database.dialect)
        for keys in self._keys(cursor, table):
            staying = self._staying(cursor, set(keys))
            gone = [
                (key,)
                for key, seller, user_id, at in lookup.rows(cursor, keys)
                if self._owns(seller, user_id) and key not in staying and not self._is_young(at)
            ]

            def work(cursor: Any, gone: list[tuple[str]] = gone) -> int:
                if pen is not None:
                    pen.delete_keys(cursor, table, gone)
                return len(gone)

            self._add(self.count.deleted, table, pen.transact(work) if pen is not None else len(gone))

    def _forget_seller(self, cursor: Any, pen: _Pen | None) -> None:
        table = schema.sellers
        self._execute(cursor, "SELECT nick FROM sellers WHERE nick = ?", self._seller)
        known = [row for row in cursor.fetchall() if row[0] == self._seller]
        if pen is not None and known:
            pen.transact(lambda cursor: pen.delete_keys(cursor, table, known))
        self._add(self.count.deleted, table, len(known))

    # --- dead letters -------------------------------------------------------------------------------

    def _forget_letters(self, cursor: Any, pen: _Pen | None) -> None:
        names = spellings(self._seller)
        query = (
            "SELECT id, source, tag, keys_, detail, outcome_note, transport_id, origin_id, born_at, body"
            " FROM dead_letters WHERE id > ? AND born_at <= ? ORDER BY id LIMIT ?"
        )
        last = 0
        while True:
            self._execute(cursor, query, last, self._until, _LETTERS)
            rows = cursor.fetchall()
            if not rows:
                return
            last = rows[-1][0]
            ids = [row[0] for row in rows if self._is_named(names, row)]
            gone = pen.delete_ids(schema.dead_letters, ids) if pen is not None and ids else len(ids)
            self._add(self.count.deleted, schema.dead_letters, gone)

    def _is_named(self, names: re.Pattern[bytes], letter: Row) -> bool:
        _, source, tag, keys, detail, note, transport_id, origin_id, born_at, body = letter
        words = "\n".join((tag, keys, detail, note or "")).encode()
        if names.search(body) or names.search(words):
            return True
        with contextlib.suppress(
            UndecodableError
        ):  # one that the store refused, or was replayed, can be read
            message = Decoder(source, "0").decode(
                PlainDelivery(bytes(body), tag, keys, transport_id, origin_id, 0, born_at)
            )
            return self._owns(message.seller, message.user_id)
        return False


def spellings(nick: str) -> re.Pattern[bytes]:
    r"""Finds `nick` in bytes: as UTF-8, GBK or JSON's \u escapes (escaped once more in a string in a string), also
    mixed; not where it is a part of a longer name.
    """
    letters = b"".join(b"(?:%s)" % b"|".join(_ways(letter)) for letter in nick)
    # An escape from \u0000 to \u007f is a quote or a comma: encoders escape no letter of ASCII.
    begin = rb"(?:(?<![0-9A-Za-z_\x80-\xff])|(?<=\\u00[0-7][0-9A-Fa-f]))"
    return re.compile(begin + letters + rb"(?![0-9A-Za-z_\x80-\xff]|\\+u(?!00[0-7]))")


def _ways(letter: str) -> Iterator[bytes]:
    units = letter.encode("utf-16-be", "surrogatepass")
    for encoding in ("utf-8", "gb18030"):
        with contextlib.suppress(UnicodeEncodeError):
            yield rb"\\*" * (letter in '"\\/') + re.escape(letter.encode(encoding))
    yield b"".join(rb"\\+u(?i:%s)" % units[n : n + 2].hex().encode() for n in range(0, len(units), 2))


def _truncate_log(database: SqliteDatabase) -> bool:
    """Move everything from the write-ahead log into the file and empty the log. False: a reader holds on to it."""
    try:
        with closing(sqlite3.connect(database.path, timeout=LOG_SECONDS, isolation_level=None)) as connection:
            busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    except sqlite3.Error as error:
        raise database.fault(error) from error
    return not busy
