"""The summary at the end of a run: a table for people, one JSON object for programs."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from jst_bridge.ops.text import escaped
from jst_bridge.ports import Landed

__all__ = ["record", "table"]


def record(total: Landed, seconds: float) -> dict[str, Any]:
    """The summary as plain values; `seconds` is the run's duration."""
    return {
        "event": "summary",
        "landed": total.landed,
        "duplicates": total.duplicates,
        "dead_letters": total.dead_letters,
        "gaps": total.gaps,
        "collisions": total.collisions,
        "without_id": total.without_id,
        "redone": total.redone,
        "seconds": round(seconds, 3),
        "rate": round(_rate(total, seconds), 1),
        "topics": dict(_by_count(total.topics)),
    }


def table(total: Landed, seconds: float) -> RenderableType:
    """The summary for people, at most 80 columns wide. Zero counts of rare things are left out."""
    facts = [
        ("landed", f"{total.landed:,}"),
        ("duplicates", f"{total.duplicates:,}"),
        ("dead letters", f"{total.dead_letters:,}"),
        ("gaps", f"{total.gaps:,}"),
    ]
    facts += [("same key, other body", f"{total.collisions:,}")] if total.collisions else []
    facts += [("without a usable id", f"{total.without_id:,}")] if total.without_id else []
    facts += [("transactions redone", f"{total.redone:,}")] if total.redone else []
    facts += [("duration", _duration(seconds)), ("rate", f"{_rate(total, seconds):,.0f}/s")]
    parts: list[RenderableType] = [_grid(facts)]
    if total.topics:
        topics = [(topic, f"{count:,}") for topic, count in _by_count(total.topics)]
        parts += [Text(), _grid(topics, ("topic", "landed"))]
    return Group(*parts)


def _grid(rows: list[tuple[str, str]], header: tuple[str, str] = ("", "")) -> Table:
    grid = Table(box=box.SIMPLE_HEAD if any(header) else None, show_header=any(header), pad_edge=False)
    grid.add_column(header[0], overflow="fold")
    grid.add_column(header[1], justify="right", no_wrap=True)
    for name, value in rows:
        grid.add_row(Text(escaped(name)), Text(value))
    return grid


def _by_count(topics: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(topics.items(), key=lambda item: (-item[1], item[0]))


def _rate(total: Landed, seconds: float) -> float:
    return (total.landed + total.duplicates) / seconds if seconds > 0 else 0.0


def _duration(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    if hours:
        return f"{hours} h {minutes:02} min {rest:02.0f} s"
    return f"{minutes} min {rest:04.1f} s" if minutes else f"{rest:.2f} s"
