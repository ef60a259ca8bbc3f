"""A server played by a script: it speaks frames, answers each request code by a handler, keeps the conversation.

Nothing here sleeps: a test waits for what the client does with `Peer.until`.
"""

from __future__ import annotations

import asyncio
import json
import struct
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

from jst_bridge.rocketmq.codes import FrameFlag
from jst_bridge.rocketmq.frame import LANGUAGES, Frame, FrameReader, encode_frame

PATIENCE = 4.0
"""Seconds after which a test that still waits has failed."""


def run(work: Coroutine[Any, Any, None], seconds: float = 15) -> None:
    """Run one test; it fails when a task is left behind or something failed unseen."""

    async def whole() -> None:
        unseen: list[str] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unseen.append(str(context)))
        async with asyncio.timeout(seconds):
            await work
        await asyncio.sleep(0)
        left = [task.get_name() for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        assert left == []
        assert unseen == []

    asyncio.run(whole())


@dataclass
class Call:
    """One request as it arrived. `answer` may be called at once, later, or never."""

    frame: Frame
    peer: Peer
    channel: Channel
    at: float

    @property
    def code(self) -> int:
        return self.frame.code

    @property
    def ext(self) -> dict[str, str]:
        return self.frame.ext

    @property
    def queue(self) -> tuple[str, int]:
        return self.ext["topic"], int(self.ext["queueId"])

    def json(self) -> Any:
        return json.loads(self.frame.body)

    def answer(
        self, code: int = 0, ext: dict[str, str] | None = None, body: bytes = b"", remark: str = ""
    ) -> None:
        frame = Frame(code, self.frame.opaque, FrameFlag.RESPONSE, ext or {}, body, remark, "JAVA", 479)
        self.channel.write(as_binary(frame) if self.peer.binary else encode_frame(frame))


Handler = Callable[[Call], object]


def refusing(code: int, remark: str = "") -> Handler:
    """A handler that answers every request with this code."""
    return lambda call: call.answer(code, remark=remark)


def silent(call: Call) -> None:
    """A handler that never answers."""


def as_binary(frame: Frame) -> bytes:
    """The frame with the binary header form, as a broker set to that form sends it (reference 1.3)."""
    ext = b""
    for name, value in frame.ext.items():
        ext += struct.pack(">h", len(name.encode())) + name.encode()
        ext += struct.pack(">i", len(value.encode())) + value.encode()
    remark = frame.remark.encode()
    header = struct.pack(
        ">hBhii", frame.code, LANGUAGES.index(frame.language), frame.version, frame.opaque, frame.flag
    )
    header += struct.pack(">i", len(remark)) + remark + struct.pack(">i", len(ext)) + ext
    return struct.pack(">II", 4 + len(header) + len(frame.body), 1 << 24 | len(header)) + header + frame.body


class Channel(asyncio.Protocol):
    """One accepted connection."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._reader = FrameReader()
        self._transport: asyncio.Transport | None = None
        self.client_id = ""
        """What the last heartbeat on it said."""
        self.silent = False
        """Half-open: it takes what comes, and nobody is there."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._peer.opened(self)

    def data_received(self, data: bytes) -> None:
        for frame in self._reader.feed(b"" if self.silent else data):
            self._peer.received(self, frame)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._peer.lost(self)

    def write(self, data: bytes) -> None:
        self._peer.writer(self, data)

    def send(self, data: bytes) -> None:
        """Write as it is, whatever the peer's `writer` does with what is written."""
        if self._transport is not None and not self._transport.is_closing() and not self.silent:
            self._transport.write(data)

    def finish(self) -> None:
        """Close once everything written was sent."""
        if self._transport is not None:
            self._transport.close()

    def cut(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def pause_reading(self) -> None:
        if self._transport is not None:
            self._transport.pause_reading()


class Peer:
    """A loopback server whose answers are scripted, and the record of what it was told."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.replies: list[Frame] = []
        """Answers of the client to requests of ours."""
        self.channels: list[Channel] = []
        self.accepted = 0
        self.binary = False
        self._handlers: dict[int, Handler] = {}
        self._once: dict[int, deque[Handler]] = defaultdict(deque)
        self._news = asyncio.Event()
        self._server: asyncio.Server | None = None
        self.address = ""
        self.on_lost: Callable[[Channel], None] = lambda channel: None
        self.writer: Callable[[Channel, bytes], None] = Channel.send
        """What becomes of the bytes written, one call for each frame: a test may cut, spoil or hold them."""

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        port = int(self.address.rpartition(":")[2] or 0)
        self._server = await loop.create_server(lambda: Channel(self), "127.0.0.1", port)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        """Close the port and every connection; `start` opens the same port again."""
        if self._server is not None:
            self._server.close()
            self.cut()
            await self.until(lambda: not self.channels)
            await self._server.wait_closed()
            self._server = None

    def on(self, code: int, handler: Handler) -> None:
        """Answer this request code so, from now on."""
        self._handlers[code] = handler

    def handler(self, code: int) -> Handler:
        """How this request code is answered now."""
        return self._handlers.get(code, refusing(3))

    def once(self, code: int, *handlers: Handler) -> None:
        """Answer the next requests of this code so, one each, before `on` counts again."""
        self._once[code].extend(handlers)

    def push(
        self,
        code: int,
        ext: dict[str, str] | None = None,
        body: bytes = b"",
        *,
        oneway: bool = True,
        opaque: int = 0,
    ) -> None:
        """Send a request of the server's own to every connected client."""
        frame = Frame(code, opaque, FrameFlag.ONEWAY if oneway else 0, ext or {}, body, "", "JAVA", 479)
        for channel in self.channels:
            channel.write(as_binary(frame) if self.binary else encode_frame(frame))

    def cut(self) -> None:
        for channel in list(self.channels):
            channel.cut()

    def told(self, code: int) -> list[Call]:
        return [call for call in self.calls if call.code == code]

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until the condition holds; it is looked at whenever something happens here."""
        try:
            async with asyncio.timeout(PATIENCE):
                while not condition():
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            talk = "\n".join(f"{call.at:.3f} {call.code} {call.ext}" for call in self.calls[-40:])
            raise AssertionError(f"never happened; the last that was said:\n{talk}") from None

    async def until_told(self, code: int, count: int = 1) -> Call:
        """Wait for the `count`-th request of this code."""
        await self.until(lambda: len(self.told(code)) >= count)
        return self.told(code)[count - 1]

    async def round_trips(self, count: int = 3) -> None:
        """Ask every client something it refuses, several times: what it had to do at once is done by then."""
        for _ in range(count):
            wanted = len(self.replies) + len(self.channels)
            self.push(9999, oneway=False)
            await self.until(lambda wanted=wanted: len(self.replies) >= wanted)  # type: ignore[misc]

    def stir(self) -> None:
        """Something happened that a waiting test may want to look at."""
        self._news.set()

    def opened(self, channel: Channel) -> None:
        self.channels.append(channel)
        self.accepted += 1
        self.stir()

    def lost(self, channel: Channel) -> None:
        self.channels.remove(channel)
        self.on_lost(channel)
        self.stir()

    def received(self, channel: Channel, frame: Frame) -> None:
        if frame.is_response:
            self.replies.append(frame)
        else:
            call = Call(frame, self, channel, asyncio.get_running_loop().time())
            self.calls.append(call)
            waiting = self._once[frame.code]
            handler = waiting.popleft() if waiting else self._handlers.get(frame.code, refusing(3))
            handler(call)
        self.stir()


@asynccontextmanager
async def peers(count: int = 1) -> AsyncIterator[list[Peer]]:
    """Started peers, stopped at the end."""
    async with AsyncExitStack() as stack:
        made = [Peer() for _ in range(count)]
        for peer in made:
            await peer.start()
            stack.push_async_callback(peer.stop)
        yield made
