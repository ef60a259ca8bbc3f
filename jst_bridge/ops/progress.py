"""Progress of a run: one live line on a terminal, a `progress` log line every ten seconds elsewhere."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple, Self

import structlog
from rich.console import Console
from rich.live import Live
from rich.text import Text

from jst_bridge.ops.text import escaped, short
from jst_bridge.ports import Landed

__all__ = ["Progress", "Snapshot"]

_LIVE_INTERVAL = 0.25
_LOG_INTERVAL = 10.0
_RATE_WINDOW = 10.0

log = structlog.get_logger(__name__)


class Snapshot(NamedTuple):
    """How far a run is at one moment."""

    total: Landed
    """What was landed since the run began."""
    state: str
    """A word or two for people: starting, consuming, store unavailable, stopping ..."""
    lag: int | None = None
    """Messages that wait at the broker, None when unknown."""


_STARTING = Snapshot(Landed(), "starting")


class Progress:
    """Shows snapshots while it is entered; a thread of its own takes them, so a busy loop cannot freeze it.

    `watch` names where snapshots come from, once there is something to watch. Taking one must be quick, and
    safe from another thread. Whatever goes wrong in showing progress ends the showing, never the run.
    """

    def __init__(self, console: Console | None = None, *, interval: float | None = None) -> None:
        self._console = console if console is not None else Console(stderr=True, highlight=False)
        self._live = (
            Live(console=self._console, auto_refresh=False, transient=True) if self._is_live() else None
        )
        self._interval = interval or (_LIVE_INTERVAL if self._live else _LOG_INTERVAL)
        self._take: Callable[[], Snapshot] | None = None
        self._seen: deque[tuple[float, int]] = deque()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._show, name="progress", daemon=True)

    def _is_live(self) -> bool:
        return self._console.is_terminal and not self._console.is_dumb_terminal

    def watch(self, take: Callable[[], Snapshot]) -> None:
        """Take snapshots from here from now on."""
        self._take = take

    def total(self) -> Landed | None:
        """What was landed so far; None before there was anything to watch."""
        return None if self._take is None else self._take().total

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join()
        if self._live is not None:
            self._live.stop()

    def _show(self) -> None:
        while not self._stopped.wait(self._interval):
            try:
                snapshot = self._take() if self._take is not None else _STARTING
                rate = self._rate(time.monotonic(), snapshot.total)
                if self._live is not None:
                    self._live.update(line(snapshot, rate, self._console.width), refresh=True)
                else:
                    record(snapshot, rate)
            except Exception as error:  # noqa: BLE001 a display must not end the run it displays
                log.warning("progress_failed", error=type(error).__name__)
                return

    def _rate(self, now: float, total: Landed) -> float:
        """Messages per second over the last ten seconds."""
        self._seen.append((now, total.landed + total.duplicates))
        while len(self._seen) > 2 and self._seen[0][0] < now - _RATE_WINDOW:
            self._seen.popleft()
        (first, before), (last, after) = self._seen[0], self._seen[-1]
        return (after - before) / (last - first) if last > first else 0.0


def line(snapshot: Snapshot, rate: float, width: int) -> Text:
    """One line for a terminal, cut to `width` columns."""
    total = snapshot.total
    parts = [
        f"{total.landed:,} landed",
        f"{total.duplicates:,} duplicates",
        f"{total.dead_letters:,} dead letters",
        f"{rate:,.0f}/s",
    ]
    if total.gaps:
        parts.append(f"{total.gaps:,} gaps")
    if snapshot.lag is not None:
        parts.append(f"lag {snapshot.lag:,}")
    text = Text(
        f"{short(escaped(snapshot.state), 24)}: {' · '.join(parts)}", no_wrap=True, overflow="ellipsis"
    )
    text.truncate(width, overflow="ellipsis")
    return text


def record(snapshot: Snapshot, rate: float) -> None:
    """One log line of the same facts."""
    total = snapshot.total
    log.info(
        "progress",
        state=snapshot.state,
        landed=total.landed,
        duplicates=total.duplicates,
        dead_letters=total.dead_letters,
        gaps=total.gaps,
        rate=round(rate, 1),
        **({} if snapshot.lag is None else {"lag": snapshot.lag}),
    )
