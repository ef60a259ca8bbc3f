"""The bridge's database: what landed, and the state of orders folded from it.

`open_store` gives the writer that the bridge lands into, `open_reader` the queries behind the CLI.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from jst_bridge.errors import ConfigurationError
from jst_bridge.store.reader import (
    GapRow,
    LineRow,
    MessageRow,
    Reader,
    RefundRow,
    SellerCount,
    StoreCounts,
    Timeline,
    TraceRow,
    TradeRow,
)
from jst_bridge.store.sqlite import SqliteStore

__all__ = [
    "GapRow",
    "LineRow",
    "MessageRow",
    "Reader",
    "RefundRow",
    "SellerCount",
    "SqliteStore",
    "StoreCounts",
    "Timeline",
    "TraceRow",
    "TradeRow",
    "open_reader",
    "open_store",
]


def open_store(url: str) -> SqliteStore:
    """The store that `url` names, still closed. Raises ConfigurationError; opens nothing."""
    return SqliteStore(_sqlite_path(url))


def open_reader(url: str) -> Reader:
    """A read-only connection to the store that `url` names, open.

    Raises ConfigurationError, StoreError when there is no such store, SchemaOutdated.
    """
    return Reader(_sqlite_path(url))


def _sqlite_path(url: str) -> Path:
    """The file of `sqlite:///relative.db` or `sqlite:////absolute.db`. The URL may hold a password: never shown."""
    remedy = "set [store] url to sqlite:///file.db (relative) or sqlite:////path/to/file.db (absolute)"
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise ConfigurationError("[store] url is not a database URL", remedy=remedy) from None
    if parsed.drivername != "sqlite":
        raise ConfigurationError(
            f"[store] url names {parsed.drivername!r}; this version supports sqlite only", remedy=remedy
        )
    if not parsed.database or parsed.database == ":memory:" or parsed.host or parsed.query:
        raise ConfigurationError("[store] url must name a file and nothing else", remedy=remedy)
    return Path(parsed.database)
