"""Questions to the store, read-only: what the CLI and `status` show. Rows carry the names of the columns."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any, Final, TypeVar

import msgspec
from sqlalchemy import ColumnElement, Connection, Select, create_engine, desc, func, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import StaticPool

from jst_bridge.errors import StoreError
from jst_bridge.ports import QueueKey
from jst_bridge.store import migrations, schema
from jst_bridge.store.database import Database
from jst_bridge.store.lifecycle import topic_rank

__all__ = [
    "TOPICS_OF",
    "GapRow",
    "LineRow",
    "MessageRow",
    "Reader",
    "RefundRow",
    "SellerCount",
    "StoreCounts",
    "Timeline",
    "TraceRow",
    "TradeRow",
]


class MessageRow(msgspec.Struct, frozen=True):
    """A row of `messages`; `body` is what was published, byte by byte."""

    id: int
    message_key: str
    source: str
    topic: str
    seller: str
    user_id: str
    tid: str | None
    oid: str | None
    refund_id: str | None
    num_iid: str | None
    published_at: int
    published_from: str
    born_at: int
    landed_at: int
    body: bytes


class TradeRow(msgspec.Struct, frozen=True):
    """A row of `trades`; `topic` and `published_at` are of its newest event. Money is decimal text."""

    tid: str
    seller: str
    user_id: str
    status: str | None
    topic: str
    type: str | None
    buyer_nick: str | None
    buyer_open_uid: str | None
    payment: str | None
    post_fee: str | None
    seller_memo: str | None
    seller_flag: int | None
    published_at: int


class LineRow(msgspec.Struct, frozen=True):
    """A row of `trade_lines`."""

    tid: str
    oid: str
    seller: str
    user_id: str
    status: str | None
    topic: str
    payment: str | None
    num_iid: str | None
    sku_id: str | None
    published_at: int


class RefundRow(msgspec.Struct, frozen=True):
    """A row of `refunds`; `topic` is the state of the refund."""

    refund_id: str
    tid: str | None
    oid: str | None
    seller: str
    user_id: str
    topic: str
    refund_fee: str | None
    refund_phase: str | None
    bill_type: str | None
    buyer_nick: str | None
    buyer_open_uid: str | None
    modified_at: int | None
    published_at: int


class TraceRow(msgspec.Struct, frozen=True):
    """A row of `logistics_traces`."""

    message_key: str
    tid: str
    out_sid: str | None
    company_name: str | None
    action: str | None
    description: str | None
    traced_at: int | None
    seller: str
    user_id: str
    published_at: int


class GapRow(msgspec.Struct, frozen=True):
    """A row of `gaps`: offsets, both included, that were never landed."""

    id: int
    source: str
    consumer_group: str
    instance: str
    broker: str
    system_topic: str
    queue_id: int
    first_offset: int
    last_offset: int
    reason: str
    noted_at: int


class Timeline(msgspec.Struct, frozen=True):
    """One order: its state, and every message about it in time order."""

    tid: str
    trade: TradeRow | None
    lines: list[LineRow]
    refunds: list[RefundRow]
    traces: list[TraceRow]
    events: list[MessageRow]


class SellerCount(msgspec.Struct, frozen=True):
    """What the store holds of one seller, and when its newest message was published and landed."""

    seller: str
    messages: int
    last_published_at: int
    last_landed_at: int


class StoreCounts(msgspec.Struct, frozen=True):
    """What the store holds. `oldest`, `newest`: published_at, None when it is empty."""

    messages: int
    topics: dict[str, int]
    """Of the newest TOPICS_OF messages: those of all would take minutes in a large store."""
    sellers: list[SellerCount]
    """Those with the most messages, the most first."""
    dead_letters: int
    """Those that nobody has replayed or dropped yet."""
    dead_reasons: dict[str, int]
    oldest: int | None
    newest: int | None


_TABLES: Final[dict[type[msgspec.Struct], Any]] = {
    MessageRow: schema.messages,
    TradeRow: schema.trades,
    LineRow: schema.trade_lines,
    RefundRow: schema.refunds,
    TraceRow: schema.logistics_traces,
    GapRow: schema.gaps,
}

_ENGINES: Final = {
    "sqlite": "sqlite://",
    "postgresql": "postgresql+psycopg://",
    "mysql": "mysql+pymysql://",
}

TOPICS_OF: Final = 100_000

_Row = TypeVar("_Row", bound=msgspec.Struct)


class Reader:
    """A read-only connection to the store; a context manager. Methods raise StoreUnavailable or StoreError."""

    def __init__(self, database: Database) -> None:
        self._database = database
        dialect = _ENGINES[database.dialect.name]
        self._engine = create_engine(dialect, creator=database.connect_reading, poolclass=StaticPool)
        try:
            with self._reading() as connection:
                migrations.require_current(connection.connection.cursor(), database.dialect)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def messages(
        self,
        *,
        seller: str | None = None,
        topic: str | None = None,
        tid: str | None = None,
        since: int | None = None,
        limit: int = 100,
    ) -> list[MessageRow]:
        """The newest messages first. `topic`: a pattern with * and ?; `since`: published_at, epoch ms."""
        columns = schema.messages.c
        # Sorting ids alone keeps the bodies out of the sort, and inside an index where one fits.
        newest = select(columns.id).order_by(desc(columns.published_at), desc(columns.id)).limit(limit)
        if seller is not None:
            newest = newest.where(*_equals(columns.seller, seller, self._database.dialect.name))
        if tid is not None:
            newest = newest.where(columns.tid == tid)
        if since is not None:
            newest = newest.where(columns.published_at >= since)
        if topic is not None:
            newest = newest.where(_matches(columns.topic, topic, self._database.dialect.name))
        ids = newest.subquery("newest")
        query = _select(MessageRow).join(ids, ids.c.id == columns.id)
        with self._reading() as connection:
            return _rows(connection, query.order_by(desc(columns.published_at), desc(columns.id)), MessageRow)

    def timeline(self, tid: str) -> Timeline:
        """Everything about one order; its events by published_at, then life-cycle rank, then key."""
        with self._reading() as connection:
            trades = _of_order(connection, TradeRow, tid)
            return Timeline(
                tid=tid,
                trade=trades[0] if trades else None,
                lines=sorted(_of_order(connection, LineRow, tid), key=lambda line: line.oid),
                refunds=sorted(_of_order(connection, RefundRow, tid), key=lambda row: row.refund_id),
                traces=sorted(
                    _of_order(connection, TraceRow, tid),
                    key=lambda trace: (trace.traced_at or trace.published_at, trace.message_key),
                ),
                events=sorted(
                    _of_order(connection, MessageRow, tid),
                    key=lambda row: (row.published_at, topic_rank(row.topic), row.message_key),
                ),
            )

    def counts(self, sellers: int = 20) -> StoreCounts:
        """What the store holds; of the sellers, those with the most messages. Reads one index whole, no bodies."""
        message, letter = schema.messages.c, schema.dead_letters.c
        total = func.count().label("total")
        newest = select(message.topic).order_by(desc(message.id)).limit(TOPICS_OF).subquery("newest")
        published = (func.min(message.published_at), func.max(message.published_at))
        with self._reading() as connection:
            by_seller = connection.execute(
                select(message.seller, total, *published).group_by(message.seller).order_by(desc("total"))
            ).all()
            topics = connection.execute(
                select(newest.c.topic, total).group_by(newest.c.topic).order_by(desc("total"))
            ).all()
            reasons = connection.execute(
                select(letter.reason, total)
                .where(letter.outcome == "open")
                .group_by(letter.reason)
                .order_by(desc("total"))
            ).all()
            most = [
                SellerCount(seller, count, last, _landed_at(connection, seller))
                for seller, count, _, last in by_seller[:sellers]
            ]
        return StoreCounts(
            messages=sum(row[1] for row in by_seller),
            topics={row[0]: row[1] for row in topics},
            sellers=most,
            dead_letters=sum(row[1] for row in reasons),
            dead_reasons={row[0]: row[1] for row in reasons},
            oldest=min((row[2] for row in by_seller), default=None),
            newest=max((row[3] for row in by_seller), default=None),
        )

    def rows(self, query: Select[Any]) -> list[Any]:
        """What another question finds, over the tables of `schema`."""
        with self._reading() as connection:
            return list(connection.execute(query).all())

    def gaps(self) -> list[GapRow]:
        """All gaps, the oldest first."""
        with self._reading() as connection:
            return _rows(connection, _select(GapRow).order_by(schema.gaps.c.id), GapRow)

    def all_positions(self) -> dict[QueueKey, int]:
        """The next offset of every queue of every source and consumer group."""
        columns = schema.positions.primary_key.columns
        query = select(*columns, schema.positions.c.next_offset).order_by(*columns)
        with self._reading() as connection:
            return {QueueKey(*row[:-1]): row[-1] for row in connection.execute(query)}

    def close(self) -> None:
        """Close the connection. Idempotent."""
        self._engine.dispose()

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        """One connection in one read transaction: all answers are of the same moment."""
        try:
            with self._engine.connect() as connection:
                for statement in self._database.snapshot:
                    connection.exec_driver_sql(statement)
                yield connection
        except StoreError:
            raise
        except DBAPIError as error:
            raise self._database.fault(error.orig or error) from error
        except Exception as error:
            raise self._database.fault(error) from error


def _select(row: type[_Row]) -> Select[Any]:
    columns = _TABLES[row].c
    return select(*(columns[name] for name in row.__struct_fields__))


def _equals(column: Any, text: str, dialect_name: str) -> Iterator[ColumnElement[bool]]:
    """MySQL's = takes a text for equal to the same with blanks behind it; as long as it, it is the same."""
    yield column == text
    if dialect_name == "mysql":
        yield func.octet_length(column) == len(text.encode())


