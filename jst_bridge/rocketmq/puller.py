"""The pull loop of one assigned queue: one long-polling request at a time (reference 2.7)."""

from __future__ import annotations

import asyncio
import logging
import random
from time import monotonic
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
from .message import MessageExt, decode_messages
from .offsets import number, offset_at
from .route import MASTER
from .subscription import Subscription

__all__ = ["Intake", "Puller"]

log = logging.getLogger(__name__)

SUSPEND: Final = 2.0
"""Seconds the broker may park a pull. It looks every 5 s, so it answers after 2 to 7 (reference 2.7.3). The Java
client asks for 15, and its parked pulls hide an admin's reset on a 5.x broker for up to 20 (2.13)."""
PULL_TIMEOUT: Final = 30.0
"""Seconds to wait for a parked pull."""
UNREADABLE_AFTER: Final = 3
"""Answers for one message alone, all broken alike, after which it counts as unreadable."""
CLOCK_SLACK: Final = 10_000
"""Milliseconds by which a broker's clock may have gone back when its queue did."""
# The subscription travels along, so that a broker that lost the registration serves us all the same.
_SUBSCRIPTION: Final = int(PullFlag.SUBSCRIPTION)
_SUSPEND: Final = int(PullFlag.SUSPEND)
_COMMIT: Final = int(PullFlag.COMMIT_OFFSET)
_UNREGISTERED: Final = frozenset(
    {
        Response.SUBSCRIPTION_NOT_EXIST,
        Response.SUBSCRIPTION_NOT_LATEST,
        Response.FILTER_DATA_NOT_EXIST,
        Response.FILTER_DATA_NOT_LATEST,
        Response.SUBSCRIPTION_GROUP_NOT_EXIST,
    }
)
_PASSING: Final = frozenset({Response.SYSTEM_BUSY, Response.SYSTEM_ERROR, Response.GO_AWAY})
_PULL_ANSWERS: Final = frozenset(
    {
        Response.SUCCESS,
        Response.PULL_NOT_FOUND,
        Response.PULL_RETRY_IMMEDIATELY,
        Response.PULL_OFFSET_MOVED,
        Response.FLOW_CONTROL,
    }
)


