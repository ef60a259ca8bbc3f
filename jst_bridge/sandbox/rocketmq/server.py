"""What name server and broker share: a loopback port, its connections, faults, and the way of a request."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol, cast

from jst_bridge.errors import ConfigurationError, DecodeError
from jst_bridge.rocketmq.codes import FrameFlag, Response
from jst_bridge.rocketmq.frame import Frame, FrameReader, encode_frame
from jst_bridge.rocketmq.message import pack_host

from .calls import Call, Refusal
from .codes import CONTROL
from .faults import BinaryHeader, Delay, Drop, Faults, Garbage, Lose, Refuse, Silence

if TYPE_CHECKING:
    from .settings import SandboxSettings

__all__ = ["Channel", "Guard", "Handler", "Server"]

log = logging.getLogger(__name__)

MOST_CONNECTIONS: Final = 1_000
_GARBAGE: Final = b"HTTP/1.1 400 Bad Request\r\n\r\n"

Handler = Callable[[Call], None]
OnAnswer = Callable[[Frame | None], None]


class Guard(Protocol):
    """Who may be served."""

    def admit(self, call: Call) -> None:
        """Refusal: not this one."""


class Channel(asyncio.Protocol):
    """One client's connection."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.address = ""
        self.born_host = b""
        self.heard_at = 0.0
        self._transport: asyncio.Transport | None = None
        self._reader = FrameReader()
        self._out: list[bytes] | None = None
        """Answers to what was just read, sent in one go."""
        self._opaque = 0
        self._relayed: dict[int, tuple[OnAnswer, asyncio.TimerHandle]] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        host, port = transport.get_extra_info("peername")[:2]
        self.address = f"{host}:{port}"
        self.born_host = pack_host(host, port)
        self.heard_at = self.server.loop.time()
        self.server.connected(self)

    def data_received(self, data: bytes) -> None:
        self.heard_at = self.server.loop.time()
        try:
            frames = self._reader.feed(data)
        except DecodeError as error:
            log.info("%s sent something that is no frame: %s", self.address, error)
            self.abort()
            return
        self._out = []
        try:
            for frame in frames:
                if frame.flag & 1:  # a test of the enum costs a microsecond
                    self._answered(frame)
                else:
                    self.server.serve(Call(self, frame))
        finally:
            out, self._out = self._out, None
            if out:
                self.send(out[0] if len(out) == 1 else b"".join(out))

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        waiting, self._relayed = self._relayed, {}
        for on_answer, timer in waiting.values():
            timer.cancel()
            on_answer(None)
        self.server.lost(self)

    def pause_writing(self) -> None:
        """It does not read its answers: take no more requests."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    def send(self, data: bytes) -> None:
        if self._out is not None:
            self._out.append(data)
        elif self._transport is not None:
            self._transport.write(data)

    def push(self, code: int, ext: dict[str, str], body: bytes = b"") -> None:
        """A one-way request of ours."""
        self._opaque += 1
        self.send(
            encode_frame(
                Frame(code, self._opaque, FrameFlag.ONEWAY, ext, body, "", "JAVA", self.server.version)
            )
        )

    def ask(
        self, code: int, ext: dict[str, str], body: bytes, on_answer: OnAnswer, *, seconds: float
    ) -> None:
        """A request of ours; `on_answer` gets None when no answer comes in time."""
        self._opaque += 1
        opaque = self._opaque
        timer = self.server.loop.call_later(seconds, self._unanswered, opaque)
        self._relayed[opaque] = (on_answer, timer)
        self.send(encode_frame(Frame(code, opaque, 0, ext, body, "", "JAVA", self.server.version)))

    def _answered(self, frame: Frame) -> None:
        waiting = self._relayed.pop(frame.opaque, None)
        if waiting is not None:
            waiting[1].cancel()
            waiting[0](frame)

    def _unanswered(self, opaque: int) -> None:
        waiting = self._relayed.pop(opaque, None)
        if waiting is not None:
            waiting[0](None)

    def abort(self) -> None:
        """Cut the connection; what was not sent is lost."""
        if self._transport is not None:
            self._transport.abort()


class Server:
    """One listening port. It keeps its port, and its state, when it is stopped and started again."""

    what = "server"

    def __init__(self, settings: SandboxSettings, faults: Faults, *, port: int = 0) -> None:
        self.settings = settings
        self.port = port
        self.version = settings.version
        self.channels: set[Channel] = set()
        self.loop: asyncio.AbstractEventLoop = cast("asyncio.AbstractEventLoop", None)
        self.handlers: dict[int, Handler] = {}
        self.guard: Guard | None = None
        self._faults = faults
        self._listener: asyncio.Server | None = None

    @property
    def address(self) -> str:
        """`host:port`, once it was started."""
        return f"{self.settings.host}:{self.port}"

    @property
    def running(self) -> bool:
        return self._listener is not None

    async def start(self) -> None:
        """Listen. ConfigurationError: the port is taken."""
        if self._listener is not None:
            return
        self.loop = asyncio.get_running_loop()
        try:
            self._listener = await self.loop.create_server(
                lambda: Channel(self), self.settings.host, self.port, reuse_address=True, start_serving=False
            )
        except OSError as error:
            raise ConfigurationError(
                f"the sandbox's {self.what} cannot listen on {self.address}: {error.strerror or error}",
                remedy="choose another port, or 0 for any that is free",
            ) from None
        self.port = self._listener.sockets[0].getsockname()[1]
        self.opened()
        await self._listener.start_serving()

    def opened(self) -> None:
        """The port is known, and nobody was let in yet."""

    async def stop(self) -> None:
        """Close the port and cut every connection. Idempotent."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()
            self.drop_connections()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await listener.wait_closed()

    def drop_connections(self) -> None:
        """Cut every connection now."""
        for channel in list(self.channels):
            channel.abort()

    def connected(self, channel: Channel) -> None:
        self.channels.add(channel)
        if len(self.channels) > MOST_CONNECTIONS or not self.running:
            channel.abort()

    def lost(self, channel: Channel) -> None:
        self.channels.discard(channel)

    # --- a request's way ---------------------------------------------------------------------------------

    def serve(self, call: Call) -> None:
        """Let faults strike, then do the work."""
        if not self._faults.line or call.frame.code == CONTROL:
            self.perform(call)
            return
        code, topic = call.frame.code, call.topic
        if self._faults.take(BinaryHeader, code, topic) is not None:
            call.binary = True
        match self._faults.intercept(code, topic):
            case None:
                self.perform(call)
            case Delay(seconds):
                self.loop.call_later(seconds, self.perform, call)
            case Drop(acted):
                self._work_in_vain(call, acted=acted)
                call.channel.abort()
            case Silence(acted):
                self._work_in_vain(call, acted=acted)
            case Garbage():
                call.channel.send(_GARBAGE)
            case Refuse(refused, remark, acted):
                self._work_in_vain(call, acted=acted)
                call.muted = False
                call.answer(refused, remark=remark)
            case Lose():
                call.answer()

    def _work_in_vain(self, call: Call, *, acted: bool) -> None:
        call.muted = True
        if acted:
            self.perform(call)

    def perform(self, call: Call) -> None:
        """Do what is asked, by the handler of its code; a refusal is the answer."""
        try:
            if self.guard is not None:
                self.guard.admit(call)
            handler = self.handlers.get(call.frame.code)
            if handler is None:
                self.unknown(call)
            else:
                handler(call)
        except Refusal as refusal:
            call.answer(refusal.code, refusal.ext, remark=refusal.remark)
        except (ValueError, TypeError, KeyError, AttributeError, struct.error, RecursionError) as error:
            # What a client got wrong in a way no rule names: a real server answers its exception.
            log.info("request %d of %s: %r", call.frame.code, call.channel.address, error)
            call.answer(Response.SYSTEM_ERROR, remark=f"java.lang.IllegalArgumentException: {error!r}")

    def unknown(self, call: Call) -> None:
        """A code without a handler."""
        call.answer(
            Response.REQUEST_CODE_NOT_SUPPORTED, remark=f" request type {call.frame.code} not supported"
        )
