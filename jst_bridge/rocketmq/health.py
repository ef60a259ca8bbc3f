"""How a consumer is: what an operator, or a readiness probe, asks first."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from .assignment import Assignment
from .message import MessageQueue

__all__ = ["BrokerHealth", "Health", "QueueHealth", "QueueProgress", "judge"]

UNHEARD: Final = 90.0
"""Seconds: three heartbeats in a row that a broker did not take. At 120 it strikes this member off (reference 4.1)."""


@dataclass(frozen=True, slots=True)
class QueueProgress:
    """How far one assigned queue is."""

    queue: MessageQueue
    settled: int
    pulled: int
    end: int
    """The broker's maximum offset when the last pull was answered."""


@dataclass(frozen=True, slots=True)
class QueueHealth:
    """One assigned queue. Times in seconds."""

    queue: MessageQueue
    lag: int
    """Offsets between what is settled and the queue's end as the broker told it last."""
    cached: int
    """Messages pulled and not settled."""
    pull_age: float
    """Since the last pull that was answered with what the books could take, or since reading began."""
    stalled: bool
    """Its end is ahead, and no pull gets there: the watchdog's word."""

    @classmethod
    def of(cls, assignment: Assignment, now: float) -> QueueHealth:
        return cls(
            assignment.queue,
            max(0, assignment.max_offset - assignment.settled_offset),
            assignment.cached,
            now - assignment.last_good_pull,
            assignment.stalled,
        )


@dataclass(frozen=True, slots=True)
class BrokerHealth:
    """One broker of the routes."""

    address: str
    connected: bool
    heartbeat_age: float | None
    """Seconds since it last took a heartbeat; None when it never did."""


@dataclass(frozen=True, slots=True)
class Health:
    """A consumer at one moment. `reasons` say why it is not healthy, each in a sentence."""

    reasons: tuple[str, ...]
    queues: tuple[QueueHealth, ...]
    brokers: tuple[BrokerHealth, ...]
    tasks: tuple[str, ...]
    """Names of the background tasks that run."""

    @property
    def healthy(self) -> bool:
        return not self.reasons


def judge(
    state: str, failure: BaseException | None, queues: Iterable[QueueHealth], brokers: Iterable[BrokerHealth],
    started_at: float,
) -> Iterator[str]:  # fmt: skip
    """Why a consumer is not healthy; nothing when it is. `started_at` in monotonic seconds."""
    if failure is not None:
        yield f"its background work ended: {failure or repr(failure)}"
    if state != "running":
        yield f"it is {state}"
        return
    for queue in queues:
        if queue.stalled:
            yield f"{queue.queue} stands still: {queue.lag} behind, no good pull for {queue.pull_age:.0f} s"
    for broker in brokers:
        unheard = time.monotonic() - started_at if broker.heartbeat_age is None else broker.heartbeat_age
        if unheard > UNHEARD:
            yield f"broker {broker.address} took no heartbeat for {unheard:.0f} s"
