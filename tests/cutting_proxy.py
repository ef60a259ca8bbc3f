"""A TCP proxy on loopback that cuts connections at the worst moment, or lets them go silent.

It looks at bytes and knows no protocol: what it is to find must go over the wire unencrypted, and the client must
wait for each answer before it sends more.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

__all__ = ["CuttingProxy"]

CHUNK = 1 << 16
CONNECTIONS_AT_MOST = 200
CONNECT_SECONDS = 5.0
JOIN_SECONDS = 10.0


class Link:
    """One connection: the client's socket and the one to the server."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client = client
        self.server = server
        self.cut = False
        self.mute = False
        """The next bytes of the server are not passed on: the link is cut instead."""
        self.silent = False
        """Nothing moves any more, and neither side learns what became of the other."""
        self.seen = b""
        """The client's last bytes, because a pattern may arrive in pieces."""
        self.directions = 2
        """How many still move bytes."""


class CuttingProxy:
    """Forwards `127.0.0.1:port` of its own to a server's port. A context manager, or `start` and `close`.

    A server that does not run shows as a connection that is closed at once.
    """

    def __init__(self, server_port: int) -> None:
        self._server = ("127.0.0.1", server_port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.cuts = 0
        """Connections cut so far."""
        self._changed = threading.Condition()  # guards everything below, and the links' flags
        self._links: set[Link] = set()
        self._acceptor: threading.Thread | None = None
        self._movers: list[threading.Thread] = []
        self._armed: tuple[bytes, bool] | None = None
        self._stalled = False

    @property
    def connections(self) -> int:
        """How many are open now."""
        with self._changed:
            return len(self._links)

    @property
    def armed(self) -> bool:
        """Whether `cut_after` still waits for its pattern."""
        with self._changed:
            return self._armed is not None

    def url(self, url: str) -> str:
        """The server's URL, through this proxy."""
        parts = urlsplit(url)
        login, at, _ = parts.netloc.rpartition("@")
        return parts._replace(netloc=f"{login}{at}127.0.0.1:{self.port}").geturl()

    def cut_now(self) -> int:
        """Close both sides of every connection; returns how many there were. New ones are let through."""
        with self._changed:
            links = list(self._links)
        return sum(self._cut(link) for link in links)

    def cut_after(self, pattern: bytes, *, forward: bool) -> None:
        """Cut the next connection whose client sends `pattern`; one call, one cut.

        With `forward` the server gets it, and the cut comes when the server answers: it has done what it was
        asked, and the client cannot know. Without, the server never gets it (perhaps a first part of it).
        """
        if not pattern:
            raise ValueError("an empty pattern is in everything")
        with self._changed:
            self._armed = (pattern, forward)
            for link in self._links:
                link.seen = b""

    def stall(self) -> None:
        """Keep connections open, and take new ones, but move no byte in either direction."""
        with self._changed:
            self._stalled = True

    def resume(self) -> None:
        """Move bytes again, first those that waited."""
        with self._changed:
            self._stalled = False
            self._changed.notify_all()

    def silence(self) -> int:
        """Make every present connection half-open, for ever; returns how many. New ones are let through.

        When the client closes its side the server does not learn it, as when a cable was pulled.
        """
        with self._changed:
            for link in self._links:
                link.silent = True
            return len(self._links)

    def start(self) -> Self:
        self._acceptor = self._run(self._accept)
        return self

    def close(self) -> None:
        """Cut everything and wait for the threads. Idempotent."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept(), which close() would not
        self._listener.close()
        if self._acceptor is not None:
            self._acceptor.join(JOIN_SECONDS)  # afterwards there are no new connections
        self.cut_now()
        for thread in self._movers:
            thread.join(JOIN_SECONDS)
        left = [thread.name for thread in (self._acceptor, *self._movers) if thread and thread.is_alive()]
        if left:
            raise RuntimeError(f"threads of the proxy did not end: {', '.join(left)}")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, work: Callable[..., None], *arguments: object) -> threading.Thread:
        thread = threading.Thread(target=work, args=arguments, name=f"proxy{work.__name__}", daemon=True)
        thread.start()
        return thread

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            link = self._link(client)
            if link is None:
                client.close()
                continue
            self._movers = [thread for thread in self._movers if thread.is_alive()]
            self._movers.append(self._run(self._move, link, self._to_server))
            self._movers.append(self._run(self._move, link, self._to_client))

    def _link(self, client: socket.socket) -> Link | None:
        """Connect to the server; None when it is not there, or when there are too many connections."""
        if self.connections >= CONNECTIONS_AT_MOST:
            return None
        try:
            server = socket.create_connection(self._server, CONNECT_SECONDS)
        except OSError:
            return None
        server.settimeout(None)
        for side in (client, server):
            side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link = Link(client, server)
        with self._changed:
            self._links.add(link)
        return link

    def _move(self, link: Link, direction: Callable[[Link], bool]) -> None:
        """Run one direction to its end; the last one closes."""
        try:
            half_closed = direction(link)
        except OSError:  # one side reset its connection, or we cut them
            half_closed = False
        with self._changed:
            self._changed.wait_for(lambda: link.cut or not link.silent)
        if not half_closed:
            self._shut(link)
        with self._changed:
            link.directions -= 1
            if link.directions:
                return
            self._links.discard(link)
        link.client.close()
        link.server.close()

    def _to_server(self, link: Link) -> bool:
        """Until the client has no more to say: True. False when the link is to be ended."""
        while data := link.client.recv(CHUNK):
            if not self._may_move(link):
                return False
            if not self._passes(link, data):
                self._cut(link)
                return False
            link.server.sendall(data)
        if self._may_move(link):
            link.server.shutdown(socket.SHUT_WR)
            return True
        return False

    def _to_client(self, link: Link) -> bool:
        while data := link.server.recv(CHUNK):
            if not self._may_move(link):
                return False
            if link.mute:
                self._cut(link)
                return False
            link.client.sendall(data)
        if self._may_move(link):
            link.client.shutdown(socket.SHUT_WR)
            return True
        return False

    def _may_move(self, link: Link) -> bool:
        """Wait while stalled; False when the link was cut meanwhile."""
        with self._changed:
            self._changed.wait_for(lambda: link.cut or not (self._stalled or link.silent))
            return not link.cut

    def _passes(self, link: Link, data: bytes) -> bool:
        """Look for the pattern; False when these bytes are not for the server."""
        with self._changed:
            if self._armed is None:
                link.seen = b""
                return True
            pattern, forward = self._armed
            text = link.seen + data
            if pattern not in text:
                link.seen = text[-len(pattern) :]
                return True
            self._armed = None
            link.mute = forward
            return forward

    def _cut(self, link: Link) -> bool:
        """Close both sides, once. What was forwarded before arrives: the server is not sent a reset."""
        with self._changed:
            if link.cut or link not in self._links:
                return False
            link.cut = True
            self.cuts += 1
            self._changed.notify_all()
        self._shut(link)
        return True

    @staticmethod
    def _shut(link: Link) -> None:
        for side in (link.client, link.server):
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)
