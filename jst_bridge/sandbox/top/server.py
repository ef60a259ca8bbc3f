"""uvicorn, without what a library must not do: it takes no signals, logs nothing, and ends with its thread."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from typing import Final

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from .asgi import application
from .control import Control
from .desk import Desk

__all__ = ["ServerThread"]

_START_SECONDS: Final = 10.0
_STOP_SECONDS: Final = 10.0
_MOST_CONNECTIONS: Final = 512
_MOST_HEAD: Final = 65_536
"""Bytes of a request's head, the query within it."""
_KEEP_ALIVE: Final = 60
_RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER with no time to linger: closing sends RST."""


class _Connections:
    """The open connections by the client's address."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, int], asyncio.Transport] = {}

    def opened(self, client: tuple[str, int], transport: asyncio.Transport) -> None:
        self._open[client] = transport

    def closed(self, client: tuple[str, int]) -> None:
        self._open.pop(client, None)

    def abort(self, client: tuple[str, int]) -> None:
        transport = self._open.get(client)
        if transport is not None:
            connection: socket.socket = transport.get_extra_info("socket")
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            transport.abort()

    def abort_all(self) -> None:
        for client in list(self._open):
            self.abort(client)


class _Server(uvicorn.Server):
    """Says when it listens, and leaves no connection behind."""

    def __init__(self, config: uvicorn.Config, connections: _Connections) -> None:
        super().__init__(config)
        self.listening = threading.Event()
        self._connections = connections

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._connections.abort_all()
        await super().shutdown(sockets)


def _protocol(connections: _Connections) -> type[asyncio.Protocol]:
    class Protocol(H11Protocol):
        """Registers its connection, so that a fault can reset it."""

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if self.client is not None:
                connections.opened(self.client, transport)

        def connection_lost(self, exc: Exception | None) -> None:
            if self.client is not None:
                connections.closed(self.client)
            super().connection_lost(exc)

    return Protocol


class ServerThread:
    """One server on a loopback port, running until `stop`."""

    def __init__(self, desk: Desk, control: Control, listener: socket.socket) -> None:
        connections = _Connections()
        config = uvicorn.Config(
            application(desk, control, connections.abort),
            loop="asyncio",
            http=_protocol(connections),
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            log_level="critical",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            limit_concurrency=_MOST_CONNECTIONS,
            timeout_keep_alive=_KEEP_ALIVE,
            timeout_graceful_shutdown=1,
            h11_max_incomplete_event_size=_MOST_HEAD,
        )
        self._server = _Server(config, connections)
        self._listener = listener
        self._thread = threading.Thread(target=self._run, name="sandbox top gateway", daemon=True)

    def start(self) -> None:
        """Returns once it listens. RuntimeError: it does not."""
        self._thread.start()
        if not self._server.listening.wait(_START_SECONDS) or not self._thread.is_alive():
            self._listener.close()
            raise RuntimeError("the sandbox gateway did not start")

    def stop(self) -> None:
        """Ends open connections, and returns once all is closed."""
        self._server.should_exit = True
        self._thread.join(_STOP_SECONDS)
        if self._thread.is_alive():
            raise RuntimeError("the sandbox gateway did not stop")

    def _run(self) -> None:
        try:
            self._server.run(sockets=[self._listener])
        finally:
            self._server.listening.set()  # a start that failed is not waited for
            self._listener.close()
