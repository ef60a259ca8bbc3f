"""Sends in all their forms, and messages that consumers send back (reference 2.10, 2.14)."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Final

from jst_bridge.rocketmq.codes import Response
from jst_bridge.rocketmq.properties import find_property

from .calls import Call, Refusal
from .codes import MESSAGE_ILLEGAL, Request
from .faults import Duplicate
from .groups import GroupConfig
from .records import Draft, split_batch, unpack_record, with_properties
from .server import Handler
from .state import RETRY_PREFIX, BrokerState
from .store import Place, Topic

__all__ = ["Sending"]

MAX_BODY: Final = 4 << 20
MAX_PROPERTIES: Final = 32767
_DEAD_PREFIX: Final = "%DLQ%"
_HONOURS_MAXIMUM: Final = 121
"""From this client version on, a request's own `maxReconsumeTimes` counts (reference 1.6)."""
_FIRST_RETRY_LEVEL: Final = 3
_REGION: Final = {"MSG_REGION": "DefaultRegion", "TRACE_ON": "true"}
_V1: Final = {
    "producerGroup": "a", "topic": "b", "defaultTopic": "c", "defaultTopicQueueNums": "d", "queueId": "e",
    "sysFlag": "f", "bornTimestamp": "g", "flag": "h", "properties": "i", "reconsumeTimes": "j",
    "unitMode": "k", "maxReconsumeTimes": "l", "batch": "m",
}  # fmt: skip


