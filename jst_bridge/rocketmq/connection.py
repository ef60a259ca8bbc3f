"""One socket to one server: many requests at once, answers in any order, the server's own requests between."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final, cast

from ..errors import ConnectionFailed, DecodeError, RequestTimeout
from .codes import FrameFlag, Request
from .frame import Frame, FrameReader, encode_frame

__all__ = ["Connection", "parse_address"]

_OPAQUE_LIMIT: Final = 2**31 - 1

RequestHandler = Callable[["Connection", Frame], None]


def parse_address(address: str) -> tuple[str, int]:
    """Host and port of `host:port` or `[ipv6]:port`. Raises ConnectionFailed: a route may hold anything."""
    host, separator, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not separator or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConnectionFailed(f"{address!r} is not a server address", remedy="write it as host:port")
    return host, int(port)


class Connection(asyncio.Protocol):
    """Made by `Connection.open`. Once broken it stays broken: open another one."""

    def __init__(self, address: str, on_request: RequestHandler) -> None:
        self.address = address
        self._on_request = on_request
        self._reader = FrameReader()
        self._pending: dict[int, asyncio.Future[Frame]] = {}
        self._opaque = 0
        self._transport: asyncio.Transport | None = None
        self._lost = asyncio.get_running_loop().create_future()
        self._writable = asyncio.Event()
        self._writable.set()
        self._reason = "the connection was closed"

    @classmethod
    async def open(cls, address: str, *, timeout: float, on_request: RequestHandler) -> Connection:
        """Connect within `timeout` seconds. Raises ConnectionFailed."""
        host, port = parse_address(address)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout):
                _, connection = await loop.create_connection(lambda: cls(address, on_request), host, port)
        except TimeoutError:
            raise ConnectionFailed(f"{address} did not accept a connection within {timeout:g} s") from None
        except OSError as error:
            reason = error.strerror or str(error)
            raise ConnectionFailed(f"cannot connect to {address}: {reason}") from None
        return connection

    @property
    def closed(self) -> bool:
        return self._transport is None or self._transport.is_closing()

    @property
    def local_host(self) -> str:
        """This machine's address as the connection uses it."""
        name = self._transport.get_extra_info("sockname") if self._transport else None
        return str(name[0]) if name else "127.0.0.1"

    async def request(self, code: int, ext: dict[str, str], body: bytes = b"", *, timeout: float) -> Frame:
        """Send a request and wait up to `timeout` seconds for its answer, whatever its code.

        Raises ConnectionFailed (the socket broke; whether the server acted is unknown) and RequestTimeout.
        """
        opaque = self._opaque
        self._opaque = 0 if opaque == _OPAQUE_LIMIT else opaque + 1
        answer: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(timeout):
                if not self._writable.is_set():
                    await self._writable.wait()
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

    def respond(self, request: Frame, code: int, *, body: bytes = b"", remark: str = "") -> None:
        """Answer a request of the server, unless it was one-way."""
        if not request.is_oneway and not self.closed:
            self._write(Frame(code, request.opaque, FrameFlag.RESPONSE, {}, body, remark))

    def _write(self, frame: Frame) -> None:
        if self._transport is None or self._transport.is_closing():
            raise ConnectionFailed(f"{self.address}: {self._reason}")
        self._transport.write(encode_frame(frame))

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
                async with asyncio.timeout(1):
                    await asyncio.shield(self._lost)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        try:
            frames = self._reader.feed(data)
        except DecodeError as error:
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
            self._reason = f"the connection broke: {exc}"
        self._transport = None
        self._writable.set()
        for answer in self._pending.values():
            if not answer.done():
                answer.set_exception(ConnectionFailed(f"{self.address}: {self._reason}"))
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
