"""Where the name servers are: a list of addresses, or an HTTP address server that tells them (reference 4.14)."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ..errors import ConfigurationError, ConnectionFailed
from .connection import parse_address

__all__ = ["NameServers", "is_url"]

log = logging.getLogger(__name__)

REFRESH_PERIOD: Final = 120.0
"""Seconds, as every other client."""
ASK_AGAIN: Final = 5.0
"""Seconds between two attempts while no name server answers."""
TIMEOUT: Final = 3.0
"""Seconds for connecting and for each read."""
LONGEST: Final = 64 * 1024
"""Bytes of an address server's answer."""


def is_url(text: str) -> bool:
    return text.startswith(("http://", "https://"))


class NameServers:
    """The addresses, in their order. Those of an address server are fetched again when used after REFRESH_PERIOD.

    An address server that fails or talks nonsense changes nothing: the last good list stays.
    """

    def __init__(self, configured: tuple[str, ...], *, ca_file: Path | None = None) -> None:
        """`configured`: host:port each, or one URL. `ca_file`: a CA to trust besides the system's, for https.

        Raises ConfigurationError.
        """
        self.url = configured[0] if configured and is_url(configured[0]) else ""
        if not configured or (len(configured) > 1 and any(map(is_url, configured))):
            raise ConfigurationError(
                "name servers are addresses (host:port), or one URL of an address server"
            )
        self.known: tuple[str, ...] = () if self.url else configured
        """Empty until an address server has answered once."""
        self.on_change: Callable[[tuple[str, ...]], None] = lambda gone: None
        """Told which addresses left the list."""
        self._ca_file = ca_file
        self._asked_at = float("-inf")
        self._asking: asyncio.Task[None] | None = None

    async def addresses(self) -> tuple[str, ...]:
        """At least one. The first call waits for the address server. Raises ConnectionFailed."""
        if self.url and not self.known:
            await self._ask()
        elif self.url and time.monotonic() - self._asked_at > REFRESH_PERIOD:
            self._start()  # in the background: the list at hand serves meanwhile
        return self.known

    async def renewed(self, tried: tuple[str, ...]) -> bool:
        """When none of `tried` answers: ask the address server now. Whether there are others to try."""
        asking = self._asking is not None and not self._asking.done()
        if self.url and (asking or time.monotonic() - self._asked_at > ASK_AGAIN):
            try:
                await self._ask()
            except ConnectionFailed as error:
                log.warning("the list of name servers stays as it was: %s", error)
        return self.known != tried

    async def close(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    async def _ask(self) -> None:
        await asyncio.shield(self._start())

    def _start(self) -> asyncio.Task[None]:
        """All who wait share one request."""
        if self._asking is None or self._asking.done():
            self._asked_at = time.monotonic()
            self._asking = asyncio.create_task(self._refresh(), name=f"address server {self.url}")
            self._asking.add_done_callback(_complain)
        return self._asking

    async def _refresh(self) -> None:
        found = parse_list(self.url, await _get(self.url, self._ca_file))
        before, self.known = self.known, found
        if before and set(found) != set(before):
            log.info("name servers are now %s", "; ".join(found))
            self.on_change(tuple(address for address in before if address not in found))


def parse_list(url: str, text: str) -> tuple[str, ...]:
    """`host:port;host:port` in the first line. Raises ConnectionFailed."""
    first = text.strip().partition("\n")[0]
    found = tuple(dict.fromkeys(part.strip() for part in first.split(";") if part.strip()))
    try:
        for address in found:
            parse_address(address)
    except ConnectionFailed as error:
        raise ConnectionFailed(f"{url} answered no list of name servers: {error}", remedy=_REMEDY) from None
    if not found:
        raise ConnectionFailed(f"{url} answered an empty list of name servers", remedy=_REMEDY)
    return found


_REMEDY: Final = "check the URL in name_servers: an address server answers host:port;host:port"


async def _get(url: str, ca_file: Path | None) -> str:
    """The body of a GET answered with 200. Raises ConnectionFailed."""
    import httpx2  # only those with an address server pay for it

    # Without TLS no certificates are read; this context trusts nobody.
    trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if url.startswith("https://"):
        trust = ssl.create_default_context()
        if ca_file is not None:
            try:
                trust.load_verify_locations(ca_file)
            except OSError as error:
                raise ConfigurationError(
                    f"tls.ca_file {ca_file} cannot be used: {error.strerror or error}",
                    remedy="name a PEM file with the certificates of the CAs to trust",
                ) from None
    body = b""
    try:
        async with (
            asyncio.timeout(2 * TIMEOUT),
            httpx2.AsyncClient(verify=trust, timeout=TIMEOUT, trust_env=False) as client,
            client.stream("GET", url) as answer,
        ):
            if answer.status_code != 200:
                raise ConnectionFailed(f"{url} answered status {answer.status_code}", remedy=_REMEDY)
            async for piece in answer.aiter_bytes():
                body += piece
                if len(body) > LONGEST:
                    raise ConnectionFailed(f"{url} answered more than {LONGEST} bytes", remedy=_REMEDY)
    except TimeoutError:
        raise ConnectionFailed(f"{url} did not answer within {2 * TIMEOUT:g} s", remedy=_REMEDY) from None
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        reason = str(error) or type(error).__name__
        raise ConnectionFailed(f"cannot ask {url} for name servers: {reason}", remedy=_REMEDY) from None
    return body.decode("utf-8", "replace")


def _complain(task: asyncio.Task[None]) -> None:
    """A refresh nobody waits for: one line, and the list stays."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.debug("address server: %s", error)
