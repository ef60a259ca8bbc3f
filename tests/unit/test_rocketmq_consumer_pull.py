"""What a consumer makes of each answer to a pull, against a scripted cluster."""

from __future__ import annotations

import pytest

from jst_bridge.errors import CredentialsRefused
from jst_bridge.rocketmq import Consumer, PulledBatch
from jst_bridge.rocketmq.assignment import Hole
from jst_bridge.rocketmq.codes import Request, Response
from jst_bridge.rocketmq.message import encode_message
from tests.scripted import Call, refusing
from tests.scripted_cluster import ScriptedCluster, play, pull_ext, receive, receive_offsets, stored

PULL = Request.PULL_MESSAGE


def test_messages_arrive_in_order_and_only_settled_offsets_are_committed() -> None:
    async def script(cluster: ScriptedCluster, consumer: Consumer) -> None:
        cluster.publish(3)
        (first,) = await receive(consumer)
        assert [message.queue_offset for message in first.messages] == [0, 1, 2]
        cluster.publish(2)
        (second,) = await receive(consumer)
        assert second.next_offset == 5
        await cluster.broker.until_told(PULL, 3)
        consumer.settle([second])  # behind an unsettled batch: it may not be passed
        cluster.publish(1)
        await cluster.broker.until_told(PULL, 4)
        await consumer.commit()
        assert cluster.queue().commits == [0]
        consumer.settle([first])
        await consumer.commit()
        assert cluster.queue().committed == 5
        assert [call.ext["queueOffset"] for call in cluster.broker.told(PULL)] == ["0", "3", "5", "6"]

    play(script)


def test_a_pull_carries_an_offset_only_when_no_later_commit_can_overtake_it() -> None:
    """With something unsettled a pull that waits in a busy broker would undo the commit of a stop."""

    async def script(cluster: ScriptedCluster, consumer: Consumer) -> None:
        cluster.publish(3)
        parked = await cluster.broker.until_told(PULL, 2)
        consumer.settle(await receive(consumer))
        cluster.queue().parked.clear()
        parked.answer(Response.PULL_NOT_FOUND, pull_ext(cluster.queue(), 3))
        await cluster.broker.until_told(PULL, 3)
        asked = [call.ext for call in cluster.broker.told(PULL)]
        assert [(ext["queueOffset"], ext["sysFlag"], ext["commitOffset"]) for ext in asked] == [
            ("0", "7", "0"), ("3", "6", "0"), ("3", "7", "3"),
        ]  # fmt: skip

    play(script)


def test_a_pull_carries_what_a_broker_needs() -> None:
    async def script(cluster: ScriptedCluster, consumer: Consumer) -> None:
        ext = (await cluster.broker.until_told(PULL)).ext
        version = ext.pop("subVersion")
        assert int(version) > 1_600_000_000_000
        assert ext == {
            "consumerGroup": "GID_test",
            "topic": "T",
            "queueId": "0",
            "queueOffset": "0",
            "maxMsgNums": "32",
            "sysFlag": "7",
            "commitOffset": "0",
            "suspendTimeoutMillis": "2000",
            "subscription": "*",
            "expressionType": "TAG",
        }
        heartbeat = cluster.broker.told(Request.HEART_BEAT)[0].json()
        (group,) = heartbeat["consumerDataSet"]
        assert {entry["topic"] for entry in group["subscriptionDataSet"]} == {"T", "%RETRY%GID_test"}
        assert {str(entry["subVersion"]) for entry in group["subscriptionDataSet"]} == {version}
        assert group["groupName"] == "GID_test"
        assert heartbeat["clientID"] == consumer.client.client_id

    play(script)


def test_after_a_broken_connection_a_heartbeat_goes_before_the_next_pull() -> None:
    async def script(cluster: ScriptedCluster, consumer: Consumer) -> None:
        await cluster.broker.until_told(PULL)
        old = cluster.broker.channels[0]
        cluster.broker.cut()
        call = await cluster.broker.until_told(PULL, 2)
        assert call.channel is not old
        on_new = [told.code for told in cluster.broker.calls if told.channel is call.channel]
        assert on_new[:2] == [Request.HEART_BEAT, PULL]
        cluster.publish(1)
        assert await receive_offsets(consumer, 1) == [0]

    play(script)


