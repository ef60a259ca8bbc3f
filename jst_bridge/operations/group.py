"""A source seen from outside: its consumer group, and where its queues and positions are."""

from __future__ import annotations

from dataclasses import dataclass

from jst_bridge.ports import QueueKey
from jst_bridge.rocketmq import Client, ConsumerSettings, MessageQueue

__all__ = ["SourceGroup"]


@dataclass(frozen=True, slots=True)
class SourceGroup:
    """The group that a configured source reads in."""

    source: str
    settings: ConsumerSettings
    instance: str = ""
    """Whose positions count, in broadcasting; '' in clustering."""

    @property
    def name(self) -> str:
        return self.settings.group

    @property
    def broadcasting(self) -> bool:
        return self.settings.mode == "broadcasting"

    def key(self, queue: MessageQueue) -> QueueKey:
        """Where the store keeps the position of one of its queues."""
        return QueueKey(self.source, self.name, self.instance, queue.broker, queue.topic, queue.queue_id)

    async def queues(self, client: Client) -> list[MessageQueue]:
        """Of its topic, and in clustering of its retry topic when there is one. Raises SourceError."""
        return await client.queues_of_group(
            self.settings.subscriptions, None if self.broadcasting else self.name
        )
