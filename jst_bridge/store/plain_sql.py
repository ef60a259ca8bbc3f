"""What maintenance needs of any database: one way to mark a value in SQL, its clock, and a look that locks nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from jst_bridge.errors import StoreError
from jst_bridge.store.database import Database

__all__ = ["clock_ms", "marked", "reading"]


def marked(database: Database, statement: str) -> str:
    """`statement`, whose values are marked with "?", as the driver of `database` wants it."""
    return statement if database.dialect.paramstyle == "qmark" else statement.replace("?", "%s")


def clock_ms(cursor: Any, database: Database) -> int:
    """What the database's clock says now: epoch ms."""
    cursor.execute(f"SELECT {database.clock}")
    return int(cursor.fetchone()[0])


@contextmanager
def reading(database: Database) -> Iterator[Any]:
    """A cursor on a connection of its own that cannot write; each statement sees what is committed by then.

    Raises StoreUnavailable or StoreError, also for what the driver raises in the block.
    """
    with closing(database.connect_reading()) as connection:
        try:
            yield connection.cursor()
        except StoreError:
            raise
        except Exception as error:
            raise database.fault(error) from error
