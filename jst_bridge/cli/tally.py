"""Progress over a known number of things: a bar on a terminal, a line every ten seconds elsewhere, on stderr."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Final, Self

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["Tally"]

_INTERVAL: Final = 10.0


class Tally:
    """Counts `total` things, some of them bad. A context manager."""

    def __init__(self, total: int, things: str, bad: str) -> None:
        self._total = total
        self._things = things
        self._bad_word = bad
        self._done = self._bad = 0
        self._told = time.monotonic()
        console = Console(stderr=True, highlight=False)
        self._bar: Progress | None = None
        if console.is_terminal and not console.is_dumb_terminal:
            self._bar = Progress(
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.description}"),
                TimeRemainingColumn(),
                console=console,
                transient=True,
            )
            self._task = self._bar.add_task(things, total=total)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def step(self, *, bad: bool) -> None:
        """One more is done."""
        self._done += 1
        self._bad += bad
        if self._bar is not None:
            words = self._things + (f", {self._bad:,} {self._bad_word}" if self._bad else "")
            self._bar.update(self._task, completed=self._done, description=words)
        elif time.monotonic() - self._told > _INTERVAL:
            self._told = time.monotonic()
            said = f"{self._done:,} of {self._total:,} {self._things}, {self._bad:,} {self._bad_word}"
            click.echo(said, err=True)
