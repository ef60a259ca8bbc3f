"""JSON as it is found in the wild: more than msgspec accepts, and nothing rounded.

Tolerated: a byte order mark, NULs and white space around the document, invalid UTF-8, raw control characters
inside strings, lone surrogate escapes, numbers of any length.
"""

from __future__ import annotations

import json
from decimal import Decimal, InvalidOperation

__all__ = ["NoNumber", "parse"]

_LONGEST_NUMBER = 64
_PADDING = " \t\r\n\0\ufeff"


class NoNumber(str):
    """What stands where a number should, and is none that could be computed with: its text."""

    __slots__ = ()


def _integer(digits: str) -> int | NoNumber:
    # Python itself refuses more than 4,300 digits.
    return int(digits) if len(digits) <= _LONGEST_NUMBER else NoNumber(digits)


def _fraction(digits: str) -> Decimal | NoNumber:
    try:
        return Decimal(digits) if len(digits) <= _LONGEST_NUMBER else NoNumber(digits)
    except InvalidOperation:  # an exponent beyond what decimal can hold
        return NoNumber(digits)


_decoder = json.JSONDecoder(parse_int=_integer, parse_float=_fraction, parse_constant=NoNumber, strict=False)


def parse(document: bytes | str) -> object:
    """The value of a JSON document; fractions become Decimal, absurd numbers (long, NaN) a NoNumber.

    Raises ValueError when it is no JSON, RecursionError when it is nested too deeply.
    """
    text = document if isinstance(document, str) else document.decode("utf-8", "replace")
    return _decoder.decode(text.strip(_PADDING))
