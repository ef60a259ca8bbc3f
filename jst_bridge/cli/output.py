"""Tables for people and JSON lines for programs, on stdout. Foreign text is escaped, never markup."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jst_bridge.ops.logging import wants_colour
from jst_bridge.ops.text import escaped, masked
from jst_bridge.settings import BEIJING

__all__ = [
    "Column",
    "console",
    "day",
    "facts",
    "heading",
    "moment",
    "number",
    "plain",
    "prose",
    "short_topic",
    "table",
    "time_of_day",
    "write_json",
]

# json.dumps escapes C0 itself; of the rest, what terminals obey or UTF-8 cannot carry.
_UNSAFE_JSON = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")


class Column(NamedTuple):
    """A column of a table. `whole` values are never folded: ids, times, numbers."""

    title: str
    whole: bool = False
    right: bool = False


def number(title: str) -> Column:
    """A column of numbers."""
    return Column(title, whole=True, right=True)


def console() -> Console:
    """Stdout for people: 80 columns wide where there is no terminal to ask."""
    return Console(
        file=sys.stdout,
        highlight=False,
        markup=False,
        emoji=False,
        no_color=not wants_colour(sys.stdout),
        legacy_windows=False,
    )


def table(columns: Sequence[Column], rows: Iterable[Sequence[object]]) -> Table:
    """Values are foreign text: they are escaped here, and None is a dash."""
    grid = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for column in columns:
        grid.add_column(
            Text(column.title),
            justify="right" if column.right else "left",
            no_wrap=column.whole,
            overflow="fold",
        )
    for row in rows:
        grid.add_row(*(Text("-" if value is None else plain(value)) for value in row))
    return grid


def facts(pairs: Iterable[tuple[str, str]]) -> Table:
    """Names and values, one pair a line."""
    grid = Table(box=None, show_header=False, pad_edge=False)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in pairs:
        grid.add_row(Text(name, style="dim"), Text(escaped(value)))
    return grid


def heading(text: str) -> Text:
    """A title above a table."""
    return Text(escaped(text), style="bold")


def plain(value: object) -> str:
    """Foreign text on one line; whole numbers with thousands separated."""
    return f"{value:,}" if isinstance(value, int) else escaped(str(value))


def short_topic(topic: str) -> str:
    """The telling part of a message type: TradeBuyerPay of taobao_trade_TradeBuyerPay."""
    return topic.rpartition("_")[2] or topic


def prose(text: str, *, raw: bool) -> str:
    """Free text of a message: phone numbers and mail addresses masked unless `raw`."""
    return text if raw else masked(text)


def moment(epoch_ms: int | None) -> str | None:
    """Epoch milliseconds as Beijing time."""
    local = _local(epoch_ms)
    return None if local is None else f"{local:%Y-%m-%d %H:%M:%S}"


def day(epoch_ms: int) -> str:
    """The Beijing day of epoch milliseconds."""
    local = _local(epoch_ms)
    return "unknown day" if local is None else f"{local:%Y-%m-%d}"


def time_of_day(epoch_ms: int) -> str:
    """The Beijing time of day of epoch milliseconds."""
    local = _local(epoch_ms)
    return "--:--:--" if local is None else f"{local:%H:%M:%S}"


def _local(epoch_ms: int | None) -> datetime | None:
    try:
        return None if epoch_ms is None else datetime.fromtimestamp(epoch_ms / 1000, UTC).astimezone(BEIJING)
    except (ValueError, OverflowError, OSError):
        return None


def write_json(value: Any) -> None:
    """One JSON object on one line of stdout."""
    text = json.dumps(value, ensure_ascii=False, default=str, separators=(",", ":"))
    sys.stdout.write(_UNSAFE_JSON.sub(lambda match: f"\\u{ord(match[0]):04x}", text) + "\n")
