"""`store rebuild`: the state tables again, by today's code, from the messages that are in the store.

Why it is exact while bridges go on landing: a page of keys is compared in one moment's view of the database, where
a state row always agrees with the messages that were landed into it. Only keys that differ are taken up again, in a
transaction that writes. There each state row is locked first and its messages are read after that (READ COMMITTED:
each statement sees what is committed by then). A landing of the same key has either committed before the lock, and
its message is read; or it waits at the lock, or has not come that far, and folds its events into what stands here
then. A row that is not there cannot be locked: whoever inserts it second meets a unique violation, and begins
again. Locks are taken in the order of a landing: trades, lines; refunds by themselves. On SQLite the writing
transaction excludes every other one.

What pruned messages said stays. A folded row still knows which event each of its values came from, so the events
whose message is gone are folded in with those of the messages that are there.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from typing import Any, Final, Literal, NamedTuple

import msgspec

from jst_bridge.store import schema
from jst_bridge.store.database import Database, Refused
from jst_bridge.store.filing import Filing
from jst_bridge.store.landing import bisect
from jst_bridge.store.refolding import PAGE, Change, Comparison, Orders, Part, Refunds, plain

__all__ = ["Difference", "RebuildProgress", "RebuildReport", "TableReport", "rebuild"]

log = logging.getLogger(__name__)

_SHOWN: Final = 20
_SHOWN_LENGTH: Final = 80
_YIELD: Final = 0.3
"""Pause after a transaction that wrote, per second it took: a process that waits for the lock of SQLite asks for it
only now and then."""

Step = Literal["choose", "orders", "search", "refunds"]


class Difference(NamedTuple):
    """A value that was not what the messages say. `field` is '' for a whole row; texts are cut to 80 characters."""

    table: str
    key: str
    """The primary key; its parts joined by /."""
    field: str
    was: str | None
    becomes: str | None


class TableReport(msgspec.Struct):
    """What became of the rows of one table."""

    checked: int = 0
    """Rows that were there or had to be."""
    changed: int = 0
    added: int = 0
    removed: int = 0

    @property
    def differed(self) -> int:
        return self.changed + self.added + self.removed


class RebuildReport(msgspec.Struct):
    """What a rebuild did."""

    tables: dict[str, TableReport]
    differences: list[Difference] = msgspec.field(default_factory=list)
    """The first 20."""
    messages: int = 0
    """Messages that were decoded."""
    undecodable: int = 0
    """Messages whose body today's code cannot decode: what they said before stays."""
    undecodable_keys: list[str] = msgspec.field(default_factory=list)
    """The message_key of the first 20."""
    refused: int = 0
    """Orders and refunds whose rows the database refused: they are as they were, see the log."""
    seconds: float = 0.0

    @property
    def differed(self) -> int:
        """Rows that were not as the messages say."""
        return sum(table.differed for table in self.tables.values())


class RebuildProgress(NamedTuple):
    """How far it is. `done` of `of` is a share of the step; `of` is 0 where nobody knows, and may be a little off."""

    step: Step
    """Which keys (with `since`); trades, lines and traces; which messages speak of refunds; refunds."""
    done: int
    of: int
    messages: int
    differed: int


def rebuild(
    database: Database,
    *,
    since: int | None = None,
    progress: Callable[[RebuildProgress], None] | None = None,
) -> RebuildReport:
    """Make trades, trade_lines, refunds and logistics_traces what their messages say; others may land meanwhile.

    `since`: epoch ms; only keys that a message landed since then (landed_at) speaks of. A message counts for the
    order (tid) and the refund (refund_id) that it landed under, as `messages` has them. Interrupted, it may be begun
    again: what was written is right. Raises SchemaOutdated, StoreUnavailable, StoreError.
    """
    begun = time.monotonic()
    database.open()
    with closing(Filing(database)) as filing:
        run = _Run(database, filing, progress or (lambda _: None))
        if since is not None:
            run.choose(since)
        run.go_through(Orders(database, filing), chosen=since is not None)
        if since is None or filing.count_touched("refund_id"):
            run.search()
            run.go_through(Refunds(database, filing), chosen=since is not None)
    run.report.seconds = time.monotonic() - begun
    return run.report


