"""The content of one landing transaction, on the cursor of whoever owns the transaction.

Always in this order, so that two writers meet on the same tables the same way: messages, the state tables
(rows sorted by key), dead letters, positions, gaps. Duplicates are found by asking first; inside a transaction
that excludes other writers (SQLite), or is done again after a unique violation (servers), that is exact. State rows
are locked while they are folded; of a row that is not there yet the first writer wins, and the other folds again.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any, Final, TypeVar

from sqlalchemy import Table

from jst_bridge.errors import StoreError
from jst_bridge.ports import DeadLetter, Gap, Landed, Landing, Message, Position, QueueKey
from jst_bridge.store import schema
from jst_bridge.store.database import VALUE_ERRORS, Database
from jst_bridge.store.events import Events
from jst_bridge.store.folding import BOOKKEEPING, Event, Row, fold, unfold
from jst_bridge.store.statements import Insert, Lookup, Match

__all__ = ["LandingWriter", "bisect", "body_hash", "collision_key"]

log = logging.getLogger(__name__)

_KEY_LIMIT: Final = 128
DEAD_LETTER_OUTCOME: Final = ("replays", "outcome", "outcome_at", "outcome_note")
"""Columns of dead_letters that a new row leaves to the database."""
_KEYS_SHOWN: Final = 3
_TOO_MANY: Final = 20
"""So many messages refused, and none taken, are no coincidence."""
_INT64: Final = 2**63 - 1

_Item = TypeVar("_Item")


class StateTable:
    """One folded table: reads the rows a batch touches, folds its events in, writes them back."""

    def __init__(self, table: Table, database: Database) -> None:
        self.table = table
        self.fields = schema.fields_of(table)
        self.key_width = len(table.primary_key.columns)
        self._seller = self.key_width + len(BOOKKEEPING)  # seller and user_id lead the fields
        self._database = database
        self._held = Lookup(table.columns, table.columns[0], database.dialect, lock=True)
        self._seen = Lookup(table.columns, table.columns[0], database.dialect)
        self._write = Insert(table, database.dialect, "replace")
        self._begin = Insert(table, database.dialect)
        self._start = Insert(table, database.dialect, "spare")
        self._alone = not database.shared

    def fold_in(self, cursor: Any, events: dict[tuple[str, ...], list[Event]]) -> None:
        """Fold the events, per primary key, into their rows."""
        keys = sorted(events)
        while keys:
            held = self.held(cursor, sorted({key[0] for key in keys}))
            rows = []
            for key in keys:
                known = events[key]
                if key in held:
                    known = known + unfold(held[key], self.fields)
                rows.append(self._absent(key + fold(known, self.fields), None, ""))
            if self._alone:
                self._write.execute(cursor, rows)
                return
            width = self.key_width
            self._write.execute(cursor, [row for row in rows if row[:width] in held])
            begun = [row for row in rows if row[:width] not in held]
            # Nobody can lock a row that is not there: whoever inserts it second folds once more. (Folding again what
            # was inserted changes nothing.)
            if self._start.execute(cursor, begun) == len(begun):
                return
            keys = [row[:width] for row in begun]

    def held(self, cursor: Any, ids: Sequence[str], *, lock: bool = True) -> dict[tuple[str, ...], Row]:
        """The rows, by primary key, whose first key column is among `ids`; without the key columns."""
        width, lookup = self.key_width, self._held if lock else self._seen
        return {row[:width]: self._absent(row, "", None)[width:] for row in lookup.rows(cursor, ids)}

    def write(self, cursor: Any, held: dict[tuple[str, ...], Row], begun: dict[tuple[str, ...], Row]) -> None:
        """Give new values to rows that are locked, and begin others: a unique violation passes through."""
        for insert, rows in ((self._write, held), (self._write if self._alone else self._begin, begun)):
            insert.execute(cursor, [self._absent(key + rows[key], None, "") for key in sorted(rows)])

    def _absent(self, row: tuple[Any, ...], was: str | None, becomes: str | None) -> tuple[Any, ...]:
        """An absent seller or user_id is None in a fold and '' in the table."""
        at = self._seller
        seller, user_id = row[at : at + 2]
        if seller != was and user_id != was:
            return row
        seller = becomes if seller == was else seller
        return (*row[:at], seller, becomes if user_id == was else user_id, *row[at + 2 :])


class LandingWriter:
    """Writes landings into one database. Holds statements only, no state."""

    def __init__(self, database: Database) -> None:
        dialect = database.dialect
        columns = schema.messages.c
        self._database = database
        self._held = Lookup([columns.message_key, columns.body_hash], columns.message_key, dialect)
        self._messages = Insert(schema.messages, dialect)
        self._traces = Insert(schema.logistics_traces, dialect)
        self._trades = StateTable(schema.trades, database)
        self._lines = StateTable(schema.trade_lines, database)
        self._refunds = StateTable(schema.refunds, database)
        letters = schema.dead_letters.c
        self._dead = Lookup([letters.source, letters.transport_id], letters.transport_id, dialect)
        self._dead_letters = Insert(schema.dead_letters, dialect, without=DEAD_LETTER_OUTCOME)
        queue = list(schema.positions.primary_key.columns)
        self._stored = Match([*queue, schema.positions.c.next_offset], queue[:3], dialect)
        self._advance = Insert(schema.positions, dialect, "advance", rising="next_offset")
        self._rewind = Insert(schema.positions, dialect, "replace")
        gap = list(schema.gaps.columns)[1:-2]
        self._noted = Match(gap[-1:], gap, dialect)
        self._gaps = Insert(schema.gaps, dialect)

    def land(self, cursor: Any, landing: Landing, now: int) -> Landed:
        """Write all of `landing`. `now`: epoch ms. Whatever the driver raises passes through."""
        landed = self._land_messages(cursor, landing.messages, now)
        self._land_rest(cursor, landing, landing.dead_letters, landed, now)
        return landed

    def land_sparing(self, cursor: Any, landing: Landing, now: int) -> Landed:
        """Write all of `landing` but the messages the database refuses: those become dead letters."""
        landed = Landed()

        def attempt(messages: Sequence[Message]) -> Exception | None:
            cursor.execute("SAVEPOINT attempt")
            try:
                part = self._land_messages(cursor, messages, now)
            except Exception as error:
                if not self._database.refuses(error):
                    raise
                cursor.execute("ROLLBACK TO SAVEPOINT attempt")
                cursor.execute("RELEASE SAVEPOINT attempt")
                return error
            cursor.execute("RELEASE SAVEPOINT attempt")
            landed.add(part)
            return None

        culprits = bisect(landing.messages, attempt)
        _require_innocents(landing.messages, [error for _, error in culprits])
        refused = [
            DeadLetter(
                queue=_queue_of(message),
                delivery=message.delivery,
                reason="store_refused",
                detail=f"the store refused this message: {type(error).__name__}: {error}"[:500],
            )
            for message, error in culprits
        ]
        for letter in refused:
            log.error("store_refused %s: %s", letter.delivery.transport_id, letter.detail)
        self._land_rest(cursor, landing, landing.dead_letters + refused, landed, now)
        return landed

    def positions(self, cursor: Any, source: str, group: str, instance: str) -> dict[QueueKey, int]:
        rows = self._stored.rows(cursor, (source, group, instance))
        return {QueueKey(*row[:-1]): row[-1] for row in rows}

    def _land_messages(self, cursor: Any, messages: Sequence[Message], now: int) -> Landed:
        landed = Landed()
        fresh = self._fresh(cursor, messages, landed)
        if not fresh:
            return landed
        self._messages.execute(
            cursor, [_message_row(message, key, digest, now) for message, key, digest in fresh]
        )
        events = Events()
        for message, key, _ in fresh:
            events.add(message, key)
        self._trades.fold_in(cursor, events.trades)
        self._lines.fold_in(cursor, events.lines)
        self._refunds.fold_in(cursor, events.refunds)
        self._traces.execute(cursor, events.traces)
        landed.landed = len(fresh)
        landed.without_id = events.without_id
        landed.topics = dict(Counter([message.topic for message, _, _ in fresh]))
        return landed

    def _fresh(
        self, cursor: Any, messages: Sequence[Message], landed: Landed
    ) -> list[tuple[Message, str, int]]:
        """The messages that are not in the store yet, with the key to land under and the body's hash."""
        known: dict[str, int | None] = dict(self._held.rows(cursor, [message.key for message in messages]))
        fresh: list[tuple[Message, str, int]] = []
        colliding: list[tuple[Message, str, int]] = []
        for message in messages:
            key, digest = message.key, body_hash(message.delivery.body)
            held = known.setdefault(key, None)
            if held is None:
                known[key] = digest
                fresh.append((message, key, digest))
            elif held == digest:
                landed.duplicates += 1
            else:
                colliding.append((message, collision_key(key, digest), digest))
        if colliding:
            known = dict(self._held.rows(cursor, [key for _, key, _ in colliding]))
            before = len(fresh)
            for message, key, digest in colliding:
                if key in known:
                    landed.duplicates += 1
                else:
                    known[key] = digest
                    fresh.append((message, key, digest))
            landed.collisions = len(fresh) - before
            if landed.collisions:
                shown = ", ".join(key for _, key, _ in fresh[before : before + _KEYS_SHOWN])
                log.warning(
                    "key_collision: %d messages carry the key of another body; landed as %s",
                    landed.collisions,
                    shown,
                )
        return fresh

    def _land_rest(
        self, cursor: Any, landing: Landing, letters: Sequence[DeadLetter], landed: Landed, now: int
    ) -> None:
        landed.dead_letters = self._land_dead_letters(cursor, letters, now)
        self._land_positions(cursor, landing.positions, now)
        landed.gaps = self._land_gaps(cursor, landing.gaps, now)

    def _land_dead_letters(self, cursor: Any, letters: Sequence[DeadLetter], now: int) -> int:
        rows: dict[tuple[str, str], tuple[Any, ...]] = {}
        for letter in letters:
            row = _dead_row(letter, now)
            rows.setdefault((letter.queue.source, row[len(letter.queue)]), row)
        held = set(self._dead.rows(cursor, [transport_id for _, transport_id in rows]))
        fresh = [row for identity, row in rows.items() if identity not in held]
        self._dead_letters.execute(cursor, fresh)
        return len(fresh)

    def _land_positions(self, cursor: Any, positions: Sequence[Position], now: int) -> None:
        """Only what was rewound may fall: a member that lost the queue may be the last to land."""
        ahead: dict[QueueKey, int] = {}
        back: dict[QueueKey, int] = {}
        for position in positions:
            queue, offset = position.queue, position.offset
            if position.rewound or queue in back:
                back[queue] = offset if position.rewound else max(back[queue], offset)
                ahead.pop(queue, None)
            else:
                ahead[queue] = max(ahead.get(queue, offset), offset)
        for statement, moved in ((self._advance, ahead), (self._rewind, back)):
            statement.execute(cursor, [(*queue, offset, now) for queue, offset in sorted(moved.items())])

    def _land_gaps(self, cursor: Any, gaps: Sequence[Gap], now: int) -> int:
        spans = {(*gap.queue, gap.first, gap.last): gap.reason for gap in gaps}
        fresh = [span for span in spans if not self._noted.rows(cursor, span)]
        self._gaps.execute(cursor, [(*span, spans[span], now) for span in fresh])
        return len(fresh)


