"""What the state rows of some keys have to be by today's code, what they are, and how the one becomes the other."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any, ClassVar, Final, Literal, NamedTuple

import msgspec
from sqlalchemy import Table

from jst_bridge.errors import UndecodableError
from jst_bridge.messages import Decoder
from jst_bridge.messages.families import Content, Dispute, LogisticsTrace, Refund, Trade, content_type
from jst_bridge.ports import Message, PlainDelivery
from jst_bridge.store import schema
from jst_bridge.store.database import Database
from jst_bridge.store.events import Events
from jst_bridge.store.filing import Filing
from jst_bridge.store.folding import Event, Row, fold, unfold
from jst_bridge.store.landing import StateTable
from jst_bridge.store.plain_sql import marked
from jst_bridge.store.statements import Insert, Lookup

__all__ = ["PAGE", "Change", "Comparison", "Orders", "Part", "Refunds", "plain"]

log = logging.getLogger(__name__)

PAGE: Final = 300
"""Keys in one transaction: some thousand messages, a tenth of a second."""
_AT_ONCE: Final = (200, 20, 1)
"""Messages in one statement, with their bodies."""

Key = tuple[str, ...]


class Change(NamedTuple):
    """A row that has to be another one. `was` and `becomes` are without the key columns; None: no row."""

    table: Table
    key: Key
    owner: str
    """The tid or refund_id under which it was met."""
    was: Row | None
    becomes: Row | None


class Comparison(msgspec.Struct):
    """State rows of some keys against their messages."""

    checked: dict[str, int] = msgspec.field(default_factory=dict)
    """Rows per table that are there or have to be."""
    changes: list[Change] = msgspec.field(default_factory=list)
    passed: int = 0
    """Messages of these keys."""
    decoded: int = 0
    undecodable: list[str] = msgspec.field(default_factory=list)
    """The keys of messages that today's code cannot decode."""


class Part(ABC):
    """The state tables that are kept by one kind of key."""

    step: ClassVar[Literal["orders", "refunds"]]
    kind: ClassVar[Literal["tid", "refund_id"]]
    contents: ClassVar[tuple[type[Content], ...]]
    """What its messages contain."""

    def __init__(self, database: Database, filing: Filing, *tables: Table) -> None:
        self.filing = filing
        self._folded = [StateTable(table, database) for table in tables]
        self._messages = _StoredMessages(database)
        self._removals = {
            table.name: _removal(table, database) for table in (*tables, schema.logistics_traces)
        }

    @abstractmethod
    def count(self, cursor: Any) -> int:
        """How many messages there are to pass, about."""

    @abstractmethod
    def keys(self, cursor: Any, after: str) -> list[str]:
        """The next PAGE keys, in order: those of messages and those of state rows."""

    @abstractmethod
    def compare(self, cursor: Any, keys: Sequence[str], *, lock: bool) -> Comparison:
        """Fold the messages of `keys` anew, and compare. With `lock` the rows stay so until the transaction ends."""

    def write(self, cursor: Any, changes: Sequence[Change]) -> None:
        """Make the changes that `compare` found in this transaction, with locks."""
        for change in changes:
            if change.becomes is None:
                cursor.execute(self._removals[change.table.name], change.key)
        for table in self._folded:
            held: dict[Key, Row] = {}
            begun: dict[Key, Row] = {}
            for change in changes:
                if change.table is table.table and change.becomes is not None:
                    (begun if change.was is None else held)[change.key] = change.becomes
            table.write(cursor, held, begun)

    def _compare_folded(
        self, table: StateTable, held: dict[Key, Row], events: dict[Key, list[Event]], gone: set[str]
    ) -> Iterator[Change]:
        """`gone`: the keys of the messages whose say is known from the rows only."""
        for key in sorted(held.keys() | events.keys()):
            row, said = held.get(key), events.get(key, [])
            if row is not None and gone:
                said = said + [event for event in _unfolded(row, table.fields) if event[2] in gone]
            becomes = fold(said, table.fields) if said else None
            if _differ(row, becomes):
                yield Change(table.table, key, key[0], row, becomes)


