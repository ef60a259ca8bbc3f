"""The tables of the store, once, for every database. Users write SQL against these columns.

Ids are ASCII decimal text (19 digits exceed 2^53 and may exceed 2^63). Instants are epoch milliseconds UTC;
the views `v_<table>` show them as Beijing time. Money is yuan with two decimals: DECIMAL(18,2), and on SQLite,
which has no decimal, the same digits as TEXT. Strings compare byte by byte. No column is named by a word
that PostgreSQL or MySQL reserves. NULL means "no message said so"; `seller` and `user_id` are '' then.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    String,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.types import TypeEngine

from jst_bridge.store.folding import BOOKKEEPING

__all__ = [
    "METADATA",
    "dead_letters",
    "fields_of",
    "gaps",
    "leases",
    "logistics_traces",
    "messages",
    "positions",
    "refunds",
    "schema_migrations",
    "sellers",
    "trade_lines",
    "trades",
]

METADATA = MetaData()

_MONEY = Numeric(18, 2).with_variant(Text(), "sqlite")
_BODY = LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql", "mariadb")
_SERIAL = BigInteger().with_variant(Integer(), "sqlite")  # SQLite numbers INTEGER keys only
_LONG_TEXT = (
    Text()
    .with_variant(Text(collation="C"), "postgresql")
    .with_variant(mysql.MEDIUMTEXT(), "mysql", "mariadb")
)


def _words(length: int) -> TypeEngine[Any]:
    return String(length).with_variant(String(length, collation="C"), "postgresql")


def _id(name: str, **options: Any) -> Column[Any]:
    return Column(name, _words(32), **options)


def _key(name: str = "message_key", **options: Any) -> Column[Any]:
    return Column(name, _words(128), nullable=False, **options)


def _instant(name: str, *, nullable: bool = False) -> Column[Any]:
    return Column(name, BigInteger, nullable=nullable, info={"instant": True})


def _seller() -> tuple[Column[Any], Column[Any]]:
    return Column("seller", _words(128), nullable=False), _id("user_id", nullable=False)


def _topic() -> Column[Any]:
    return Column("topic", _words(128), nullable=False)


def _bookkeeping() -> tuple[Column[Any], ...]:
    """The columns of `folding.BOOKKEEPING`: the order of the newest event, and who set the rest."""
    return (
        _instant("published_at"),
        Column("order_rank", Integer, nullable=False),
        _key(),
        Column("older", _LONG_TEXT, nullable=False),
    )


def _queue(*, primary_key: bool = False) -> tuple[Column[Any], ...]:
    """The columns of `ports.QueueKey`; the lengths are RocketMQ's, and fit an index of MySQL together."""
    lengths = {"source": 64, "consumer_group": 255, "instance": 64, "broker": 100, "system_topic": 270}
    columns = [
        Column(name, _words(length), nullable=False, primary_key=primary_key)
        for name, length in lengths.items()
    ]
    return *columns, Column("queue_id", Integer, nullable=False, primary_key=primary_key, autoincrement=False)


def _table(name: str, *columns: Any, **options: Any) -> Table:
    """A table; with a text primary key it is, on SQLite, one B-tree instead of two."""
    return Table(
        name,
        METADATA,
        *columns,
        mysql_engine="InnoDB",
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
        **options,
    )


messages = _table(
    "messages",
    Column("id", _SERIAL, primary_key=True),
    _key(unique=True),
    Column("source", _words(64), nullable=False),
    _topic(),
    *_seller(),
    _id("tid"),
    _id("oid"),
    _id("refund_id"),
    _id("num_iid"),
    _instant("published_at"),
    Column("published_from", _words(16), nullable=False),
    _instant("born_at"),
    _instant("landed_at"),
    Column("body_hash", BigInteger, nullable=False),
    Column("body", _BODY, nullable=False),
    Index("messages_seller", "seller", "published_at"),
    Index("messages_tid", "tid"),
    Index("messages_landed", "landed_at"),
    sqlite_autoincrement=True,
)

trades = _table(
    "trades",
    _id("tid", primary_key=True),
    *_bookkeeping(),
    *_seller(),
    _topic(),
    Column("status", _words(64)),
    Column("payment", _MONEY),
    Column("post_fee", _MONEY),
    Column("type", _words(64)),
    Column("buyer_nick", _words(128)),
    Column("buyer_open_uid", _words(128)),
    Column("seller_memo", _LONG_TEXT),
    Column("seller_flag", Integer),
    sqlite_with_rowid=False,
)

