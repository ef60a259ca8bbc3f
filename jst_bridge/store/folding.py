"""State rows as a pure function of the set of their events: per field, whatever the order of arrival.

An *event* is what one message says about one order, order line or refund: when it counts (`published_at`,
life-cycle rank, message key: a total order) and a value per field, None where it says nothing. A folded *row*
holds for each field the value of the newest event that has one. To go on folding later it must still know
which event each value came from: the newest event's order stands in three columns of its own, and `older`
names the fields whose value came from an earlier event, with that event's order. `unfold` turns a row back
into the few events that would make it, so there is one rule only:

    fold(unfold(fold(a)) + b) == fold(a + b)
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import msgspec

__all__ = ["BOOKKEEPING", "Event", "Row", "fold", "unfold"]

Event = tuple[int, int, str, tuple[Any, ...]]
"""(published_at, rank, message_key, values): sorts by the first three, which no two events of a row share."""

Row = tuple[Any, ...]
"""The BOOKKEEPING columns, then one value per field."""

BOOKKEEPING = ("published_at", "order_rank", "message_key", "older")
"""The order of the newest event; and JSON [[published_at, rank, message_key, [field...]]...], '' when empty."""

_order = itemgetter(0, 1, 2)
_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(list[tuple[int, int, str, list[str]]])


def fold(events: Sequence[Event], fields: Sequence[str]) -> Row:
    """Fold one or more events of one key, in any order, into its row. `fields` names the values."""
    if len(events) == 1:
        published_at, rank, key, values = events[0]
        return (published_at, rank, key, "", *values)
    newest, *earlier = sorted(events, key=_order, reverse=True)
    published_at, rank, key, values = newest
    folded = list(values)
    missing = [field for field, value in enumerate(values) if value is None]
    older: list[tuple[int, int, str, list[str]]] = []
    for at, event_rank, event_key, said in earlier:
        if not missing:
            break
        found = [field for field in missing if said[field] is not None]
        if found:
            for field in found:
                folded[field] = said[field]
            older.append((at, event_rank, event_key, [fields[field] for field in found]))
            missing = [field for field in missing if folded[field] is None]
    return (published_at, rank, key, _encoder.encode(older).decode() if older else "", *folded)


def unfold(row: Row, fields: Sequence[str]) -> list[Event]:
    """The fewest events that fold into `row`."""
    published_at, rank, key, older, *values = row
    if not older:
        return [(published_at, rank, key, tuple(values))]
    events: list[Event] = []
    for at, event_rank, event_key, names in _decoder.decode(older):
        said: list[Any] = [None] * len(values)
        for name in names:
            field = fields.index(name)
            said[field], values[field] = values[field], None
        events.append((at, event_rank, event_key, tuple(said)))
    events.append((published_at, rank, key, tuple(values)))
    return events