class Orders(Part):
    """trades, trade_lines and logistics_traces, by tid. Messages are found by the index on theirs."""

    step = "orders"
    kind = "tid"
    contents = (Trade, LogisticsTrace)

    def __init__(self, database: Database, filing: Filing) -> None:
        super().__init__(database, filing, schema.trades, schema.trade_lines)
        dialect, traces = database.dialect, schema.logistics_traces
        tables = ("messages", "trades", "trade_lines", "logistics_traces")
        self._pages = [_page(table, "tid", database) for table in tables]
        self._numbers = Lookup([schema.messages.c.id], schema.messages.c.tid, dialect)
        self._traces = Lookup(traces.columns, traces.c.tid, dialect)
        self._write_traces = Insert(traces, dialect, "replace")

    def count(self, cursor: Any) -> int:
        cursor.execute("SELECT count(tid) FROM messages")
        return int(cursor.fetchone()[0])

    def keys(self, cursor: Any, after: str) -> list[str]:
        return _merged([_column(cursor, page, after) for page in self._pages])

    def compare(self, cursor: Any, keys: Sequence[str], *, lock: bool) -> Comparison:
        trades, lines = self._folded
        found = Comparison()
        held, held_lines = trades.held(cursor, keys, lock=lock), lines.held(cursor, keys, lock=lock)
        traces = {row[:1]: row[1:] for row in self._traces.rows(cursor, keys)}
        numbers = [number for (number,) in self._numbers.rows(cursor, keys)]
        events, known = self._messages.events(cursor, numbers, self, found)
        said = _sources(held, trades.fields) | _sources(held_lines, lines.fields) | {key for (key,) in traces}
        gone = self._messages.missing(cursor, said - known).union(found.undecodable)
        found.changes += self._compare_folded(trades, held, events.trades, gone)
        found.changes += self._compare_folded(lines, held_lines, events.lines, gone)
        new = {row[:1]: row[1:] for row in events.traces}
        for key in sorted(traces.keys() | new.keys()):
            row = traces.get(key)
            becomes = row if key[0] in gone else new.get(key)
            if _differ(row, becomes):
                tid = (becomes or row or ("",))[0]  # where it belongs: there it will be found again
                found.changes.append(Change(schema.logistics_traces, key, tid, row, becomes))
        found.checked = {
            "trades": len(held.keys() | events.trades.keys()),
            "trade_lines": len(held_lines.keys() | events.lines.keys()),
            "logistics_traces": len(traces.keys() | new.keys()),
        }
        return found

    def write(self, cursor: Any, changes: Sequence[Change]) -> None:
        super().write(cursor, changes)
        new = [
            (*change.key, *change.becomes)
            for change in changes
            if change.table is schema.logistics_traces and change.becomes is not None
        ]
        # Whoever inserts a trace at the same time inserts the same one.
        self._write_traces.execute(cursor, new)


class Refunds(Part):
    """refunds, by refund_id. The filing knows their messages."""

    step = "refunds"
    kind = "refund_id"
    contents = (Refund, Dispute)

    def __init__(self, database: Database, filing: Filing) -> None:
        super().__init__(database, filing, schema.refunds)
        self._page = _page("refunds", "refund_id", database)

    def count(self, cursor: Any) -> int:
        return self.filing.count_filed()

    def keys(self, cursor: Any, after: str) -> list[str]:
        return _merged([_column(cursor, self._page, after), self.filing.refunds(after, PAGE)])

    def compare(self, cursor: Any, keys: Sequence[str], *, lock: bool) -> Comparison:
        [refunds] = self._folded
        found = Comparison()
        held = refunds.held(cursor, keys, lock=lock)
        while self.filing.catch_up(
            cursor
        ):  # after the locks: a landing that still waits there comes after us
            pass
        events, known = self._messages.events(cursor, self.filing.messages(keys), self, found)
        gone = self._messages.missing(cursor, _sources(held, refunds.fields) - known).union(found.undecodable)
        found.changes += self._compare_folded(refunds, held, events.refunds, gone)
        found.checked = {"refunds": len(held.keys() | events.refunds.keys())}
        return found