class Intake(Protocol):
    """Where pulled batches go, and what holds the loops back."""

    async def room(self, assignment: Assignment) -> None:
        """Wait until this queue may cache more."""

    def put(self, batch: PulledBatch) -> None: ...

    def unregistered(self) -> None:
        """A broker does not know this member: it needs a heartbeat."""

    def unreachable(self) -> None:
        """A broker cannot be reached: its route may have changed."""


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
        *,
        commits: bool = True,
    ) -> None:
        """`commits`: pulls may carry the settled offset to the broker. Not in broadcasting (reference 4.6)."""
        self._client = client
        self._group = group
        self._subscription = subscription
        self._assignment = assignment
        self._intake = intake
        self._batch = batch
        self._commits = commits
        self._broker_id = MASTER
        self._standing_in = False
        """A slave is asked because the master cannot be reached, not because the master said so."""
        self._complaint: object = None
        self._refusals = 0
        """In a row, of one kind."""
        self._one_by_one = 0
        """Up to this offset messages are asked for one at a time: one of them has broken sizes."""
        self._fault = (0, "")
        """Where an answer was broken last, and how."""
        self._broken = 0
        """How often in a row it was broken so, asked for one message alone."""

    async def run(self) -> None:
        """Returns never; raises CredentialsRefused, which no retry can cure."""
        assignment = self._assignment
        while True:
            assignment.held_since = monotonic()
            await self._intake.room(assignment)
            assignment.held_since = None
            asked = assignment.pull_offset
            try:
                frame = await self._pull()
                if assignment.pull_offset != asked:
                    continue  # an admin moved the queue while this answer was on its way
                pause = await self._book(frame)
            except CredentialsRefused:
                raise
            except (ConnectionFailed, RequestTimeout) as error:
                assignment.trouble = error
                pause = self._unreachable(error)
            except (SourceError, DecodeError) as error:
                assignment.trouble = error
                pause = self._refused(error)
            if pause:
                await asyncio.sleep(pause)

    async def _pull(self) -> Frame:
        assignment, subscription = self._assignment, self._subscription
        broker_id, address = self._place()
        commit = assignment.settled_offset
        # Only what no later commit can overtake: with nothing unsettled, a higher offset takes the answer to this
        # very pull. A pull that waits in a busy broker would else undo the commit of a stop or of a handover.
        commits = self._commits and broker_id == MASTER and commit == assignment.pull_offset
        suspends = not self._standing_in
        frame = await self._client.call(
            address,
            Request.PULL_MESSAGE,
            {
                "consumerGroup": self._group,
                "topic": assignment.queue.topic,
                "queueId": str(assignment.queue.queue_id),
                "queueOffset": str(assignment.pull_offset),
                "maxMsgNums": "1" if assignment.pull_offset < self._one_by_one else str(self._batch),
                "sysFlag": str(_SUBSCRIPTION | (suspends and _SUSPEND) | (commits and _COMMIT)),
                "commitOffset": str(commit) if commits else "0",
                "suspendTimeoutMillis": str(int(SUSPEND * 1000)),
                "subscription": subscription.expression,
                "subVersion": str(subscription.version),
                "expressionType": "TAG",
            },
            timeout=PULL_TIMEOUT,
            accept=_PULL_ANSWERS,
        )
        if commits and frame.code != Response.FLOW_CONTROL:
            assignment.acknowledged_offset = commit
        return frame

    def _place(self) -> tuple[int, str]:
        """Which broker id to ask, and its address. Raises ConnectionFailed when no route names any."""
        broker = self._assignment.queue.broker
        known = self._client.brokers.get(broker) or {}
        broker_id = self._broker_id if self._broker_id in known else min(known, default=MASTER)
        return broker_id, self._client.broker_address(broker, broker_id)

    async def _book(self, frame: Frame) -> float:
        """Enter an answer into the books. Returns how many seconds to pause."""
        if frame.code == Response.FLOW_CONTROL:
            return self._again(frame.code, first=0.02, last=1.0)
        assignment = self._assignment
        before = assignment.pull_offset
        next_offset, end = number(frame, "nextBeginOffset"), number(frame, "maxOffset")
        suggested = number(frame, "suggestWhichBrokerId")
        batch: PulledBatch | None = None
        if frame.code == Response.SUCCESS:
            try:
                messages, complete = decode_messages(frame.body)
                if self._client.namespace:
                    self._client.namespace.unwrap_messages(messages)
            except DecodeError as error:
                return self._unreadable(error, next_offset)
            if not complete:
                next_offset = min(max(before, messages[-1].queue_offset) + 1, next_offset)
            batch = self._take(messages, next_offset)
        elif frame.code == Response.PULL_OFFSET_MOVED:
            place = await self._moved_to(frame, next_offset)
            if place is None or assignment.pull_offset != before:
                self._broker_id = MASTER
                return 0.5
            log.warning(
                "the broker moved %s from %d to %d: %s", assignment.queue, before, place, frame.remark
            )
            batch = assignment.moved(place, _why_moved(frame.remark), reset="RESET" in frame.remark)
        else:
            batch = assignment.skipped(next_offset, "lost at the broker")
        assignment.max_offset = end
        self._well()
        if not self._standing_in or frame.code == Response.PULL_NOT_FOUND:
            # A slave that stands in would name its master: it is tried again once the slave has no more.
            self._broker_id, self._standing_in = suggested, False
        if batch is not None:
            self._intake.put(batch)
        stuck = frame.code != Response.PULL_NOT_FOUND and assignment.pull_offset == before
        return 0.1 if stuck else 0.0  # no sane broker answers so; a hot loop would not make it sane

    def _take(self, messages: list[MessageExt], next_offset: int) -> PulledBatch | None:
        kept = messages
        if self._subscription.tags:
            kept = [message for message in messages if self._subscription.matches(message.tag)]
        if messages:
            self._assignment.newest_stored = messages[-1].store_timestamp
        return self._assignment.pulled(messages, kept, next_offset)

    def _well(self) -> None:
        """The last pull was good."""
        assignment = self._assignment
        assignment.last_good_pull = monotonic()
        assignment.trouble = None
        if self._complaint is not None or assignment.stalled:
            log.info("pulling %s goes on", assignment.queue)
            self._complaint, assignment.stalled = None, False
        self._refusals = 0
        if assignment.queue.broker not in self._client.brokers:
            self._intake.unreachable()  # it is back before its route is

    async def _moved_to(self, frame: Frame, next_offset: int) -> int | None:
        """Where answer 21 leads; None: nowhere, ask again. Raises SourceError.

        A queue that is shorter than it was has lost its end, or its topic was made anew: offsets that we have
        passed now stand for messages that we have not seen. The broker would have us begin at its end; those
        stored since our last message are unread, and without a last message all are. What comes again is known
        by its message id.
        """
        assignment = self._assignment
        if "RESET" in frame.remark or next_offset > assignment.pull_offset:
            return next_offset
        if self._place()[0] != MASTER or next_offset == assignment.pull_offset:
            return None  # a slave that lags does not know the end
        minimum = max(0, number(frame, "minOffset"))
        if not assignment.newest_stored:
            return min(minimum, next_offset)
        since = await offset_at(self._client, assignment.queue, assignment.newest_stored - CLOCK_SLACK)
        return min(max(minimum, since), next_offset)

    def _unreadable(self, error: DecodeError, next_offset: int) -> float:
        """The sizes in an answer are broken, so that nothing after them is certain.

        What comes before is: messages are asked for one at a time, up to the one at fault, which is skipped as
        a gap when it comes broken again and again.
        """
        assignment = self._assignment
        offset, fault = assignment.pull_offset, str(error)
        alone = offset < self._one_by_one
        self._one_by_one = max(self._one_by_one, next_offset)
        self._broken = self._broken + 1 if alone and (offset, fault) == self._fault else int(alone)
        self._fault = (offset, fault)
        assignment.trouble = error
        if self._broken < UNREADABLE_AFTER or next_offset <= offset:
            return self._refused(error)
        log.error(
            "%s: offsets %d to %d cannot be read and are skipped as a gap: %s",
            assignment.queue, offset, next_offset - 1, error,
        )  # fmt: skip
        batch = assignment.moved(next_offset, "unreadable at the broker", reset=False)
        if batch is not None:
            self._intake.put(batch)
        self._well()
        return 0.0

    def _unreachable(self, error: ConnectionFailed | RequestTimeout) -> float:
        """Another of the broker's ids is asked next: a slave has what the master had (reference 2.7.3)."""
        broker = self._assignment.queue.broker
        known = sorted(self._client.brokers.get(broker) or {})
        if isinstance(error, RequestTimeout) and self._client.connected(self._place()[1]):
            self._complain(error)
        else:
            log.debug("pulling %s: %s", self._assignment.queue, error)  # the link says it once for all queues
        self._broker_id = next((one for one in known if one > self._broker_id), MASTER)
        self._standing_in = self._broker_id != MASTER
        self._intake.unreachable()
        return random.uniform(0.05, 0.2)  # the link itself backs off

    def _refused(self, error: SourceError | DecodeError) -> float:
        self._complain(error)
        code = error.code if isinstance(error, BrokerRefused) else None
        if code in _UNREGISTERED:
            self._intake.unregistered()
            return self._again(code, first=0.2, last=5.0)
        if code is None or code in _PASSING:
            return self._again(code, first=0.2, last=3.0)
        # A permission or a topic that is gone: somebody has to act.
        return self._again(code, first=1.0, last=5.0)

    def _again(self, code: int | None, *, first: float, last: float) -> float:
        """Seconds to wait after a refusal: the longer, the more there were in a row."""
        self._refusals += 1
        return min(last, first * 2.0 ** min(self._refusals - 1, 10)) * random.uniform(0.6, 1.0)

    def _complain(self, error: SourceError | DecodeError) -> None:
        """One line per new kind of trouble, not one per attempt; a remark may hold numbers that always change."""
        kind = error.code if isinstance(error, BrokerRefused) else type(error)
        if kind != self._complaint:
            log.warning("pulling %s: %s", self._assignment.queue, error)
            self._complaint = kind
            self._refusals = 0


def _why_moved(remark: str) -> str:
    return {
        "OFFSET_TOO_SMALL": "expired at the broker",
        "OFFSET_RESET": "offset reset",
        "OFFSET_OVERFLOW_BADLY": "beyond the end of the queue",
        "NO_MESSAGE_IN_QUEUE": "the queue is empty",
    }.get(remark, remark or "moved by the broker")
