"""The HTTP under the client: one POST, one whole answer, and every failure as an error of ours.

Importing this module imports the HTTP library, so the client does it at its first call.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Final

import httpx2

from jst_bridge import __version__

from ..errors import TopError
from .answers import Hide, HttpAnswer
from .errors import GatewayTimeout, GatewayUnreachable, MalformedAnswer
from .parameters import SignedCall, TopSettings

__all__ = ["Transport"]

_LONGEST_REASON: Final = 200
_KEEP_ALIVE: Final = 30.0
"""Seconds an idle connection is kept."""
_HEADERS: Final = {
    "Accept": "application/json",
    "Accept-Encoding": "gzip",
    "Content-Type": "application/x-www-form-urlencoded;charset=UTF-8",
    "User-Agent": f"jst-bridge/{__version__}",
}
_NEVER_SENT: Final = (
    httpx2.ConnectError,
    httpx2.ConnectTimeout,
    httpx2.ProxyError,
    httpx2.UnsupportedProtocol,
)


class Transport:
    """Keep-alive connections to one gateway. A proxy of the environment is used, but never for loopback."""

    def __init__(self, settings: TopSettings) -> None:
        self._settings = settings
        # The semaphore lets nobody queue within the pool, where waiting would count as silence of the gateway.
        self._free = asyncio.Semaphore(settings.connections)
        self._http = httpx2.AsyncClient(
            headers=_HEADERS,
            timeout=httpx2.Timeout(settings.read_timeout, connect=settings.connect_timeout, pool=None),
            limits=httpx2.Limits(
                max_connections=settings.connections,
                max_keepalive_connections=settings.connections,
                keepalive_expiry=_KEEP_ALIVE,
            ),
            mounts={"all://127.0.0.1": None, "all://localhost": None, "all://[::1]": None},
            # Without TLS no certificates are read; this context trusts nobody.
            verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if settings.gateway.startswith("http:") else True,
            follow_redirects=False,
        )

    @property
    def free(self) -> asyncio.Semaphore:
        """To be held around `post`, and before the timestamp is written."""
        return self._free

    async def post(self, call: SignedCall) -> HttpAnswer:
        """Send a signed body. Raises GatewayUnreachable, GatewayTimeout and MalformedAnswer."""
        settings = self._settings
        failure: TopError
        # Raised outside of the handlers: the library's exceptions hold the request, and with it the session.
        try:
            async with asyncio.timeout(settings.total_timeout):
                return await self._exchange(call)
        except TimeoutError:
            failure = GatewayTimeout(
                f"{settings.gateway} did not finish its answer within {settings.total_timeout:g} s",
                remedy="try again later",
            )
        except httpx2.HTTPError as error:
            failure = _failure(error, settings, call.hide)
        except (ValueError, httpx2.InvalidURL) as error:
            # The library reads a Location or a cookie although nobody follows it, and trips over odd ones.
            failure = MalformedAnswer(
                f"{settings.gateway} answered with unreadable headers ({type(error).__name__})",
                retriable=False,
                remedy="check app.gateway, and that no proxy or login page answers in its place",
            )
        except _TooLarge:
            failure = MalformedAnswer(
                f"{settings.gateway} answered with more than {settings.answer_limit} bytes",
                retriable=False,
                remedy="check app.gateway, or ask for smaller pages",
            )
        raise failure

    async def _exchange(self, call: SignedCall) -> HttpAnswer:
        async with self._http.stream("POST", self._settings.gateway, content=call.body) as response:
            received = bytearray()
            async for piece in response.aiter_bytes():
                received += piece
                if len(received) > self._settings.answer_limit:
                    raise _TooLarge
            return HttpAnswer(response.status_code, bytes(received), response.headers.get("Date", ""))

    async def close(self) -> None:
        await self._http.aclose()


class _TooLarge(Exception):
    pass


def _failure(error: httpx2.HTTPError, settings: TopSettings, hide: Hide) -> TopError:
    gateway = settings.gateway
    reason = " ".join(hide(str(error)).split())[:_LONGEST_REASON] or type(error).__name__
    if isinstance(error, _NEVER_SENT):
        if isinstance(error, httpx2.ConnectTimeout):
            reason = f"no connection within {settings.connect_timeout:g} s"
        unreachable = GatewayUnreachable(
            f"cannot connect to {gateway}: {reason}",
            remedy="check app.gateway, the network, and a proxy in the environment (HTTPS_PROXY)",
        )
        if "CERTIFICATE" in reason.upper():
            unreachable.retriable = False
            unreachable.remedy = (
                "something between answers in place of the gateway: check proxy, clock and certificates"
            )
        return unreachable
    if isinstance(error, httpx2.TimeoutException):
        return GatewayTimeout(
            f"{gateway} was silent for {settings.read_timeout:g} s", remedy="try again later"
        )
    if isinstance(error, httpx2.DecodingError):
        return MalformedAnswer(
            f"{gateway} answered with broken compression: {reason}", remedy="check for a proxy in between"
        )
    broken = GatewayUnreachable(
        f"the connection to {gateway} broke: {reason}", remedy="try again later; check the network"
    )
    broken.may_have_acted = True
    return broken
