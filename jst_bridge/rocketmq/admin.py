"""What an administrator asks about a consumer group, and how its offsets are moved (reference 2.13, 2.15).

Nothing here joins a group, but for `set_committed` of a group that no broker has heard of. With access control the
questions need Get on the group and on the topic (ACL 2.0), or nothing but a valid signature (plain ACL of 4.9).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from ..errors import BrokerRefused, DecodeError, SourceError
from .client import Client
from .codes import Request, Response
from .loosejson import decode_json
from .membership import Membership
from .message import MessageQueue
from .offsets import committed_offset
from .subscription import ALL, parse_tags

__all__ = [
    "GroupMember",
    "Registration",
    "Subscribed",
    "committed_times",
    "held_queues",
    "registration",
    "set_committed",
    "version_name",
]

RELAY_TIMEOUT: Final = 12.0
"""Seconds: the broker itself waits 10 for a member's answer (reference 2.13)."""


@dataclass(frozen=True, slots=True, order=True)
class GroupMember:
    """A client registered in a group, as one broker sees it."""

    client_id: str
    address: str
    """`host:port` of its connection, as the broker sees it."""
    language: str
    version: str
    """RocketMQ release its client says to be, such as 4.9.8."""


@dataclass(frozen=True, slots=True)
class Subscribed:
    """What a group reads of one topic."""

    expression: str
    kind: str = "TAG"
    """TAG, or SQL92."""

    def same(self, other: Subscribed) -> bool:
        """Whether both let the same messages through: `A||B` and `B || A` do."""
        if self.kind != other.kind or self.kind != "TAG":
            return self == other
        try:
            return parse_tags(self.expression) == parse_tags(other.expression)
        except ValueError:
            return self.expression == other.expression


@dataclass(frozen=True, slots=True)
class Registration:
    """A group as one broker has it registered. The last heartbeat of any member sets all but the members."""

    members: tuple[GroupMember, ...]
    mode: Literal["clustering", "broadcasting"]
    subscriptions: Mapping[str, Subscribed]
    """Topic -> expression, without the group's retry topic."""


async def registration(client: Client, address: str, group: str) -> Registration | None:
    """Who is in the group at this broker, reading what; None when nobody is. Raises SourceError, DecodeError."""
    frame = await client.call(
        address,
        Request.GET_CONSUMER_CONNECTION_LIST,
        {"consumerGroup": group},
        accept=(Response.SUCCESS, Response.CONSUMER_NOT_ONLINE),
    )
    if frame.code == Response.CONSUMER_NOT_ONLINE:
        return None
    value = decode_json(frame.body)
    try:
        members = {
            GroupMember(
                str(entry["clientId"]),
                str(entry.get("clientAddr", "")),
                str(entry.get("language", "")),
                version_name(int(entry.get("version", 0))),
            )
            for entry in value["connectionSet"]
        }
        subscriptions = {
            client.namespace.unwrap(str(topic)): Subscribed(
                str(entry.get("subString") or ALL), str(entry.get("expressionType") or "TAG")
            )
            for topic, entry in (value.get("subscriptionTable") or {}).items()
            if not str(topic).startswith("%RETRY%")
        }
        mode: Literal["clustering", "broadcasting"] = (
            "broadcasting" if value.get("messageModel") == "BROADCASTING" else "clustering"
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DecodeError(f"the members of {group} lack or garble a field: {error!r}") from None
    return Registration(tuple(sorted(members)), mode, subscriptions)


async def committed_times(client: Client, address: str, group: str, topic: str) -> dict[MessageQueue, int]:
    """Queue -> when the last message below the committed offset was stored (epoch ms), of one broker's queues.

    Queues without one are left out: nothing committed, or that message has expired. Raises SourceError, DecodeError.
    """
    frame = await client.call(
        address, Request.GET_CONSUME_STATS, {"consumerGroup": group, "topic": topic}, timeout=RELAY_TIMEOUT
    )
    value = decode_json(frame.body)
    try:
        found = {
            _queue(client, key): int(entry["lastTimestamp"]) for key, entry in value["offsetTable"].items()
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DecodeError(f"the progress of {group} lacks or garbles a field: {error!r}") from None
    return {queue: time for queue, time in found.items() if time > 0}


async def held_queues(client: Client, address: str, group: str, client_id: str) -> frozenset[MessageQueue]:
    """The queues a member reads now, by its own word, for which the broker asks it. Raises SourceError, DecodeError."""
    frame = await client.call(
        address,
        Request.GET_CONSUMER_RUNNING_INFO,
        {"consumerGroup": group, "clientId": client_id, "jstackEnable": "false"},
        timeout=RELAY_TIMEOUT,
    )
    value = decode_json(frame.body)
    try:
        return frozenset(_queue(client, key) for key in value["mqTable"])
    except (KeyError, TypeError, ValueError) as error:
        raise DecodeError(f"the queues of {client_id} lack or garble a field: {error!r}") from None


async def set_committed(client: Client, group: str, queue: MessageQueue, offset: int) -> None:
    """Make `offset` the committed one of a group that is offline, and see that it is.

    A member that runs would overwrite it: look at `registration` first. Raises SourceError, DecodeError.
    """
    fields = {"consumerGroup": group, "commitOffset": str(offset)}
    try:
        frame = await client.call_master(queue, Request.UPDATE_CONSUMER_OFFSET, dict(fields))
    except BrokerRefused as error:
        if error.code != Response.SUBSCRIPTION_GROUP_NOT_EXIST:
            raise
        await _introduce(client, group)  # 5.x takes nothing for a group it never heard of (reference 2.6)
        frame = await client.call_master(queue, Request.UPDATE_CONSUMER_OFFSET, dict(fields))
    if "previously reset" in frame.remark:
        # A reset that no pull has met yet: 5.x ignores commits until then (reference 2.13), so it is replaced.
        ext = {"group": group, "timestamp": "-1", "isForce": "true", "offset": str(offset)}
        await client.call_master(queue, Request.INVOKE_BROKER_TO_RESET_OFFSET, ext)
    found = await committed_offset(client, group, queue)
    if found != offset:
        raise SourceError(
            f"{queue} of group {group} is at {found} although {offset} was committed",
            remedy="a member of the group has started meanwhile: stop it, and do it again",
        )


async def _introduce(client: Client, group: str) -> None:
    """One heartbeat, and out again: the brokers make the group."""
    membership = Membership(client, group, (), "first")
    try:
        for error in (await membership.heartbeat()).values():
            raise error
        await membership.leave()
    finally:
        client.on_broker_connected = None


def version_name(ordinal: int) -> str:
    """The release behind a header's version number: 409 is 4.9.8 (reference 1.6)."""
    for base, major in ((413, 5), (213, 4)):
        if ordinal >= base:
            number = (ordinal - base) // 2
            return f"{major}.{number // 10}.{number % 10}"
    return str(ordinal)


def _queue(client: Client, key: Any) -> MessageQueue:
    """A queue as fastjson writes it in the place of a key: as an object, or as that object's text."""
    fields = dict(decode_json(key.encode()) if isinstance(key, str) else key)
    return MessageQueue(
        client.namespace.unwrap(str(fields["topic"])), str(fields["brokerName"]), int(fields["queueId"])
    )