def bisect(
    items: Sequence[_Item], attempt: Callable[[Sequence[_Item]], Exception | None]
) -> list[tuple[_Item, Exception]]:
    """Attempt all items; halve what is refused until each culprit stands alone. Returns the culprits."""
    error = attempt(items)
    if error is None:
        return []
    if len(items) == 1:
        return [(items[0], error)]
    middle = len(items) // 2
    return bisect(items[:middle], attempt) + bisect(items[middle:], attempt)


def _require_innocents(messages: Sequence[Message], errors: Sequence[Exception]) -> None:
    """Many messages, every one refused by Python itself: that is a defect of ours, and no letter is dead of that."""
    if len(messages) == len(errors) >= _TOO_MANY and all(isinstance(e, VALUE_ERRORS) for e in errors):
        raise StoreError(
            f"every one of {len(messages)} messages failed in the same way: {type(errors[0]).__name__}: {errors[0]}",
            remedy="report this as a defect; nothing of it was settled",
        )


def _message_row(message: Message, key: str, digest: int, now: int) -> tuple[Any, ...]:
    return (
        key,
        message.source,
        message.topic,
        message.seller,
        message.user_id,
        message.tid,
        message.oid,
        message.refund_id,
        message.num_iid,
        message.published_at,
        message.published_from,
        message.delivery.born_at,
        now,
        digest,
        message.delivery.body,
    )


def _dead_row(letter: DeadLetter, now: int) -> tuple[Any, ...]:
    """A dead letter is the last resort: whatever its fields hold is made storable here."""
    delivery = letter.delivery
    return (
        *letter.queue,
        _plain(delivery.transport_id, 128),
        _plain(delivery.origin_id, 128),
        _bounded(delivery.offset, _INT64),
        _plain(delivery.tag, 255),
        _plain(delivery.keys, 65_535),
        _bounded(delivery.born_at, _INT64),
        _bounded(delivery.attempt, 2**31 - 1),
        letter.reason,
        _plain(letter.detail, 65_535),
        bytes(delivery.body),
        now,
    )


def _plain(text: str, limit: int) -> str:
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")[:limit]


def _bounded(number: int, limit: int) -> int:
    return max(-limit, min(number, limit))


def body_hash(body: bytes) -> int:
    return int.from_bytes(blake2b(body, digest_size=8).digest(), signed=True)


def collision_key(key: str, digest: int) -> str:
    suffix = f":{digest % 2**64:016x}"
    return key[: _KEY_LIMIT - len(suffix)] + suffix


def _queue_of(message: Message) -> QueueKey:
    return message.delivery.queue or QueueKey(message.source, "", "", "", "", -1)
