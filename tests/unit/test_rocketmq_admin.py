"""Questions about a group, moving its offsets, and looking at messages: each against a scripted cluster."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

import msgspec
import pytest

from jst_bridge.errors import CredentialsRefused, DecodeError, SourceError, TopicNotFound
from jst_bridge.rocketmq import Client, ClientSettings, MessageExt, MessageQueue
from jst_bridge.rocketmq.admin import (
    Subscribed,
    committed_times,
    held_queues,
    registration,
    set_committed,
    version_name,
)
from jst_bridge.rocketmq.browsing import Browsed, browse
from jst_bridge.rocketmq.codes import Request
from jst_bridge.rocketmq.namespace import Namespace
from tests.scripted import Call, refusing, run
from tests.scripted_cluster import GROUP, TOPIC, ScriptedCluster, stored

QUEUE = MessageQueue(TOPIC, "broker-a", 0)
CONNECTIONS = {
    "connectionSet": [
        {"clientAddr": "10.0.0.5:4", "clientId": "10.0.0.5@4#9", "language": "JAVA", "version": 479},
        {"clientAddr": "10.0.0.5:4", "clientId": "10.0.0.5@4#9", "language": "JAVA", "version": 479},
    ],
    "consumeFromWhere": "CONSUME_FROM_LAST_OFFSET",
    "messageModel": "CLUSTERING",
    "subscriptionTable": {
        TOPIC: {"expressionType": "TAG", "subString": "A||B"},
        f"%RETRY%{GROUP}": {"expressionType": "TAG", "subString": "*"},
    },
}
STATS = b'{"consumeTps":0.0,"offsetTable":{%b:{"brokerOffset":4,"consumerOffset":2,"lastTimestamp":%d}}}'
KEY = b'{"brokerName":"broker-a","queueId":0,"topic":"T"}'


def play(
    work: Callable[[ScriptedCluster, Client], Awaitable[None]],
    queues: int = 1,
    namespace: Namespace | None = None,
) -> None:
    """Run it with a client that knows the route of the topic."""

    async def whole() -> None:
        async with ScriptedCluster(queues) as cluster:
            settings = ClientSettings(
                (cluster.name_server.address,), namespace=namespace or Namespace(), request_timeout=2.0
            )
            if namespace:
                cluster.topics[namespace.wrap_topic(TOPIC)] = queues
            client = Client(settings)
            await client.fetch_route(TOPIC)
            try:
                await work(cluster, client)
            finally:
                await client.close()

    run(whole())


def answering(body: bytes) -> Callable[[Call], None]:
    return lambda call: call.answer(body=body)


# --- members ------------------------------------------------------------------------------------------


def test_who_is_registered_and_reads_what() -> None:
    async def work(cluster: ScriptedCluster, client: Client) -> None:
        cluster.broker.on(Request.GET_CONSUMER_CONNECTION_LIST, answering(json.dumps(CONNECTIONS).encode()))
        found = await registration(client, cluster.broker.address, GROUP)
        assert found is not None
        [member] = found.members  # a client listed twice is one
        assert (member.client_id, member.language, member.version) == ("10.0.0.5@4#9", "JAVA", "5.3.3")
        assert found.mode == "clustering"
        assert found.subscriptions == {TOPIC: Subscribed("A||B")}

    play(work)


def test_names_of_a_namespace_come_back_bare() -> None:
    async def work(cluster: ScriptedCluster, client: Client) -> None:
        wrapped = {**CONNECTIONS, "subscriptionTable": {"MQ_INST_1_a%T": {"subString": "*"}}}
        cluster.broker.on(Request.GET_CONSUMER_CONNECTION_LIST, answering(json.dumps(wrapped).encode()))
        key = KEY.replace(b'"T"', b'"MQ_INST_1_a%T"')
        cluster.broker.on(Request.GET_CONSUME_STATS, answering(STATS % (key, 5)))
        found = await registration(client, cluster.broker.address, GROUP)
        assert found is not None
        assert list(found.subscriptions) == [TOPIC]
        assert await committed_times(client, cluster.broker.address, GROUP, TOPIC) == {QUEUE: 5}
        [asked] = cluster.broker.told(Request.GET_CONSUME_STATS)
        assert asked.ext["consumerGroup"] == f"MQ_INST_1_a%{GROUP}"

    play(work, namespace=Namespace("MQ_INST_1_a"))


def test_a_group_that_is_offline_has_no_registration() -> None:
    async def work(cluster: ScriptedCluster, client: Client) -> None:
        cluster.broker.on(Request.GET_CONSUMER_CONNECTION_LIST, refusing(206, "not online"))
        assert await registration(client, cluster.broker.address, GROUP) is None

    play(work)


@pytest.mark.parametrize(
    "body", [b"{", b"{}", b'{"connectionSet":[{}]}', b'{"connectionSet":3}', b"[]", b"null"]
)
def test_what_a_broker_garbles_is_a_decode_error(body: bytes) -> None:
    async def work(cluster: ScriptedCluster, client: Client) -> None:
        codes = (
            Request.GET_CONSUMER_CONNECTION_LIST,
            Request.GET_CONSUME_STATS,
            Request.GET_CONSUMER_RUNNING_INFO,
        )
        for code in codes:
            cluster.broker.on(code, answering(body))
        address = cluster.broker.address
        with pytest.raises(DecodeError):
            await registration(client, address, GROUP)
        with pytest.raises(DecodeError):
            await committed_times(client, address, GROUP, TOPIC)
        with pytest.raises(DecodeError):
            await held_queues(client, address, GROUP, "me")

    play(work)


def test_the_time_of_the_last_committed_message_of_each_queue() -> None:
    async def work(cluster: ScriptedCluster, client: Client) -> None:
        cluster.broker.once(
            Request.GET_CONSUME_STATS, answering(STATS % (KEY, 1234)), answering(STATS % (KEY, 0))
        )
        assert await committed_times(client, cluster.broker.address, GROUP, TOPIC) == {QUEUE: 1234}
        assert await committed_times(client, cluster.broker.address, GROUP, TOPIC) == {}

    play(work)


@pytest.mark.parametrize("key", [KEY, json.dumps(KEY.decode()).encode()])
def test_a_member_says_which_queues_it_reads(key: bytes) -> None:
    async def work(cluster: ScriptedCluster, client: Client) -> None:
        cluster.broker.on(Request.GET_CONSUMER_RUNNING_INFO, answering(b'{"mqTable":{%b:{}}}' % key))
        assert await held_queues(client, cluster.broker.address, GROUP, "me") == {QUEUE}

    play(work)


@pytest.mark.parametrize(
    ("ordinal", "name"), [(409, "4.9.8"), (479, "5.3.3"), (413, "5.0.0"), (317, "4.5.2"), (37, "37")]
)
def test_versions_are_told_as_releases(ordinal: int, name: str) -> None:
    assert version_name(ordinal) == name


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (Subscribed("A||B"), Subscribed("B || A"), True),
        (Subscribed("*"), Subscribed(""), True),
        (Subscribed("A"), Subscribed("A || B"), False),
        (Subscribed("A", "SQL92"), Subscribed("A"), False),
        (Subscribed("a > 1", "SQL92"), Subscribed("a > 1", "SQL92"), True),
        (Subscribed("||"), Subscribed("*"), False),
    ],
)
def test_expressions_that_mean_the_same_are_the_same(one: Subscribed, other: Subscribed, same: bool) -> None:
    assert one.same(other) is same
    assert other.same(one) is same


# --- moving -------------------------------------------------------------------------------------------


def test_an_offset_is_committed_and_looked_at() -> None:
    async def work(cluster: ScriptedCluster, client: Client) -> None:
        await set_committed(client, GROUP, QUEUE, 7)
        assert cluster.queue().commits == [7]
        assert not cluster.broker.told(Request.HEART_BEAT)

    play(work)


def test_a_group_that_a_broker_never_heard_of_is_introduced_first_and_left_again() -> None:
    async def work(cluster: ScriptedCluster, client: Client) -> None:
        cluster.broker.once(Request.UPDATE_CONSUMER_OFFSET, refusing(26, "the group does not exist"))
        await set_committed(client, GROUP, QUEUE, 7)
        assert cluster.queue().commits == [7]
        assert cluster.broker.told(Request.HEART_BEAT)
        assert cluster.broker.told(Request.UNREGISTER_CLIENT)
        assert client.on_broker_connected is None

    play(work)


def test_a_reset_that_nobody_met_yet_is_replaced() -> None:
    async def work(cluster: ScriptedCluster, client: Client) -> None:
        def ignored(call: Call) -> None:
            call.answer(remark="Offset has been previously reset")

        def reset(call: Call) -> None:
            cluster.queue().committed = int(call.ext["offset"])
            call.answer()

        cluster.queue().committed = 3
        cluster.broker.on(Request.UPDATE_CONSUMER_OFFSET, ignored)
        cluster.broker.on(Request.INVOKE_BROKER_TO_RESET_OFFSET, reset)
        await set_committed(client, GROUP, QUEUE, 7)
        [asked] = cluster.broker.told(Request.INVOKE_BROKER_TO_RESET_OFFSET)
        assert (asked.ext["group"], asked.queue) == (GROUP, (TOPIC, 0))

    play(work)


def test_a_commit_that_a_member_overtook_is_an_error_and_never_becomes_a_reset() -> None:
    async def work(cluster: ScriptedCluster, client: Client) -> None:
        cluster.queue().committed = 3
        cluster.broker.on(Request.UPDATE_CONSUMER_OFFSET, lambda call: call.answer())
        with pytest.raises(SourceError, match="is at 3 although 7"):
            await set_committed(client, GROUP, QUEUE, 7)
        assert not cluster.broker.told(Request.INVOKE_BROKER_TO_RESET_OFFSET)

    play(work)


# --- browsing -----------------------------------------------------------------------------------------


def fill(cluster: ScriptedCluster, times: dict[int, list[int]]) -> None:
    """Give queues messages with these store times."""
    for queue_id, stamps in times.items():
        messages = cluster.queue(queue_id).messages
        for offset, stamp in enumerate(stamps):
            messages.append(msgspec.structs.replace(stored(offset, queue_id), store_timestamp=stamp))


def times_of(found: Browsed) -> list[int]:
    return [message.store_timestamp for _, message in found.messages]


def test_the_newest_of_all_queues_come_first() -> None:
    async def work(cluster: ScriptedCluster, client: Client) -> None:
        fill(cluster, {0: list(range(0, 900, 3)), 1: list(range(1, 300, 3)), 2: [2]})
        found = await browse(client, TOPIC, limit=250)
        everything = sorted([*range(0, 900, 3), *range(1, 300, 3), 2], reverse=True)
        assert times_of(found) == everything[:250]
        assert found.back_to == everything[249]
        assert {queue.queue_id for queue, _ in found.messages} == {0, 1}

    play(work, queues=3)


def test_looking_commits_nothing_waits_for_nothing_and_joins_nothing() -> None:
    async def work(cluster: ScriptedCluster, client: Client) -> None:
        cluster.publish(50)
        await browse(client, TOPIC, limit=50)
        pulls = cluster.broker.told(Request.PULL_MESSAGE)
        assert {call.ext["sysFlag"] for call in pulls} == {"4"}
        assert {call.ext["consumerGroup"] for call in pulls} == {"TOOLS_CONSUMER"}
        assert cluster.queue().commits == []
        assert not cluster.broker.told(Request.HEART_BEAT)

    play(work)


def test_a_look_for_what_is_not_there_ends_and_says_how_far_back_it_was() -> None:
    async def work(cluster: ScriptedCluster, client: Client) -> None:
        fill(cluster, {0: list(range(1000)), 1: list(range(500, 1500))})
        found = await browse(client, TOPIC, keep=lambda message: False, examine=300)
        assert found.messages == []
        assert 300 <= found.examined < 1000
        assert found.back_to is not None
        assert 500 < found.back_to < 1500
        whole = await browse(client, TOPIC, keep=lambda message: message.store_timestamp == 0)
        assert (times_of(whole), whole.examined, whole.back_to) == ([0], 2000, None)

    play(work, queues=2)


def test_messages_that_expire_meanwhile_are_no_trouble() -> None:
    async def work(cluster: ScriptedCluster, client: Client) -> None:
        queue = cluster.queue()
        fill(cluster, {0: list(range(100))})
        cluster.broker.once(Request.GET_MIN_OFFSET, lambda call: call.answer(ext={"offset": "0"}))
        queue.minimum, queue.messages = 90, queue.messages[90:]
        found = await browse(client, TOPIC, limit=50)
        assert times_of(found) == list(range(99, 89, -1))
        assert found.back_to is None

    play(work)


def test_an_empty_topic_and_an_unknown_one() -> None:
    async def work(cluster: ScriptedCluster, client: Client) -> None:
        assert await browse(client, TOPIC) == Browsed([], 0, None)
        with pytest.raises(TopicNotFound):
            await browse(client, "%DLQ%nobody")

    play(work)


def test_a_reset_told_to_a_look_in_the_name_of_the_group_is_not_swallowed() -> None:
    async def work(cluster: ScriptedCluster, client: Client) -> None:
        def moved(call: Call) -> None:
            ext = {"nextBeginOffset": "0", "minOffset": "0", "maxOffset": "5", "suggestWhichBrokerId": "0"}
            call.answer(21, ext, remark="OFFSET_RESET")

        cluster.publish(5)
        cluster.broker.on(Request.PULL_MESSAGE, moved)
        with pytest.raises(SourceError, match=f"a reset of group {GROUP}"):
            await browse(client, TOPIC, group=GROUP)

    play(work)


def test_a_topic_that_nobody_may_read_says_how_that_is_changed() -> None:
    async def work(cluster: ScriptedCluster, client: Client) -> None:
        def writable(call: Call) -> None:
            broker = {"brokerName": "broker-a", "brokerAddrs": {"0": cluster.broker.address}}
            queues = {"brokerName": "broker-a", "perm": 2, "readQueueNums": 1, "writeQueueNums": 1}
            call.answer(body=json.dumps({"brokerDatas": [broker], "queueDatas": [queues]}).encode())

        cluster.name_server.on(Request.GET_ROUTEINFO_BY_TOPIC, writable)
        with pytest.raises(SourceError) as caught:
            await browse(client, "%DLQ%GID_x")
        assert "updateTopicPerm -t %DLQ%GID_x -p 6" in caught.value.remedy

    play(work)


def test_a_refused_look_is_a_matter_of_credentials() -> None:
    async def work(cluster: ScriptedCluster, client: Client) -> None:
        cluster.publish(5)
        cluster.broker.on(
            Request.PULL_MESSAGE, refusing(16, "User:k has no permission to access Topic:T from 127.0.0.1")
        )
        with pytest.raises(CredentialsRefused):
            await browse(client, TOPIC)

    play(work)


def test_messages_are_given_as_they_are() -> None:
    async def work(cluster: ScriptedCluster, client: Client) -> None:
        cluster.publish(3, tag="B")
        found = await browse(client, TOPIC, keep=lambda message: message.tag == "B", limit=2)
        newest: MessageExt = found.messages[0][1]
        assert (newest.queue_offset, newest.body.strip(), newest.tag) == (2, b"2", "B")

    play(work)
