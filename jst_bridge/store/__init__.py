"""The bridge's database: what landed, and the state of orders folded from it.

`open_store` gives the writer that the bridge lands into, `open_reader` the queries behind the CLI, `open_database`
what both and the maintenance commands stand on.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Final

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from jst_bridge.errors import ConfigurationError
from jst_bridge.store.database import Database
from jst_bridge.store.landing_store import LandingStore
from jst_bridge.store.reader import (
    TOPICS_OF,
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
from jst_bridge.store.sqlite import SqliteDatabase

__all__ = [
    "TOPICS_OF",
    "Database",
    "GapRow",
    "LandingStore",
    "LineRow",
    "MessageRow",
    "Reader",
    "RefundRow",
    "SellerCount",
    "StoreCounts",
    "Timeline",
    "TraceRow",
    "TradeRow",
    "open_database",
    "open_reader",
    "open_store",
]

_REMEDY: Final = (
    "write [store] url as sqlite:///file.db, postgresql://user@host/database or mysql://user@host/database"
)


def open_store(url: str, password: str | None = None) -> LandingStore:
    """The store that `url` names, still closed. Raises ConfigurationError; opens nothing."""
    return LandingStore(open_database(url, password))


def open_reader(url: str, password: str | None = None) -> Reader:
    """A read-only connection to the store that `url` names, open.

    Raises ConfigurationError, StoreError when there is no such store, SchemaOutdated.
    """
    return Reader(open_database(url, password))


def open_database(url: str, password: str | None = None) -> Database:
    """The database that `url` names, still closed; `password` when the URL has none. Raises ConfigurationError.

    The URL may hold a password: it is never shown.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise ConfigurationError("[store] url is not a database URL", remedy=_REMEDY) from None
    if password is not None:
        parsed = parsed.set(password=password)
    kind = parsed.drivername.partition("+")[0]
    if kind == "sqlite":
        return SqliteDatabase(_file_of(parsed))
    if kind in ("postgresql", "postgres"):
        _require("psycopg", "postgresql")
        from jst_bridge.store.postgresql import PostgresqlDatabase

        return PostgresqlDatabase(parsed.set(drivername="postgresql"))
    if kind in ("mysql", "mariadb"):
        _require("pymysql", "mysql")
        from jst_bridge.store.mysql import MysqlDatabase

        return MysqlDatabase(parsed.set(drivername="mysql"))
    raise ConfigurationError(
        f"[store] url names {kind!r}, which is no database jst-bridge knows", remedy=_REMEDY
    )


def _file_of(url: URL) -> Path:
    if not url.database or url.database == ":memory:" or url.host or url.query:
        raise ConfigurationError(
            "[store] url must name a file and nothing else",
            remedy="write sqlite:///file.db (relative) or sqlite:////path/to/file.db (absolute)",
        )
    return Path(url.database)


def _require(module: str, extra: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise ConfigurationError(
            f"[store] url needs the Python package {module}, which is not installed",
            remedy=f"pip install 'jst-bridge[{extra}]'",
        )
