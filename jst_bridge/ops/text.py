"""Foreign text made safe to show: nothing in it can move a cursor, hide, or name a person.

Everything that arrived in a message, or from a server, is foreign.
"""

from __future__ import annotations

import re

__all__ = ["escaped", "masked", "short"]

# C0, C1 and DEL steer terminals; separators of lines break them; bidirectional controls reorder what
# is read; surrogates cannot be encoded.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")
_LINE_CONTROL = re.compile(_CONTROL.pattern.replace("\x00-\x1f", "\x00-\x08\x0b-\x1f"))

_MOBILE = re.compile(
    r"(?<![0-9A-Za-z])((?:\+?86[- ]?)?1[3-9][0-9])[- ]?[0-9]{4}[- ]?([0-9]{4})(?![0-9A-Za-z])"
)
_LANDLINE = re.compile(r"(?<![0-9A-Za-z-])(0[0-9]{2,3})-?[0-9]{5,6}([0-9]{2})(?![0-9A-Za-z])")
_EMAIL = re.compile(r"([A-Za-z0-9])[A-Za-z0-9._%+-]{0,63}@([A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63})+)")


def escaped(text: str, *, lines: bool = False) -> str:
    r"""Control characters written as \x1b or \u202e. `lines` leaves line breaks and tabs as they are."""
    return (_LINE_CONTROL if lines else _CONTROL).sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    named = {0x09: "\\t", 0x0A: "\\n", 0x0D: "\\r"}.get(code)
    return named or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")


def masked(text: str) -> str:
    """Phone numbers and mail addresses with their middle starred. For free text, not for ids."""
    text = _MOBILE.sub(r"\1****\2", text)
    text = _LANDLINE.sub(r"\1****\2", text)
    return _EMAIL.sub(r"\1***@\2", text)


def short(text: str, longest: int) -> str:
    """At most `longest` characters, the last an ellipsis when something was cut."""
    return text if len(text) <= longest else text[: longest - 1] + "…"
