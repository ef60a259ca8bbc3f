"""The properties text of a message: `name 0x01 value 0x02 name 0x01 value 0x02 ...` (reference 3.3)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

__all__ = ["MAX_PROPERTIES", "decode_properties", "encode_properties", "find_property"]

MAX_PROPERTIES: Final = 32767
"""Ceiling of the encoded text in bytes: its length is an int16."""


def decode_properties(data: bytes) -> dict[str, str]:
    """All properties. Of a repeated name the last value counts, as in Java, but the *first* UNIQ_KEY:

    batches of 5.x Java producers carry each message's own id first and the batch's common id last (2.14).
    Bytes that are no UTF-8 are replaced; entries without a name, a separator or a value are dropped.
    """
    properties: dict[str, str] = {}
    for entry in data.decode("utf-8", "replace").split("\x02"):
        name, separator, value = entry.partition("\x01")
        if name and separator and value and not (name == "UNIQ_KEY" and name in properties):
            properties[name] = value
    return properties


def find_property(data: bytes, marker: bytes) -> str:
    """The value of one property, '' when absent; `marker` is its name with the 0x01 behind it.

    For the hot path: the last entry of that name that has a value is found without splitting the others.
    """
    at = data.rfind(marker)
    while at >= 0:
        if at == 0 or data[at - 1] == 2:  # else the tail of a longer name, or part of a value
            start = at + len(marker)
            stop = data.find(b"\x02", start)
            value = data[start:stop] if stop >= 0 else data[start:]
            if value:
                return value.decode("utf-8", "replace")
        at = data.rfind(marker, 0, at)
    return ""


def encode_properties(properties: Mapping[str, str] | Iterable[tuple[str, str]]) -> bytes:
    """The text form, with 5.x's trailing separator. Raises ValueError on a separator inside a name or value."""
    pairs = properties.items() if isinstance(properties, Mapping) else properties
    parts: list[str] = []
    for name, value in pairs:
        if not name or not value:
            continue
        if any(mark in text for text in (name, value) for mark in "\x01\x02"):
            raise ValueError(f"property {name!r} holds one of the separators 0x01 and 0x02")
        parts.append(f"{name}\x01{value}\x02")
    encoded = "".join(parts).encode()
    if len(encoded) > MAX_PROPERTIES:
        raise ValueError(f"properties of {len(encoded)} bytes exceed the protocol's {MAX_PROPERTIES}")
    return encoded
