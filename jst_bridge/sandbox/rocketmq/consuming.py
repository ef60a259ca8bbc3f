"""What makes a consumer group work beside pulls: members, offsets, locks (reference 2.2 to 2.6, 2.9, 2.11)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from jst_bridge.rocketmq.codes import Response

from .bodies import encode
from .calls import Call, Refusal
from .codes import Request
from .groups import Group, Member
from .offsets import Committed
from .server import Channel, Handler
from .state import BrokerState
from .store import Queue

__all__ = ["Consuming"]

_NO_OFFSET = "Not found, V3_0_6_SNAPSHOT maybe this group consumer boot first"
_SUPPORTED = {"IS_SUPPORT_HEART_BEAT_V2": "true", "IS_SUB_CHANGE": "true"}


class Consuming:
    """Handlers of what consumers ask."""

    def __init__(self, state: BrokerState) -> None:
        self._state = state
        self._modern = state.settings.modern

    def handlers(self) -> Mapping[int, Handler]:
        return {
            Request.HEART_BEAT: self.heartbeat,
            Request.UNREGISTER_CLIENT: self.unregister,
            Request.GET_CONSUMER_LIST_BY_GROUP: self.members,
            Request.QUERY_CONSUMER_OFFSET: self.query_offset,
            Request.UPDATE_CONSUMER_OFFSET: self.commit,
            Request.GET_MAX_OFFSET: self.maximum,
            Request.GET_MIN_OFFSET: self.minimum,
            Request.SEARCH_OFFSET_BY_TIMESTAMP: self.search,
            Request.GET_EARLIEST_MSG_STORETIME: self.earliest,
            Request.LOCK_BATCH_MQ: self.lock,
            Request.UNLOCK_BATCH_MQ: self.unlock,
            Request.CHECK_CLIENT_CONFIG: self.check_subscription,
        }

    # --- members -----------------------------------------------------------------------------------------

    def heartbeat(self, call: Call) -> None:
        """Register a client in its groups; all members hear of a new one, before it gets its answer."""
        body = call.json()
        client_id = str(body["clientID"])
        for told in body.get("consumerDataSet") or ():
            name = str(told["groupName"])
            config = self._state.groups.config(name, create=self._state.settings.auto_create_groups)
            if config is not None:
                self._state.retry_topic(name, config)
            elif self._modern:
                continue
            frame = call.frame
            member = Member(call.channel, client_id, frame.language, frame.version, time.monotonic())
            group, changed = self._state.groups.join(name, member)
            if body.get("withoutSub"):  # the short form of 5.x: nothing new to tell
                continue
            group.model = _enum(told.get("messageModel"), ("BROADCASTING", "CLUSTERING"), group.model)
            group.kind = _enum(told.get("consumeType"), ("CONSUME_ACTIVELY", "CONSUME_PASSIVELY"), group.kind)
            group.start = _enum(told.get("consumeFromWhere"), _STARTS, group.start)
            changed |= group.subscribe(list(told.get("subscriptionDataSet") or ()))
            if changed:
                self._notify(group)
        call.answer(0, _SUPPORTED if self._modern else None)

    def unregister(self, call: Call) -> None:
        """A client leaves a group; without naming one nothing is done."""
        group = self._state.groups.leave(call.ext.get("consumerGroup", ""), call.channel)
        if group is not None:
            self._notify(group)
        call.answer()

    def lost(self, channel: Channel) -> None:
        """A connection is gone, and its registrations with it."""
        for group in self._state.groups.leave_all(channel):
            self._notify(group)

    def drop_silent(self, moment: float) -> None:
        """Forget members without a heartbeat since then (monotonic seconds). Nobody is told (reference 4.1)."""
        for name, member in self._state.groups.silent_since(moment):
            self._state.groups.leave(name, member.link)
            member.link.abort()

    def _notify(self, group: Group[Channel]) -> None:
        if group.broadcasting and self._modern:
            return
        for member in group.members.values():
            member.link.push(Request.NOTIFY_CONSUMER_IDS_CHANGED, {"consumerGroup": group.name})

    def members(self, call: Call) -> None:
        """The client ids of a group, one for each connection."""
        name = call.text("consumerGroup")
        group = self._state.groups.online.get(name)
        if group is None:
            raise Refusal(Response.SYSTEM_ERROR, f"no consumer for this group, {name}")
        ids = [member.client_id for member in group.members.values()]
        call.answer(body=encode({"consumerIdList": ids}))

    def check_subscription(self, call: Call) -> None:
        """Expressions other than tags are not played."""
        subscription = call.json().get("subscriptionData") or {}
        if subscription.get("expressionType") not in (None, "", "TAG"):
            raise Refusal(
                Response.SYSTEM_ERROR, "The broker does not support consumer to filter message by SQL92"
            )
        call.answer()

    # --- offsets -----------------------------------------------------------------------------------------

    def query_offset(self, call: Call) -> None:
        """The offset to go on from; a young queue answers 0 for a group that has none (reference 2.5)."""
        key = self._key(call)
        stored = self._state.offsets.stored(key)
        if stored is None:
            queue = self._queue(call)
            young = queue is not None and queue.minimum == 0 and bool(queue.entries)
            if self._modern:
                found = young and call.flag("setZeroIfNotFound", default=True)
            else:
                found = queue is None or queue.minimum == 0
            if not found:
                raise Refusal(Response.QUERY_NOT_FOUND, _NO_OFFSET)
            stored = 0
        call.answer(0, {"offset": str(stored)})

    def commit(self, call: Call) -> None:
        """Store an offset as told. 5.3 refuses for groups and topics it never met; 4.9 takes all."""
        key = self._key(call)
        if self._modern:
            if key.group not in self._state.groups.configs:
                raise Refusal(Response.SUBSCRIPTION_GROUP_NOT_EXIST, f"Group {key.group} not exist!")
            if key.topic not in self._state.store.topics:
                raise Refusal(Response.TOPIC_NOT_EXIST, f"Topic {key.topic} not exist!")
            if "commitOffset" not in call.ext:
                raise Refusal(Response.INVALID_PARAMETER, "CommitOffset is null")
        kept = self._state.offsets.commit(key, call.number("commitOffset"))
        call.answer(remark="" if kept else "Offset has been previously reset")

    def maximum(self, call: Call) -> None:
        queue = self._queue(call)
        call.answer(0, {"offset": str(queue.maximum if queue is not None else 0)})

    def minimum(self, call: Call) -> None:
        queue = self._queue(call)
        call.answer(0, {"offset": str(queue.minimum if queue is not None else 0)})

    def search(self, call: Call) -> None:
        """The offset at a time."""
        queue, timestamp = self._queue(call), call.number("timestamp")
        if queue is None:
            call.answer(0, {"offset": "0"})
        elif not self._modern:
            call.answer(0, {"offset": str(self._state.store.search(queue, timestamp, "nearest"))})
        else:
            upper = call.ext.get("boundaryType", "").upper() == "UPPER"
            offset = self._state.store.search(queue, timestamp, "upper" if upper else "lower")
            call.answer(0, {"offset": str(offset)})

    def earliest(self, call: Call) -> None:
        """When the oldest message was stored, -1 when there is none."""
        queue = self._queue(call)
        stored_at = None if queue is None else self._state.store.store_time(queue, queue.minimum)
        call.answer(0, {"timestamp": str(-1 if stored_at is None else stored_at)})

    def _key(self, call: Call) -> Committed:
        return Committed(call.text("consumerGroup"), call.text("topic"), call.number("queueId"))

    def _queue(self, call: Call) -> Queue | None:
        topic = self._state.store.topics.get(call.text("topic"))
        return None if topic is None else self._state.queue(topic, call.number("queueId"))

    # --- locks of orderly consumers ----------------------------------------------------------------------

    def lock(self, call: Call) -> None:
        """Lock queues; the answer names those that are the client's now."""
        body = call.json()
        group, client_id = str(body["consumerGroup"]), str(body["clientId"])
        now = time.monotonic()
        held = [
            queue
            for queue in body.get("mqSet") or ()
            if self._state.locks.lock(group, _place(queue), client_id, now)
        ]
        call.answer(body=encode({"lockOKMQSet": held}))

    def unlock(self, call: Call) -> None:
        body = call.json()
        for queue in body.get("mqSet") or ():
            self._state.locks.unlock(str(body["consumerGroup"]), _place(queue), str(body["clientId"]))
        call.answer()


_STARTS = (
    "CONSUME_FROM_LAST_OFFSET",
    "CONSUME_FROM_LAST_OFFSET_AND_FROM_MIN_WHEN_BOOT_FIRST",
    "CONSUME_FROM_MIN_OFFSET",
    "CONSUME_FROM_MAX_OFFSET",
    "CONSUME_FROM_FIRST_OFFSET",
    "CONSUME_FROM_TIMESTAMP",
)


def _enum(value: Any, names: tuple[str, ...], known: str) -> str:
    """An enum as Java writes it, by name, or as C++ does, by number."""
    if isinstance(value, int) and 0 <= value < len(names):
        return names[value]
    return value if isinstance(value, str) and value else known


def _place(queue: Mapping[str, Any]) -> tuple[str, str, int]:
    return str(queue["topic"]), str(queue["brokerName"]), int(queue["queueId"])
