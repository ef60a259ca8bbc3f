"""Members, retries, administration and credentials of the sandbox by their wire form (reference section 2)."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from jst_bridge.rocketmq.acl import Credentials
from jst_bridge.rocketmq.loosejson import decode_json
from jst_bridge.sandbox.rocketmq import Account, Request, SandboxCluster
from jst_bridge.sandbox.rocketmq.settings import Flavour
from tests.sandbox_asker import Asker, heartbeat, messages_of, play

OLD: Flavour = "4.9"
NEW: Flavour = "5.3"
both = pytest.mark.parametrize("flavour", [OLD, NEW])


# --- members ----------------------------------------------------------------------------------------------


@both
def test_every_member_hears_of_a_new_one_before_it_is_answered(flavour: Flavour) -> None:
    async def script(cluster: SandboxCluster, broker: Asker) -> None:
        assert (await broker.ask(Request.GET_CONSUMER_LIST_BY_GROUP, consumerGroup="G")).code == 1
        answer = await broker.ask(Request.HEART_BEAT, heartbeat("one", "G", {"T": "*"}))
        assert (answer.code, "IS_SUB_CHANGE" in answer.ext) == (0, flavour == NEW)
        assert broker.order[-2:] == [40, 0]
        assert broker.pushed[-1].ext == {"consumerGroup": "G"}
        await broker.ask(Request.HEART_BEAT, heartbeat("one", "G", {"T": "*"}))
        assert len(broker.pushed) == 1
        async with await Asker.of(cluster.broker.address) as second:
            await second.ask(Request.HEART_BEAT, heartbeat("two", "G", {"T": "*"}))
            listed = await second.ask(Request.GET_CONSUMER_LIST_BY_GROUP, consumerGroup="G")
            assert json.loads(listed.body) == {"consumerIdList": ["one", "two"]}
            await broker.until(lambda: len(broker.pushed) == 2)
        await broker.until(lambda: len(broker.pushed) == 3)  # its socket closed
        await broker.ask(Request.UNREGISTER_CLIENT, clientID="one", consumerGroup="G")
        assert (await broker.ask(Request.GET_CONSUMER_LIST_BY_GROUP, consumerGroup="G")).code == 1
        assert "%RETRY%G" in cluster.broker.state.store.topics
        broadcast = heartbeat("one", "B", {"T": "*"}, model="BROADCASTING")
        before = len(broker.pushed)
        await broker.ask(Request.HEART_BEAT, broadcast)
        assert len(broker.pushed) - before == (0 if flavour == NEW else 1)

    play(script, flavour=flavour)


def test_a_member_without_heartbeats_is_dropped() -> None:
    async def script(cluster: SandboxCluster, broker: Asker) -> None:
        await broker.ask(Request.HEART_BEAT, heartbeat("one", "G", {"T": "*"}))
        await broker.until(lambda: broker.closed)
        assert cluster.broker.state.groups.online == {}

    play(script, client_expiry=0.2)


def test_locks_are_granted_to_one_client_at_a_time() -> None:
    async def script(cluster: SandboxCluster, broker: Asker) -> None:
        queue = {"brokerName": "broker-a", "queueId": 0, "topic": "T"}

        async def lock(code: int, client: str) -> Any:
            body = json.dumps({"clientId": client, "consumerGroup": "G", "mqSet": [queue]}).encode()
            answer = await broker.ask(code, body)
            assert answer.code == 0
            return json.loads(answer.body or b"{}").get("lockOKMQSet")

        assert await lock(Request.LOCK_BATCH_MQ, "one") == [queue]
        assert await lock(Request.LOCK_BATCH_MQ, "two") == []
        assert await lock(Request.UNLOCK_BATCH_MQ, "one") is None
        assert await lock(Request.LOCK_BATCH_MQ, "two") == [queue]

    play(script)


# --- messages sent back -----------------------------------------------------------------------------------


def test_a_message_sent_back_comes_again_and_dies_at_its_limit() -> None:
    async def script(cluster: SandboxCluster, broker: Asker) -> None:
        await broker.send("T", b"fails", properties="TAGS\x01A\x02UNIQ_KEY\x01AB\x02")
        (original,) = messages_of(await broker.pull("T", 0))
        fields: dict[str, Any] = {"group": "G", "delayLevel": 0, "originTopic": "T", "maxReconsumeTimes": 1}
        back = await broker.ask(Request.CONSUMER_SEND_MSG_BACK, offset=original.physical_offset, **fields)
        assert back.code == 0
        answer = await broker.pull("%RETRY%G", 0, sysFlag=6)  # waits for the delay
        (again,) = messages_of(answer)
        assert (again.body, again.reconsume_times, again.visible_topic) == (b"fails", 1, "T")
        assert again.origin_message_id == original.offset_message_id
        assert again.properties["UNIQ_KEY"] == "AB"
        assert (again.properties["DELAY"], again.properties["REAL_TOPIC"]) == ("3", "%RETRY%G")
        assert again.born_timestamp == original.born_timestamp
        assert (
            await broker.ask(Request.CONSUMER_SEND_MSG_BACK, offset=again.physical_offset, **fields)
        ).code == 0
        (dead,) = messages_of(await broker.pull("%DLQ%G", 0))
        assert (dead.reconsume_times, dead.properties["RETRY_TOPIC"]) == (2, "T")
        assert dead.origin_message_id == original.offset_message_id
        assert (await broker.ask(Request.CONSUMER_SEND_MSG_BACK, offset=1, **fields)).code == 1
        now: dict[str, Any] = fields | {"delayLevel": -1, "group": "H"}
        await broker.ask(Request.CONSUMER_SEND_MSG_BACK, offset=original.physical_offset, **now)
        assert len(messages_of(await broker.pull("%DLQ%H", 0))) == 1

    play(script, delay_levels=(0.0, 0.0, 0.02))


def test_a_producers_delay_level_holds_its_message_back() -> None:
    async def script(cluster: SandboxCluster, broker: Asker) -> None:
        await broker.send("T", b"late", properties="DELAY\x019\x02")
        assert (await broker.ask(Request.GET_MAX_OFFSET, topic="T", queueId=0)).ext == {"offset": "0"}
        (late,) = messages_of(await broker.pull("T", 0, sysFlag=6))
        assert (late.body, late.properties["REAL_TOPIC"]) == (b"late", "T")

    play(script, delay_levels=(30.0, 0.03))


def test_a_clients_own_send_to_a_retry_topic_dies_at_its_limit() -> None:
    async def script(cluster: SandboxCluster, broker: Asker) -> None:
        await broker.send("%RETRY%G", b"again", j=1, l=2)
        await broker.send("%RETRY%G", b"dead", j=3, l=2)
        assert messages_of(await broker.pull("%RETRY%G", 0))[0].reconsume_times == 1
        assert [message.body for message in messages_of(await broker.pull("%DLQ%G", 0))] == [b"dead"]

    play(script)


# --- administration ---------------------------------------------------------------------------------------


@both
def test_topics_and_groups_are_administered(flavour: Flavour) -> None:
    async def script(cluster: SandboxCluster, broker: Asker) -> None:
        made: dict[str, Any] = {
            "topic": "N",
            "readQueueNums": 3,
            "writeQueueNums": 3,
            "perm": 6,
            "order": "false",
        }
        assert (await broker.ask(Request.UPDATE_AND_CREATE_TOPIC, **made)).code == 0
        config = json.loads((await broker.ask(Request.GET_TOPIC_CONFIG, topic="N", lo="true")).body)
        assert (config["topicName"], config["readQueueNums"]) == ("N", 3)
        for wrong in ({"readQueueNums": 10**9}, {"topic": "TBW102"}, {"topic": "a b"}):
            refused = await broker.ask(Request.UPDATE_AND_CREATE_TOPIC, **(made | wrong))
            assert refused.code == (29 if flavour == NEW else 1)
        await broker.send("N", queue=2, properties="KEYS\x01k1 k2\x02")
        stats = decode_json((await broker.ask(Request.GET_TOPIC_STATS_INFO, topic="N")).body)["offsetTable"]
        assert sorted(row["maxOffset"] for row in stats.values()) == [0, 0, 1]
        assert "N" in json.loads((await broker.ask(Request.GET_ALL_TOPIC_CONFIG)).body)["topicConfigTable"]
        found = await broker.ask(Request.QUERY_MESSAGE, topic="N", key="k2", maxNum=10)
        assert messages_of(found)[0].keys == "k1 k2"
        assert (await broker.ask(Request.QUERY_MESSAGE, topic="N", key="k", maxNum=10)).code == 22
        await broker.ask(Request.HEART_BEAT, heartbeat("me", "G", {"N": "A"}))
        await broker.ask(
            Request.UPDATE_CONSUMER_OFFSET, consumerGroup="G", topic="N", queueId=2, commitOffset=1
        )
        progress = decode_json((await broker.ask(Request.GET_CONSUME_STATS, consumerGroup="G")).body)
        rows = {dict(key)["queueId"]: row for key, row in progress["offsetTable"].items()}
        assert (rows[2]["brokerOffset"], rows[2]["consumerOffset"], "pullOffset" in rows[2]) == (
            1,
            1,
            flavour == NEW,
        )
        who = json.loads((await broker.ask(Request.QUERY_TOPIC_CONSUME_BY_WHO, topic="N")).body)
        assert who == {"groupList": ["G", "N"] if flavour == NEW else ["G"]}
        topics = await broker.ask(Request.QUERY_TOPICS_BY_CONSUMER, group="G")
        assert topics.code == (0 if flavour == NEW else 3)
        members = json.loads((await broker.ask(Request.GET_CONSUMER_CONNECTION_LIST, consumerGroup="G")).body)
        assert [member["clientId"] for member in members["connectionSet"]] == ["me"]
        assert members["subscriptionTable"]["N"]["subString"] == "A"
        assert (await broker.ask(Request.GET_CONSUMER_CONNECTION_LIST, consumerGroup="U")).code == 206
        groups = json.loads((await broker.ask(Request.GET_ALL_SUBSCRIPTIONGROUP_CONFIG)).body)
        assert groups["subscriptionGroupTable"]["G"]["retryMaxTimes"] == 16
        assert (await broker.ask(Request.DELETE_SUBSCRIPTIONGROUP, groupName="G")).code == 0
        assert (await broker.ask(Request.DELETE_TOPIC_IN_BROKER, topic="N")).code == 0
        assert (await broker.pull("N", 0)).code == 17

    play(script, flavour=flavour)


def test_requests_for_a_member_are_passed_on_with_its_answer() -> None:
    async def script(cluster: SandboxCluster, broker: Asker) -> None:
        sent = await broker.send("T", b"x")
        async with await Asker.of(cluster.broker.address) as member:
            await member.ask(Request.HEART_BEAT, heartbeat("me", "G", {"T": "*"}))
            fields: dict[str, Any] = {"consumerGroup": "G", "clientId": "me"}
            asked = asyncio.create_task(
                broker.ask(Request.GET_CONSUMER_RUNNING_INFO, jstackEnable="false", **fields)
            )
            await member.until(lambda: member.pushed[-1].code == Request.GET_CONSUMER_RUNNING_INFO)
            assert member.pushed[-1].ext == fields | {"jstackEnable": "false"}
            member.answer(member.pushed[-1], 0, b'{"properties":{}}')
            told = await asked
            assert (told.code, told.body, told.language) == (0, b'{"properties":{}}', "PYTHON")
            directly = asyncio.create_task(
                broker.ask(
                    Request.CONSUME_MESSAGE_DIRECTLY, msgId=sent.ext["msgId"], brokerName="broker-a", **fields
                )
            )
            await member.until(lambda: member.pushed[-1].code == Request.CONSUME_MESSAGE_DIRECTLY)
            assert messages_of(member.pushed[-1])[0].body == b"x"
            member.answer(member.pushed[-1], 0, b'{"consumeResult":"CR_SUCCESS"}')
            assert (await directly).body == b'{"consumeResult":"CR_SUCCESS"}'
            status = asyncio.create_task(
                broker.ask(Request.INVOKE_BROKER_TO_GET_CONSUMER_STATUS, topic="T", group="G")
            )
            await member.until(lambda: member.pushed[-1].code == Request.GET_CONSUMER_STATUS_FROM_CLIENT)
            member.answer(member.pushed[-1], 0, b'{"messageQueueTable":{}}')
            assert (await status).body == b'{"consumerTable":{"me":{}}}'
            unanswered = asyncio.create_task(broker.ask(Request.GET_CONSUMER_RUNNING_INFO, **fields))
            await member.until(lambda: member.pushed[-1].code == Request.GET_CONSUMER_RUNNING_INFO)
        assert (await unanswered).code == 207
        assert (await broker.ask(Request.GET_CONSUMER_RUNNING_INFO, **fields)).code == 1

    play(script)


# --- credentials ------------------------------------------------------------------------------------------


@both
def test_signatures_are_checked_with_the_channel_among_the_signed_fields(flavour: Flavour) -> None:
    async def script(cluster: SandboxCluster, broker: Asker) -> None:
        refused = 16 if flavour == NEW else 1
        fields: dict[str, Any] = {"consumerGroup": "G", "topic": "T", "queueId": "0"}

        async def ask(credentials: Credentials | None, **late: str) -> tuple[int, str]:
            ext = dict(fields)
            if credentials is not None:
                credentials.sign(ext, b"")
            answer = await broker.ask(Request.GET_CONSUMER_LIST_BY_GROUP, **(ext | late))
            return answer.code, answer.remark

        good = Credentials("key-one", "secret-one")
        assert (await ask(good))[1].startswith("no consumer")
        assert (await ask(Credentials("key-one", "secret-one", channel="CLOUD")))[1].startswith("no consumer")
        wrong = [
            await ask(None),
            await ask(Credentials("key-one", "bad")),
            await ask(Credentials("nobody", "bad")),
        ]
        wrong.append(await ask(good, OnsChannel="CLOUD"))
        assert {code for code, _ in wrong} == {refused}
        if flavour == NEW:
            assert [remark for _, remark in wrong][:3] == [
                "username cannot be null.", "check signature failed.", "User:nobody is not found."
            ]  # fmt: skip
        else:
            assert all("AclException" in remark for _, remark in wrong)
        assert "secret-one" not in repr(cluster.settings)
        other = Credentials("key-two", "secret-two")
        code, remark = await ask(other)
        assert code == refused
        assert "T" in remark
        async with await Asker.of(cluster.name_server) as name_server:
            assert (await name_server.ask(Request.GET_ROUTEINFO_BY_TOPIC, topic="T")).code == 0

    accounts = (Account("key-one", "secret-one"), Account("key-two", "secret-two", frozenset({"U"})))
    play(script, flavour=flavour, accounts=accounts)
