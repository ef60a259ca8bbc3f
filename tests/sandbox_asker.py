"""A bare client of the sandbox's servers: one socket, requests by their wire form, what the server sends by itself."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from jst_bridge.rocketmq.frame import Frame, FrameReader, encode_frame
from jst_bridge.rocketmq.message import MessageExt, decode_messages
from jst_bridge.sandbox.rocketmq import Request, SandboxCluster, SandboxSettings
from tests.scripted import PATIENCE, run

__all__ = ["Asker", "heartbeat", "messages_of", "packed", "parked", "play"]


class Asker:
    """One connection to one server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.pushed: list[Frame] = []
        """Requests of the server."""
        self.order: list[int] = []
        """Codes of all that came, requests of the server as they are, answers as 0."""
        self.closed = False
        self._news = asyncio.Event()
        self._writer = writer
        self._serial = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Frame]] = {}
        self._reading = asyncio.create_task(self._read(reader))

    @classmethod
    async def of(cls, address: str) -> Asker:
        host, _, port = address.rpartition(":")
        return cls(*await asyncio.open_connection(host, int(port)))

    async def __aenter__(self) -> Asker:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()
        await self._reading

    async def ask(
        self,
        code: int,
        body: bytes = b"",
        *,
        header_flag: int = 0,
        version: int = 409,
        language: str = "PYTHON",
        **ext: Any,
    ) -> Frame:
        """The answer. A one-way request (flag 2) has none, and is not waited for."""
        opaque = next(self._serial)
        fields: dict[str, Any] = {name: str(value) for name, value in ext.items()}
        answer: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        self._answers[opaque] = answer
        self._writer.write(
            encode_frame(Frame(code, opaque, header_flag, fields, body, "", language, version))
        )
        if header_flag & 2:
            return Frame(-1)
        async with asyncio.timeout(PATIENCE):
            return await answer

    def answer(self, request: Frame, code: int = 0, body: bytes = b"") -> None:
        """Answer a request of the server."""
        self._writer.write(encode_frame(Frame(code, request.opaque, 1, {}, body)))

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():
                self._news.clear()
                await self._news.wait()

    async def send(
        self, topic: str, body: bytes = b"x", *, queue: int = 0, properties: str = "", **more: Any
    ) -> Frame:
        """One message by 310."""
        fields: dict[str, Any] = {
            "a": "P",
            "b": topic,
            "c": "TBW102",
            "d": 4,
            "e": queue,
            "f": 0,
            "g": 1_795_000_000_000,
            "h": 0,
        }
        return await self.ask(Request.SEND_MESSAGE_V2, body, **(fields | {"i": properties, "j": 0} | more))

    async def pull(self, topic: str, offset: int, *, queue: int = 0, group: str = "G", **more: Any) -> Frame:
        """A pull that brings its subscription, and does not wait unless told so."""
        fields: dict[str, Any] = {
            "consumerGroup": group, "topic": topic, "queueId": queue, "queueOffset": offset, "maxMsgNums": 32,
            "sysFlag": 4, "commitOffset": 0, "suspendTimeoutMillis": 15000, "subscription": "*", "subVersion": 0,
        }  # fmt: skip
        return await self.ask(Request.PULL_MESSAGE, **(fields | more))

    async def _read(self, reader: asyncio.StreamReader) -> None:
        frames = FrameReader()
        try:
            while data := await reader.read(65536):
                for frame in frames.feed(data):
                    self.order.append(0 if frame.is_response else frame.code)
                    if not frame.is_response:
                        self.pushed.append(frame)
                    elif not (answer := self._answers[frame.opaque]).done():
                        answer.set_result(frame)
                    self._news.set()
        except OSError:
            pass
        finally:
            self.closed = True
            self._news.set()
            for answer in self._answers.values():
                if not answer.done():
                    answer.cancel()


def heartbeat(
    client_id: str, group: str, topics: dict[str, str], *, version: int = 1, model: str = "CLUSTERING"
) -> bytes:
    """The body of 34: topic -> tag expression."""
    subscriptions = [
        {"topic": topic, "subString": expression, "subVersion": version, "expressionType": "TAG"}
        for topic, expression in topics.items()
    ]  # fmt: skip
    member = {
        "groupName": group, "messageModel": model, "consumeType": "CONSUME_PASSIVELY",
        "consumeFromWhere": "CONSUME_FROM_LAST_OFFSET", "subscriptionDataSet": subscriptions,
    }  # fmt: skip
    return json.dumps({"clientID": client_id, "consumerDataSet": [member], "producerDataSet": []}).encode()


def packed(messages: Iterable[tuple[bytes, str]]) -> bytes:
    """The body of 320: each message's body and properties (reference 3.2)."""
    parts = []
    for body, properties in messages:
        text = properties.encode()
        size = 20 + len(body) + 2 + len(text)
        numbers = (size, 0, 0, 7, len(body))
        parts.append(
            b"".join(number.to_bytes(4, "big") for number in numbers)
            + body
            + len(text).to_bytes(2, "big")
            + text
        )
    return b"".join(parts)


def messages_of(frame: Frame) -> list[MessageExt]:
    """The messages of a pull's answer."""
    messages, complete = decode_messages(frame.body)
    assert complete
    return messages


Script = Callable[[SandboxCluster, Asker], Awaitable[None]]


def play(script: Script, **settings: Any) -> None:
    """Run a script with a cluster that has the topic T of two queues, and a connection to its broker."""

    async def work() -> None:
        usual: dict[str, Any] = {"topics": {"T": 2}, "park_tick": 0.05}
        async with (
            SandboxCluster(SandboxSettings(**(usual | settings))) as cluster,
            await Asker.of(cluster.broker.address) as broker,
        ):
            await script(cluster, broker)

    run(work())


async def parked(cluster: SandboxCluster, broker: Asker, count: int = 1) -> None:
    """Wait until so many pulls of the topic's first queue are parked."""
    while cluster.broker.state.store.topics["T"].queues[0].parked != count:
        await broker.ask(Request.GET_MAX_OFFSET, topic="T", queueId=0)
