"""An administrator moves queues with request 220, against a scripted cluster (reference 2.13)."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from jst_bridge.errors import DecodeError
from jst_bridge.rocketmq import Consumer, MessageQueue
from jst_bridge.rocketmq import consumer as consumer_module
from jst_bridge.rocketmq.codes import Request
from jst_bridge.rocketmq.namespace import Namespace
from jst_bridge.rocketmq.requests import decode_offset_table, object_keyed
from tests.scripted import run, silent
from tests.scripted_cluster import (
    GROUP,
    TOPIC,
    ScriptedCluster,
    found,
    play,
    rebalanced,
    receive,
    receive_offsets,
)

PULL, RESET = Request.PULL_MESSAGE, Request.RESET_CONSUMER_CLIENT_OFFSET
QUEUE = MessageQueue(TOPIC, "broker-a", 0)
EXT = {"topic": TOPIC, "group": GROUP, "timestamp": "0", "isForce": "false", "queueId": "-1"}


def as_java(offsets: dict[MessageQueue, int]) -> bytes:
    return b'{"offsetTable":' + bytes(object_keyed(offsets, Namespace())) + b"}"


def as_list(offsets: dict[MessageQueue, int]) -> bytes:
    table = [
        {"topic": queue.topic, "brokerName": queue.broker, "queueId": queue.queue_id, "offset": offset}
        for queue, offset in offsets.items()
    ]
    return json.dumps({"offsetTable": table}).encode()


def reset(cluster: ScriptedCluster, offset: int, *, queue: MessageQueue = QUEUE, oneway: bool = True) -> None:
    cluster.broker.push(RESET, EXT, as_java({queue: offset}), oneway=oneway)


async def settle_all(cluster: ScriptedCluster, consumer: Consumer, count: int) -> None:
    """Publish, settle, and wait until the next pull has carried that to the broker."""
    cluster.publish(count)
    await receive_offsets(consumer, count)
    await consumer.commit()
    await cluster.broker.until(lambda: cluster.queue().parked)


@pytest.mark.parametrize("spell", [as_java, as_list])
def test_a_queue_goes_back_is_committed_and_its_messages_come_again(
    spell: Callable[[dict[MessageQueue, int]], bytes],
) -> None:
    async def script(cluster: ScriptedCluster, consumer: Consumer) -> None:
        await settle_all(cluster, consumer, 5)
        cluster.broker.push(RESET, EXT, spell({QUEUE: 2}))
        (rewound, *rest) = await receive(consumer)
        assert (rewound.rewound, rewound.next_offset, rewound.messages, rewound.holes) == (True, 2, [], ())
        await cluster.broker.until(lambda: 2 in cluster.queue().commits)
        consumer.settle([rewound, *rest])
        seen = [message.queue_offset for batch in rest for message in batch.messages]
        assert seen + await receive_offsets(consumer, 3 - len(seen)) == [2, 3, 4]
        await consumer.commit()
        assert cluster.queue().committed == 5

    play(script)


def test_a_queue_goes_forward_without_a_gap_and_the_position_follows() -> None:
    async def script(cluster: ScriptedCluster, consumer: Consumer) -> None:
        await settle_all(cluster, consumer, 2)
        cluster.broker.on(PULL, silent)
        cluster.publish(8)
        reset(cluster, 9)
        (rewound,) = await receive(consumer)
        assert (rewound.rewound, rewound.next_offset, rewound.holes) == (True, 9, ())
        cluster.broker.on(PULL, cluster.serve_pull())
        cluster.broker.cut()
        consumer.settle([rewound])
        assert await receive_offsets(consumer, 1) == [9]
        assert cluster.queue().committed in (9, 10)

    play(script)


def test_a_pull_in_flight_cannot_bring_back_the_old_place() -> None:
    async def script(cluster: ScriptedCluster, consumer: Consumer) -> None:
        await settle_all(cluster, consumer, 5)
        (parked,) = cluster.queue().parked
        cluster.queue().parked.clear()
        cluster.broker.on(PULL, silent)
        reset(cluster, 1)
        await cluster.broker.until(lambda: cluster.broker.told(PULL)[-1].ext["queueOffset"] == "1")
        cluster.publish(1)
        found(cluster.queue(), cluster.queue().messages[5:], parked)  # too late
        await cluster.broker.round_trips()
        (rewound,) = await receive(consumer)
        assert rewound.rewound
        assert not consumer.waiting
        (progress,) = consumer.progress()
        assert (progress.settled, progress.pulled) == (1, 1)

    play(script)


def test_what_was_pulled_before_still_lands_but_carries_no_offset() -> None:
    async def script(cluster: ScriptedCluster, consumer: Consumer) -> None:
        cluster.publish(5)
        handed_out = await receive(consumer)
        cluster.publish(1)  # pulled, and not yet handed out
        await cluster.broker.until_told(PULL, 3)
        reset(cluster, 2)
        await cluster.broker.until(lambda: 2 in cluster.queue().commits)
        consumer.settle(handed_out)
        await consumer.commit()
        assert cluster.queue().committed == 2
        assert await receive_offsets(consumer, 5) == [5, 2, 3, 4, 5]
        await consumer.commit()
        assert cluster.queue().committed == 6

    play(script)


def test_a_queue_of_another_member_or_topic_is_left_alone() -> None:
    async def script(cluster: ScriptedCluster, consumer: Consumer) -> None:
        await settle_all(cluster, consumer, 3)
        reset(cluster, 0, queue=QUEUE._replace(queue_id=7))
        reset(cluster, 0, queue=QUEUE._replace(topic="other"))
        await cluster.broker.round_trips()
        assert not consumer.waiting
        assert cluster.queue().committed == 3

    play(script)


@pytest.mark.parametrize("answer", [(0, {"offset": "5"}), (1,)], ids=["learned", "learned in the next round"])
def test_a_reset_of_a_queue_whose_start_is_being_learned_is_not_lost(
    answer: tuple[int, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        async with ScriptedCluster() as cluster, cluster.consumer() as consumer:
            await settle_all(cluster, consumer, 5)
            cluster.members = ["", "me"]
            await rebalanced(cluster)
            cluster.members = ["me"]
            monkeypatch.setattr(consumer_module, "REBALANCE_RETRY", 0.01)
            held = len(cluster.broker.told(Request.QUERY_CONSUMER_OFFSET))
            cluster.broker.once(Request.QUERY_CONSUMER_OFFSET, silent)
            cluster.notify()
            call = await cluster.broker.until_told(Request.QUERY_CONSUMER_OFFSET, held + 1)
            reset(cluster, 3)
            await cluster.broker.round_trips()
            call.answer(*answer)
            assert await receive_offsets(consumer, 2) == [3, 4]

    run(work())


def test_a_queue_being_given_away_is_not_committed_past_a_reset() -> None:
    async def work() -> None:
        async with ScriptedCluster() as cluster, cluster.consumer() as consumer:
            cluster.publish(3)
            batches = await receive(consumer)
            await cluster.broker.until_told(PULL, 2)
            cluster.members = ["", "me"]
            await rebalanced(cluster)
            reset(cluster, 0)
            await cluster.broker.round_trips()
            cluster.queue().commits.clear()
            consumer.settle(batches)
            await consumer.commit()
            assert cluster.queue().commits == []

    run(work())


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (b"", "not JSON"),
        (b"[]", "offsetTable"),
        (b'{"offsetTable":7}', "offsetTable"),
        (b'{"offsetTable":{"a":1}}', "no message queue"),
        (b'{"offsetTable":[1]}', "no message queue"),
        (b'{"offsetTable":[{"topic":"T","brokerName":"a","queueId":"0","offset":1}]}', "no message queue"),
        (b'{"offsetTable":[{"topic":"T","brokerName":"a","queueId":0}]}', "no offset"),
        (b'{"offsetTable":[{"topic":"T","brokerName":"a","queueId":0,"offset":-1}]}', "no offset"),
        (b'{"offsetTable":[{"topic":"T","brokerName":"a","queueId":0,"offset":true}]}', "no offset"),
    ],
)
def test_a_broken_table_moves_nothing(body: bytes, complaint: str) -> None:
    with pytest.raises(DecodeError, match=complaint):
        decode_offset_table(body)


def test_a_broken_reset_is_refused_and_the_consumer_reads_on() -> None:
    async def script(cluster: ScriptedCluster, consumer: Consumer) -> None:
        await cluster.broker.until(lambda: cluster.queue().parked)
        cluster.broker.push(RESET, EXT, b'{"offsetTable":', oneway=False, opaque=7)
        cluster.broker.push(RESET, EXT | {"group": "other"}, as_java({QUEUE: 0}), oneway=False, opaque=8)
        await cluster.broker.until(lambda: len(cluster.broker.replies) == 2)
        assert [(reply.opaque, reply.code) for reply in cluster.broker.replies] == [(7, 1), (8, 1)]
        cluster.publish(1)
        assert await receive_offsets(consumer, 1) == [0]

    play(script)
