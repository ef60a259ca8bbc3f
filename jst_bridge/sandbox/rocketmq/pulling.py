"""Pulls, those that wait for a message included (reference 2.7)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Final, NamedTuple

from jst_bridge.rocketmq.codes import PullFlag, Response
from jst_bridge.rocketmq.subscription import parse_tags

from .calls import Call, Refusal
from .codes import Request
from .faults import Redeliver, Reorder
from .groups import version_of
from .offsets import Committed
from .records import cached_hash
from .server import Channel, Handler
from .state import BrokerState
from .store import READ, Queue, Reading

__all__ = ["Pulling"]

MOST_PER_PULL: Final = 32
MOST_PARKED: Final = 100_000
_COMMIT, _SUSPEND, _SUBSCRIPTION = (
    int(PullFlag.COMMIT_OFFSET), int(PullFlag.SUSPEND), int(PullFlag.SUBSCRIPTION)
)  # fmt: skip
_CODES: Final = {
    "FOUND": int(Response.SUCCESS),
    "NO_MATCHED_MESSAGE": int(Response.PULL_RETRY_IMMEDIATELY),
    "OFFSET_OVERFLOW_ONE": int(Response.PULL_NOT_FOUND),
    "NO_MESSAGE_IN_QUEUE": int(Response.PULL_NOT_FOUND),
    "OFFSET_TOO_SMALL": int(Response.PULL_OFFSET_MOVED),
    "OFFSET_OVERFLOW_BADLY": int(Response.PULL_OFFSET_MOVED),
    "OFFSET_RESET": int(Response.PULL_OFFSET_MOVED),
}
_FAQ: Final = "\nSee https://rocketmq.apache.org/docs/bestPractice/06FAQ for further details."
_SQL: Final = "The broker does not support consumer to filter message by SQL92"


class Parked(NamedTuple):
    """A pull that waits."""

    call: Call
    offset: int
    tags: frozenset[int] | None
    until: float
    """Seconds of the loop's clock."""


Ready = Callable[[Parked], bool]


