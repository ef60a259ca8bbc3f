"""What a field of a message may hold, and how it is read when it does not come as it should.

The aliases type the content Structs. msgspec checks them strictly on the fast path; whatever it refuses is
read again here, by one function per alias, which answers None for a value that the field cannot hold.

Sources: the field tables of open.taobao.com/tmc.htm, and bodies seen in the wild, which carry ids and money
as number or text, and times as Beijing text, epoch milliseconds or RFC 3339.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

__all__ = [
    "BEIJING",
    "CENT",
    "EARLIEST",
    "LATEST",
    "NAME_LENGTH",
    "READERS",
    "WORD_LENGTH",
    "YUAN_DIGITS",
    "Flag",
    "Id",
    "Instant",
    "Integer",
    "Name",
    "Text",
    "Word",
    "Yuan",
    "clean",
    "epoch_ms",
    "read_flag",
    "read_id",
    "read_instant",
    "read_integer",
    "read_name",
    "read_text",
    "read_word",
    "read_yuan",
]

BEIJING = timezone(timedelta(hours=8))
"""Every time of the platform without a zone is Beijing time, which has had no summer time since 1991."""

EARLIEST = 946_656_000_000
"""2000-01-01 in Beijing, in epoch ms, before there was a Taobao: an earlier time of publishing is no time."""
LATEST = 7_258_089_600_000
"""2200-01-01 in Beijing, in epoch ms: a later time of publishing is no time."""

ID_DIGITS = 32
"""The store's columns for ids hold this many digits; real ones have 12 to 19."""

Id = Annotated[int, msgspec.Meta(gt=0, le=2**63 - 1)]
"""An order, refund, item or message id: exact, positive. The tolerant reader goes up to 32 digits."""

Integer = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
"""A count or code that stays in the content."""

Flag = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)]
"""A small number that has a column of 32 bits."""

Yuan = Decimal
"""Money in yuan (元), exact: finite, at most 16 digits before (also when rounded to cents) and 20 after the point."""

YUAN_DIGITS = 16
CENT = Decimal("0.01")

Text = str
"""Text that every store can hold: no NUL, no lone surrogate. As long as the body allows."""

WORD_LENGTH = 64
Word = Annotated[str, msgspec.Meta(max_length=WORD_LENGTH)]
"""A Text that is a word of some list (status, kind, step): the store holds this many characters, the rest is cut."""

NAME_LENGTH = 128
Name = Annotated[str, msgspec.Meta(max_length=NAME_LENGTH)]
"""A Text that names someone or something (nick, open uid, waybill, carrier): cut likewise."""

if TYPE_CHECKING:
    Instant = datetime
else:
    Instant = datetime | int
"""An aware datetime in Beijing time, years 1971 to 2199; a time in 1970 is a zero that someone wrote out.

On the wire text or a number, hence two types for msgspec; `read_instant` makes a datetime of both before anyone
sees it.
"""

_EPOCH = datetime(1970, 1, 1, tzinfo=BEIJING) + timedelta(hours=8)
_FIRST = 31_507_200_000
"""1971-01-01 in Beijing, in epoch ms."""
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
_DIGITS = re.compile(r"-?[0-9]+")


def clean(text: str) -> str:
    """`text` with each NUL and lone surrogate replaced by U+FFFD."""
    return _UNSTORABLE.sub("\ufffd", text)


def epoch_ms(moment: datetime) -> int:
    """Milliseconds since 1970 UTC of an aware `moment`."""
    return (moment - _EPOCH) // timedelta(milliseconds=1)


def read_text(value: object) -> Text | None:
    return clean(value) if type(value) is str else None


def read_word(value: object) -> Word | None:
    return clean(value[:WORD_LENGTH]) if type(value) is str else None


def read_name(value: object) -> Name | None:
    return clean(value[:NAME_LENGTH]) if type(value) is str else None


def read_id(value: object) -> int | None:
    """A positive integer or its digits. A float is refused: whoever wrote one has already rounded the id."""
    number = _whole(value)
    return number if number is not None and 0 < number < 10**ID_DIGITS else None


def read_integer(value: object) -> int | None:
    number = _whole(value)
    return number if number is not None and -(2**63) <= number < 2**63 else None


def read_flag(value: object) -> int | None:
    number = _whole(value)
    return number if number is not None and -(2**31) <= number < 2**31 else None


def _whole(value: object) -> int | None:
    if type(value) is int:
        return value
    if type(value) is str:
        digits = value.strip()
        if len(digits) <= ID_DIGITS + 1 and _DIGITS.fullmatch(digits):
            return int(digits)
    return None


def read_yuan(value: object) -> Decimal | None:
    if type(value) is Decimal:
        amount = value
    elif type(value) is int or type(value) is str:
        try:
            amount = Decimal(value)
        except InvalidOperation:
            return None
    else:
        return None
    if amount.same_quantum(CENT):  # two decimals, as nearly always; this also says that it is finite
        return amount if amount.adjusted() < YUAN_DIGITS else None
    if not amount.is_finite() or not -20 <= amount.adjusted() < YUAN_DIGITS:
        return None
    exponent = amount.as_tuple().exponent
    if not isinstance(exponent, int) or exponent < -20:
        return None
    if amount.adjusted() == YUAN_DIGITS - 1 and amount.quantize(CENT).adjusted() == YUAN_DIGITS:
        return None
    return amount if exponent <= 0 else amount.quantize(Decimal(1))


def read_instant(value: object) -> datetime | None:
    """Text without zone is Beijing time. A number, or its digits, is epoch ms; below 10^11 epoch seconds."""
    if type(value) is str:
        text = value.strip()
        if _DIGITS.fullmatch(text):
            return _from_epoch(_whole(text))
        try:
            value = msgspec.convert(text, datetime)
        except ValueError:
            return None
    if isinstance(value, datetime):
        if not 1970 <= value.year <= 2200:  # a year to spare: in Beijing it may be another one
            return None
        moment = value.replace(tzinfo=BEIJING) if value.tzinfo is None else value.astimezone(BEIJING)
        return moment if 1971 <= moment.year < 2200 else None
    return _from_epoch(value) if type(value) is int else None


def _from_epoch(number: int | None) -> datetime | None:
    if number is None:
        return None
    milliseconds = number if number >= 10**11 else number * 1000
    if not _FIRST <= milliseconds < LATEST:
        return None
    return _EPOCH + timedelta(milliseconds=milliseconds)


READERS: dict[Any, Callable[[object], object]] = {
    Id | None: read_id,
    Integer | None: read_integer,
    Flag | None: read_flag,
    Yuan | None: read_yuan,
    Instant | None: read_instant,
    Text | None: read_text,
    Word | None: read_word,
    Name | None: read_name,
}
"""The tolerant reader of each optional alias."""
