"""The newest messages that the broker has, decoded as they would land. Nothing is landed, and no offset moves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from jst_bridge.errors import CredentialsRefused, TopicNotFound, UndecodableError
from jst_bridge.messages import Decoder
from jst_bridge.operations.group import SourceGroup
from jst_bridge.ports import Message
from jst_bridge.rocketmq import Client, MessageExt, MessageQueue
from jst_bridge.rocketmq.browsing import TOOLS_GROUP, Browsed, browse
from jst_bridge.sources.rocketmq import delivery

__all__ = ["Peek", "Seen", "Where", "peek"]

Where = Literal["topic", "retry", "dead"]
"""The system topic; what the group was sent back; what it has given up on."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One message at the broker, and what it is; or else, as of a dead letter, why it cannot be read."""

    queue: MessageQueue
    stored: MessageExt
    message: Message | None
    reason: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Peek:
    """What was seen, the newest first."""

    topic: str
    """The broker's topic that was looked at."""
    seen: list[Seen]
    examined: int
    back_to: int | None
    """Nothing stored after that (epoch ms) was overlooked; None: nothing that the broker has."""


async def peek(
    group: SourceGroup,
    app_key: str,
    where: Where = "topic",
    *,
    tag: str | None = None,
    seller: str | None = None,
    limit: int = 20,
) -> Peek:
    """The newest `limit` messages whose tag matches the pattern `tag`, of one seller's nick.

    Raises CredentialsRefused with the permission it takes; SourceError, DecodeError.
    """
    decoder = Decoder(group.source, app_key)

    def see(queue: MessageQueue, stored: MessageExt) -> Seen:
        try:
            return Seen(queue, stored, decoder.decode(delivery(stored, group.key(queue))))
        except UndecodableError as error:
            return Seen(queue, stored, None, error.reason, str(error))

    def wanted(stored: MessageExt) -> bool:
        if tag is not None and not fnmatchcase(stored.tag, tag):
            return False
        if seller is None:
            return True
        seen = see(MessageQueue(stored.topic, "", stored.queue_id), stored)
        return seen.message is not None and seen.message.seller == seller

    client = Client(group.settings.client)
    try:
        for topic in _topics(group, where):
            found = await _browse(client, topic, group.name, wanted, limit)
            return Peek(
                topic, [see(queue, stored) for queue, stored in found.messages], found.examined, found.back_to
            )
    except TopicNotFound:
        if where == "topic":
            raise
    finally:
        await client.close()
    return Peek(_topics(group, where)[0], [], 0, None)


def _topics(group: SourceGroup, where: Where) -> list[str]:
    if where == "topic":
        return list(group.settings.subscriptions)
    return [f"%{'RETRY' if where == 'retry' else 'DLQ'}%{group.name}"]


async def _browse(
    client: Client, topic: str, group: str, keep: Callable[[MessageExt], bool], limit: int
) -> Browsed:
    """With the tools' group where the key may use it: a reset that waits for the own group's members stays theirs."""
    try:
        return await browse(client, topic, group=TOOLS_GROUP, keep=keep, limit=limit)
    except CredentialsRefused:
        pass
    try:
        return await browse(client, topic, group=group, keep=keep, limit=limit)
    except CredentialsRefused as error:
        raise CredentialsRefused(str(error), remedy=f"{error.remedy}; {_permissions(topic, group)}") from None


def _permissions(topic: str, group: str) -> str:
    if topic.startswith("%RETRY%"):
        return f"looking here takes Sub and Get on group {group} (plain ACL: SUB)"
    alone = ", which the permission of its group does not cover" if topic.startswith("%DLQ%") else ""
    return (
        f"looking here takes Sub and Get on topic {topic} (plain ACL: SUB){alone}, and Sub on group {group}"
    )
