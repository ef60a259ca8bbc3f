"""What a consumer is told when it is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from ..errors import ConfigurationError
from .client import ClientSettings
from .share import Mode

__all__ = ["ConsumerSettings"]

MAX_GROUP: Final = 120
"""Characters: longer names lose their retries on 4.9 brokers (reference 2.10)."""


@dataclass(frozen=True, slots=True)
class ConsumerSettings:
    """What to read, as whom, and how much of it to hold. Times in seconds."""

    client: ClientSettings
    group: str
    subscriptions: Mapping[str, str]
    """Topic -> tag expression (`*`, or `A || B`)."""
    mode: Mode = "clustering"
    """`broadcasting`: this consumer reads every queue, alone, and keeps its positions itself (`adjust_start`)."""
    start_from: Literal["first", "last"] | int = "first"
    """Where a group without any committed offset on a topic begins; an int is a store time in epoch ms.

    In broadcasting: where a queue begins unless `adjust_start` says otherwise.
    """
    pull_batch: int = 32
    """Messages asked for in one pull; most brokers give at most 32."""
    queue_limit: int = 4096
    """Messages of one queue cached, from pull to settlement."""
    memory_limit: int = 12 * 1024 * 1024
    """Bytes of all queues cached, from pull to settlement, with what a message takes beside its body."""
    commit_period: float = 0.5
    """How often settled offsets are committed, those of queues where any were settled. What a member that is killed
    settled since then comes twice."""
    stall_after: float = 60.0
    """How long a queue with news may go without a good pull before it is an ERROR and read anew."""

    def __post_init__(self) -> None:
        if not self.subscriptions:
            raise ConfigurationError("a consumer needs at least one topic to subscribe")
        group = self.client.namespace.wrap_group(self.group)
        if not self.group or len(group.encode()) > MAX_GROUP:
            raise ConfigurationError(
                f"a consumer group's name, with its namespace, has 1 to {MAX_GROUP} characters: {group!r}"
            )
        if self.mode not in ("clustering", "broadcasting"):
            raise ConfigurationError(f"a consumer's mode is clustering or broadcasting, not {self.mode!r}")