trade_lines = _table(
    "trade_lines",
    _id("tid", primary_key=True),
    _id("oid", primary_key=True),
    *_bookkeeping(),
    *_seller(),
    _topic(),
    Column("status", _words(64)),
    Column("payment", _MONEY),
    _id("num_iid"),
    _id("sku_id"),
    sqlite_with_rowid=False,
)

refunds = _table(
    "refunds",
    _id("refund_id", primary_key=True),
    *_bookkeeping(),
    *_seller(),
    _topic(),
    _id("tid"),
    _id("oid"),
    Column("refund_fee", _MONEY),
    Column("refund_phase", _words(64)),
    Column("bill_type", _words(64)),
    Column("buyer_nick", _words(128)),
    Column("buyer_open_uid", _words(128)),
    _instant("modified_at", nullable=True),
    Index("refunds_tid", "tid"),
    sqlite_with_rowid=False,
)

logistics_traces = _table(
    "logistics_traces",
    _key(primary_key=True),
    _id("tid", nullable=False),
    *_seller(),
    Column("out_sid", _words(128)),
    Column("company_name", _words(128)),
    Column("action", _words(64)),
    Column("description", _LONG_TEXT),
    _instant("traced_at", nullable=True),
    _instant("published_at"),
    Index("logistics_traces_tid", "tid"),
    sqlite_with_rowid=False,
)

dead_letters = _table(
    "dead_letters",
    Column("id", _SERIAL, primary_key=True),
    *_queue(),
    Column("transport_id", _words(128), nullable=False),
    Column("origin_id", _words(128), nullable=False),
    Column("queue_offset", BigInteger, nullable=False),
    Column("tag", _words(255), nullable=False),
    Column("keys_", _LONG_TEXT, nullable=False),
    _instant("born_at"),
    Column("attempt", Integer, nullable=False),
    Column("reason", _words(64), nullable=False),
    Column("detail", _LONG_TEXT, nullable=False),
    Column("body", _BODY, nullable=False),
    _instant("dead_at"),
    Column("replays", Integer, nullable=False, server_default="0"),  # attempts that failed again
    Column("outcome", _words(16), nullable=False, server_default="open"),  # open, replayed or dropped
    _instant("outcome_at", nullable=True),
    Column("outcome_note", _LONG_TEXT),  # the message_key it landed under; why it was dropped
    UniqueConstraint("source", "transport_id"),
    sqlite_autoincrement=True,
)

gaps = _table(
    "gaps",
    Column("id", _SERIAL, primary_key=True),
    *_queue(),
    Column("first_offset", BigInteger, nullable=False),
    Column("last_offset", BigInteger, nullable=False),
    Column("reason", _words(255), nullable=False),
    _instant("noted_at"),
    sqlite_autoincrement=True,
)

positions = _table(
    "positions",
    *_queue(primary_key=True),
    Column("next_offset", BigInteger, nullable=False),
    _instant("updated_at"),
    sqlite_with_rowid=False,
)

leases = _table(
    "leases",
    Column("name", _words(128), primary_key=True),
    Column("holder", _words(255), nullable=False),
    _instant("expires_at"),
)

sellers = _table(
    "sellers",
    Column("nick", _words(128), primary_key=True),
    _id("user_id", nullable=False),
    Column("topics", _LONG_TEXT, nullable=False),  # joined by blanks; '' is whatever the app subscribes
    Column("seller_group", _words(64), nullable=False),
    _instant("added_at"),
    _instant("deleted_at", nullable=True),
    _instant("checked_at", nullable=True),
    Column("is_valid", Integer),  # 1 or 0, as the platform said at checked_at
    sqlite_with_rowid=False,
)

schema_migrations = _table(
    "schema_migrations",
    Column("version", Integer, primary_key=True, autoincrement=False),
    _instant("applied_at"),
)


def fields_of(table: Table) -> tuple[str, ...]:
    """The folded fields of a state table, in column order: neither its key nor the bookkeeping."""
    return tuple(
        str(column.name)
        for column in table.columns
        if not column.primary_key and column.name not in BOOKKEEPING
    )
