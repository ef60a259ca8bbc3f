"""Queues that stand still though they have news, against a scripted cluster."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import pytest

from jst_bridge.rocketmq import Consumer, watchdog
from jst_bridge.rocketmq.codes import Request, Response
from tests.scripted import refusing, run, silent
from tests.scripted_cluster import ScriptedCluster, pulled, receive, receive_offsets

PULL, END = Request.PULL_MESSAGE, Request.GET_MAX_OFFSET


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(8):
        while not condition():  # noqa: ASYNC110 - nobody tells us when
            await asyncio.sleep(0.01)


def stalls(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if "stands still" in one.getMessage()]


def stalled(consumer: Consumer) -> list[int]:
    return [one.queue.queue_id for one in consumer.health().queues if one.stalled]


def test_a_queue_that_is_refused_for_long_is_an_error_and_unhealthy_until_it_is_read_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def work() -> None:
        async with ScriptedCluster(queues=2) as cluster, cluster.consumer(stall_after=0.3) as consumer:
            await pulled(cluster, 0, 1)
            cluster.broker.on(PULL, refusing(Response.NO_PERMISSION, "the topic is forbidden"))
            cluster.queue(1).parked.pop().answer(Response.NO_PERMISSION, remark="the topic is forbidden")
            cluster.publish(2, queue_id=1)
            await until(lambda: stalled(consumer) == [1])
            assert not consumer.health().healthy
            connections = cluster.broker.accepted
            cluster.broker.on(PULL, cluster.serve_pull())
            assert await receive_offsets(consumer, 2) == [0, 1]
            await until(lambda: consumer.health().healthy)
            assert (
                cluster.broker.accepted == connections == 1
            )  # it answered: the connection was not the cause

    run(work())
    assert "it ends at 2, we are at 0" in stalls(caplog)[0]
    assert "the topic is forbidden" in stalls(caplog)[0]
    assert caplog.records[-1].levelno <= logging.ERROR


def test_pulls_that_are_never_answered_are_made_anew_over_another_connection(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The broker answers everything else, so neither timeouts nor signs of life tell."""

    async def work() -> None:
        async with ScriptedCluster() as cluster:
            cluster.publish(3)
            cluster.broker.once(PULL, silent)
            async with cluster.consumer(stall_after=0.3) as consumer:
                assert await receive_offsets(consumer, 3) == [0, 1, 2]
                assert cluster.broker.accepted == 2
                assert stalled(consumer) == []

    run(work())
    assert len(stalls(caplog)) == 1
    assert "no answer" in stalls(caplog)[0]


def test_a_queue_without_news_may_be_silent_as_long_as_it_likes(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        async with ScriptedCluster() as cluster, cluster.consumer(stall_after=0.1) as consumer:
            await cluster.broker.until_told(END, 3)
            assert consumer.health().healthy

    run(work())
    assert stalls(caplog) == []


def test_a_queue_that_waits_for_our_own_settlements_is_no_stall_but_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def work() -> None:
        async with ScriptedCluster() as cluster:
            cluster.publish(20)
            async with cluster.consumer(stall_after=0.2, pull_batch=4, queue_limit=4) as consumer:
                batches = await receive(consumer)
                await until(lambda: "is not settled" in caplog.text)
                assert consumer.health().healthy
                assert not cluster.broker.told(END)
                consumer.settle(batches)
                read = sum(len(batch.messages) for batch in batches)
                assert await receive_offsets(consumer, 20 - read) == list(range(read, 20))

    run(work())
    assert stalls(caplog) == []
    (told, *_) = [one.getMessage() for one in caplog.records if "is not settled" in one.getMessage()]
    assert told.startswith("1 queues are not read")


def test_a_broker_that_is_away_is_no_stall_of_its_queues(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        async with ScriptedCluster() as cluster, cluster.consumer(stall_after=0.1) as consumer:
            await pulled(cluster, 0)
            await cluster.broker.stop()
            cluster.publish(1)
            await asyncio.sleep(0.5)
            assert stalled(consumer) == []
            await cluster.broker.start()
            assert await receive_offsets(consumer, 1) == [0]

    run(work())
    assert stalls(caplog) == []


def test_a_process_that_was_frozen_blames_no_queue_for_the_time_it_lost(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watchdog, "OVERSLEPT", -1.0)  # every look seems to come too late

    async def work() -> None:
        async with ScriptedCluster() as cluster:
            cluster.publish(1)
            cluster.broker.on(PULL, refusing(Response.NO_PERMISSION, "the topic is forbidden"))
            async with cluster.consumer(stall_after=0.1) as consumer:
                await cluster.broker.until_told(PULL, 2)
                assert stalled(consumer) == []

    run(work())
    assert stalls(caplog) == []
