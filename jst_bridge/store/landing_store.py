"""The Store of ports.py on any database: whole landings or nothing, and a culprit never stops its batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from jst_bridge.errors import StoreError
from jst_bridge.ports import Landed, Landing, QueueKey
from jst_bridge.store.database import Database, Refused, now_ms
from jst_bridge.store.landing import LandingWriter

__all__ = ["LandingStore"]


class LandingStore:
    """Where the bridge lands. Constructing opens nothing; one thread at a time uses it.

    After an error the next call works again. Several processes may land into one database at once.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self.fences: Sequence[Callable[[Any], None]] = ()
        """Called with the cursor first in each landing; what one of them raises keeps anything from landing."""
        self._writer: LandingWriter | None = None

    @property
    def shared(self) -> bool:
        """All members of a consumer group land here, so that its positions speak for all of them."""
        return self.database.shared

    def open(self) -> None:
        """Connect; make or check the schema. Raises StoreUnavailable, SchemaOutdated, StoreError."""
        self._writer = LandingWriter(self.database)
        self.database.open()

    def land(self, landing: Landing) -> Landed:
        """Write all of it in one transaction, or nothing. Durable when it returns.

        A message refused for its data becomes a dead letter `store_refused`; the rest lands. Raises
        StoreUnavailable when it is not known to be durable.
        """
        writer, now, redone = self._opened(), now_ms(), self.database.redone
        try:
            landed = self._transact(lambda cursor: writer.land(cursor, landing, now))
        except Refused:
            try:
                landed = self._transact(lambda cursor: writer.land_sparing(cursor, landing, now))
            except Refused as error:
                raise StoreError(
                    f"the store {self.database.label} refused dead letters, positions or gaps: {error}",
                    remedy="report this as a defect",
                ) from error
        landed.redone = self.database.redone - redone
        return landed

    def positions(self, source: str, group: str, instance: str) -> dict[QueueKey, int]:
        """The next offset of each queue of one source in one consumer group ('' = clustering)."""
        writer = self._opened()
        return self.database.read(lambda cursor: writer.positions(cursor, source, group, instance))

    def close(self) -> None:
        """Close the connection. Idempotent."""
        self._writer = None
        self.database.close()

    def _transact(self, land: Callable[[Any], Landed]) -> Landed:
        def work(cursor: Any) -> Landed:
            for fence in self.fences:
                fence(cursor)
            return land(cursor)

        return self.database.transact(work)

    def _opened(self) -> LandingWriter:
        if self._writer is None:
            raise StoreError(f"the store {self.database.label} is not open", remedy="call open() first")
        return self._writer
