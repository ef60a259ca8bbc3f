"""A client of the Taobao Open Platform (TOP): signed calls with retries, bans and a rate limit. Usable alone.

    async with TopClient(TopSettings("12345678", secret)) as top:
        answer = await top.call("taobao.user.seller.get", session=session, fields="nick,user_id")

The protocol is reference 2 to 6; the vendor's page is open.taobao.com/doc.htm?docId=101617.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from ..errors import TopError
from .answers import HttpAnswer, clock_of, read_answer
from .errors import Banned, ClockSkewed, GatewayUnreachable, Refusal
from .pacing import Bans, Clock, RateLimit, backoff
from .parameters import Call, Secret, SignedCall, TopSettings
from .refusals import TOLERATED_SKEW, Circumstances, refused

if TYPE_CHECKING:
    from .transport import Transport

__all__ = ["TopClient"]

log = logging.getLogger(__name__)

T = TypeVar("T")
_SKEW_TO_MENTION: Final = TOLERATED_SKEW / 2


class TopClient:
    """Calls for one app. Make one per app and process: it holds the rate limit and knows the bans.

    Nothing is opened before the first call. Use it within one event loop.
    """

    def __init__(self, settings: TopSettings, *, clock: Clock | None = None) -> None:
        self.settings = settings
        self.clock_skew: float | None = None
        """Seconds this machine's clock was ahead of the gateway's at the last answer; None: not known."""
        self._clock = clock or Clock()
        self._rate = RateLimit(settings.calls_per_second, settings.burst, self._clock)
        self._bans = Bans(settings.ban_wait, self._clock)
        self._transport: Transport | None = None
        self._closed = False
        self._skew_mentioned = False

    def __repr__(self) -> str:
        return f"<TopClient of app {self.settings.app_key} at {self.settings.gateway}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection; no call is made after that. Idempotent."""
        self._closed = True
        transport, self._transport = self._transport, None
        if transport is not None:
            await transport.close()

    async def call(self, method: str, /, *, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Call any method and return the fields of its answer, `request_id` among them, unwrapped by one level.

        Parameters are written as reference 2.3 says: lists of scalars joined by commas, dicts as JSON, aware times
        in Beijing time; None and empty text are left out. Fractions in the answer come as text.
        Raises TopError: the kinds are in jst_bridge.top.errors. Retried where the reference allows it: the
        platform's own faults, limits and short bans; after a lost answer only jms methods and `.get`.
        """
        session = Secret(session) if session is not None else None
        return await self.perform(Call.of(method, parameters, session), dict)

    async def perform(self, call: Call, read: Callable[[Mapping[str, object]], T]) -> T:
        """As `call`, with the answer typed by `read`, whose TopError counts as the platform's refusal."""
        attempt, refreshed = 1, False
        while True:
            try:
                return await self._attempt(call, read)
            except TopError as error:
                error.attempts = attempt
                if isinstance(error, ClockSkewed):
                    # A fresh timestamp may do; in the next second, lest it be the same request once more.
                    pause = None if refreshed else self._clock.uniform(1.0, 1.5)
                    refreshed = True
                else:
                    pause = self._pause(call, error, attempt)
                if pause is None or attempt >= self.settings.attempts:
                    raise
                wait = error.retry_after if isinstance(error, Banned) else pause
                log.info("%s: attempt %d failed, the next in %.1f s: %s", call.method, attempt, wait, error)
            if pause > 0:
                await self._clock.sleep(pause)
            attempt += 1

    def _pause(self, call: Call, error: TopError, attempt: int) -> float | None:
        """Seconds until the next attempt; None: not again."""
        if not error.retriable or (error.may_have_acted and not call.idempotent):
            return None
        if isinstance(error, Banned):
            # Recorded: the next attempt waits until the ban ends.
            return 0 if (error.retry_after or 0) <= self.settings.ban_wait else None
        return backoff(error, attempt, self._clock)

    async def _attempt(self, call: Call, read: Callable[[Mapping[str, object]], T]) -> T:
        """One request, when it may go."""
        signed, answer = await self._exchange(call)
        self._compare_clocks(clock_of(answer))
        fields = read_answer(answer, call.method, simplify=self.settings.simplify, hide=signed.hide)
        try:
            if isinstance(fields, Refusal):
                raise refused(fields, Circumstances(signed.shown(), self.clock_skew))
            return read(fields)
        except Banned as error:
            self._bans.record(error)
            raise

    async def _exchange(self, call: Call) -> tuple[SignedCall, HttpAnswer]:
        """Wait for bans, a connection and the rate limit, in this order. Raises Banned for a long ban."""
        while True:
            await self._bans.wait(call.method)
            transport = self._opened()
            async with transport.free:
                await self._rate.take()
                if transport is not self._transport or not self._bans.free(call.method):
                    continue  # closed, or banned, while this call waited: nobody waits with a connection in hand
                signed = call.signed(self.settings, self._clock.time())
                return signed, await transport.post(signed)

    def _opened(self) -> Transport:
        if self._closed:
            error = GatewayUnreachable("this TopClient is closed", remedy="make a new one")
            error.retriable = False
            raise error
        if self._transport is None:
            from .transport import Transport

            self._transport = Transport(self.settings)
        return self._transport

    def _compare_clocks(self, theirs: float | None) -> None:
        self.clock_skew = None if theirs is None else self._clock.time() - theirs
        if self.clock_skew is None or abs(self.clock_skew) < _SKEW_TO_MENTION or self._skew_mentioned:
            return
        self._skew_mentioned = True
        log.warning(
            "this machine's clock is %d s %s the gateway's; from %d s on the platform refuses every call",
            abs(self.clock_skew),
            "ahead of" if self.clock_skew > 0 else "behind",
            TOLERATED_SKEW,
        )