class _StoredMessages:
    """Reads `messages` and decodes their bodies again."""

    def __init__(self, database: Database) -> None:
        at, dialect = schema.messages.c, database.dialect
        query = "SELECT message_key, source, topic, tid, refund_id, born_at, body FROM messages WHERE id IN"
        self._statements = [
            (size, marked(database, f"{query} ({', '.join('?' * size)})")) for size in _AT_ONCE
        ]
        self._known = Lookup([at.message_key], at.message_key, dialect)
        self._decoders: dict[str, Decoder] = {}

    def events(
        self, cursor: Any, numbers: Sequence[int], part: Part, found: Comparison
    ) -> tuple[Events, set[str]]:
        """What the messages with these ids say of the tables of `part`; and the keys of all of them."""
        events, known = Events(), set()
        for key, source, topic, tid, refund_id, born_at, body in self._rows(cursor, numbers):
            known.add(key)
            if not issubclass(_content(topic), part.contents):
                continue
            message = self._decoded(key, source, PlainDelivery(body, topic, "", "", "", 0, born_at))
            if message is None:
                found.undecodable.append(key)
                continue
            # It stays with the order or refund it landed under, where `messages` is searched for it.
            if part.kind == "tid":
                message.tid = tid
            else:
                message.refund_id = refund_id
            events.add(message, key)
            found.decoded += 1
        found.passed = len(numbers)
        return events, known

    def missing(self, cursor: Any, keys: set[str]) -> set[str]:
        """Those of the message keys that `messages` does not hold."""
        return keys.difference(key for (key,) in self._known.rows(cursor, sorted(keys)))

    def _rows(self, cursor: Any, numbers: Sequence[int]) -> Iterator[tuple[Any, ...]]:
        numbers = sorted(numbers)
        start, count = 0, len(numbers)
        for size, statement in self._statements:
            while count - start >= size:
                cursor.execute(statement, tuple(numbers[start : start + size]))
                yield from cursor.fetchall()
                start += size

    def _decoded(self, key: str, source: str, delivery: PlainDelivery) -> Message | None:
        decoder = self._decoders.get(source)
        if decoder is None:
            decoder = self._decoders[source] = Decoder(source, "0")  # the key is that of the row
        try:
            return decoder.decode(delivery)
        except UndecodableError:
            return None
        except Exception:
            log.exception("decode_failed: a defect; what message %s said before stays", key)
            return None


def plain(value: Any) -> Any:
    """Money of servers as SQLite has it, for comparing: digits."""
    return str(value) if isinstance(value, Decimal) else value


def _differ(row: Row | None, becomes: Row | None) -> bool:
    if row == becomes:
        return False
    if row is None or becomes is None:
        return True
    return [plain(value) for value in row] != [plain(value) for value in becomes]


def _sources(held: dict[Key, Row], fields: Sequence[str]) -> set[str]:
    """The keys of the messages that the rows have their values from."""
    keys = {row[2] for row in held.values()}
    for row in held.values():
        if row[3]:
            keys.update(event[2] for event in _unfolded(row, fields))
    return keys


def _unfolded(row: Row, fields: Sequence[str]) -> list[Event]:
    try:
        return unfold(row, fields)
    except ValueError:  # whoever wrote into `older`: the newest message counts as having said it all
        return unfold((*row[:3], "", *row[4:]), fields)


@lru_cache(maxsize=4096)
def _content(topic: str) -> type[Content]:
    return content_type(topic)


def _page(table: str, key: str, database: Database) -> str:
    query = f"SELECT DISTINCT {key} FROM {table} WHERE {key} > ? ORDER BY {key} LIMIT {PAGE}"  # noqa: S608
    return marked(database, query)


def _removal(table: Table, database: Database) -> str:
    key = " AND ".join(f"{column.name} = ?" for column in table.primary_key.columns)
    return marked(database, f"DELETE FROM {table.name} WHERE {key}")  # noqa: S608


def _column(cursor: Any, statement: str, after: str) -> list[str]:
    cursor.execute(statement, (after,))
    return [value for (value,) in cursor.fetchall()]


def _merged(pages: Sequence[list[str]]) -> list[str]:
    return sorted(set().union(*pages))[:PAGE]
