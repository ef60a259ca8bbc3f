"""Random changes to bytes: some blind, some that know where a binary format or JSON is sensitive."""

from __future__ import annotations

import random
from typing import Final

__all__ = ["MAX_INPUT", "Mutator"]

MAX_INPUT: Final = 64 * 1024
"""Bytes a mutated input may have; a seed may be longer. What needs more has a test of its own."""

NUMBERS: Final = tuple(
    number.to_bytes(width, "big", signed=True)
    for width in (1, 2, 4, 8)
    for number in (0, 1, -1, 16, 127, -128, 2 ** (8 * width - 1) - 1, -(2 ** (8 * width - 1)))
)
TOKENS: Final = (
    *(b"{", b"}", b"[", b"]", b":", b",", b'"', b"\\", b"null", b"true", b"-1", b"-0", b"0", b"NaN", b"-Infinity"),
    *(b"1e999", b"1E-400", b"0.1", b"2147483648", b"9223372036854775808", b"9" * 40, b"9" * 5000),
    *(b"1_0", b"\xef\xbc\x91"),
    *(b"\\u0000", b"\\ud800", b"\\udc00\\ud800", b'""', b"{}", b"[]", b"{{", b"{0:", b"[" * 70, b'{"a":' * 70),
    *(b" " * 200, b"[" * 3000),
    *(b"\x00", b"\x01", b"\x02", b"\x01\x02", b"\xff", b"\xff\xfe", b"\xed\xa0\x80", b"\xef\xbb\xbf"),
    *(b"\xda\xa3\x20\xa7", b"\xda\xa3\x20\xab", b"%RETRY%", b"TAGS\x01", b"UNIQ_KEY\x01", b"RETRY_TOPIC\x01"),
    *(b"\x78\x9c", b"\x04\x22\x4d\x18", b"\x28\xb5\x2f\xfd"),
)  # fmt: skip
VALUES: Final = (
    *(b"null", b"true", b"0", b"-1", b"4", b"1e999", b"0.5", b"1.5e3", b"65536", b"4294967296", b"9223372036854775808"),
    *(b'""', b'"0"', b'"x"', b'"-1"', b'"\\ud800"', b"[]", b"{}", b"[[]]", b'{"a":1}', b"{0:1}", b"NaN"),
    b'{{"a":1}:2}',
)  # fmt: skip


class Mutator:
    """Deterministic: the same dice and inputs give the same changes."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice
        self._changes = (
            self._flip, self._flip, self._number, self._number, self._token, self._token, self._remove,
            self._repeat, self._move, self._cut, self._noise, self._digits, self._digits, self._value, self._value,
        )  # fmt: skip

    def mutate(self, data: bytes, other: bytes) -> bytes:
        """Some changes of `data`, perhaps with a piece of `other`; at most MAX_INPUT bytes, or as many as `data`."""
        changed = bytearray(data)
        if self._dice.random() < 0.15:
            self._splice(changed, other)
        for _ in range(self._dice.choice((1, 1, 1, 1, 2, 2, 3, 5, 9))):
            self._dice.choice(self._changes)(changed)
        return bytes(changed[: max(MAX_INPUT, len(data))])

    def _place(self, data: bytearray) -> int:
        """Where to change: the head of a frame is worth more than its length says."""
        if not data:
            return 0
        return self._dice.randrange(min(len(data), 32) if self._dice.random() < 0.3 else len(data))

    def _span(self, data: bytearray) -> slice:
        at = self._place(data)
        return slice(
            at, at + self._dice.randrange(1, 1 + (8 if self._dice.random() < 0.7 else len(data) or 1))
        )

    def _flip(self, data: bytearray) -> None:
        if data:
            data[self._place(data)] ^= 1 << self._dice.randrange(8)

    def _number(self, data: bytearray) -> None:
        """A number at the edge of its width in place of what stood there."""
        number, at = self._dice.choice(NUMBERS), self._place(data)
        data[at : at + len(number)] = number

    def _token(self, data: bytearray) -> None:
        token, at = self._dice.choice(TOKENS), self._place(data)
        data[at : at + (len(token) if self._dice.random() < 0.5 else 0)] = token

    def _remove(self, data: bytearray) -> None:
        del data[self._span(data)]

    def _repeat(self, data: bytearray) -> None:
        span = self._span(data)
        data[span.start : span.start] = bytes(data[span]) * self._dice.choice((1, 1, 2, 30))

    def _move(self, data: bytearray) -> None:
        piece = bytes(data[self._span(data)])
        at = self._place(data)
        data[at : at + len(piece)] = piece

    def _cut(self, data: bytearray) -> None:
        del data[self._place(data) :]

    def _noise(self, data: bytearray) -> None:
        span = self._span(data)
        data[span] = self._dice.randbytes(len(data[span]))

    def _digits(self, data: bytearray) -> None:
        """Another decimal digit where one stands: numbers in JSON change by orders of magnitude."""
        start = self._place(data)
        for at in range(start, min(len(data), start + 64)):
            if 0x30 <= data[at] <= 0x39:
                data[at : at + 1] = str(self._dice.randrange(10 ** self._dice.randrange(1, 20))).encode()
                return

    def _value(self, data: bytearray) -> None:
        """Another value for a member of a JSON object, so that the document stays one."""
        colon = data.find(b":", self._place(data))
        if colon >= 0:
            ends = [at for mark in b",}]" if (at := data.find(mark, colon)) >= 0]
            data[colon + 1 : min(ends, default=len(data))] = self._dice.choice(VALUES)

    def _splice(self, data: bytearray, other: bytes) -> None:
        data[self._place(data) :] = other[self._place(bytearray(other)) :]
