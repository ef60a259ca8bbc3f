"""Dead letters after the fact: looked at, decoded and landed again by today's code, or dropped.

A letter is `open` until it is `replayed` or `dropped`, and stays a row either way: the record of what became of
it. A replay lands through the same writer as the bridge, in the same transaction that closes the letter, with the
row of the letter locked: the message is in the store once, whoever else replays it or lands another copy of it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from itertools import islice
from typing import Any, Final, NamedTuple, TypeVar

import msgspec
from sqlalchemy import ClauseElement, ColumnElement, Select, desc, func, select, update

from jst_bridge.errors import StoreError, UndecodableError
from jst_bridge.messages.values import clean
from jst_bridge.ports import Delivery, Landing, Message, PlainDelivery, QueueKey
from jst_bridge.store import schema
from jst_bridge.store.database import Database, Refused, now_ms
from jst_bridge.store.landing import LandingWriter, bisect, body_hash, collision_key
from jst_bridge.store.reader import Reader
from jst_bridge.store.statements import Lookup

__all__ = ["DeadLetters", "Fate", "LetterRow", "Replay", "Result", "Selection", "WholeLetter", "drop"]

log = logging.getLogger(__name__)

BATCH: Final = 200
"""Letters in one transaction at most."""
BATCH_BYTES: Final = 4 << 20
"""Bytes of bodies in one transaction, or read at once, beyond a single letter."""
_PAGE: Final = 500
"""Ids looked up at once."""
_SENTENCE: Final = 500

_letters: Final = schema.dead_letters.c

Decode = Callable[[str, Delivery], Message]
"""(source, delivery) to a message. Raises UndecodableError."""


class LetterRow(msgspec.Struct, frozen=True):
    """A row of `dead_letters` without its body, whose `size` in bytes stands for it. Instants: epoch ms."""

    id: int
    source: str
    consumer_group: str
    instance: str
    broker: str
    system_topic: str
    queue_id: int
    transport_id: str
    origin_id: str
    queue_offset: int
    tag: str
    keys_: str
    born_at: int
    attempt: int
    reason: str
    detail: str
    dead_at: int
    replays: int
    """Replays that failed."""
    outcome: str
    """open, replayed or dropped."""
    outcome_at: int | None
    outcome_note: str | None
    """The message key it landed under, or why it was dropped."""
    size: int


class WholeLetter(LetterRow, frozen=True):
    """A row of `dead_letters`; `body` is what was published, or of a `bad_body` what was stored."""

    body: bytes

    def delivery(self) -> PlainDelivery:
        """What the source handed over."""
        return PlainDelivery(
            body=self.body,
            tag=self.tag,
            keys=self.keys_,
            transport_id=self.transport_id,
            origin_id=self.origin_id,
            offset=self.queue_offset,
            born_at=self.born_at,
            attempt=self.attempt,
            queue=QueueKey(
                self.source,
                self.consumer_group,
                self.instance,
                self.broker,
                self.system_topic,
                self.queue_id,
            ),
        )


class Selection(msgspec.Struct, frozen=True):
    """Which letters. `since`: dead since then, epoch ms. Open ones only, unless `everything`."""

    reason: str | None = None
    since: int | None = None
    everything: bool = False

    def conditions(self) -> list[ColumnElement[bool]]:
        wanted = []
        if not self.everything:
            wanted.append(_letters.outcome == "open")
        if self.reason is not None:
            wanted.append(_letters.reason == self.reason)
        if self.since is not None:
            wanted.append(_letters.dead_at >= self.since)
        return wanted


class Fate(StrEnum):
    """What became of a letter that was to be replayed or dropped."""

    LANDED = "landed"
    """Replayed: its message is new in the store."""
    HELD_ALREADY = "held already"
    """Replayed: another copy of its message has landed before."""
    READABLE = "readable"
    """Only tried out: a replay would land it, or find it landed."""
    STILL_DEAD = "still dead"
    DROPPED = "dropped"
    REPLAYED_BEFORE = "replayed before"
    DROPPED_BEFORE = "dropped before"
    UNKNOWN = "unknown"
    """There is no such letter."""


class Result(msgspec.Struct, frozen=True):
    """What became of one letter; `note` is the key of its message, why it was dropped, or what is wrong with it."""

    id: int
    fate: Fate
    note: str = ""
    reason: str = ""
    """Of one that is still dead."""


class DeadLetters(Reader):
    """Questions about dead letters; a context manager like its parent."""

    def __enter__(self) -> DeadLetters:
        return self

    def newest(self, selection: Selection, limit: int) -> list[LetterRow]:
        """The letters that were noted last, the newest first."""
        query = _select(LetterRow).where(*selection.conditions()).order_by(desc(_letters.id)).limit(limit)
        with self._reading() as connection:
            return [LetterRow(*row) for row in connection.execute(query)]

    def count(self, selection: Selection) -> int:
        """How many there are."""
        query = select(func.count()).select_from(schema.dead_letters).where(*selection.conditions())
        with self._reading() as connection:
            return int(connection.execute(query).scalar_one())

    def whole(self, ids: Sequence[int]) -> dict[int, WholeLetter]:
        """Those of the letters `ids` that are there, with their bodies, in order of their ids."""
        query = _select(WholeLetter).where(_letters.id.in_(ids)).order_by(_letters.id)
        with self._reading() as connection:
            return {row[0]: WholeLetter(*row) for row in connection.execute(query)}

    def batches(self, chosen: Selection | Sequence[int]) -> Iterator[list[int]]:
        """Ids in rising order, in lists short enough for one transaction and for memory.

        Letters noted after the first list was asked for are left out; ids that are named and not there are not.
        """
        batch: list[int] = []
        held = 0
        for number, size in self._sizes(chosen):
            if batch and (len(batch) == BATCH or held + size > BATCH_BYTES):
                yield batch
                batch, held = [], 0
            batch.append(number)
            held += size
        if batch:
            yield batch

    def _sizes(self, chosen: Selection | Sequence[int]) -> Iterator[tuple[int, int]]:
        """(id, bytes of body), in rising order."""
        sized = select(_letters.id, func.length(_letters.body)).order_by(_letters.id)
        if not isinstance(chosen, Selection):
            named = iter(sorted(set(chosen)))
            while page := list(islice(named, _PAGE)):
                with self._reading() as connection:
                    found = dict(_pairs(connection.execute(sized.where(_letters.id.in_(page)))))
                yield from ((number, found.get(number, 0)) for number in page)
            return
        with self._reading() as connection:
            newest = connection.execute(select(func.max(_letters.id))).scalar_one() or 0
        pages = sized.where(*chosen.conditions(), _letters.id <= newest).limit(_PAGE)
        last = 0
        while True:
            with self._reading() as connection:
                found_page = _pairs(connection.execute(pages.where(_letters.id > last)))
            yield from found_page
            if len(found_page) < _PAGE:
                return
            last = found_page[-1][0]


class Replay:
    """Decodes letters again and lands what can be read now. Positions and gaps are not touched."""

    def __init__(self, database: Database, decode: Decode) -> None:
        """`database` is opened at the first replay."""
        self._database = database
        self._decode = decode
        self._writer = LandingWriter(database)
        columns = schema.messages.c
        self._held = Lookup([columns.message_key, columns.body_hash], columns.message_key, database.dialect)

    def run(self, ids: Sequence[int]) -> list[Result]:
        """Replay the letters `ids`, all distinct, in one transaction. What it says is durable when it returns.

        A letter that cannot be read, or that the database refuses, stays open with today's reason and stops no
        other. Raises StoreUnavailable, StoreError.
        """
        return _durably(self._database, lambda cursor: self._replay(cursor, ids, now_ms()))

    def rehearse(self, ids: Sequence[int], letters: Mapping[int, WholeLetter]) -> list[Result]:
        """What `run` would come to, as far as decoding goes. Writes nothing."""
        closed, readable = self._judge(ids, letters)
        found = {one.id: Result(one.id, Fate.READABLE, one.message.key) for one in readable}
        return [(closed | found)[number] for number in ids]

    def _replay(self, cursor: Any, ids: Sequence[int], now: int) -> list[Result]:
        letters = {
            row[0]: WholeLetter(*row) for row in _locked(cursor, self._database, _select(WholeLetter), ids)
        }
        results, readable = self._judge(ids, letters)
        results |= self._land(cursor, readable, now)
        for result in results.values():
            values: dict[str, Any] = {}
            if result.fate in (Fate.LANDED, Fate.HELD_ALREADY):
                values = {"outcome": "replayed", "outcome_at": now, "outcome_note": result.note}
            elif result.fate is Fate.STILL_DEAD:
                values = {"replays": letters[result.id].replays + 1, "reason": result.reason}
                values["detail"] = result.note
            if values:
                _change(cursor, self._database, result.id, values)
        return [results[number] for number in ids]

    def _judge(
        self, ids: Sequence[int], letters: Mapping[int, WholeLetter]
    ) -> tuple[dict[int, Result], list[_Readable]]:
        """What is settled without the store, and what can be landed."""
        results: dict[int, Result] = {}
        readable: list[_Readable] = []
        for number in ids:
            letter = letters.get(number)
            if letter is None or letter.outcome != "open":
                results[number] = _closed(number, letter)
                continue
            try:
                message = self._decode(letter.source, letter.delivery())
                readable.append(_Readable(number, message))
            except UndecodableError as error:
                results[number] = _still_dead(letter, error.reason, str(error))
            except Exception as error:
                log.exception("defect: decoding failed in a way it must not, dead letter %d", number)
                results[number] = _still_dead(letter, "decode_failed", repr(error))
        return results, readable

    def _land(self, cursor: Any, readable: Sequence[_Readable], now: int) -> dict[int, Result]:
        if not readable:
            return {}
        before = self._keys_held(cursor, readable)
        culprits = bisect(readable, lambda part: self._attempt(cursor, part, now))
        refused = {one.id: error for one, error in culprits}
        after = self._keys_held(cursor, readable)
        results: dict[int, Result] = {}
        for one in readable:
            if one.id in refused:
                error = refused[one.id]
                sentence = f"the store refused this message: {type(error).__name__}: {error}"
                results[one.id] = Result(one.id, Fate.STILL_DEAD, _storable(sentence), "store_refused")
                continue
            key = one.landed_as(after)
            if key is None:
                raise AssertionError(f"dead letter {one.id} was landed, and is not there")
            known = before.get(key) is not None
            results[one.id] = Result(one.id, Fate.HELD_ALREADY if known else Fate.LANDED, key)
            before[key] = after[key]  # of two letters with one message the second finds it held
        return results

    def _attempt(self, cursor: Any, part: Sequence[_Readable], now: int) -> Exception | None:
        """Land all of `part`, or answer with what the database has against one of them."""
        cursor.execute("SAVEPOINT replay")
        try:
            self._writer.land(cursor, Landing([one.message for one in part], [], [], []), now)
        except Exception as error:
            if not self._database.refuses(error):
                raise
            cursor.execute("ROLLBACK TO SAVEPOINT replay")
            cursor.execute("RELEASE SAVEPOINT replay")
            return error
        cursor.execute("RELEASE SAVEPOINT replay")
        return None

    def _keys_held(self, cursor: Any, readable: Sequence[_Readable]) -> dict[str, int]:
        """Of the keys these messages may have: the hash of the body that lies under each."""
        keys = [key for one in readable for key in (one.message.key, one.key_beside)]
        return dict(self._held.rows(cursor, keys))


class _Readable(NamedTuple):
    """A letter that decodes now."""

    id: int
    message: Message

    @property
    def digest(self) -> int:
        return body_hash(self.message.delivery.body)

    @property
    def key_beside(self) -> str:
        """Where it lands when another body has its key."""
        return collision_key(self.message.key, self.digest)

    def landed_as(self, held: Mapping[str, int]) -> str | None:
        key, digest = self.message.key, self.digest
        if held.get(key) == digest:
            return key
        return self.key_beside if self.key_beside in held else None


def drop(database: Database, ids: Sequence[int], why: str) -> list[Result]:
    """Give up the letters `ids`, all distinct, for good, in one transaction; their rows stay, with `why`.

    One that was replayed or dropped before stays as it is. Raises StoreUnavailable, StoreError.
    """
    note = clean(why)

    def work(cursor: Any) -> list[Result]:
        now = now_ms()
        letters: dict[int, LetterRow] = {}
        for start in range(0, len(ids), _PAGE):
            page = ids[start : start + _PAGE]
            rows = _locked(cursor, database, _select(LetterRow), page)
            letters.update({row[0]: LetterRow(*row) for row in rows})
        results = []
        for number in ids:
            letter = letters.get(number)
            if letter is None or letter.outcome != "open":
                results.append(_closed(number, letter))
                continue
            values = {"outcome": "dropped", "outcome_at": now, "outcome_note": note}
            _change(cursor, database, number, values)
            results.append(Result(number, Fate.DROPPED, note))
        return results

    return _durably(database, work)


_Value = TypeVar("_Value")


def _durably(database: Database, work: Callable[[Any], _Value]) -> _Value:
    try:
        return database.transact(work)
    except Refused as error:
        raise StoreError(
            f"the store {database.label} refused what became of a dead letter: {error}",
            remedy="report this as a defect",
        ) from error


def _closed(number: int, letter: LetterRow | None) -> Result:
    if letter is None:
        return Result(number, Fate.UNKNOWN)
    fate = Fate.REPLAYED_BEFORE if letter.outcome == "replayed" else Fate.DROPPED_BEFORE
    return Result(number, fate, letter.outcome_note or "")


def _still_dead(letter: LetterRow, reason: str, sentence: str) -> Result:
    """What could not be unpacked is tried as it is: that it is unreadable then is no better reason."""
    if letter.reason == "bad_body":
        reason, sentence = letter.reason, letter.detail
    return Result(letter.id, Fate.STILL_DEAD, _storable(sentence), reason)


def _storable(sentence: str) -> str:
    return clean(sentence)[:_SENTENCE]


def _select(row: type[LetterRow]) -> Select[Any]:
    size = func.length(_letters.body).label("size")
    return select(*(size if name == "size" else _letters[name] for name in row.__struct_fields__))


def _pairs(rows: Any) -> list[tuple[int, int]]:
    return [(int(number), int(size)) for number, size in rows]


# --- on the cursor of a transaction ---------------------------------------------------------------------


def _locked(cursor: Any, database: Database, query: Select[Any], ids: Sequence[int]) -> list[tuple[Any, ...]]:
    """The rows `ids`, locked in the order of their ids where the database locks rows."""
    if not ids:
        return []
    _execute(cursor, database, query.where(_letters.id.in_(ids)).order_by(_letters.id).with_for_update())
    return list(cursor.fetchall())


def _change(cursor: Any, database: Database, number: int, values: dict[str, Any]) -> None:
    _execute(cursor, database, update(schema.dead_letters).where(_letters.id == number).values(**values))


def _execute(cursor: Any, database: Database, clause: ClauseElement) -> None:
    compiled = clause.compile(dialect=database.dialect, compile_kwargs={"render_postcompile": True})
    values = compiled.params
    cursor.execute(str(compiled), tuple(values[name] for name in compiled.positiontup or ()))  # type: ignore[attr-defined]
