"""A message body for people: text or a hex dump, and the place in it that an error names.

Phone numbers and mail addresses are masked unless `raw`; in a hex dump whatever might hold one is starred.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from rich.cells import cell_len

from jst_bridge.cli import output
from jst_bridge.errors import UndecodableError
from jst_bridge.messages.envelope import read_envelope
from jst_bridge.ops.text import escaped, masked

__all__ = ["excerpt", "lines"]

_TEXT_SHOWN: Final = 16_384
"""Characters of a text."""
_BYTES_SHOWN: Final = 4_096
_LONGEST_NAME: Final = 256
"""Characters; no phone number or mail address that is masked is longer."""
_ROW: Final = 16
_BEFORE, _AFTER = 44, 32
"""Columns of an excerpt, before and from the place it shows."""

_POSITION = re.compile(r"\b(char|byte|position) ([0-9]{1,9})\b")
_PADDING: Final = " \t\r\n\0\ufeff"
"""What the decoder takes off before it counts."""
_NAMES = re.compile(rb"[0-9A-Za-z@._%+-]+(?: [0-9-]+)*")


def lines(body: bytes, *, raw: bool) -> Iterable[str]:
    """The body to be printed: escaped text when it is UTF-8, else a hex dump of its beginning."""
    if not body:
        yield "(empty)"
        return
    try:
        text = body.decode()
    except UnicodeDecodeError:
        yield from _hex_dump(body, raw=raw)
        return
    if raw:
        yield escaped(text, lines=True)
        return
    yield escaped(masked(text[: _TEXT_SHOWN + _LONGEST_NAME])[:_TEXT_SHOWN], lines=True)
    if len(text) > _TEXT_SHOWN:
        yield f"... and {len(text) - _TEXT_SHOWN:,} characters more: --raw shows all"


def excerpt(body: bytes, tag: str, reason: str, detail: str, *, raw: bool) -> tuple[str, str] | None:
    """The text around the position that `detail` names, on one line, and a line with a caret below that position.

    None when it names none, or none that is in the body.
    """
    named = _POSITION.findall(detail)
    text = _text_read(body, tag, reason)
    if not named or text is None:
        return None
    unit, digits = named[-1]
    at = int(digits)
    if unit == "char":
        text = text.strip(_PADDING)
    else:
        at = len(body[:at].decode("utf-8", "replace")) if at <= len(body) else len(text) + 1
    if at > len(text):
        return None
    first, last = max(0, at - 2 * _LONGEST_NAME), at + 2 * _LONGEST_NAME
    before, after = text[first:at], text[at:last]
    if not raw:
        before, after = _masked_around(before, after)
    left = _fitting(reversed(before), _BEFORE)[::-1]
    right = _fitting(after, _AFTER)
    start = "…" if first > 0 or len(left) < len(before) else ""
    end = "…" if last < len(text) or len(right) < len(after) else ""
    shown = start + escaped(left)
    return shown + escaped(right) + end, " " * cell_len(shown) + "^"


def _text_read(body: bytes, tag: str, reason: str) -> str | None:
    """What the decoder was reading when it gave up: the content inside the envelope, or the whole body."""
    if reason != "bad_content":
        return body.decode("utf-8", "replace")
    try:
        content = read_envelope(body, tag).content
    except UndecodableError:
        return None
    return content if isinstance(content, str) else None


def _masked_around(before: str, after: str) -> tuple[str, str]:
    """Both masked; a number that lies across the border goes to the second as a whole."""
    whole = masked(before + after)
    while before and masked(before) + masked(after) != whole:
        before, after = before[:-1], before[-1] + after
    return masked(before), masked(after)


def _fitting(characters: Iterable[str], columns: int) -> str:
    taken = ""
    for character in characters:
        columns -= cell_len(escaped(character))
        if columns < 0:
            break
        taken += character
    return taken


def _hex_dump(body: bytes, *, raw: bool) -> Iterable[str]:
    """Offset, bytes and ASCII, 16 bytes a line."""
    shown = body[: _BYTES_SHOWN + _LONGEST_NAME]
    starred = shown if raw else _NAMES.sub(_star, shown)
    for start in range(0, min(len(body), _BYTES_SHOWN), _ROW):
        row = starred[start : start + _ROW]
        pairs = " ".join(f"{byte:02x}" for byte in row)
        text = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in row)
        yield f"{start:08x}  {pairs:<{3 * _ROW - 1}}  |{text}|"
    if len(body) > _BYTES_SHOWN:
        yield f"... and {len(body) - _BYTES_SHOWN:,} bytes more: --json has all"
    if starred != shown:
        yield "phone numbers and mail addresses are starred: --raw shows them"


def _star(match: re.Match[bytes]) -> bytes:
    text = match[0].decode("ascii")
    return match[0] if output.prose(text, raw=False) == text else b"*" * len(match[0])
