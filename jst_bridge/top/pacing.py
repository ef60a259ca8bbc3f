"""When the next call may go: the rate limit, bans, and pauses between attempts (reference 6.3).

All of it runs on a `Clock`, so that tests decide what time it is.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final

from .errors import Banned, BanScope, CallLimited, ServiceUnavailable, TopError

__all__ = ["Bans", "Clock", "RateLimit", "backoff"]

_FIRST_PAUSE: Final = 0.5
_FIRST_SLOW_PAUSE: Final = 2.0
_LONGEST_PAUSE: Final = 30.0
_UNTOLD_BAN: Final = (1.0, 60.0)
"""Seconds, when the platform does not say how long (reference 6.3)."""


@dataclass(frozen=True, slots=True)
class Clock:
    """Time and chance. Everything in seconds; `time` since the epoch."""

    monotonic: Callable[[], float] = time.monotonic
    time: Callable[[], float] = time.time
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    uniform: Callable[[float, float], float] = random.uniform


class RateLimit:
    """A token bucket: `burst` calls at once, then `per_second`. Who comes first goes first."""

    def __init__(self, per_second: float, burst: int, clock: Clock) -> None:
        self._interval = 1 / per_second
        self._saved = (burst - 1) / per_second
        self._clock = clock
        self._next = float("-inf")

    async def take(self) -> None:
        """Wait for one's turn. A turn that is cancelled is not given to another."""
        now = self._clock.monotonic()
        turn = max(self._next, now - self._saved)
        self._next = turn + self._interval
        if turn > now:
            await self._clock.sleep(turn - now)


@dataclass(frozen=True, slots=True)
class _Ban:
    error: Banned
    ends: float
    resume: float
    """A little later, for each ban another little: not everybody comes back at the same instant."""


class Bans:
    """What the platform has forbidden for a while, per scope."""

    def __init__(self, longest_wait: float, clock: Clock) -> None:
        self._longest = longest_wait
        self._clock = clock
        self._bans: dict[str, _Ban] = {}
        """By method; '' is the whole app."""

    def record(self, error: Banned) -> None:
        """Nobody calls in the scope of `error` until it ends. Settles `retry_after` where it is unknown."""
        if error.retry_after is None:
            error.retry_after = self._clock.uniform(*_UNTOLD_BAN)
        ends = self._clock.monotonic() + error.retry_after
        ban = _Ban(error, ends, ends + self._clock.uniform(0.05, 0.5))
        scope = error.method if error.scope is BanScope.API else ""
        known = self._bans.get(scope)
        if known is None or known.ends < ends:
            self._bans[scope] = ban

    async def wait(self, method: str) -> None:
        """Return when `method` is free. Raises Banned, without asking the platform, when that takes too long."""
        while True:
            ban = self._current(method)
            if ban is None:
                return
            now = self._clock.monotonic()
            if ban.ends - now > self._longest:
                raise _still(ban.error, method, ban.ends - now)
            await self._clock.sleep(ban.resume - now)

    def free(self, method: str) -> bool:
        return self._current(method) is None

    def _current(self, method: str) -> _Ban | None:
        now = self._clock.monotonic()
        for scope in ("", method):
            if scope in self._bans and self._bans[scope].resume <= now:
                del self._bans[scope]
        bans = [self._bans[scope] for scope in ("", method) if scope in self._bans]
        return max(bans, key=lambda ban: ban.resume, default=None)


def _still(error: Banned, method: str, remaining: float) -> Banned:
    return Banned(
        replace(error.refusal, method=method),
        scope=error.scope,
        retry_after=remaining,
        remedy=error.remedy,
        detail=f"still banned for {round(remaining)} s, not asked again",
    )


def backoff(error: TopError, attempt: int, clock: Clock) -> float:
    """Seconds before the attempt after `attempt` (from 1): doubling, with jitter, slow where load is the cause."""
    slow = isinstance(error, CallLimited) or (isinstance(error, ServiceUnavailable) and error.slow)
    pause = (_FIRST_SLOW_PAUSE if slow else _FIRST_PAUSE) * 2.0 ** min(attempt - 1, 10)
    return min(_LONGEST_PAUSE, pause) * clock.uniform(0.5, 1.0)
