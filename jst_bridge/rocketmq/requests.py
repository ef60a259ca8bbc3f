"""What a broker asks of a consumer, mostly because somebody runs the admin tool, and the answers (reference 2.13)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import msgspec

from ..errors import DecodeError
from .client import Client
from .codes import Request, Response
from .connection import Connection
from .frame import Frame
from .loosejson import decode_json
from .message import MessageQueue
from .namespace import Namespace

__all__ = ["Asked", "answer_requests", "decode_offset_table", "object_keyed"]

log = logging.getLogger(__name__)

_NO_LISTENER: Final = (
    "this client cannot be made to consume a single message: what it reads is landed in batches, in the order of the "
    "queue; publish the message again, or move the group's offset"
)
_MAX_OFFSET: Final = 2**63 - 1


class Asked(Protocol):
    """Who is asked: a consumer."""

    @property
    def group(self) -> str: ...

    def members_changed(self) -> None:
        """The group has other members now."""

    def reset_offsets(self, offsets: Mapping[MessageQueue, int]) -> None:
        """An admin moves queues."""

    def positions(self, topic: str) -> Mapping[MessageQueue, int]:
        """The settled offset of each queue this consumer reads of a topic."""

    def running_info(self, *, stacks: bool) -> bytes:
        """The body of ConsumerRunningInfo."""


def answer_requests(client: Client, asked: Asked) -> None:
    """Have the requests of brokers that `client` receives answered for `asked`.

    Whatever a request holds, it is answered: a broken one with code 1. Requests without a handler, and transaction
    checks, which only producers can answer, get code 3 from the client.
    """

    def on(code: Request, answer: Callable[[Frame], bytes | None]) -> None:
        def handle(connection: Connection, frame: Frame) -> None:
            try:
                body = answer(frame)
            except DecodeError as error:
                log.warning("%s asked %s, which cannot be answered: %s", connection.address, code.name, error)
                connection.respond(frame, Response.SYSTEM_ERROR, remark=str(error))
            else:
                connection.respond(frame, Response.SUCCESS, body=body or b"")

        client.handlers[code] = handle

    def notified(frame: Frame) -> None:
        if frame.ext.get("consumerGroup", asked.group) == asked.group:
            asked.members_changed()

    def reset(frame: Frame) -> None:
        _check_group(frame, "group", asked.group)
        offsets = {
            queue._replace(topic=client.namespace.unwrap(queue.topic)): offset
            for queue, offset in decode_offset_table(frame.body).items()
        }
        topic = frame.ext.get("topic")
        asked.reset_offsets({queue: offset for queue, offset in offsets.items() if queue.topic == topic})

    def status(frame: Frame) -> bytes:
        _check_group(frame, "group", asked.group)
        positions = asked.positions(frame.ext.get("topic", ""))
        return msgspec.json.encode({"messageQueueTable": object_keyed(positions, client.namespace)})

    def running(frame: Frame) -> bytes:
        _check_group(frame, "consumerGroup", asked.group)
        return asked.running_info(stacks=frame.ext.get("jstackEnable") == "true")

    def directly(connection: Connection, frame: Frame) -> None:
        connection.respond(frame, Response.REQUEST_CODE_NOT_SUPPORTED, remark=_NO_LISTENER)

    on(Request.NOTIFY_CONSUMER_IDS_CHANGED, notified)
    on(Request.RESET_CONSUMER_CLIENT_OFFSET, reset)
    on(Request.GET_CONSUMER_STATUS_FROM_CLIENT, status)
    on(Request.GET_CONSUMER_RUNNING_INFO, running)
    client.handlers[Request.CONSUME_MESSAGE_DIRECTLY] = directly


def _check_group(frame: Frame, field: str, group: str) -> None:
    if frame.ext.get(field) != group:
        raise DecodeError(f"this client is not in consumer group {frame.ext.get(field)!r}")


def decode_offset_table(body: bytes) -> dict[MessageQueue, int]:
    """The body of request 220, in fastjson's form or in the list form for C++ clients. Raises DecodeError."""
    value = decode_json(body)
    table = value.get("offsetTable") if isinstance(value, dict) else None
    entries: list[tuple[Any, Any]]
    if isinstance(table, dict):  # a key that was an object is a tuple of pairs now
        entries = [(dict(key) if isinstance(key, tuple) else key, offset) for key, offset in table.items()]
    elif isinstance(table, list):
        entries = [(entry, entry.get("offset") if isinstance(entry, dict) else None) for entry in table]
    else:
        raise DecodeError("the body names no offsetTable")
    offsets: dict[MessageQueue, int] = {}
    for queue, offset in entries:
        facts = queue if isinstance(queue, dict) else {}
        topic, broker, queue_id = facts.get("topic"), facts.get("brokerName"), facts.get("queueId")
        if not isinstance(topic, str) or not isinstance(broker, str) or type(queue_id) is not int:
            raise DecodeError(f"the offset table names no message queue: {str(queue)[:200]}")
        if type(offset) is not int or not 0 <= offset <= _MAX_OFFSET:
            raise DecodeError(f"the offset table has no offset for {topic}@{broker}:{queue_id}")
        offsets[MessageQueue(topic, broker, queue_id)] = offset
    return offsets


def object_keyed(table: Mapping[MessageQueue, object], namespace: Namespace) -> msgspec.Raw:
    """A map keyed by message queues as fastjson writes it: the keys are objects, which is no JSON (reference 1.8)."""
    members: list[bytes] = []
    for queue, value in table.items():
        key = {
            "brokerName": queue.broker,
            "queueId": queue.queue_id,
            "topic": namespace.wrap_topic(queue.topic),
        }
        members.append(msgspec.json.encode(key) + b":" + msgspec.json.encode(value))
    return msgspec.Raw(b"{" + b",".join(members) + b"}")
