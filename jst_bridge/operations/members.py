"""Who is in a group, reading what; and whether a source may join it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from jst_bridge.errors import ConfigurationError, CredentialsRefused, DecodeError, SourceError
from jst_bridge.operations.group import SourceGroup
from jst_bridge.rocketmq import Client, MessageQueue
from jst_bridge.rocketmq.admin import GroupMember, Registration, Subscribed, held_queues, registration
from jst_bridge.rocketmq.allocation import allocate_averagely

__all__ = ["MemberView", "MembersView", "members", "refuse_mixed"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MemberView:
    """One member of a group."""

    member: GroupMember
    here: bool
    """It runs on this host, as far as addresses tell."""
    brokers: tuple[str, ...]
    """Those that have it registered."""
    queues: tuple[MessageQueue, ...]
    told: bool
    """It said itself which queues it reads; else that is worked out as members that share averagely do."""


@dataclass(frozen=True, slots=True)
class MembersView:
    """A group as its brokers see it."""

    source: str
    group: str
    mode: Literal["clustering", "broadcasting"] | None = None
    """None while nobody is in the group."""
    subscriptions: dict[str, list[str]] = field(default_factory=dict)
    """Topic -> expressions; more than one when brokers have it differently."""
    members: list[MemberView] = field(default_factory=list)


async def members(group: SourceGroup) -> MembersView:
    """Everybody in the group of a source, on every broker of its topic. Raises SourceError, DecodeError."""
    client = Client(group.settings.client)
    try:
        queues = await group.queues(client)
        found: dict[str, Registration] = {}
        for broker in sorted({queue.broker for queue in queues}):
            registered = await registration(client, client.master(broker), group.name)
            if registered is not None:
                found[broker] = registered
        if not found:
            return MembersView(group.source, group.name)
        return await _view(client, group, queues, found)
    finally:
        await client.close()


async def _view(
    client: Client, group: SourceGroup, queues: Sequence[MessageQueue], found: Mapping[str, Registration]
) -> MembersView:
    mode = next(iter(found.values())).mode
    subscriptions: dict[str, list[str]] = {}
    people: dict[str, GroupMember] = {}
    brokers: dict[str, list[str]] = {}
    for broker, registered in found.items():
        for topic, read in registered.subscriptions.items():
            known = subscriptions.setdefault(topic, [])
            if read.expression not in known:
                known.append(read.expression)
        for member in registered.members:
            people.setdefault(member.client_id, member)
            if broker not in brokers.setdefault(member.client_id, []):
                brokers[member.client_id].append(broker)
    told = await asyncio.gather(
        *(_told(client, group.name, client_id, brokers[client_id][0]) for client_id in sorted(people))
    )
    here = client.client_id.partition("@")[0]
    views = [
        MemberView(
            people[client_id],
            here in (people[client_id].address.rpartition(":")[0], client_id.partition("@")[0]),
            tuple(brokers[client_id]),
            tuple(_shares(queues, people, client_id, mode) if queues_told is None else sorted(queues_told)),
            queues_told is not None,
        )
        for client_id, queues_told in zip(sorted(people), told, strict=True)
    ]
    return MembersView(group.source, group.name, mode, subscriptions, views)


async def _told(client: Client, group: str, client_id: str, broker: str) -> frozenset[MessageQueue] | None:
    try:
        return await held_queues(client, client.master(broker), group, client_id)
    except (SourceError, DecodeError) as error:
        log.debug("%s does not say what it reads: %s", client_id, error)
        return None


def _shares(
    queues: Sequence[MessageQueue], people: Mapping[str, GroupMember], client_id: str, mode: str
) -> list[MessageQueue]:
    if mode == "broadcasting":
        return sorted(queues)
    topics = sorted({queue.topic for queue in queues})
    return [
        queue
        for topic in topics
        for queue in allocate_averagely([q for q in queues if q.topic == topic], people, client_id)
    ]


# --- may a source join? -----------------------------------------------------------------------------------


async def refuse_mixed(groups: Sequence[SourceGroup]) -> None:
    """Look who is in the groups of these sources before one joins: a heartbeat would overwrite what they subscribe.

    Raises ConfigurationError when somebody reads other topics, tags or in another mode than the source would: they
    would lose messages to each other (reference 2.2). A broker that cannot say is a warning.
    """
    for number, group in enumerate(groups):
        for other in groups[:number]:
            _refuse_twins(group, other)
        client = Client(group.settings.client)
        try:
            await group.queues(client)
            for broker in sorted(client.brokers):
                await _refuse_at(client, group, broker)
        finally:
            await client.close()


async def _refuse_at(client: Client, group: SourceGroup, broker: str) -> None:
    try:
        found = await registration(client, client.master(broker), group.name)
    except CredentialsRefused as error:
        if "permission" not in str(error):
            raise
        log.warning("who else reads in group %s cannot be seen at broker %s: %s", group.name, broker, error)
        return
    except (SourceError, DecodeError) as error:
        log.warning("who else reads in group %s cannot be seen at broker %s: %s", group.name, broker, error)
        return
    if found is None or not found.members:
        return
    names = ", ".join(
        f"{one.client_id} ({one.language} {one.version}, {one.address})" for one in found.members
    )
    difference = _difference(group, found)
    if difference:
        raise ConfigurationError(
            f"source {group.source}: group {group.name} is read at broker {broker} by {names}, which {difference}; "
            "members of one group that read differently lose messages to each other",
            remedy="stop that member, or make both read the same, or give this source a group of its own; "
            "`run --allow-mixed-subscriptions` starts all the same",
        )


def _difference(group: SourceGroup, found: Registration) -> str:
    """How the members of a group read otherwise than the source would; '' when they do not."""
    if found.mode != group.settings.mode:
        return f"reads in {found.mode} mode, and this source in {group.settings.mode}"
    if not found.subscriptions:
        return ""
    ours = {topic: Subscribed(tags) for topic, tags in group.settings.subscriptions.items()}
    for topic in sorted(ours.keys() | found.subscriptions.keys()):
        mine, theirs = ours.get(topic), found.subscriptions.get(topic)
        if mine is None or theirs is None or not mine.same(theirs):
            return f"reads {_shown(theirs)} of {topic}, and this source {_shown(mine)}"
    return ""


def _shown(read: Subscribed | None) -> str:
    if read is None:
        return "nothing"
    return repr(read.expression) if read.kind == "TAG" else f"{read.kind} {read.expression!r}"


def _refuse_twins(one: SourceGroup, other: SourceGroup) -> None:
    same_group = (
        one.name == other.name and one.settings.client.name_servers == other.settings.client.name_servers
    )
    ours, theirs = one.settings, other.settings
    if same_group and (ours.subscriptions != theirs.subscriptions or ours.mode != theirs.mode):
        raise ConfigurationError(
            f"sources {other.source} and {one.source} read differently in one group, {one.name}: they would lose "
            "messages to each other",
            remedy="give each source a group of its own; `run --allow-mixed-subscriptions` starts all the same",
        )