class Sending:
    """Handlers of what stores messages."""

    def __init__(self, state: BrokerState) -> None:
        self._state = state
        self._modern = state.settings.modern
        self._added = f"CLUSTER\x01{state.settings.cluster_name}\x02".encode()
        if self._modern:
            self._added += b"MSG_REGION\x01DefaultRegion\x02TRACE_ON\x01true\x02"

    def handlers(self) -> Mapping[int, Handler]:
        return {
            Request.SEND_MESSAGE: self.send_v1,
            Request.SEND_MESSAGE_V2: self.send,
            Request.SEND_BATCH_MESSAGE: self.send,
            Request.CONSUMER_SEND_MSG_BACK: self.send_back,
        }

    def send_v1(self, call: Call) -> None:
        """A send with long field names."""
        call.ext = {_V1[name]: value for name, value in call.ext.items() if name in _V1}
        self.send(call)

    def send(self, call: Call) -> None:
        """One message, or a batch of them. Answers where the first was stored."""
        try:
            self._send(call)
        except Refusal as refusal:
            refusal.ext = _REGION
            raise

    def _send(self, call: Call) -> None:
        ext = call.ext
        state = self._state
        name = call.text("b")
        topic = state.writable_topic(name, ext.get("d", "4"))
        queue_id = int(ext["e"]) if "e" in ext else -1
        if queue_id >= len(topic.queues):
            raise Refusal(
                state.illegal,
                f"request queueId[{queue_id}] is illegal, topic[{name}] Producer: {call.channel.address}",
            )
        if queue_id < 0:
            queue_id = state.any_queue(topic)
        times = int(ext.get("j") or 0)
        if name.startswith(RETRY_PREFIX):
            topic, queue_id = self._retried(call, topic, queue_id, times)
        properties = _closed((ext.get("i") or "").encode())
        if ext.get("m") == "true" or call.frame.code == Request.SEND_BATCH_MESSAGE:
            parts: Iterable[tuple[int, bytes, bytes]] = split_batch(call.frame.body)
        else:
            parts = ((int(ext.get("h") or 0), call.frame.body, b""),)
            properties = self._completed(properties)
        born_at, host, sys_flag = int(ext["g"]), call.channel.born_host, int(ext.get("f") or 0)
        added = properties + self._added
        drafts = [
            Draft(topic.name, queue_id, body, _closed(own) + added, born_at, host, flag, sys_flag, times)
            for flag, body, own in parts
        ]
        self._check(drafts)
        places = [self._put(draft) for draft in drafts]
        if state.faults.line and state.faults.take(Duplicate, call.frame.code, name) is not None:
            for draft in drafts:
                self._put(draft)
        self._confirm(call, places, queue_id, properties)

    def _completed(self, properties: bytes) -> bytes:
        """What a broker changes in the properties of a single message (reference 2.14, 3.3)."""
        if not self._modern:
            return properties.replace(b"WAIT\x01true\x02", b"")
        if b"UNIQ_KEY\x01" not in properties:
            store = self._state.store
            properties += f"UNIQ_KEY\x01{store.message_id(store.stored)}\x02".encode()
        return properties

    def _check(self, drafts: list[Draft]) -> None:
        for draft in drafts:
            if len(draft.body) > MAX_BODY or len(draft.properties) > MAX_PROPERTIES:
                raise Refusal(
                    MESSAGE_ILLEGAL, "the message is illegal, maybe msg body or properties length not matched"
                )
            if not draft.body and self._modern:
                raise Refusal(
                    Response.SYSTEM_ERROR, "java.lang.NullPointerException: the message has no body"
                )

    def _put(self, draft: Draft) -> Place:
        level = 0
        if b"DELAY\x01" in draft.properties:
            text = find_property(draft.properties, b"DELAY\x01")
            level = int(text) if text.isdecimal() else 0
        return self._state.put(draft, level)

    def _confirm(self, call: Call, places: list[Place], queue_id: int, properties: bytes) -> None:
        store = self._state.store
        ids = ",".join([store.message_id(place.physical_offset) for place in places])
        offset = places[0].offset if places else 0
        unique = find_property(properties, b"UNIQ_KEY\x01") if self._modern else ""
        if unique.isalnum() and unique.isascii() and not call.binary:
            call.confirm(
                f'{{"msgId":"{ids}","queueId":"{queue_id}","queueOffset":"{offset}","transactionId":"{unique}",'
                '"MSG_REGION":"DefaultRegion","TRACE_ON":"true"}'
            )
            return
        ext = {"msgId": ids, "queueId": str(queue_id), "queueOffset": str(offset), **_REGION}
        if unique:
            ext["transactionId"] = unique
        call.answer(0, ext)

    def _retried(self, call: Call, topic: Topic, queue_id: int, times: int) -> tuple[Topic, int]:
        """A client's own send to a retry topic, too often by now or not: a dead letter or a message."""
        group = topic.name.removeprefix(RETRY_PREFIX)
        config = self._state.group(group)
        limit = _limit(call, config, "l")
        locked = self._modern and self._state.locks.any_held(group, time.monotonic())
        if times > limit or locked or (times == limit and not self._modern):
            return self._state.create(f"{_DEAD_PREFIX}{group}", 1), 0
        return topic, queue_id

    def send_back(self, call: Call) -> None:
        """A consumer failed on a message: it comes again later, or is a dead letter (reference 2.10)."""
        state = self._state
        group = call.text("group")
        config = state.group(group)
        if config.retry_queues <= 0:
            call.answer()
            return
        target = state.retry_topic(group, config)
        offset, wanted = call.number("offset"), call.number("delayLevel", 0)
        record = state.store.view(offset)
        if record is None:
            raise Refusal(Response.SYSTEM_ERROR, f"look message by offset failed, {offset}")
        failed = unpack_record(record)
        changes = {
            "RETRY_TOPIC": find_property(failed.properties, b"RETRY_TOPIC\x01") or failed.topic,
            "ORIGIN_MESSAGE_ID": find_property(failed.properties, b"ORIGIN_MESSAGE_ID\x01")
            or state.store.message_id(offset),
            "WAIT": "false",
        }
        level = wanted if wanted > 0 else _FIRST_RETRY_LEVEL + failed.reconsume_times
        if failed.reconsume_times >= _limit(call, config, "maxReconsumeTimes") or wanted < 0:
            target, level = state.create(f"{_DEAD_PREFIX}{group}", 1), 0
        changes["DELAY"] = str(level)
        failed.properties = with_properties(failed.properties, **changes)
        failed.topic, failed.queue_id = target.name, state.any_queue(target)
        failed.reconsume_times += 1
        state.put(failed, level)
        call.answer()


def _limit(call: Call, config: GroupConfig, field: str) -> int:
    """After how many deliveries a message is given up."""
    if call.frame.version >= _HONOURS_MAXIMUM and call.ext.get(field):
        return call.number(field)
    return config.max_reconsume_times


def _closed(properties: bytes) -> bytes:
    """With the separator behind the last one, which 4.9 clients leave out."""
    return properties if not properties or properties.endswith(b"\x02") else properties + b"\x02"