def _matches(column: Any, pattern: str, dialect_name: str) -> ColumnElement[bool]:
    """`pattern` with * and ?, byte by byte: SQLite's LIKE alone does not tell a from A."""
    if dialect_name == "sqlite":
        matches: ColumnElement[bool] = column.op("GLOB")(pattern.replace("[", "[[]"))
        return matches
    escaped = re.sub(r"[!%_]", lambda sign: f"!{sign[0]}", pattern)
    like: ColumnElement[bool] = column.like(escaped.replace("*", "%").replace("?", "_"), escape="!")
    return like


def _rows(connection: Connection, query: Select[Any], row: type[_Row]) -> list[_Row]:
    """Money comes as Decimal from servers and as text from SQLite: here it is text."""
    return [
        row(*(str(value) if type(value) is Decimal else value for value in values))
        for values in connection.execute(query)
    ]


def _of_order(connection: Connection, row: type[_Row], tid: str) -> list[_Row]:
    return _rows(connection, _select(row).where(_TABLES[row].c.tid == tid), row)


def _landed_at(connection: Connection, seller: str) -> int:
    """When the newest message of `seller` landed: one step in an index."""
    columns = schema.messages.c
    newest = select(columns.landed_at).where(columns.seller == seller)
    return int(connection.execute(newest.order_by(desc(columns.published_at)).limit(1)).scalar_one())
