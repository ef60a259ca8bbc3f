"""Sharing queues with other members of the group, against a scripted cluster."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from jst_bridge.errors import CredentialsRefused
from jst_bridge.rocketmq import Consumer
from jst_bridge.rocketmq import consumer as consumer_module
from jst_bridge.rocketmq.codes import Request
from tests.scripted import refusing, run, silent
from tests.scripted_cluster import TOPIC, ScriptedCluster, pulled, rebalanced, receive

PULL, COMMIT = Request.PULL_MESSAGE, Request.UPDATE_CONSUMER_OFFSET
MEMBERS, HEARTBEAT = Request.GET_CONSUMER_LIST_BY_GROUP, Request.HEART_BEAT


def queue_ids(consumer: Consumer) -> list[int]:
    return [progress.queue.queue_id for progress in consumer.progress()]


def test_a_notification_rebalances_at_once_and_a_lost_queue_is_committed_first() -> None:
    async def work() -> None:
        async with ScriptedCluster(queues=4) as cluster, cluster.consumer() as consumer:
            await pulled(cluster, 0, 1, 2, 3)
            cluster.publish(2, queue_id=3)
            consumer.settle(await receive(consumer))
            cluster.members = ["", "me"]  # "" sorts before us: the first two queues are its own
            cluster.broker.once(COMMIT, silent)
            cluster.notify()
            await cluster.broker.until_told(COMMIT)
            cluster.members = ["me", "~"]  # and now the last two are another's
            cluster.broker.told(COMMIT)[0].answer()
            cluster.notify()
            await cluster.broker.until(lambda: cluster.queue(3).commits[-1:] == [2])
            assert max(cluster.queue(3).commits) == 2
            await rebalanced(cluster)
            assert queue_ids(consumer) == [0, 1]

    run(work())


def test_queues_are_shared_by_two_consumers_and_handed_over_with_their_offsets() -> None:
    async def work() -> None:
        async with ScriptedCluster(queues=4) as cluster, cluster.consumer() as one:
            await pulled(cluster, 0, 1, 2, 3)
            for queue_id in range(4):
                cluster.publish(3, queue_id)
            got = 0
            while got < 12:
                batches = await receive(one)
                got += sum(len(batch.messages) for batch in batches)
                one.settle(batches)
            async with cluster.consumer() as two:
                cluster.notify()
                await cluster.broker.until(lambda: len(queue_ids(one)) == len(queue_ids(two)) == 2)
                assert sorted(queue_ids(one) + queue_ids(two)) == [0, 1, 2, 3]
                assert [progress.pulled for progress in two.progress()] == [3, 3]
            cluster.notify()
            await cluster.broker.until(lambda: queue_ids(one) == [0, 1, 2, 3])

    run(work())


def test_a_ghost_of_our_own_takes_no_queues() -> None:
    async def work() -> None:
        async with ScriptedCluster(queues=4) as cluster:
            cluster.members = ["me", "me"]
            async with cluster.consumer():
                await pulled(cluster, 0, 1, 2, 3)

    run(work())


def test_a_storm_of_notifications_leaves_one_pull_per_queue_and_no_message_twice() -> None:
    async def work() -> None:
        async with ScriptedCluster(queues=4) as cluster, cluster.consumer() as consumer:

            def parked(queue_id: int) -> Callable[[], object]:
                return lambda: cluster.queue(queue_id).parked

            lists = [["me"], ["", "me"], ["me", "~"], ["", "me", "~"], [""], ["me", "me"]]
            for turn in range(30):
                cluster.members = lists[turn * 7 % len(lists)]
                cluster.notify()
                if turn % 3 == 0:
                    await cluster.broker.until_told(MEMBERS, len(cluster.broker.told(MEMBERS)) + 1)
            cluster.members = ["me"]
            await rebalanced(cluster)
            await cluster.broker.until(lambda: queue_ids(consumer) == [0, 1, 2, 3])
            for queue_id in range(4):
                await cluster.broker.until(parked(queue_id))
                before = len([call for call in cluster.broker.told(PULL) if call.queue == (TOPIC, queue_id)])
                cluster.publish(
                    1, queue_id
                )  # answers every pull that was ever parked, the abandoned ones too
                batches = await receive(consumer)
                assert [(b.queue.queue_id, [m.queue_offset for m in b.messages]) for b in batches] == [
                    (queue_id, [0])
                ]
                consumer.settle(batches)
                await cluster.broker.until(parked(queue_id))
                after = len([call for call in cluster.broker.told(PULL) if call.queue == (TOPIC, queue_id)])
                assert after == before + 1
            assert not consumer.waiting

    run(work())


def test_a_queue_taken_away_while_a_batch_is_handed_out_is_committed_once_after_its_settlement() -> None:
    async def work() -> None:
        async with ScriptedCluster() as cluster, cluster.consumer() as consumer:
            cluster.publish(3)
            batches = await receive(consumer)
            await cluster.broker.until_told(PULL, 2)
            cluster.queue().commits.clear()
            cluster.members = ["", "me"]
            await rebalanced(cluster)
            assert consumer.progress() == []
            assert cluster.queue().commits == []
            consumer.settle(batches)
            await cluster.broker.until(lambda: cluster.queue().commits)
            await rebalanced(cluster)
            assert cluster.queue().commits == [3]

    run(work())


def test_a_late_commit_never_lowers_what_the_new_owner_has_committed() -> None:
    async def work() -> None:
        async with ScriptedCluster() as cluster, cluster.consumer() as consumer:
            cluster.publish(3)
            batches = await receive(consumer)
            await cluster.broker.until_told(PULL, 2)
            cluster.members = ["", "me"]
            await rebalanced(cluster)
            cluster.queue().committed = 40  # the new owner read on
            cluster.queue().commits.clear()
            asked = len(cluster.broker.told(Request.QUERY_CONSUMER_OFFSET))
            consumer.settle(batches)
            await cluster.broker.until_told(Request.QUERY_CONSUMER_OFFSET, asked + 1)
            await rebalanced(cluster)
            await consumer.commit()
            assert cluster.queue().commits == []

    run(work())


def test_a_late_commit_is_left_out_when_nobody_says_what_is_committed() -> None:
    async def work() -> None:
        async with ScriptedCluster() as cluster, cluster.consumer() as consumer:
            cluster.publish(3)
            batches = await receive(consumer)
            await cluster.broker.until_told(PULL, 2)
            cluster.members = ["", "me"]
            await rebalanced(cluster)
            cluster.queue().commits.clear()
            cluster.broker.on(Request.QUERY_CONSUMER_OFFSET, refusing(1, "not now"))
            consumer.settle(batches)
            await rebalanced(cluster)
            assert cluster.queue().commits == []

    run(work())


def test_a_queue_that_comes_back_waits_for_the_end_of_its_former_life() -> None:
    async def work() -> None:
        async with ScriptedCluster() as cluster, cluster.consumer() as consumer:
            cluster.publish(3)
            batches = await receive(consumer)
            await cluster.broker.until_told(PULL, 2)
            cluster.members = ["", "me"]
            await rebalanced(cluster)
            cluster.members = ["me"]
            await rebalanced(cluster)
            assert len(cluster.broker.told(PULL)) == 2
            consumer.settle(batches)
            call = await cluster.broker.until_told(PULL, 3)
            assert (call.ext["queueOffset"], call.ext["commitOffset"]) == ("3", "3")
            assert cluster.queue().commits == sorted(cluster.queue().commits)

    run(work())


def test_batches_of_a_lost_queue_that_nobody_took_yet_are_dropped() -> None:
    async def work() -> None:
        async with ScriptedCluster() as cluster, cluster.consumer() as consumer:
            cluster.publish(3)
            await cluster.broker.until_told(PULL, 2)
            assert consumer.waiting
            cluster.members = ["", "me"]
            await rebalanced(cluster)
            cluster.members = ["me"]
            cluster.notify()
            await cluster.broker.until_told(PULL, 4)
            batches = await receive(consumer)
            assert [m.queue_offset for batch in batches for m in batch.messages] == [0, 1, 2]

    run(work())


def test_a_member_list_without_us_brings_a_heartbeat_at_once_and_keeps_the_queues() -> None:
    async def work() -> None:
        async with ScriptedCluster() as cluster, cluster.consumer() as consumer:
            await cluster.broker.until_told(PULL)
            before = len(cluster.broker.told(HEARTBEAT))
            cluster.members = ["~"]
            cluster.notify()
            await cluster.broker.until_told(HEARTBEAT, before + 1)
            assert queue_ids(consumer) == [0]

    run(work())


def test_a_member_list_nobody_can_tell_keeps_the_queues() -> None:
    async def work() -> None:
        async with ScriptedCluster() as cluster, cluster.consumer() as consumer:
            await cluster.broker.until_told(PULL)
            cluster.broker.on(MEMBERS, refusing(1, "no consumer for this group"))
            await rebalanced(cluster)
            assert queue_ids(consumer) == [0]
            assert cluster.broker.told(COMMIT) == []

    run(work())


def test_a_topic_the_name_server_forgot_is_read_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer_module, "ROUTE_PERIOD", 0.01)

    async def work() -> None:
        async with ScriptedCluster() as cluster, cluster.consumer() as consumer:
            del cluster.topics[TOPIC]
            asked = len(cluster.name_server.calls)
            await cluster.name_server.until(lambda: len(cluster.name_server.calls) > asked + 6)
            await rebalanced(cluster)
            cluster.publish(1)
            assert len(await receive(consumer)) == 1
            cluster.broker.cut()
            await cluster.broker.until(lambda: cluster.queue().parked)

    run(work())


def test_queues_added_to_a_topic_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer_module, "ROUTE_PERIOD", 0.01)

    async def work() -> None:
        async with ScriptedCluster() as cluster, cluster.consumer():
            await pulled(cluster, 0)
            cluster.topics[TOPIC] = 3
            await pulled(cluster, 0, 1, 2)

    run(work())


def test_settled_offsets_are_committed_periodically_and_only_when_they_changed() -> None:
    async def work() -> None:
        async with ScriptedCluster(queues=2) as cluster, cluster.consumer(commit_period=0.01) as consumer:
            await pulled(cluster, 0, 1)
            cluster.broker.on(PULL, silent)  # pulls carry the offset as well
            cluster.publish(2, queue_id=1)
            consumer.settle(await receive(consumer))
            await cluster.broker.until(lambda: cluster.queue(1).commits[-1:] == [2])
            sent = [call for call in cluster.broker.told(COMMIT) if call.queue == (TOPIC, 1)]
            other = len(cluster.broker.told(COMMIT))
            cluster.publish(1, queue_id=0)
            consumer.settle(await receive(consumer))
            await cluster.broker.until_told(COMMIT, other + 1)
            await consumer.commit()
            assert [call for call in cluster.broker.told(COMMIT) if call.queue == (TOPIC, 1)] == sent

    run(work())


def test_a_commit_of_unknown_outcome_is_sent_again() -> None:
    async def work() -> None:
        async with ScriptedCluster() as cluster, cluster.consumer() as consumer:
            cluster.publish(2)
            batches = await receive(consumer)
            await cluster.broker.until_told(PULL, 2)
            consumer.settle(batches)
            cluster.broker.once(COMMIT, lambda call: call.channel.cut())
            cluster.broker.on(PULL, silent)
            await consumer.commit()
            await consumer.commit()
            assert [call.ext["commitOffset"] for call in cluster.broker.told(COMMIT)] == ["2", "2"]

    run(work())


def test_a_broker_that_takes_no_commits_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        async with ScriptedCluster() as cluster:
            cluster.broker.on(COMMIT, refusing(2, "busy"))
            async with cluster.consumer(commit_period=0.01):
                await cluster.broker.until_told(COMMIT, 5)

    with caplog.at_level("WARNING"):
        run(work())
    assert sum("was not taken" in line for line in caplog.messages) == 1


@pytest.mark.parametrize(
    ("period", "request_code"), [("HEARTBEAT_PERIOD", HEARTBEAT), ("REBALANCE_PERIOD", MEMBERS)]
)
def test_keys_that_are_refused_while_it_runs_end_the_consumer(
    period: str, request_code: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer_module, period, 0.01)

    async def work() -> None:
        async with ScriptedCluster() as cluster, cluster.consumer() as consumer:
            await cluster.broker.until_told(PULL)
            cluster.broker.on(request_code, refusing(1, "AclException: No accessKey is configured"))
            with pytest.raises(CredentialsRefused):
                await receive(consumer)

    run(work())


@pytest.mark.parametrize("body", [b"{}", b"[]", b'{"consumerIdList":7}', b"{"])
def test_a_member_list_that_is_none_keeps_the_queues(body: bytes) -> None:
    async def work() -> None:
        async with ScriptedCluster() as cluster, cluster.consumer() as consumer:
            await cluster.broker.until_told(PULL)
            cluster.broker.on(MEMBERS, lambda call: call.answer(body=body))
            await rebalanced(cluster)
            assert queue_ids(consumer) == [0]

    run(work())


def test_heartbeats_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer_module, "HEARTBEAT_PERIOD", 0.01)

    async def work() -> None:
        async with ScriptedCluster() as cluster, cluster.consumer():
            await cluster.broker.until_told(HEARTBEAT, 5)

    run(work())
