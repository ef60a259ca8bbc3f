"""The pull loop of one assigned queue: one long-polling request at a time (reference 2.7)."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import Final, Protocol

from ..errors import (
    BrokerRefused,
    ConnectionFailed,
    CredentialsRefused,
    DecodeError,
    RequestTimeout,
    SourceError,
)
from .assignment import Assignment, PulledBatch
from .client import Client
from .codes import PullFlag, Request, Response
from .frame import Frame
from .message import decode_messages
from .offsets import number
from .route import MASTER
from .subscription import Subscription

__all__ = ["Intake", "Puller"]

log = logging.getLogger(__name__)

SUSPEND: Final = 15.0
"""Seconds the broker may park a pull: what the Java client asks for."""
PULL_TIMEOUT: Final = 30.0
"""Seconds to wait for a parked pull: it is answered after 15 to 20 (reference 2.7.3)."""
# The subscription travels along, so that a broker that lost the registration serves us all the same.
_FROM_SLAVE: Final = str(int(PullFlag.SUSPEND | PullFlag.SUBSCRIPTION))
_FROM_MASTER: Final = str(int(PullFlag.SUSPEND | PullFlag.SUBSCRIPTION | PullFlag.COMMIT_OFFSET))
_UNREGISTERED: Final = frozenset(
    {
        Response.SUBSCRIPTION_NOT_EXIST,
        Response.SUBSCRIPTION_NOT_LATEST,
        Response.FILTER_DATA_NOT_EXIST,
        Response.FILTER_DATA_NOT_LATEST,
        Response.SUBSCRIPTION_GROUP_NOT_EXIST,
    }
)


class Intake(Protocol):
    """Where pulled batches go, and what holds the loops back."""

    async def room(self, assignment: Assignment) -> None:
        """Wait until this queue may cache more."""

    def put(self, batch: PulledBatch) -> None: ...

    def unregistered(self) -> None:
        """A broker does not know this member: it needs a heartbeat."""


class Puller:
    """Reads one queue until it is cancelled."""

    def __init__(
        self,
        client: Client,
        group: str,
        subscription: Subscription,
        assignment: Assignment,
        intake: Intake,
        batch: int,
    ) -> None:
        self._client = client
        self._group = group
        self._subscription = subscription
        self._assignment = assignment
        self._intake = intake
        self._batch = str(batch)
        self._broker_id = MASTER
        self._complaint = ""

    async def run(self) -> None:
        """Returns never; raises CredentialsRefused, which no retry can cure."""
        while True:
            await self._intake.room(self._assignment)
            try:
                pause = self._book(await self._pull())
            except CredentialsRefused:
                raise
            except (ConnectionFailed, RequestTimeout) as error:
                self._broker_id = MASTER
                self._complain(str(error))
                pause = random.uniform(0.05, 0.2)  # the link itself backs off
            except (SourceError, DecodeError) as error:
                pause = self._refused(error)
            else:
                self._complaint = ""
            if pause:
                await asyncio.sleep(pause)

    async def _pull(self) -> Frame:
        assignment, subscription = self._assignment, self._subscription
        commit = assignment.settled_offset
        frame = await self._client.call(
            self._client.broker_address(assignment.queue.broker, self._broker_id),
            Request.PULL_MESSAGE,
            {
                "consumerGroup": self._group,
                "topic": assignment.queue.topic,
                "queueId": str(assignment.queue.queue_id),
                "queueOffset": str(assignment.pull_offset),
                "maxMsgNums": self._batch,
                "sysFlag": _FROM_MASTER if self._broker_id == MASTER else _FROM_SLAVE,
                "commitOffset": str(commit),
                "suspendTimeoutMillis": str(int(SUSPEND * 1000)),
                "subscription": subscription.expression,
                "subVersion": str(subscription.version),
                "expressionType": "TAG",
            },
            timeout=PULL_TIMEOUT,
            accept=_PULL_ANSWERS,
        )
        if frame.code != Response.FLOW_CONTROL and self._broker_id == MASTER:
            assignment.acknowledged_offset = commit
        return frame

    def _book(self, frame: Frame) -> float:
        """Enter an answer into the books. Returns how many seconds to pause."""
        if frame.code == Response.FLOW_CONTROL:
            return 0.02
        assignment = self._assignment
        before = assignment.pull_offset
        next_offset, end = number(frame, "nextBeginOffset"), number(frame, "maxOffset")
        self._broker_id = number(frame, "suggestWhichBrokerId")
        if frame.code == Response.SUCCESS:
            messages, complete = decode_messages(frame.body)
            if not complete:
                next_offset = min(max(before, messages[-1].queue_offset) + 1, next_offset)
            kept = messages
            if self._subscription.tags:
                kept = [message for message in messages if self._subscription.matches(message.tag)]
            batch = assignment.pulled(messages, kept, next_offset)
        elif frame.code == Response.PULL_OFFSET_MOVED:
            reset = "RESET" in frame.remark
            log.warning(
                "the broker moved %s from %d to %d: %s",
                assignment.queue, assignment.pull_offset, next_offset, frame.remark,
            )  # fmt: skip
            batch = assignment.moved(next_offset, _why_moved(frame.remark), reset=reset)
        else:
            batch = assignment.skipped(next_offset, "lost at the broker")
        assignment.max_offset = end
        if batch is not None:
            self._intake.put(batch)
        stuck = frame.code != Response.PULL_NOT_FOUND and assignment.pull_offset == before
        return 0.1 if stuck else 0.0  # no sane broker answers so; a hot loop would not make it sane

    def _refused(self, error: SourceError | DecodeError) -> float:
        self._complain(str(error))
        code = error.code if isinstance(error, BrokerRefused) else None
        if code in _UNREGISTERED:
            self._intake.unregistered()
            return 1.0
        if code in (Response.SYSTEM_BUSY, Response.SYSTEM_ERROR, None):
            return random.uniform(0.5, 1.0)
        return 5.0  # a permission or a topic that is gone: somebody has to act

    def _complain(self, complaint: str) -> None:
        """One line per new trouble, not one per attempt."""
        if complaint != self._complaint:
            log.warning("pulling %s: %s", self._assignment.queue, complaint)
            self._complaint = complaint


_PULL_ANSWERS: Final = frozenset(
    {
        Response.SUCCESS,
        Response.PULL_NOT_FOUND,
        Response.PULL_RETRY_IMMEDIATELY,
        Response.PULL_OFFSET_MOVED,
        Response.FLOW_CONTROL,
    }
)


def _why_moved(remark: str) -> str:
    return {
        "OFFSET_TOO_SMALL": "expired at the broker",
        "OFFSET_RESET": "offset reset",
        "OFFSET_OVERFLOW_BADLY": "beyond the end of the queue",
        "NO_MESSAGE_IN_QUEUE": "the queue is empty",
    }.get(remark, remark or "moved by the broker")
