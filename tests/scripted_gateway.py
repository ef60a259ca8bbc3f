"""A TOP gateway played by a script, over real sockets, and a clock that moves only when it is slept on.

It checks nothing and knows no state: a test says what comes back, byte by byte where it matters.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import ssl
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from jst_bridge.top import Clock, TopClient, TopSettings

SECRET = "CANARY-secret-0f1e2d3c"
SESSION = "CANARY-session-6100a1b2c3"
APP_KEY = "12345678"

Reply = Callable[["Asked", asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True)
class Asked:
    """One request as it arrived."""

    head: str
    body: bytes
    at: float
    connection: int
    rest: asyncio.StreamReader
    """What the client sends after it: nothing but the end, when it leaves."""

    @property
    def fields(self) -> dict[str, str]:
        """The form, decoded."""
        return dict(parse_qsl(self.body.decode("ascii"), keep_blank_values=True, strict_parsing=True))


@dataclass
class Gateway:
    """What was asked, and what comes back: the replies in order, the last one for ever."""

    url: str
    replies: deque[Reply]
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0
    open: int = 0
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def until(self, reached: Callable[[Gateway], bool]) -> None:
        async with self.changed, asyncio.timeout(5):
            await self.changed.wait_for(lambda: reached(self))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        number = self.connections
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                while not writer.is_closing():
                    head = (await reader.readuntil(b"\r\n\r\n")).decode()
                    length = next(
                        int(line.split(":")[1])
                        for line in head.splitlines()
                        if line.lower().startswith("content-length")
                    )
                    asked = Asked(
                        head,
                        await reader.readexactly(length),
                        asyncio.get_running_loop().time(),
                        number,
                        reader,
                    )
                    self.asked.append(asked)
                    await self._tell()
                    reply = self.replies.popleft() if len(self.replies) > 1 else self.replies[0]
                    await reply(asked, writer)
                    await writer.drain()
        finally:
            self.open -= 1
            writer.close()
            await self._tell()

    async def _tell(self) -> None:
        async with self.changed:
            self.changed.notify_all()


@asynccontextmanager
async def gateway(*replies: Reply, tls: ssl.SSLContext | None = None) -> AsyncIterator[Gateway]:
    played = Gateway("", deque(replies))
    server = await asyncio.start_server(played.serve, "127.0.0.1", 0, ssl=tls)
    scheme = "https" if tls else "http"
    played.url = f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}/router/rest"
    try:
        yield played
    finally:
        server.close()
        async with asyncio.timeout(5):
            await played.until(lambda gateway: gateway.open == 0)
            await server.wait_closed()


# --- replies ----------------------------------------------------------------------------------------


def raw(data: bytes, *, close: bool = True) -> Reply:
    """These bytes and nothing else."""

    async def reply(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        if close:
            writer.close()

    return reply


def http(body: bytes, *, status: str = "200 OK", headers: str = "") -> Reply:
    """A well-formed response with this body."""
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    return raw(head.encode() + body, close=False)


def zipped(body: bytes) -> Reply:
    return http(gzip.compress(body), headers="Content-Encoding: gzip\r\n")


def document(value: object, **options: str) -> Reply:
    return http(json.dumps(value, ensure_ascii=False).encode(), **options)


def success(**fields: object) -> Reply:
    """The wrapped success of whatever method was asked."""

    async def reply(asked: Asked, writer: asyncio.StreamWriter) -> None:
        root = asked.fields["method"].removeprefix("taobao.").replace(".", "_") + "_response"
        await document({root: {"request_id": "16ecoqo68zsa1", **fields}})(asked, writer)

    return reply


def error(
    code: object, sub_code: str = "", msg: str = "Some Words", sub_msg: str = "", **options: str
) -> Reply:
    said: dict[str, object] = {"code": code, "msg": msg, "request_id": "rxvsf5lo4ufl"}
    if sub_code:
        said["sub_code"] = sub_code
    if sub_msg:
        said["sub_msg"] = sub_msg
    return document({"error_response": said}, **options)


def banned(seconds: int, which: str = "app-api") -> Reply:
    return error(
        7,
        f"accesscontrol.limited-by-{which}-access-count",
        "App Call Limited",
        f"This ban will last for {seconds} more seconds",
    )


async def silent(asked: Asked, writer: asyncio.StreamWriter) -> None:
    """Nothing, until the client leaves."""
    await asked.rest.read()


# --- the client's side ------------------------------------------------------------------------------


class Watch:
    """A clock under the test's control: sleeping moves it on at once and is written down."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now
        self.slept: list[float] = []

    @property
    def clock(self) -> Clock:
        return Clock(
            monotonic=lambda: self.now, time=lambda: self.now, sleep=self._sleep, uniform=self._highest
        )

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(round(seconds, 3))
        self.now += seconds
        await asyncio.sleep(0)

    @staticmethod
    def _highest(low: float, high: float) -> float:
        return high


def client(url: str, watch: Watch | None = None, **changes: Any) -> TopClient:
    """A client with short real time-outs; its own pauses pass on `watch`."""
    settings: dict[str, Any] = {"connect_timeout": 2.0, "read_timeout": 2.0, "total_timeout": 4.0} | changes
    return TopClient(TopSettings(APP_KEY, SECRET, url, **settings), clock=(watch or Watch()).clock)
