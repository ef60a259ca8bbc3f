"""What administrators and their tools ask of a broker (reference 2.13, 2.15)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from jst_bridge.rocketmq.codes import Response
from jst_bridge.rocketmq.frame import Frame

from .bodies import encode, queue_table, topic_config
from .calls import Call, Refusal
from .codes import CONSUME_MESSAGE_TIMEOUT, Request
from .groups import GroupConfig
from .offsets import Committed
from .records import physical_offset, record_keys, store_time
from .server import Handler
from .state import BrokerState, is_system_topic
from .store import Queue, StoreFull, Topic, legal_topic

__all__ = ["Administration"]

RELAY_SECONDS: Final = 10.0
MOST_FOUND: Final = 64
"""Messages that one query answers."""
_SHOWS_RUNNING_INFO: Final = 62
"""Client versions from this one on are asked for it (reference 1.6)."""


class Administration:
    """Handlers of administrative requests."""

    def __init__(self, state: BrokerState) -> None:
        self._state = state
        self._modern = state.settings.modern

    def handlers(self) -> Mapping[int, Handler]:
        handlers: dict[int, Handler] = {
            Request.UPDATE_AND_CREATE_TOPIC: self.create_topic,
            Request.DELETE_TOPIC_IN_BROKER: self.delete_topic,
            Request.GET_ALL_TOPIC_CONFIG: self.topic_configs,
            Request.GET_TOPIC_CONFIG: self.topic_config,
            Request.GET_TOPIC_STATS_INFO: self.topic_stats,
            Request.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP: self.create_group,
            Request.DELETE_SUBSCRIPTIONGROUP: self.delete_group,
            Request.GET_ALL_SUBSCRIPTIONGROUP_CONFIG: self.group_configs,
            Request.GET_CONSUMER_CONNECTION_LIST: self.connections,
            Request.GET_CONSUME_STATS: self.consume_stats,
            Request.QUERY_TOPIC_CONSUME_BY_WHO: self.groups_of_topic,
            Request.INVOKE_BROKER_TO_RESET_OFFSET: self.reset_offset,
            Request.INVOKE_BROKER_TO_GET_CONSUMER_STATUS: self.consumer_status,
            Request.GET_CONSUMER_RUNNING_INFO: self.relay,
            Request.CONSUME_MESSAGE_DIRECTLY: self.consume_directly,
            Request.VIEW_MESSAGE_BY_ID: self.view,
            Request.QUERY_MESSAGE: self.query,
        }
        if self._modern:
            handlers[Request.QUERY_TOPICS_BY_CONSUMER] = self.topics_of_group
        return handlers

    # --- topics ------------------------------------------------------------------------------------------

    def create_topic(self, call: Call) -> None:
        """Make a topic or change it. The reserved names are refused, `rmq_sys_jst_...` among them."""
        name = call.text("topic")
        if is_system_topic(name):
            raise Refusal(self._state.illegal, f"The topic[{name}] is conflict with system topic.")
        if not legal_topic(name):
            raise Refusal(self._state.illegal, f"The specified topic[{name}] contains illegal characters")
        try:
            topic = self._state.store.create(
                name, call.number("readQueueNums"), call.number("writeQueueNums"), call.number("perm", 6)
            )
        except (ValueError, StoreFull) as error:
            raise Refusal(self._state.illegal, str(error)) from None
        topic.order = call.flag("order")
        call.answer()

    def delete_topic(self, call: Call) -> None:
        name = call.text("topic")
        if is_system_topic(name):
            raise Refusal(self._state.illegal, f"The topic[{name}] is conflict with system topic.")
        topic = self._state.store.topics.pop(name, None)
        if topic is not None:
            for queue in topic.queues:
                self._state.on_stored(queue)
            self._state.offsets.forget(topic=name)
        call.answer()

    def topic_configs(self, call: Call) -> None:
        table = {name: topic_config(topic) for name, topic in self._state.store.topics.items()}
        call.answer(
            body=encode({"dataVersion": {"counter": len(table), "timestamp": 0}, "topicConfigTable": table})
        )

    def topic_config(self, call: Call) -> None:
        call.answer(body=encode(topic_config(self._state.topic(call.text("topic")))))

    def topic_stats(self, call: Call) -> None:
        """First and next offset of each queue."""
        topic = self._state.topic(call.text("topic"))
        rows = [
            (
                queue,
                {
                    "lastUpdateTimestamp": self._stored_at(queue, queue.maximum - 1),
                    "maxOffset": queue.maximum,
                    "minOffset": queue.minimum,
                },
            )
            for queue in topic.queues[: topic.write_queues]
        ]
        rate = {"topicPutTps": 0.0} if self._modern else {}
        call.answer(body=queue_table("offsetTable", self._state.place.name, rows, **rate))

    # --- groups ------------------------------------------------------------------------------------------

    def create_group(self, call: Call) -> None:
        body = call.json()
        config = self._state.groups.config(str(body["groupName"]), create=True)
        if config is None:
            raise Refusal(Response.SYSTEM_ERROR, "the sandbox holds no more groups, or the name is empty")
        config.consume_enable = bool(body.get("consumeEnable", True))
        config.broadcast_enable = bool(body.get("consumeBroadcastEnable", True))
        config.retry_queues = max(0, min(int(body.get("retryQueueNums", 1)), 64))
        config.max_reconsume_times = int(body.get("retryMaxTimes", 16))
        call.answer()

    def delete_group(self, call: Call) -> None:
        name = call.text("groupName")
        self._state.groups.configs.pop(name, None)
        self._state.offsets.forget(group=name)
        call.answer()

    def group_configs(self, call: Call) -> None:
        table = {name: _group_config(name, config) for name, config in self._state.groups.configs.items()}
        call.answer(
            body=encode(
                {"dataVersion": {"counter": len(table), "timestamp": 0}, "subscriptionGroupTable": table}
            )
        )

    def connections(self, call: Call) -> None:
        """Who is in a group, and what it reads."""
        name = call.text("consumerGroup")
        group = self._state.groups.online.get(name)
        if group is None:
            raise Refusal(Response.CONSUMER_NOT_ONLINE, f"the consumer group[{name}] not online")
        members = [
            {
                "clientAddr": member.link.address,
                "clientId": member.client_id,
                "language": member.language,
                "version": member.version,
            }
            for member in group.members.values()
        ]
        call.answer(
            body=encode({
                "connectionSet": members,
                "consumeFromWhere": group.start,
                "consumeType": group.kind,
                "messageModel": group.model,
                "subscriptionTable": group.subscriptions,
            })
        )  # fmt: skip

    def consume_stats(self, call: Call) -> None:
        """Where the group is in each queue of the topics it has an offset of, and where they end."""
        name = call.text("consumerGroup")
        asked = {call.ext.get("topic", ""), *call.ext.get("topicList", "").split(";")} - {""}
        online = self._state.groups.online.get(name)
        rows: list[tuple[Queue, dict[str, int]]] = []
        for topic_name in sorted(asked or self._state.offsets.topics(name)):
            topic = self._state.store.topics.get(topic_name)
            if topic is None or (online is not None and topic_name not in online.subscriptions):
                continue
            for queue in topic.queues[: topic.read_queues]:
                stored = self._state.offsets.stored(Committed(name, topic_name, queue.queue_id)) or 0
                row = {
                    "brokerOffset": queue.maximum,
                    "consumerOffset": stored,
                    "lastTimestamp": self._stored_at(queue, stored - 1),
                }
                rows.append((queue, row | {"pullOffset": stored} if self._modern else row))
        call.answer(body=queue_table("offsetTable", self._state.place.name, rows, consumeTps=0.0))

    def groups_of_topic(self, call: Call) -> None:
        topic = call.text("topic")
        online = {group.name for group in self._state.groups.online.values() if topic in group.subscriptions}
        if self._modern:
            online.add(topic)  # as 5.3.3 does (reference 2.15)
        call.answer(body=encode({"groupList": sorted(online | self._state.offsets.groups(topic))}))

    def topics_of_group(self, call: Call) -> None:
        topics = sorted(self._state.offsets.topics(call.text("group")))
        call.answer(body=encode({"brokerAddr": self._state.place.address, "topicList": topics}))

    def _stored_at(self, queue: Queue, offset: int) -> int:
        return self._state.store.store_time(queue, offset) or 0

    # --- offsets reset -----------------------------------------------------------------------------------

    def reset_offset(self, call: Call) -> None:
        """Move a group to a time, or one queue to an offset: by the broker, or by telling its members."""
        by_broker = self._modern and self._state.settings.server_side_reset
        name, group = call.text("topic"), call.text("group")
        topic = self._state.store.topics.get(name)
        if topic is None:
            missing = Response.TOPIC_NOT_EXIST if by_broker else Response.SYSTEM_ERROR
            raise Refusal(missing, f"reset offset failed, no topic[{name}] in broker")
        targets = dict(self._targets(call, topic))
        if by_broker:
            if group not in self._state.groups.configs:
                raise Refusal(Response.SUBSCRIPTION_GROUP_NOT_EXIST, f"Group {group} not exist!")
            for queue, offset in targets.items():
                self._state.offsets.reset(Committed(group, name, queue.queue_id), offset)
        else:
            self._tell_members(call, group, targets)
        call.answer(body=queue_table("offsetTable", self._state.place.name, targets.items()))

    def _targets(self, call: Call, topic: Topic) -> Iterator[tuple[Queue, int]]:
        timestamp, only, offset = (
            call.number("timestamp", -1),
            call.number("queueId", -1),
            call.ext.get("offset"),
        )
        for queue in topic.queues[: topic.write_queues]:
            if only in (-1, queue.queue_id):
                if only >= 0 and offset not in (None, "", "-1"):
                    yield queue, call.number("offset")
                elif timestamp < 0:
                    yield queue, queue.maximum
                else:
                    yield (
                        queue,
                        self._state.store.search(queue, timestamp, "lower" if self._modern else "nearest"),
                    )

    def _tell_members(self, call: Call, name: str, targets: dict[Queue, int]) -> None:
        """Request 220 to each member; it commits the new offsets itself."""
        group = self._state.groups.online.get(name)
        forced = call.flag("isForce")
        for queue, offset in targets.items():
            stored = self._state.offsets.stored(Committed(name, queue.topic.name, queue.queue_id))
            if stored is None:
                raise Refusal(Response.SYSTEM_ERROR, f"THe consumer group <{name}> not exist")
            targets[queue] = offset if forced else min(offset, stored)
        if group is None:
            raise Refusal(
                Response.CONSUMER_NOT_ONLINE, f"Consumer not online, so can not reset offset, Group: {name}"
            )
        place = self._state.place.name
        if call.frame.language == "CPP":
            body = encode({
                "offsetTable": [
                    {"brokerName": place, "offset": offset, "queueId": queue.queue_id, "topic": queue.topic.name}
                    for queue, offset in targets.items()
                ]
            })  # fmt: skip
        else:
            body = queue_table("offsetTable", place, targets.items())
        ext = {
            "topic": call.text("topic"),
            "group": name,
            "timestamp": call.ext.get("timestamp", "-1"),
            "isForce": "false",  # whatever was asked (reference 2.13)
        }
        if self._modern:
            ext["queueId"] = "-1"
        for member in group.members.values():
            member.link.push(Request.RESET_CONSUMER_CLIENT_OFFSET, ext, body)

    # --- what members are asked for ----------------------------------------------------------------------

    def relay(self, call: Call) -> None:
        """Pass a request on to a member of the group, and its answer back."""
        self._ask_member(call, call.frame.body)

    def consume_directly(self, call: Call) -> None:
        """Let a member take one message now; it travels along."""
        body = b""
        if len(call.ext.get("msgId", "")) == 32:
            body = self._state.store.view(int(call.ext["msgId"][16:], 16)) or b""
        if not body:
            raise Refusal(Response.SYSTEM_ERROR, "no message has this offset message id")
        self._ask_member(call, body)

    def _ask_member(self, call: Call, body: bytes) -> None:
        name, client_id = call.text("consumerGroup"), call.text("clientId")
        member = self._state.groups.member(name, client_id)
        if member is None:
            raise Refusal(Response.SYSTEM_ERROR, f"The Consumer <{name}> <{client_id}> not online")
        if member.version < _SHOWS_RUNNING_INFO:
            raise Refusal(Response.SYSTEM_ERROR, f"The Consumer <{client_id}> is too old for this")
        # The caller's own signature is no field of the request.
        ext = {
            key: value
            for key, value in call.ext.items()
            if key not in ("AccessKey", "Signature", "OnsChannel")
        }
        member.link.ask(call.frame.code, ext, body, _relayed(call, name, client_id), seconds=RELAY_SECONDS)

    def consumer_status(self, call: Call) -> None:
        """The offsets that members hold in memory (221), by client id."""
        topic, name = call.text("topic"), call.text("group")
        wanted = call.ext.get("clientAddr") or ""
        group = self._state.groups.online.get(name)
        if group is None:
            raise Refusal(Response.SYSTEM_ERROR, f"No Any Consumer online in the consumer group: [{name}]")
        members = [member for member in group.members.values() if wanted in ("", member.client_id)]
        tables: dict[str, bytes] = {}

        def gather(client_id: str) -> Callable[[Frame | None], None]:
            def on_answer(frame: Frame | None) -> None:
                body = frame.body if frame is not None and frame.code == 0 else b""
                prefix = b'{"messageQueueTable":'
                tables[client_id] = body[len(prefix) : -1] if body.startswith(prefix) else b"{}"
                if len(tables) == len(members):
                    rows = b",".join(b"%b:%b" % (encode(key), table) for key, table in tables.items())
                    call.answer(body=b'{"consumerTable":{%b}}' % rows)

            return on_answer

        if not members:
            call.answer(body=b'{"consumerTable":{}}')
        for member in members:
            member.link.ask(
                Request.GET_CONSUMER_STATUS_FROM_CLIENT, {"topic": topic, "group": name}, b"",
                gather(member.client_id), seconds=RELAY_SECONDS / 2,
            )  # fmt: skip

    # --- single messages ---------------------------------------------------------------------------------

    def view(self, call: Call) -> None:
        """One message by its physical offset, which its offset message id ends with."""
        offset = call.number("offset")
        record = self._state.store.view(offset)
        if record is None:
            raise Refusal(Response.SYSTEM_ERROR, f"can not find message by the offset, {offset}")
        call.answer(body=record)

    def query(self, call: Call) -> None:
        """The newest messages of a topic with a key, or a client id."""
        topic = self._state.topic(call.text("topic"))
        key = call.text("key")
        begin, end = call.number("beginTimestamp", 0), call.number("endTimestamp", 2**62)
        most = max(1, min(call.number("maxNum", 32), MOST_FOUND))
        needle = key.encode()
        found = [
            record
            for queue in topic.queues
            for offset in range(queue.minimum, queue.maximum)
            if (record := self._state.store.record(queue, offset)) is not None
            and needle in record
            and begin <= store_time(record) <= end
            and key in record_keys(record)
        ]
        found.sort(key=physical_offset)
        if not found:
            raise Refusal(Response.QUERY_NOT_FOUND, "can not find message, maybe time range not correct")
        newest = found[-most:]
        ext = {
            "indexLastUpdateTimestamp": str(store_time(newest[-1])),
            "indexLastUpdatePhyoffset": str(physical_offset(newest[-1])),
        }
        call.answer(0, ext, b"".join(newest))


def _relayed(call: Call, group: str, client_id: str) -> Callable[[Frame | None], None]:
    def on_answer(frame: Frame | None) -> None:
        if frame is None:
            call.answer(
                CONSUME_MESSAGE_TIMEOUT, remark=f"consumer <{group}> <{client_id}> Did not answer in time"
            )
        else:
            call.pass_on(frame)

    return on_answer


def _group_config(name: str, config: GroupConfig) -> dict[str, Any]:
    return {
        "brokerId": 0,
        "consumeBroadcastEnable": config.broadcast_enable,
        "consumeEnable": config.consume_enable,
        "consumeFromMinEnable": True,
        "groupName": name,
        "notifyConsumerIdsChangedEnable": True,
        "retryMaxTimes": config.max_reconsume_times,
        "retryQueueNums": config.retry_queues,
        "whichBrokerWhenConsumeSlowly": 1,
    }
