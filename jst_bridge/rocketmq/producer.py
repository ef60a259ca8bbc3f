"""A small producer for tools and tests: one message at a time, acknowledged (reference 2.14)."""

from __future__ import annotations

import itertools
import os
import time
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Final

from ..errors import (
    BrokerRefused,
    ConfigurationError,
    ConnectionFailed,
    RequestTimeout,
    SourceError,
    TopicNotFound,
)
from .client import Client, ClientSettings
from .codes import Request, Response
from .message import MessageQueue
from .offsets import number
from .properties import encode_properties
from .route import Route

__all__ = ["Producer", "SendResult"]

TEMPLATE_TOPIC: Final = "TBW102"
"""Its route serves for topics that do not exist yet: the broker makes them at the first send."""
_STORED: Final = (
    Response.SUCCESS,
    Response.FLUSH_DISK_TIMEOUT,
    Response.SLAVE_NOT_AVAILABLE,
    Response.FLUSH_SLAVE_TIMEOUT,
)
_ANOTHER_QUEUE: Final = frozenset(
    {Response.SYSTEM_ERROR, Response.SYSTEM_BUSY, Response.SERVICE_NOT_AVAILABLE, Response.TOPIC_NOT_EXIST}
)


@dataclass(frozen=True, slots=True)
class SendResult:
    """Where a message was stored."""

    queue: MessageQueue
    queue_offset: int
    offset_message_id: str
    unique_key: str


class Producer:
    """Sends to the queues of a topic in turn. An `async with` closes it."""

    def __init__(
        self, settings: ClientSettings, group: str = "jst_bridge_producer", *, default_queues: int = 8
    ) -> None:
        self.client = Client(settings)
        self._group = group
        self._default_queues = default_queues
        """Queues of a topic that the first send creates, at most."""
        self._turn = itertools.count()
        self._serial = itertools.count()

    async def __aenter__(self) -> Producer:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.client.close()

    async def send(
        self,
        topic: str,
        body: bytes,
        *,
        tag: str = "",
        keys: str = "",
        queue_id: int | None = None,
        tries: int = 3,
    ) -> SendResult:
        """Send one message; on failures that another queue may not have, try up to `tries` of them.

        Raises SourceError of the last try, ConfigurationError for an empty body (brokers disagree on it).
        """
        if not body:
            raise ConfigurationError("a message needs a body")
        unique_key = self._unique_key()
        properties = encode_properties(
            [
                ("KEYS", keys),
                ("UNIQ_KEY", unique_key),
                ("WAIT", "true"),
                ("TAGS", tag),
                ("INSTANCE_ID", self.client.namespace.name),
            ]
        ).decode()
        queues = (await self._route(topic)).write_queues()
        if queue_id is not None:
            queues = [queue for queue in queues if queue.queue_id == queue_id]
        failure: SourceError = TopicNotFound(f"topic {topic} has no queue that can be written")
        for _ in range(tries if queues else 0):
            queue = queues[next(self._turn) % len(queues)]
            try:
                return await self._send(queue, body, properties, unique_key)
            except (ConnectionFailed, RequestTimeout) as error:
                failure = error
            except BrokerRefused as error:
                failure = error
                if error.code not in _ANOTHER_QUEUE:
                    raise
        raise failure

    async def _send(self, queue: MessageQueue, body: bytes, properties: str, unique_key: str) -> SendResult:
        frame = await self.client.call(
            self.client.master(queue.broker),
            Request.SEND_MESSAGE_V2,
            {
                "a": self._group,
                "b": queue.topic,
                "c": TEMPLATE_TOPIC,
                "d": str(self._default_queues),
                "e": str(queue.queue_id),
                "f": "0",
                "g": str(int(time.time() * 1000)),
                "h": "0",
                "i": properties,
                "j": "0",
                "k": "false",
                "m": "false",
            },
            body,
            accept=_STORED,
        )
        stored = queue._replace(queue_id=number(frame, "queueId"))
        return SendResult(stored, number(frame, "queueOffset"), frame.ext.get("msgId", ""), unique_key)

    async def _route(self, topic: str) -> Route:
        route = self.client.routes.get(topic)
        if route is not None:
            return route
        try:
            return await self.client.fetch_route(topic)
        except TopicNotFound:
            template = await self.client.fetch_route(TEMPLATE_TOPIC)
            queues = tuple(
                replace(entry, write_queues=min(entry.write_queues, self._default_queues))
                for entry in template.queues
            )
            return replace(template, topic=topic, queues=queues)

    def _unique_key(self) -> str:
        """32 hex digits that no other message of this producer has (reference 3.4 gives Java's recipe)."""
        now = time.time_ns() // 1_000_000
        parts = (
            (os.getpid() & 0xFFFF, 4),
            (id(self) & 0xFFFFFFFF, 8),
            (now & (1 << 48) - 1, 12),
            (next(self._serial), 8),
        )
        return "".join(f"{value:0{width}X}" for value, width in parts)
