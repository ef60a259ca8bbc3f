"""Consumer groups: who is a member on which connection, and what the group reads (reference 2.2). Pure."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

__all__ = ["Group", "GroupConfig", "Groups", "Member"]

MOST_GROUPS: Final = 10_000
MOST_TOPICS: Final = 1_000
"""That one group reads."""

Link = TypeVar("Link", bound=Hashable)
"""A connection: registrations are kept by it, not by the client's id."""


@dataclass(slots=True)
class Member(Generic[Link]):
    """One client of a group on one connection."""

    link: Link
    client_id: str
    language: str
    version: int
    seen_at: float
    """Of its last heartbeat, in seconds of a monotonic clock."""


@dataclass(slots=True)
class GroupConfig:
    """What an administrator may set for a group."""

    consume_enable: bool = True
    broadcast_enable: bool = True
    retry_queues: int = 1
    max_reconsume_times: int = 16


@dataclass(slots=True)
class Group(Generic[Link]):
    """One consumer group while it has members. Its model and start are those of the latest heartbeat."""

    name: str
    model: str = "CLUSTERING"
    kind: str = "CONSUME_PASSIVELY"
    start: str = "CONSUME_FROM_LAST_OFFSET"
    members: dict[Link, Member[Link]] = field(default_factory=dict)
    subscriptions: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Topic -> SubscriptionData as the heartbeat gave it."""

    @property
    def broadcasting(self) -> bool:
        return self.model == "BROADCASTING"

    def subscribe(self, wanted: list[dict[str, Any]]) -> bool:
        """Take over a heartbeat's subscriptions; True when the set of topics changed.

        An expression is replaced by one with a greater `subVersion` only; topics left out are gone.
        """
        told = {str(entry["topic"]): entry for entry in wanted[:MOST_TOPICS]}
        changed = told.keys() != self.subscriptions.keys()
        for topic, entry in told.items():
            known = self.subscriptions.get(topic)
            if known is not None and version_of(known) >= version_of(entry):
                told[topic] = known
        self.subscriptions = told
        return changed


class Groups(Generic[Link]):
    """The groups of one broker: those with members, and what is set for each that was ever seen."""

    def __init__(self, *, max_reconsume_times: int) -> None:
        self.online: dict[str, Group[Link]] = {}
        self.configs: dict[str, GroupConfig] = {}
        self._max_reconsume_times = max_reconsume_times

    def config(self, name: str, *, create: bool) -> GroupConfig | None:
        """What is set for a group; with `create` it comes to be as it is first named."""
        known = self.configs.get(name)
        if known is None and create and name and len(self.configs) < MOST_GROUPS:
            known = self.configs[name] = GroupConfig(max_reconsume_times=self._max_reconsume_times)
        return known

    def join(self, name: str, member: Member[Link]) -> tuple[Group[Link], bool]:
        """Register a member, again at each heartbeat; True says that it is new."""
        group = self.online.setdefault(name, Group(name))
        new = member.link not in group.members
        group.members[member.link] = member
        return group, new

    def leave(self, name: str, link: Link) -> Group[Link] | None:
        """Take a connection out of a group; the group when it was in it, perhaps empty now."""
        group = self.online.get(name)
        if group is None or group.members.pop(link, None) is None:
            return None
        if not group.members:
            del self.online[name]
        return group

    def leave_all(self, link: Link) -> list[Group[Link]]:
        """Take a connection out of all its groups."""
        return [group for name in list(self.online) if (group := self.leave(name, link)) is not None]

    def silent_since(self, moment: float) -> Iterator[tuple[str, Member[Link]]]:
        """Members whose last heartbeat is older."""
        for group in list(self.online.values()):
            for member in list(group.members.values()):
                if member.seen_at < moment:
                    yield group.name, member

    def member(self, name: str, client_id: str) -> Member[Link] | None:
        """A member by its client id."""
        group = self.online.get(name)
        members = group.members.values() if group is not None else ()
        return next((member for member in members if member.client_id == client_id), None)


def version_of(subscription: dict[str, Any]) -> int:
    """C++ clients write it as text, and 0 stands for none."""
    return int(subscription.get("subVersion") or 0)