class _Run:
    """One rebuild: goes through the keys page by page and adds up what was found."""

    def __init__(
        self, database: Database, filing: Filing, progress: Callable[[RebuildProgress], None]
    ) -> None:
        tables = (schema.trades, schema.trade_lines, schema.refunds, schema.logistics_traces)
        self.report = RebuildReport({table.name: TableReport() for table in tables})
        self._database = database
        self._filing = filing
        self._progress = progress

    def choose(self, since: int) -> None:
        """Note the keys of the messages landed `since`."""
        place: tuple[int, int] | None = (0, 0)
        while place is not None:
            at = place
            place = self._database.read(lambda cursor: self._filing.touch(cursor, since, at))  # noqa: B023
            self._tell("choose", 0, 0)

    def search(self) -> None:
        """File the messages of each refund."""

        def highest(cursor: Any) -> int:
            cursor.execute("SELECT max(id) FROM messages")
            return cursor.fetchone()[0] or 0

        last = self._database.read(highest)
        while done := self._database.read(self._filing.catch_up):
            self._tell("search", done, last)

    def go_through(self, part: Part, *, chosen: bool) -> None:
        """Compare, and mend, all keys of `part`, or the chosen ones only."""
        done, of = 0, self._filing.count_touched(part.kind) if chosen else self._database.read(part.count)
        after = ""
        while keys := self._next(part, after, chosen):
            after = keys[-1]
            page = self._database.read(lambda cursor: part.compare(cursor, keys, lock=False))
            self._add(page)
            differing = sorted({change.owner for change in page.changes})
            if differing:
                self._mend(part, differing)
            done += len(keys) if chosen else page.passed
            self._tell(part.step, done, of)

    def _next(self, part: Part, after: str, chosen: bool) -> list[str]:
        if chosen:
            return self._filing.touched(part.kind, after, PAGE)
        return self._database.read(lambda cursor: part.keys(cursor, after))

    def _mend(self, part: Part, keys: Sequence[str]) -> None:
        def attempt(some: Sequence[str]) -> Exception | None:
            def work(cursor: Any) -> Comparison:
                page = part.compare(cursor, some, lock=True)
                part.write(cursor, page.changes)
                return page

            begun = time.monotonic()
            try:
                page = self._database.transact(work)
            except Refused as refusal:
                return refusal
            self._count(page.changes)
            time.sleep((time.monotonic() - begun) * _YIELD)
            return None

        for key, refusal in bisect(keys, attempt):
            self.report.refused += 1
            log.error("rebuild_refused: the state of %s %s stays as it is: %s", part.kind, key, refusal)

    def _add(self, page: Comparison) -> None:
        report = self.report
        for table, checked in page.checked.items():
            report.tables[table].checked += checked
        report.messages += page.decoded
        report.undecodable += len(page.undecodable)
        report.undecodable_keys += page.undecodable[: _SHOWN - len(report.undecodable_keys)]

    def _count(self, changes: Iterable[Change]) -> None:
        for change in changes:
            table = self.report.tables[change.table.name]
            if change.was is None:
                table.added += 1
            elif change.becomes is None:
                table.removed += 1
            else:
                table.changed += 1
            room = _SHOWN - len(self.report.differences)
            if room > 0:
                self.report.differences += list(_differences(change))[:room]

    def _tell(self, step: Step, done: int, of: int) -> None:
        report = self.report
        self._progress(RebuildProgress(step, done, of and max(done, of), report.messages, report.differed))


def _differences(change: Change) -> Iterator[Difference]:
    key = "/".join(change.key)
    if change.was is None or change.becomes is None:
        was, becomes = ("absent", "present") if change.was is None else ("present", "absent")
        yield Difference(change.table.name, key, "", was, becomes)
        return
    names = [column.name for column in change.table.columns if not column.primary_key]
    for name, was, becomes in zip(names, change.was, change.becomes, strict=True):
        if plain(was) != plain(becomes):
            yield Difference(change.table.name, key, name, _shown(was), _shown(becomes))


def _shown(value: Any) -> str | None:
    return None if value is None else str(value)[:_SHOWN_LENGTH]