class Pulling:
    """Handlers of pulls. `now` of the methods is the loop's clock."""

    def __init__(self, state: BrokerState) -> None:
        self._state = state
        self._modern = state.settings.modern
        self._parked: dict[Queue, list[Parked]] = {}
        self._count = 0

    def handlers(self) -> Mapping[int, Handler]:
        return {Request.PULL_MESSAGE: self.pull, Request.LITE_PULL_MESSAGE: self.pull}

    def pull(self, call: Call) -> None:
        """Messages from an offset on, or the reason why there are none; an idle pull waits."""
        self._serve(call, first=True)

    def _serve(self, call: Call, *, first: bool) -> None:
        ext = call.ext
        group, topic, sys_flag = call.text("consumerGroup"), call.text("topic"), call.number("sysFlag", 0)
        queue, tags = self._admitted(call, group, topic, sys_flag)
        offset = call.number("queueOffset")
        key = Committed(group, topic, queue.queue_id)
        reset = self._state.offsets.take_reset(key)
        if (
            first and sys_flag & _COMMIT
        ):  # even the stale one that comes with the pull that is told of a reset
            self._state.offsets.commit(key, int(ext.get("commitOffset") or 0))
        if reset is not None:
            self._answer(call, queue, Reading("OFFSET_RESET", reset, []), offset)
            return
        count = self._count_of(call)
        if self._state.faults.line:
            back = self._state.faults.take(Redeliver, call.frame.code, topic)
            if back is not None:
                offset = max(queue.minimum, offset - back.back)
        reading = self._state.store.read(queue, offset, count, tags)
        if (
            first
            and sys_flag & _SUSPEND
            and (
                reading.status == "OFFSET_OVERFLOW_ONE"
                or (reading.status == "NO_MESSAGE_IN_QUEUE" and not offset)
            )
            and self._count < MOST_PARKED
        ):
            seconds = call.number("suspendTimeoutMillis", 0) / 1000
            waiting = Parked(call, offset, tags, call.channel.server.loop.time() + seconds)
            self._parked.setdefault(queue, []).append(waiting)
            queue.parked += 1
            self._count += 1
            return
        self._answer(call, queue, reading, offset)

    def _answer(self, call: Call, queue: Queue, reading: Reading, offset: int) -> None:
        status, following, records = reading
        code = _CODES[status]
        if status == "NO_MESSAGE_IN_QUEUE" and offset:
            code = int(Response.PULL_OFFSET_MOVED)
        ext = {
            "suggestWhichBrokerId": "0",
            "nextBeginOffset": str(following),
            "minOffset": str(queue.minimum),
            "maxOffset": str(queue.maximum),
        }
        if self._modern:
            ext["topicSysFlag"] = ext["groupSysFlag"] = "0"
        faults = self._state.faults
        if records and faults.line and faults.take(Reorder, call.frame.code, queue.topic.name) is not None:
            records = records[::-1]
        call.answer(code, ext, b"".join(records), status)

    def _count_of(self, call: Call) -> int:
        """How many messages may go into the answer: 1 to 32 (reference 2.7.1)."""
        wanted = call.number("maxMsgNums", MOST_PER_PULL)
        if wanted < 0 and not self._modern:
            raise Refusal(Response.SYSTEM_ERROR, f"java.lang.IllegalArgumentException: maxMsgNums {wanted}")
        return max(1, min(wanted, MOST_PER_PULL))

    # --- the checks, in a real broker's order (reference 2.7.2) --------------------------------------------

    def _admitted(
        self, call: Call, group: str, name: str, sys_flag: int
    ) -> tuple[Queue, frozenset[int] | None]:
        state = self._state
        if not state.group(group).consume_enable:
            raise self._forbidden(f"subscription group no permission, {group}", 2)
        topic = state.topic(name)
        if not topic.perm & READ:
            raise self._forbidden(f"the topic[{name}] pulling message is forbidden", 3)
        queue_id = call.number("queueId")
        if not 0 <= queue_id < topic.read_queues:
            raise Refusal(
                state.illegal,
                f"queueId[{queue_id}] is illegal, topic:[{name}] topicConfig.readQueueNums:[{topic.read_queues}] "
                f"consumer:[{call.channel.address}]",
            )
        if sys_flag & _SUBSCRIPTION:
            kind, expression = call.ext.get("expressionType"), call.ext.get("subscription") or "*"
        else:
            kind, expression = self._registered(call, group, name)
        if kind == "SQL92":
            raise Refusal(Response.SYSTEM_ERROR, _SQL)
        try:
            return topic.queues[queue_id], _tag_hashes(expression)
        except ValueError:
            raise Refusal(
                Response.SUBSCRIPTION_PARSE_FAILED, "parse the consumer's subscription failed"
            ) from None

    def _registered(self, call: Call, name: str, topic: str) -> tuple[str, str]:
        """What the group's heartbeats said of the topic."""
        group = self._state.groups.online.get(name)
        if group is None:
            raise Refusal(Response.SUBSCRIPTION_NOT_EXIST, f"the consumer's group info not exist{_FAQ}")
        if group.broadcasting and not self._state.group(name).broadcast_enable:
            raise self._forbidden(f"the consumer group[{name}] can not consume by broadcast way", 4)
        subscription = group.subscriptions.get(topic)
        if subscription is None:
            raise Refusal(Response.SUBSCRIPTION_NOT_EXIST, f"the consumer's subscription not exist{_FAQ}")
        if version_of(subscription) < call.number("subVersion", 0):
            raise Refusal(Response.SUBSCRIPTION_NOT_LATEST, "the consumer's subscription not latest")
        return str(subscription.get("expressionType") or "TAG"), str(subscription.get("subString") or "*")

    def _forbidden(self, remark: str, kind: int) -> Refusal:
        return Refusal(Response.NO_PERMISSION, remark, {"forbiddenType": str(kind)} if self._modern else None)

    # --- those that wait -----------------------------------------------------------------------------------

    def wake(self, queue: Queue) -> None:
        """A queue got messages: answer the pulls that want one of them."""
        self._rerun(queue, lambda parked: self._state.store.matches(queue, parked.offset, parked.tags))

    def tick(self, now: float) -> None:
        """Answer those whose time is over, and those whose queue went on with messages they do not want."""
        for queue in list(self._parked):
            self._rerun(queue, lambda parked: parked.until <= now or queue.maximum > parked.offset)  # noqa: B023

    def forget(self, channel: Channel) -> None:
        """A connection is gone."""
        for queue in list(self._parked):
            self._keep(
                queue, [parked for parked in self._parked[queue] if parked.call.channel is not channel]
            )

    def _rerun(self, queue: Queue, ready: Ready) -> None:
        waiting = self._parked.get(queue, [])
        due = [parked for parked in waiting if ready(parked)]
        if due:
            self._keep(queue, [parked for parked in waiting if parked not in due])
        for parked in due:
            try:
                self._serve(parked.call, first=False)
            except Refusal as refusal:  # the topic or the group went away meanwhile
                parked.call.answer(refusal.code, refusal.ext, remark=refusal.remark)

    def _keep(self, queue: Queue, waiting: list[Parked]) -> None:
        self._count += len(waiting) - queue.parked
        queue.parked = len(waiting)
        if waiting:
            self._parked[queue] = waiting
        else:
            self._parked.pop(queue, None)


@lru_cache(maxsize=1024)
def _tag_hashes(expression: str) -> frozenset[int] | None:
    """The hashes to let through, None for all. ValueError: the expression names no tag."""
    return frozenset(cached_hash(tag) for tag in parse_tags(expression)) or None
