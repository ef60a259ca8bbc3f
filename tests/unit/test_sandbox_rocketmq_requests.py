"""Routes, sends, pulls and offsets of the sandbox by their wire form, with the answers of reference section 2."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from jst_bridge.rocketmq.loosejson import decode_json
from jst_bridge.rocketmq.route import decode_route
from jst_bridge.sandbox.rocketmq import Request, SandboxCluster
from jst_bridge.sandbox.rocketmq.settings import Flavour
from tests.sandbox_asker import Asker, heartbeat, messages_of, packed, parked, play

OLD: Flavour = "4.9"
NEW: Flavour = "5.3"
both = pytest.mark.parametrize("flavour", [OLD, NEW])


# --- name server ------------------------------------------------------------------------------------------


@both
def test_a_route_names_every_broker_and_17_says_there_is_none(flavour: Flavour) -> None:
    async def script(cluster: SandboxCluster, broker: Asker) -> None:
        async with await Asker.of(cluster.name_server) as name_server:
            answer = await name_server.ask(Request.GET_ROUTEINFO_BY_TOPIC, topic="T")
            route = decode_route("T", answer.body)
            assert [str(queue) for queue in route.read_queues()] == [
                "T@broker-a:0", "T@broker-a:1", "T@broker-b:0", "T@broker-b:1"
            ]  # fmt: skip
            assert route.brokers["broker-b"] == {0: cluster.brokers[1].address}
            assert answer.version == (479 if flavour == NEW else 407)
            json.loads(answer.body)
            old = await name_server.ask(Request.GET_ROUTEINFO_BY_TOPIC, version=317, topic="T")
            assert b"{0:" in old.body
            missing = await name_server.ask(Request.GET_ROUTEINFO_BY_TOPIC, topic="nobody")
            assert (missing.code, missing.ext) == (17, {})
            cluster_info = await name_server.ask(Request.GET_BROKER_CLUSTER_INFO)
            assert set(decode_json(cluster_info.body)["brokerAddrTable"]) == {"broker-a", "broker-b"}
            topics = json.loads((await name_server.ask(Request.GET_ALL_TOPIC_LIST_FROM_NAMESERVER)).body)
            assert {"T", "TBW102"} <= set(topics["topicList"])
            await cluster.brokers[1].stop()
            left = decode_route("T", (await name_server.ask(Request.GET_ROUTEINFO_BY_TOPIC, topic="T")).body)
            assert set(left.brokers) == {"broker-a"}

    play(script, flavour=flavour, brokers=2)


def test_a_4_9_name_server_never_answers_what_it_does_not_know() -> None:
    async def script(cluster: SandboxCluster, broker: Asker) -> None:
        async with await Asker.of(cluster.name_server) as name_server:
            unanswered = asyncio.create_task(name_server.ask(9999))
            await name_server.ask(Request.GET_ROUTEINFO_BY_TOPIC, topic="T")
            assert not unanswered.done()
            unanswered.cancel()
            assert (await broker.ask(9999)).code == 3

    play(script, flavour=OLD)


# --- sends ------------------------------------------------------------------------------------------------


@both
def test_a_send_in_either_form_is_stored_and_read_back(flavour: Flavour) -> None:
    async def script(cluster: SandboxCluster, broker: Asker) -> None:
        second = await broker.send(
            "T", b"two", queue=1, properties="TAGS\x01A\x02WAIT\x01true\x02UNIQ_KEY\x01AB12\x02"
        )
        first = await broker.ask(
            Request.SEND_MESSAGE, b"one", producerGroup="P", topic="T", defaultTopic="TBW102", queueId=1, sysFlag=0,
            defaultTopicQueueNums=4, bornTimestamp=5, flag=9, properties="KEYS\x01k", reconsumeTimes=0,
        )  # fmt: skip
        assert (first.ext["queueId"], first.ext["queueOffset"]) == ("1", "1")
        assert {"msgId", "MSG_REGION", "TRACE_ON"} <= set(first.ext)
        assert second.ext.get("transactionId") == ("AB12" if flavour == NEW else None)
        pulled = await broker.pull("T", 0, queue=1)
        messages = messages_of(pulled)
        assert [message.body for message in messages] == [b"two", b"one"]
        assert [message.offset_message_id for message in messages] == [
            second.ext["msgId"],
            first.ext["msgId"],
        ]
        assert (messages[1].flag, messages[1].born_timestamp, messages[1].keys) == (9, 5, "k")
        wait = messages[0].properties.get("WAIT")
        assert wait == ("true" if flavour == NEW else None)
        assert ("UNIQ_KEY" in messages[1].properties) == (flavour == NEW)
        assert messages[0].properties["CLUSTER"] == "DefaultCluster"
        viewed = await broker.ask(Request.VIEW_MESSAGE_BY_ID, offset=messages[1].physical_offset)
        assert messages_of(viewed) == [messages[1]]
        assert (await broker.ask(Request.VIEW_MESSAGE_BY_ID, offset=1)).code == 1

    play(script, flavour=flavour)


def test_a_batch_is_stored_message_by_message() -> None:
    async def script(cluster: SandboxCluster, broker: Asker) -> None:
        body = packed([(b"one", "TAGS\x01A\x02UNIQ_KEY\x01own1"), (b"two", "UNIQ_KEY\x01own2\x02")])
        fields: dict[str, Any] = {
            "a": "P",
            "b": "T",
            "c": "TBW102",
            "d": 4,
            "e": 0,
            "f": 0,
            "g": 1,
            "h": 0,
            "m": "true",
        }
        answer = await broker.ask(
            Request.SEND_BATCH_MESSAGE, body, **fields, i="UNIQ_KEY\x01common\x02WAIT\x01true\x02"
        )
        messages = messages_of(await broker.pull("T", 0))
        assert [(message.body, message.queue_offset) for message in messages] == [(b"one", 0), (b"two", 1)]
        assert answer.ext["msgId"].split(",") == [message.offset_message_id for message in messages]
        assert [message.properties["UNIQ_KEY"] for message in messages] == ["own1", "own2"]
        assert messages[0].raw_properties.count(b"UNIQ_KEY") == 2
        assert (await broker.ask(Request.SEND_BATCH_MESSAGE, b"\xff" * 30, **fields)).code == 1

    play(script)


def test_a_one_way_send_is_stored_and_not_answered() -> None:
    async def script(cluster: SandboxCluster, broker: Asker) -> None:
        await broker.ask(Request.SEND_MESSAGE_V2, b"x", header_flag=2, b="T", e=0, g=1)
        assert messages_of(await broker.pull("T", 0))[0].body == b"x"
        assert broker.order == [0]

    play(script)


@both
def test_a_first_send_makes_the_topic_with_the_smaller_number_of_queues(flavour: Flavour) -> None:
    async def script(cluster: SandboxCluster, broker: Asker) -> None:
        made: dict[str, Any] = {"topic": "rmq_sys_jst_1", "readQueueNums": 4, "writeQueueNums": 4, "perm": 6}
        refused = await broker.ask(Request.UPDATE_AND_CREATE_TOPIC, **made)
        assert refused.code == (29 if flavour == NEW else 1)
        assert (await broker.send("rmq_sys_jst_1", d=3)).code == 0
        assert (await broker.send("rmq_sys_jst_2", d=99)).code == 0
        topics = cluster.broker.state.store.topics
        assert (topics["rmq_sys_jst_1"].read_queues, topics["rmq_sys_jst_2"].read_queues) == (3, 8)
        illegal = await broker.send("no spaces")
        beyond = await broker.send("T", queue=2)
        assert illegal.code == beyond.code == (29 if flavour == NEW else 1)
        assert {"MSG_REGION", "TRACE_ON"} <= set(beyond.ext)
        assert (await broker.send("SCHEDULE_TOPIC_XXXX")).code == 16
        assert (await broker.send("T", b"x" * (4 << 20) + b"x")).code == 13
        assert (await broker.send("T", b"")).code == (1 if flavour == NEW else 0)
        assert (await broker.send("T", queue=-1)).ext["queueId"] in ("0", "1")

    play(script, flavour=flavour)


def test_without_auto_creation_an_unknown_topic_is_17() -> None:
    async def script(cluster: SandboxCluster, broker: Asker) -> None:
        assert (await broker.send("U")).code == 17

    play(script, auto_create_topics=False)


# --- pulls ------------------------------------------------------------------------------------------------


@both
def test_pulls_answer_by_offset(flavour: Flavour) -> None:
    async def script(cluster: SandboxCluster, broker: Asker) -> None:
        for number in range(40):
            cluster.publish("T", b"%d" % number, queue_id=0, tag="A" if number % 2 else "B")
        cluster.broker.state.store.expire(cluster.broker.state.store.topics["T"].queues[0], 4)
        seen = {
            offset: (answer.code, answer.remark, answer.ext["nextBeginOffset"])
            for offset in (0, 4, 30, 40, 99)
            for answer in [await broker.pull("T", offset)]
        }
        assert seen == {
            0: (21, "OFFSET_TOO_SMALL", "4"), 4: (0, "FOUND", "36"), 30: (0, "FOUND", "40"),
            40: (19, "OFFSET_OVERFLOW_ONE", "40"), 99: (21, "OFFSET_OVERFLOW_BADLY", "40"),
        }  # fmt: skip
        answer = await broker.pull("T", 4)
        fields: dict[str, Any] = {
            "suggestWhichBrokerId": "0",
            "nextBeginOffset": "36",
            "minOffset": "4",
            "maxOffset": "40",
        }
        assert answer.ext == (
            fields | {"topicSysFlag": "0", "groupSysFlag": "0"} if flavour == NEW else fields
        )
        tagged = messages_of(await broker.pull("T", 30, subscription="A || C"))
        assert [message.queue_offset for message in tagged] == [31, 33, 35, 37, 39]
        nothing = await broker.pull("T", 30, subscription="C")
        assert (nothing.code, nothing.ext["nextBeginOffset"], nothing.body) == (20, "40", b"")
        empty = await broker.pull("T", 0, queue=1)
        assert (empty.code, empty.remark) == (19, "NO_MESSAGE_IN_QUEUE")
        assert (await broker.pull("T", 5, queue=1)).code == 21
        assert len(messages_of(await broker.pull("T", 4, maxMsgNums=0))) == 1
        assert (await broker.pull("T", 4, maxMsgNums=-1)).code == (0 if flavour == NEW else 1)

    play(script, flavour=flavour)


@both
def test_pulls_are_checked_in_a_brokers_order(flavour: Flavour) -> None:
    async def script(cluster: SandboxCluster, broker: Asker) -> None:
        assert (await broker.pull("nobody", 0)).code == 17
        assert (await broker.pull("T", 0, queue=2)).code == (29 if flavour == NEW else 1)
        assert (await broker.pull("T", 0, subscription="||")).code == 23
        assert (await broker.pull("T", 0, sysFlag=0)).code == 24
        await broker.ask(Request.HEART_BEAT, heartbeat("me", "G", {"U": "*"}, version=10))
        assert (await broker.pull("T", 0, sysFlag=0)).code == 24
        await broker.ask(Request.HEART_BEAT, heartbeat("me", "G", {"T": "*"}, version=10))
        assert (await broker.pull("T", 0, sysFlag=0, subVersion=11)).code == 25
        assert (await broker.pull("T", 0, sysFlag=0, subVersion=10)).code == 19
        body = json.dumps({"groupName": "G", "consumeEnable": False}).encode()
        assert (await broker.ask(Request.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, body)).code == 0
        refused = await broker.pull("T", 0)
        assert (refused.code, refused.ext) == (16, {"forbiddenType": "2"} if flavour == NEW else {})
        await broker.ask(
            Request.UPDATE_AND_CREATE_TOPIC, topic="W", readQueueNums=1, writeQueueNums=1, perm=2
        )
        assert (await broker.pull("W", 0, group="H")).code == 16
        assert (await broker.ask(Request.PULL_MESSAGE, consumerGroup="H")).code == 1

    play(script, flavour=flavour)


def test_an_unknown_group_is_26_where_groups_are_not_made() -> None:
    async def script(cluster: SandboxCluster, broker: Asker) -> None:
        assert (await broker.pull("T", 0)).code == 26
        assert (
            await broker.ask(Request.CONSUMER_SEND_MSG_BACK, group="G", offset=0, delayLevel=0)
        ).code == 26

    play(script, auto_create_groups=False)


def test_an_idle_pull_waits_and_is_woken_by_a_message_it_wants() -> None:
    async def script(cluster: SandboxCluster, broker: Asker) -> None:
        async with await Asker.of(cluster.broker.address) as consumer:
            waiting = asyncio.create_task(consumer.pull("T", 0, sysFlag=6, subscription="A"))
            await parked(cluster, broker)
            await broker.send("T", b"unwanted", properties="TAGS\x01B\x02")
            await broker.send("T", b"wanted", properties="TAGS\x01A\x02")
            answer = await waiting
        assert (answer.code, answer.ext["nextBeginOffset"]) == (0, "2")
        assert [message.body for message in messages_of(answer)] == [b"wanted"]

    play(script, park_tick=60.0)


def test_a_waiting_pull_is_answered_20_at_the_next_tick_when_only_others_came() -> None:
    async def script(cluster: SandboxCluster, broker: Asker) -> None:
        waiting = asyncio.create_task(broker.pull("T", 0, sysFlag=6, subscription="A"))
        await parked(cluster, broker)
        cluster.publish("T", b"unwanted", tag="B", queue_id=0)
        answer = await waiting
        assert (answer.code, answer.ext["nextBeginOffset"]) == (20, "1")

    play(script)


def test_a_waiting_pull_is_answered_19_when_its_time_is_over() -> None:
    async def script(cluster: SandboxCluster, broker: Asker) -> None:
        answer = await broker.pull("T", 0, sysFlag=6, suspendTimeoutMillis=20)
        assert (answer.code, answer.remark) == (19, "NO_MESSAGE_IN_QUEUE")

    play(script)


def test_a_pull_of_a_lost_connection_is_forgotten() -> None:
    async def script(cluster: SandboxCluster, broker: Asker) -> None:
        async with await Asker.of(cluster.broker.address) as gone:
            waiting = asyncio.create_task(gone.pull("T", 0, sysFlag=6))
            await parked(cluster, broker)
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await parked(cluster, broker, 0)

    play(script)


# --- offsets ----------------------------------------------------------------------------------------------


@both
def test_offsets_are_committed_and_found_by_the_rules_of_each_version(flavour: Flavour) -> None:
    async def script(cluster: SandboxCluster, broker: Asker) -> None:
        key: dict[str, Any] = {"consumerGroup": "G", "topic": "T", "queueId": 0}
        empty = await broker.ask(Request.QUERY_CONSUMER_OFFSET, **key)
        assert (empty.code, empty.ext) == ((22, {}) if flavour == NEW else (0, {"offset": "0"}))
        cluster.publish("T", b"x", queue_id=0)
        assert (await broker.ask(Request.QUERY_CONSUMER_OFFSET, **key)).ext == {"offset": "0"}
        unknown = await broker.ask(Request.UPDATE_CONSUMER_OFFSET, **key, commitOffset=1)
        assert unknown.code == (26 if flavour == NEW else 0)
        await broker.ask(Request.HEART_BEAT, heartbeat("me", "G", {"T": "*"}))
        assert (await broker.ask(Request.UPDATE_CONSUMER_OFFSET, **key, commitOffset=7)).code == 0
        assert (await broker.ask(Request.QUERY_CONSUMER_OFFSET, **key)).ext == {"offset": "7"}
        await broker.pull("T", 0, sysFlag=5, commitOffset=1)
        assert (await broker.ask(Request.QUERY_CONSUMER_OFFSET, **key)).ext == {"offset": "1"}
        cluster.broker.state.store.expire(cluster.broker.state.store.topics["T"].queues[0], 1)
        other = await broker.ask(Request.QUERY_CONSUMER_OFFSET, **(key | {"consumerGroup": "H"}))
        assert other.code == 22
        assert (await broker.ask(Request.GET_MIN_OFFSET, topic="T", queueId=0)).ext == {"offset": "1"}
        assert (await broker.ask(Request.GET_MAX_OFFSET, topic="T", queueId=0)).ext == {"offset": "1"}
        assert (await broker.ask(Request.GET_MAX_OFFSET, topic="nobody", queueId=0)).ext == {"offset": "0"}
        searched = await broker.ask(Request.SEARCH_OFFSET_BY_TIMESTAMP, topic="T", queueId=0, timestamp=0)
        assert searched.ext == {"offset": "1"}
        earliest = await broker.ask(Request.GET_EARLIEST_MSG_STORETIME, topic="T", queueId=0)
        assert earliest.ext == {"timestamp": "-1"}
        assert (await broker.ask(Request.QUERY_CONSUMER_OFFSET, topic="T", queueId=0)).code == 1

    play(script, flavour=flavour)


def test_a_reset_of_5_3_is_told_once_by_a_pull_and_commits_wait_for_it() -> None:
    async def script(cluster: SandboxCluster, broker: Asker) -> None:
        for number in range(3):
            cluster.publish("T", b"%d" % number, queue_id=0)
        key: dict[str, Any] = {"consumerGroup": "G", "topic": "T", "queueId": 0}
        await broker.pull("T", 3)
        reset = await broker.ask(
            Request.INVOKE_BROKER_TO_RESET_OFFSET, topic="T", group="G", timestamp=-1, queueId=0, offset=1
        )  # fmt: skip
        assert decode_json(reset.body)["offsetTable"] == {
            (("brokerName", "broker-a"), ("queueId", 0), ("topic", "T")): 1
        }
        late = await broker.ask(Request.UPDATE_CONSUMER_OFFSET, **key, commitOffset=3)
        assert (late.code, late.remark) == (0, "Offset has been previously reset")
        told = await broker.pull("T", 3, sysFlag=5, commitOffset=3)
        assert (told.code, told.remark, told.ext["nextBeginOffset"]) == (21, "OFFSET_RESET", "1")
        undone = await broker.ask(Request.QUERY_CONSUMER_OFFSET, **key)
        assert undone.ext == {"offset": "3"}  # as a real broker lets it happen
        assert (await broker.pull("T", 3)).code == 19
        assert (await broker.ask(Request.UPDATE_CONSUMER_OFFSET, **key, commitOffset=2)).remark == ""
        everywhere = await broker.ask(
            Request.INVOKE_BROKER_TO_RESET_OFFSET, topic="T", group="G", timestamp=0
        )
        assert sorted(decode_json(everywhere.body)["offsetTable"].values()) == [0, 0]
        assert (
            await broker.ask(Request.INVOKE_BROKER_TO_RESET_OFFSET, topic="U", group="G", timestamp=0)
        ).code == 17
        assert (
            await broker.ask(Request.INVOKE_BROKER_TO_RESET_OFFSET, topic="T", group="U", timestamp=0)
        ).code == 26

    play(script)


@pytest.mark.parametrize(("language", "listed"), [("JAVA", False), ("CPP", True)])
def test_a_reset_of_4_9_is_told_to_the_members(language: str, listed: bool) -> None:
    async def script(cluster: SandboxCluster, broker: Asker) -> None:
        cluster.publish("T", b"x", queue_id=0)
        request: dict[str, Any] = {"topic": "T", "group": "G", "timestamp": 0, "isForce": "true"}
        for queue in (0, 1):
            await broker.ask(
                Request.UPDATE_CONSUMER_OFFSET, consumerGroup="G", topic="T", queueId=queue, commitOffset=1
            )
        assert (await broker.ask(Request.INVOKE_BROKER_TO_RESET_OFFSET, **request)).code == 206
        await broker.ask(Request.HEART_BEAT, heartbeat("me", "G", {"T": "*"}))
        assert (
            await broker.ask(Request.INVOKE_BROKER_TO_RESET_OFFSET, language=language, **request)
        ).code == 0
        await broker.until(lambda: broker.pushed[-1].code == Request.RESET_CONSUMER_CLIENT_OFFSET)
        pushed = broker.pushed[-1]
        assert (pushed.flag, pushed.ext["group"], pushed.ext["isForce"]) == (2, "G", "false")
        table = decode_json(pushed.body)["offsetTable"]
        assert isinstance(table, list) == listed
        assert len(table) == 2
        stored = await broker.ask(Request.QUERY_CONSUMER_OFFSET, consumerGroup="G", topic="T", queueId=0)
        assert stored.ext == {"offset": "1"}

    play(script, flavour=OLD)
