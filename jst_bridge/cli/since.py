"""The type of every `--since` and `--before`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import click

from jst_bridge.settings import instant, span

__all__ = ["Since"]


class Since(click.ParamType[int]):
    """A time, or a span before now, as epoch milliseconds."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            moment = instant(value) if "-" in value or ":" in value else datetime.now(UTC) - span(value)
            return int(moment.timestamp() * 1000)
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is neither an ISO time (2026-01-31T08:00) nor a span (2h, 3d)", param, ctx)