def test_garbage_in_place_of_a_pull_answer_costs_a_new_connection_and_nothing_else() -> None:
    async def script(cluster: ScriptedCluster, consumer: Consumer) -> None:
        assert await receive_offsets(consumer, 2) == [0, 1]
        assert cluster.broker.accepted == 2

    def before(cluster: ScriptedCluster) -> None:
        cluster.publish(2)
        cluster.broker.once(PULL, lambda call: call.channel.write(b"\xff" * 30))

    play(script, before=before)


def test_binary_headers_serve_a_consumer_as_well() -> None:
    def before(cluster: ScriptedCluster) -> None:
        cluster.broker.binary = cluster.name_server.binary = True
        cluster.publish(40)

    async def script(cluster: ScriptedCluster, consumer: Consumer) -> None:
        assert await receive_offsets(consumer, 40) == list(range(40))
        cluster.notify()
        await cluster.broker.until_told(Request.GET_CONSUMER_LIST_BY_GROUP, 2)

    play(script, before=before)


@pytest.mark.parametrize("code", [Response.PULL_NOT_FOUND, Response.PULL_RETRY_IMMEDIATELY])
def test_an_answer_without_messages_that_stands_still_is_asked_again(code: int) -> None:
    async def script(cluster: ScriptedCluster, consumer: Consumer) -> None:
        cluster.publish(1)
        assert await receive_offsets(consumer, 1) == [0]
        assert [call.ext["queueOffset"] for call in cluster.broker.told(PULL)][:2] == ["0", "0"]

    def before(cluster: ScriptedCluster) -> None:
        cluster.broker.once(PULL, lambda call: call.answer(code, pull_ext(cluster.queue(), 0)))

    play(script, before=before)


def test_with_a_tag_filter_a_forward_jump_is_no_hole_and_is_committed() -> None:
    async def script(cluster: ScriptedCluster, consumer: Consumer) -> None:
        call = await cluster.broker.until_told(PULL, 2)
        assert (call.ext["queueOffset"], call.ext["commitOffset"]) == ("9", "9")
        assert not consumer.waiting

    def before(cluster: ScriptedCluster) -> None:
        cluster.publish(9, tag="other")
        cluster.broker.once(PULL, lambda call: call.answer(20, pull_ext(cluster.queue(), 9)))

    play(script, before=before, subscriptions={"T": "A || B"})


def test_without_a_filter_a_forward_jump_is_a_hole() -> None:
    async def script(cluster: ScriptedCluster, consumer: Consumer) -> None:
        (batch,) = await receive(consumer)
        assert (batch.messages, batch.next_offset) == ([], 9)
        assert [(hole.first, hole.last) for hole in batch.holes] == [(0, 8)]
        consumer.settle([batch])
        await consumer.commit()
        assert cluster.queue().committed == 9

    def before(cluster: ScriptedCluster) -> None:
        cluster.publish(9)
        cluster.broker.once(PULL, lambda call: call.answer(19, pull_ext(cluster.queue(), 9)))

    play(script, before=before)


def test_messages_with_other_tags_of_the_same_hash_are_dropped() -> None:
    """Aa and BB have one Java hash: the broker lets both through."""

    async def script(cluster: ScriptedCluster, consumer: Consumer) -> None:
        (batch,) = await receive(consumer)
        assert [message.tag for message in batch.messages] == ["Aa"]
        assert (batch.holes, batch.next_offset) == ((), 3)

    def before(cluster: ScriptedCluster) -> None:
        for tag in ("BB", "Aa", ""):
            cluster.publish(1, tag=tag)

    play(script, before=before, subscriptions={"T": "Aa"})


def test_an_expired_offset_is_a_hole_and_reading_goes_on_at_the_minimum() -> None:
    async def script(cluster: ScriptedCluster, consumer: Consumer) -> None:
        batches: list[PulledBatch] = []
        while not any(batch.messages for batch in batches):
            batches += await receive(consumer)
        assert batches[0].holes == (Hole(2, 4, "expired at the broker"),)
        assert batches[0].rewound is False
        assert batches[1].messages[0].queue_offset == 5

    def before(cluster: ScriptedCluster) -> None:
        cluster.queue().minimum, cluster.queue().committed = 5, 2
        cluster.publish(1)

    play(script, before=before)


