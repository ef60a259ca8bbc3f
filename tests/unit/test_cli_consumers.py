"""`jst-bridge consumers`, and the look at a group's members before joining them."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from jst_bridge import app
from jst_bridge.errors import ConfigurationError, CredentialsRefused
from jst_bridge.operations import SourceGroup
from jst_bridge.operations.members import refuse_mixed
from jst_bridge.rocketmq import ClientSettings, ConsumerSettings
from jst_bridge.rocketmq.codes import Request
from tests.scripted import Call, refusing
from tests.scripted_cluster import GROUP, TOPIC
from tests.scripted_operations import Desk, online, play


def running(*queue_ids: int) -> bytes:
    queues = ",".join(f'{{"brokerName":"broker-a","queueId":{q},"topic":"T"}}:{{}}' for q in queue_ids)
    return f'{{"mqTable":{{{queues}}}}}'.encode()


def test_a_group_without_members_is_no_error(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        result = await desk.call("consumers")
        assert result.exit_code == 0, result.stderr
        assert "offline" in result.stdout
        told = json.loads((await desk.call("consumers", "--json")).stdout)
        assert (told["online"], told["members"], told["mode"]) == (False, [], None)

    play(work, tmp_path)


def test_members_tell_their_queues_and_those_of_the_silent_are_worked_out(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        online(desk, "10.0.0.5@1#1", "10.0.0.6@1#1", expression="A || B")

        def ask(call: Call) -> None:
            if call.ext["clientId"].startswith("10.0.0.5"):
                call.answer(body=running(0, 1, 3))
            else:
                call.answer(1, remark="the consumer is not online")

        desk.cluster.broker.on(Request.GET_CONSUMER_RUNNING_INFO, ask)
        told = json.loads((await desk.call("consumers", "--json")).stdout)
        assert told["subscriptions"] == {TOPIC: ["A || B"]}
        one, other = told["members"]
        assert (one["client_id"], one["address"], one["version"]) == ("10.0.0.5@1#1", "10.0.0.0:4", "5.3.3")
        assert (one["queues"], one["queues_from"]) == (
            ["T@broker-a:0", "T@broker-a:1", "T@broker-a:3"],
            "member",
        )
        assert (other["queues"], other["queues_from"]) == (["T@broker-a:2", "T@broker-a:3"], "allocation")
        people = await desk.call("consumers")
        assert people.exit_code == 0, people.stderr
        assert "2 members, clustering" in people.stdout
        assert "broker-a:0-1,3" in people.stdout.replace("\n", "")
        assert "worked" in people.stdout
        assert max(len(line) for line in people.stdout.splitlines()) <= 80

    play(work, tmp_path, queues=4)


def test_a_member_on_this_host_is_pointed_out(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        online(desk, "10.0.0.6@1#1", "127.0.0.1@1#1")
        told = json.loads((await desk.call("consumers", "--json")).stdout)
        assert [one["here"] for one in told["members"]] == [False, True]

    play(work, tmp_path)


# --- before joining -----------------------------------------------------------------------------------


def group_of(desk: Desk, tags: str = "*", name: str = "jushita") -> SourceGroup:
    client = ClientSettings((desk.cluster.name_server.address,), request_timeout=1.0, connect_timeout=1.0)
    return SourceGroup(name, ConsumerSettings(client, GROUP, {TOPIC: tags}))


def refused(*groups: SourceGroup) -> Awaitable[None]:
    return asyncio.wait_for(refuse_mixed(groups), 10)


def test_an_empty_group_and_one_that_reads_the_same_may_be_joined(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        await refused(group_of(desk))
        online(desk, "10.0.0.5@1#1", expression="B||A")
        await refused(group_of(desk, "A || B"))
        assert not desk.cluster.broker.told(Request.HEART_BEAT)

    play(work, tmp_path)


@pytest.mark.parametrize(
    ("expression", "model", "said"),
    [
        ("A", "CLUSTERING", "reads 'A' of T, and this source '*'"),
        ("*", "BROADCASTING", "reads in broadcasting mode, and this source in clustering"),
    ],
)
def test_members_that_read_otherwise_are_named_with_what_both_read(
    expression: str, model: str, said: str, tmp_path: Path
) -> None:
    async def work(desk: Desk) -> None:
        online(desk, "10.0.0.5@1#1", expression=expression, model=model)
        with pytest.raises(ConfigurationError) as caught:
            await refused(group_of(desk))
        assert said in str(caught.value)
        assert "10.0.0.5@1#1 (JAVA 5.3.3, 10.0.0.0:4)" in str(caught.value)
        assert "--allow-mixed-subscriptions" in caught.value.remedy

    play(work, tmp_path)


def test_run_refuses_before_it_says_anything_to_the_group(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        online(desk, "10.0.0.5@1#1", expression="A")
        with pytest.raises(ConfigurationError):
            await app.run(desk.settings())
        assert not desk.cluster.broker.told(Request.HEART_BEAT)

    play(work, tmp_path)


def test_another_topic_is_another_subscription(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        body = {
            "connectionSet": [{"clientId": "10.0.0.5@1#1"}],
            "messageModel": "CLUSTERING",
            "subscriptionTable": {TOPIC: {"subString": "*"}, "other": {"subString": "*"}},
        }
        desk.cluster.broker.on(
            Request.GET_CONSUMER_CONNECTION_LIST, lambda call: call.answer(body=json.dumps(body).encode())
        )
        with pytest.raises(ConfigurationError, match=r"reads '\*' of other, and this source nothing"):
            await refused(group_of(desk))

    play(work, tmp_path)


def test_two_sources_of_one_configuration_that_read_otherwise_are_refused(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        await refused(group_of(desk, name="one"), group_of(desk, name="two"))
        with pytest.raises(ConfigurationError, match="sources one and two read differently"):
            await refused(group_of(desk, name="one"), group_of(desk, "A", name="two"))

    play(work, tmp_path)


@pytest.mark.parametrize(
    "answer",
    [
        refusing(2, "busy"),
        refusing(3, "unknown code"),
        refusing(
            16, "User:k has no permission to access Group:GID_test from 127.0.0.1, no matched policies."
        ),
        lambda call: call.answer(body=b"garbage"),
        lambda call: call.channel.cut(),
    ],
)
def test_a_broker_that_cannot_say_is_a_warning(
    answer: Callable[[Call], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def work(desk: Desk) -> None:
        desk.cluster.broker.on(Request.GET_CONSUMER_CONNECTION_LIST, answer)
        await refused(group_of(desk))

    with caplog.at_level(logging.WARNING, "jst_bridge.operations"):
        play(work, tmp_path)
    assert "who else reads in group GID_test cannot be seen at broker broker-a" in caplog.text


def test_wrong_keys_are_one_error_at_once(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        desk.cluster.broker.on(Request.GET_CONSUMER_CONNECTION_LIST, refusing(16, "check signature failed."))
        with pytest.raises(CredentialsRefused):
            await refused(group_of(desk))

    play(work, tmp_path)
