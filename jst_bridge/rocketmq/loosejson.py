"""Bodies written by fastjson that are not strict JSON (reference 1.8).

Two deviations occur: bare numeric keys, `{0:"host:port"}`, read as text keys; and maps keyed by objects,
`{{"brokerName":"a","queueId":0,"topic":"T"}:{...}}`, whose keys become sorted tuples of (name, value) pairs.
"""

from __future__ import annotations

import json
import math
from typing import Any, Final

import msgspec

from ..errors import DecodeError

__all__ = ["decode_json"]

MAX_DEPTH: Final = 64
MAX_TEXT: Final = 4 * 1024 * 1024
"""Ceiling of a body in bytes: the statistics of 20,000 queues. What is read takes up to twenty times as much."""
_SPACE: Final = " \t\r\n"


def _finite(digits: str) -> float:
    """Raises ValueError for NaN, infinities and what only an infinity can stand for: no field means them."""
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits[:40]} is no number")
    return value


_scan_scalar = json.JSONDecoder(strict=False, parse_float=_finite, parse_constant=_finite).raw_decode


def decode_json(data: bytes) -> Any:
    """The value of a body. Raises DecodeError."""
    if len(data) > MAX_TEXT:
        raise DecodeError(f"a JSON body of {len(data)} bytes exceeds the limit of {MAX_TEXT}")
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError, ValueError):
        pass
    try:
        text = data.decode()
        value, at = _value(text, _skip(text, 0), 0)
        at = _skip(text, at)
    except (ValueError, TypeError, IndexError, RecursionError) as error:
        raise DecodeError(f"body is not JSON, not even as fastjson writes it: {error}") from None
    if at != len(text):
        raise DecodeError(f"body goes on after its JSON value at character {at}")
    return value


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in _SPACE:
        at += 1
    return at


def _value(text: str, at: int, depth: int) -> tuple[Any, int]:
    if depth > MAX_DEPTH:
        raise ValueError(f"nested more than {MAX_DEPTH} deep")
    if text[at] == "{":
        return _object(text, at + 1, depth)
    if text[at] == "[":
        return _array(text, at + 1, depth)
    return _scan_scalar(text, at)


def _object(text: str, at: int, depth: int) -> tuple[dict[Any, Any], int]:
    members: dict[Any, Any] = {}
    at = _skip(text, at)
    while text[at] != "}":
        begin = at
        key, at = _value(text, at, depth + 1)
        name = _key(key, text[begin:at])
        at = _skip(text, at)
        if text[at] != ":":
            raise ValueError(f"no ':' after a key at character {at}")
        value, at = _value(text, _skip(text, at + 1), depth + 1)
        members[name] = value
        at = _separator(text, at, "}")
    return members, at + 1


def _key(key: Any, spelling: str) -> Any:
    """The key to store a member under. Raises ValueError or TypeError when it cannot be one."""
    if isinstance(key, dict):
        return tuple(sorted(key.items()))
    if isinstance(key, list):
        raise ValueError("a list as key")  # noqa: TRY004 - it becomes the DecodeError of the caller
    return key if isinstance(key, str) else spelling


def _array(text: str, at: int, depth: int) -> tuple[list[Any], int]:
    items: list[Any] = []
    at = _skip(text, at)
    while text[at] != "]":
        item, at = _value(text, at, depth + 1)
        items.append(item)
        at = _separator(text, at, "]")
    return items, at + 1


def _separator(text: str, at: int, end: str) -> int:
    at = _skip(text, at)
    if text[at] == ",":
        return _skip(text, at + 1)
    if text[at] != end:
        raise ValueError(f"expected ',' or '{end}' at character {at}")
    return at
