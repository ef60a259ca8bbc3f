"""The file of `users import`: CSV with nick, session, topics and group, as people and spreadsheets write it.

UTF-8 with or without a byte order mark, or GBK; commas, semicolons or tabs. What is wrong with a row stays with it.
"""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from jst_bridge.errors import JstBridgeError
from jst_bridge.store.sellers import LONGEST_NICK
from jst_bridge.top.parameters import Secret

__all__ = [
    "LONGEST_SESSION",
    "Row",
    "fault_of_group",
    "fault_of_nick",
    "fault_of_session",
    "read_roster",
    "split_topics",
]

LONGEST_SESSION: Final = 256
MOST_TOPICS: Final = 20
_LONGEST_GROUP: Final = 32
_MOST_BYTES: Final = 64 << 20
_NEEDED: Final = ("nick", "session")
_KNOWN: Final = (*_NEEDED, "topics", "group")
_IGNORED: Final = frozenset({"user_id", "added_at", "deleted_at", "checked_at", "is_valid"})
"""What `users export` writes besides."""


@dataclass(frozen=True, slots=True)
class Row:
    """One seller to add. With a `fault` it cannot be."""

    line: int
    nick: str
    session: Secret = field(repr=False)
    topics: tuple[str, ...] | None
    """None: all that the app subscribes."""
    group: str = ""
    fault: str = ""


def read_roster(path: Path) -> list[Row]:
    """The rows of a file, in its order. Raises JstBridgeError when it is no such file."""
    text = _text(path)
    head = text.partition("\n")[0]
    separator = next((sign for sign in ",\t;" if sign in head), ",")
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        columns = _columns(path, next(lines, []))
        rows = [
            _row(lines.line_num, columns, cells) for cells in lines if any(cell.strip() for cell in cells)
        ]
    except csv.Error as error:
        raise JstBridgeError(
            f"{path}: line {lines.line_num} is no CSV: {error}", remedy="look for a quote that is not closed"
        ) from None
    return list(_without_repeats(rows))


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise JstBridgeError(
            f"{path} cannot be read: {error.strerror}", remedy="name a CSV file that this user may read"
        ) from None
    if len(content) > _MOST_BYTES:
        raise JstBridgeError(f"{path} is larger than 64 MiB", remedy="split it into several files")
    for encoding in ("utf-8-sig", "gb18030"):
        try:
            return content.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise JstBridgeError(f"{path} is neither UTF-8 nor GBK", remedy="save it as CSV in UTF-8")


def _columns(path: Path, cells: list[str]) -> list[str]:
    names = [cell.strip().lower() for cell in cells]
    missing = [name for name in _NEEDED if name not in names]
    unknown = [name for name in names if name and name not in _KNOWN and name not in _IGNORED]
    if missing or unknown or len(set(names)) < len(names):
        if missing:
            wrong = f"has no column {' and no column '.join(missing)}"
        elif unknown:
            wrong = f"has an unknown column {unknown[0][:40]}"
        else:
            wrong = "names a column twice"
        raise JstBridgeError(
            f"{path}: the first line {wrong}",
            remedy="let it be nick,session,topics,group; the last two may be missing",
        )
    return names


def _row(line: int, columns: list[str], cells: list[str]) -> Row:
    values = dict(zip(columns, (cell.strip() for cell in cells), strict=False))
    topics = split_topics(values.get("topics", ""))
    row = Row(
        line,
        values.get("nick", ""),
        Secret(values.get("session", "")),
        topics or None,
        values.get("group", ""),
    )
    if any(cell.strip() for cell in cells[len(columns) :]):
        return replace(
            row, fault="it has more cells than the first line: put quotes around a cell with commas"
        )
    return replace(row, fault=_fault(row))


def _fault(row: Row) -> str:
    return (
        fault_of_nick(row.nick)
        or fault_of_session(row.session)
        or _fault_of_topics(row.topics or ())
        or (fault_of_group(row.group) if row.group else "")
    )


def _without_repeats(rows: list[Row]) -> Iterator[Row]:
    """Of two rows with one nick, or one session, only the first is good: who knows which is right?"""
    nicks: dict[str, int] = {}
    sessions: dict[str, int] = {}
    for row in rows:
        if row.fault:
            yield row
        elif row.nick in nicks:
            yield replace(row, fault=f"its nick is in line {nicks[row.nick]}, too")
        elif row.session in sessions:
            yield replace(row, fault=f"its session is in line {sessions[row.session]}, too, for another nick")
        else:
            nicks[row.nick] = sessions[row.session] = row.line
            yield row


# --- single values --------------------------------------------------------------------------------------


def split_topics(text: str) -> tuple[str, ...]:
    """Message types as people separate them, each once."""
    return tuple(dict.fromkeys(word for word in re.split(r"[\s,;|，；、]+", text) if word))


def fault_of_nick(nick: str) -> str:
    """Why it cannot be a nick; '' when it can."""
    if not nick:
        return "the nick is empty"
    if len(nick) > LONGEST_NICK:
        return f"the nick is longer than {LONGEST_NICK} characters"
    if nick != nick.strip() or any(unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp") for sign in nick):
        return "the nick holds control characters, or blanks at an end"
    return "the nick holds a comma" if "," in nick else ""


def fault_of_session(session: str) -> str:
    """Why it cannot be a session; '' when it can. Never quotes it."""
    if not session:
        return "the session is empty"
    if len(session) > LONGEST_SESSION:
        return f"the session is longer than {LONGEST_SESSION} characters"
    return (
        ""
        if re.fullmatch(r"[!-~]+", session)
        else "the session holds blanks or characters that no session has"
    )


def _fault_of_topics(topics: tuple[str, ...]) -> str:
    if len(topics) > MOST_TOPICS:
        return f"more than {MOST_TOPICS} topics: leave the cell empty for all that the app subscribes"
    wrong = [topic for topic in topics if not re.fullmatch(r"[A-Za-z0-9_]{1,128}", topic)]
    return f"{wrong[0][:40]} is no message type" if wrong else ""


def fault_of_group(name: str) -> str:
    """Why it cannot name a seller group; '' when it can."""
    if len(name) > _LONGEST_GROUP:
        return f"the group is longer than {_LONGEST_GROUP} characters"
    if name.startswith("default"):
        return 'the group begins with "default", which the platform reserves'
    if any(unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp") for sign in name) or "," in name:
        return "the group holds a comma or control characters"
    return ""
