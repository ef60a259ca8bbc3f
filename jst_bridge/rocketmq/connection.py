"""One socket to one server: many requests at once, answers in any order, the server's own requests between."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import Callable
from typing import Final, cast

from ..errors import ConnectionFailed, DecodeError, RequestTimeout, SourceError
from .codes import FrameFlag, Request
from .frame import Frame, FrameReader, encode_frame
from .tls import NO_CERTIFICATE, PLAINTEXT_REFUSED, Tls, is_tls_alert, tls_failure

__all__ = ["Connection", "parse_address"]

_OPAQUE_LIMIT: Final = 2**31 - 1
_NEXT_ADDRESS: Final = 0.25
"""Seconds after which the next address of a name is tried as well (RFC 8305)."""

RequestHandler = Callable[["Connection", Frame], None]


def parse_address(address: str) -> tuple[str, int]:
    """Host and port of `host:port` or `[ipv6]:port`. Raises ConnectionFailed: a route may hold anything."""
    host, separator, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not separator or not host or not port.isdecimal() or len(port) > 5 or not 0 < int(port) < 65536:
        raise ConnectionFailed(f"{address!r} is not a server address", remedy="write it as host:port")
    return host, int(port)


class Connection(asyncio.Protocol):
    """Made by `Connection.open`. Once broken it stays broken: open another one."""

    def __init__(self, address: str, on_request: RequestHandler, tls: Tls | None = None) -> None:
        self.address = address
        self._tls = tls
        self._on_request = on_request
        self._reader = FrameReader()
        self._pending: dict[int, asyncio.Future[Frame]] = {}
        self._opaque = 0
        self._transport: asyncio.Transport | None = None
        self._lost = asyncio.get_running_loop().create_future()
        self._writable = asyncio.Event()
        self._writable.set()
        self._reason = "the connection was closed"
        self._remedy = ""
        self._broken_by: Exception | None = None
        self._heard = False
        self._retired = False
        self.heard_at = time.monotonic()
        """When the last byte came, on the monotonic clock; of an answer or not, it is a sign of life."""

    @classmethod
    async def open(
        cls,
        address: str,
        *,
        timeout: float,
        on_request: RequestHandler,
        tls: Tls | None = None,
    ) -> Connection:
        """Resolve the name, try each of its addresses, shake hands where `tls` says so; all in `timeout` seconds.

        Raises ConnectionFailed, TlsFailed, CredentialsRefused for a client certificate, and ConfigurationError
        for a file that `tls` names.
        """
        host, port = parse_address(address)
        context = tls.context() if tls is not None else None
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout):
                _, connection = await loop.create_connection(
                    lambda: cls(address, on_request, tls),
                    host,
                    port,
                    ssl=context,
                    server_hostname=((tls and tls.server_name) or host) if context else None,
                    happy_eyeballs_delay=_NEXT_ADDRESS,
                )
        except TimeoutError:
            what = "a connection with TLS" if context else "a connection"
            raise ConnectionFailed(f"{address} did not accept {what} within {timeout:g} s") from None
        except OSError as error:
            if tls is not None and isinstance(error, ssl.SSLError | ConnectionResetError):
                raise tls_failure(address, error, tls) from None
            reason = error.strerror or str(error)
            raise ConnectionFailed(f"cannot connect to {address}: {reason}") from None
        return connection

    @property
    def closed(self) -> bool:
        return self._transport is None or self._transport.is_closing()

    @property
    def usable(self) -> bool:
        """Whether it takes new requests."""
        return not self.closed and not self._retired

    @property
    def local_host(self) -> str:
        """This machine's address as the connection uses it."""
        name = self._transport.get_extra_info("sockname") if self._transport else None
        return str(name[0]) if name else "127.0.0.1"

    async def request(self, code: int, ext: dict[str, str], body: bytes = b"", *, timeout: float) -> Frame:
        """Send a request and wait up to `timeout` seconds for its answer, whatever its code.

        Raises ConnectionFailed (the socket broke; whether the server acted is unknown) and RequestTimeout.
        """
        opaque = self._next_opaque()
        answer: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(timeout):
                if not self._writable.is_set():
                    await self._writable.wait()
                if self._transport is not None and self._transport.is_closing():
                    await asyncio.shield(self._lost)  # why, is known by then
                self._write(Frame(code, opaque, 0, ext, body))
                self._pending[opaque] = answer
                return await answer
        except TimeoutError:
            raise RequestTimeout(
                f"{self.address} did not answer {_name(code)} within {timeout:g} s"
            ) from None
        finally:
            # An answer that still comes finds no entry and is dropped (reference 1.4).
            self._pending.pop(opaque, None)
            self._close_when_retired()

    def poke(self, code: int, ext: dict[str, str], body: bytes = b"") -> None:
        """Ask without waiting: the answer, which nobody takes, is a sign of life in `heard_at`."""
        if self.usable:
            self._write(Frame(code, self._next_opaque(), 0, ext, body))

    def _next_opaque(self) -> int:
        opaque = self._opaque
        self._opaque = 0 if opaque == _OPAQUE_LIMIT else opaque + 1
        return opaque

    def respond(self, request: Frame, code: int, *, body: bytes = b"", remark: str = "") -> None:
        """Answer a request of the server, unless it was one-way."""
        if not request.is_oneway and not self.closed:
            self._write(Frame(code, request.opaque, FrameFlag.RESPONSE, {}, body, remark))

    def _write(self, frame: Frame) -> None:
        if self._transport is None or self._transport.is_closing():
            raise self._failure()
        self._transport.write(encode_frame(frame))

    def _failure(self) -> SourceError:
        if self._tls is not None and isinstance(self._broken_by, ssl.SSLError):
            # Under TLS 1.3 a server that misses a client certificate says so after the handshake (reference 5.6).
            return tls_failure(self.address, self._broken_by, self._tls)
        return ConnectionFailed(f"{self.address}: {self._reason}", remedy=self._remedy)

    def retire(self) -> None:
        """The server wants its clients to leave (GO_AWAY): answers on the way are still taken, then it closes."""
        self._retired = True
        self._close_when_retired()

    def _close_when_retired(self) -> None:
        if self._retired and not self._pending and self._transport is not None:
            self._transport.close()

    def abort(self, reason: str) -> None:
        """Close at once; what is pending fails with `reason`."""
        self._reason = reason
        if self._transport is not None:
            self._transport.abort()

    async def close(self) -> None:
        """Close, and wait until the socket is gone."""
        if self._transport is not None:
            self._transport.close()
            with contextlib.suppress(TimeoutError):
                # The servers do not answer the end of TLS, for which asyncio would wait.
                async with asyncio.timeout(0.1 if self._tls else 1):
                    await asyncio.shield(self._lost)
        if self._transport is not None:
            self._transport.abort()
            await self._lost

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.heard_at = time.monotonic()
        self._heard = True
        try:
            frames = self._reader.feed(data)
        except DecodeError as error:
            self._remedy = PLAINTEXT_REFUSED if is_tls_alert(data) else ""
            self.abort(f"it sent something that is no frame: {error}")
            return
        for frame in frames:
            if frame.is_response:
                answer = self._pending.get(frame.opaque)
                if answer is not None and not answer.done():
                    answer.set_result(frame)
            else:
                self._on_request(self, frame)

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            self._reason, self._broken_by = f"the connection broke: {exc}", exc
        if not self._heard:
            self._remedy = PLAINTEXT_REFUSED if self._tls is None else NO_CERTIFICATE
        self._transport = None
        self._writable.set()
        for answer in self._pending.values():
            if not answer.done():
                answer.set_exception(self._failure())
        if not self._lost.done():
            self._lost.set_result(None)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()


def _name(code: int) -> str:
    try:
        return Request(code).name
    except ValueError:
        return f"request {code}"