def test_an_offset_beyond_the_end_is_a_rewind_to_what_was_never_read_and_is_committed_lower() -> None:
    async def script(cluster: ScriptedCluster, consumer: Consumer) -> None:
        (batch,) = await receive(consumer)
        assert (batch.rewound, batch.next_offset, batch.messages, batch.holes) == (True, 0, [], ())
        consumer.settle([batch])
        assert await receive_offsets(consumer, 3) == [0, 1, 2]
        await consumer.commit()
        assert cluster.queue().committed == 3
        assert min(cluster.queue().commits) == 0

    def before(cluster: ScriptedCluster) -> None:
        cluster.publish(3)
        cluster.queue().committed = 50

    play(script, before=before)


def test_a_reset_while_a_batch_is_handed_out_is_not_undone_by_its_late_settlement() -> None:
    async def script(cluster: ScriptedCluster, consumer: Consumer) -> None:
        queue = cluster.queue()
        cluster.publish(10)
        (batch,) = await receive(consumer)
        await cluster.broker.until(lambda: queue.parked)
        parked = queue.parked.pop()
        queue.committed = 4
        queue.commits.clear()
        parked.answer(Response.PULL_OFFSET_MOVED, pull_ext(queue, 4), remark="OFFSET_RESET")
        (rewound, again) = [*await receive(consumer), *await receive(consumer)][:2]
        consumer.settle([batch])
        await consumer.commit()
        assert set(queue.commits) == {4}
        assert rewound.rewound is True
        assert again.messages[0].queue_offset == 4
        consumer.settle([rewound, again])
        await consumer.commit()
        assert queue.committed == 10
        assert min(queue.commits) == 4

    play(script)


def test_flow_control_is_asked_again_soon() -> None:
    async def script(cluster: ScriptedCluster, consumer: Consumer) -> None:
        assert await receive_offsets(consumer, 1) == [0]
        assert len(cluster.broker.told(PULL)) >= 3

    def before(cluster: ScriptedCluster) -> None:
        cluster.publish(1)
        cluster.broker.once(PULL, refusing(215), refusing(215))

    play(script, before=before)


@pytest.mark.parametrize("code", [24, 25, 26])
def test_a_broker_that_lost_the_registration_gets_a_heartbeat_and_is_pulled_again(code: int) -> None:
    async def script(cluster: ScriptedCluster, consumer: Consumer) -> None:
        await cluster.broker.until_told(PULL)
        await cluster.broker.until_told(Request.HEART_BEAT, 2)
        assert len(cluster.broker.told(PULL)) == 1  # the heartbeat first
        assert await receive_offsets(consumer, 1) == [0]

    def before(cluster: ScriptedCluster) -> None:
        cluster.publish(1)
        cluster.broker.once(PULL, refusing(code, "the consumer's group info not exist"))

    play(script, before=before)


def test_a_refused_pull_says_why_once_and_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    async def script(cluster: ScriptedCluster, consumer: Consumer) -> None:
        assert await receive_offsets(consumer, 1) == [0]

    def before(cluster: ScriptedCluster) -> None:
        cluster.publish(1)
        cluster.broker.once(PULL, refusing(2, "[OVERLOAD] busy"))

    play(script, before=before)
    complaints = [record.getMessage() for record in caplog.records if "OVERLOAD" in record.getMessage()]
    assert len(complaints) == 1
    assert "T@broker-a:0" in complaints[0]


def test_keys_refused_by_a_pull_end_the_consumer() -> None:
    async def script(cluster: ScriptedCluster, consumer: Consumer) -> None:
        with pytest.raises(CredentialsRefused, match="PULL_MESSAGE"):
            await receive(consumer)

    play(script, before=lambda cluster: cluster.broker.on(PULL, refusing(16, "User:x is not found.")))


@pytest.mark.parametrize("missing", ["nextBeginOffset", "maxOffset", "suggestWhichBrokerId"])
def test_an_answer_that_lacks_a_field_is_not_half_booked(missing: str) -> None:
    """Messages that were entered in the books but never handed out would hold the commit back for ever."""

    def before(cluster: ScriptedCluster) -> None:
        def lacking(call: Call) -> None:
            ext = pull_ext(cluster.queue(), 2)
            del ext[missing]
            call.answer(0, ext, encode_message(stored(0)) + encode_message(stored(1)), "FOUND")

        cluster.publish(2)
        cluster.broker.once(PULL, lacking)

    async def script(cluster: ScriptedCluster, consumer: Consumer) -> None:
        assert await receive_offsets(consumer, 2) == [0, 1]
        await consumer.commit()
        assert cluster.queue().committed == 2

    play(script, before=before)
