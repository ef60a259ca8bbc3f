"""The RocketMQ source: what it hands over, and where it starts when store and broker disagree."""

from __future__ import annotations

import asyncio
import logging

import pytest

from jst_bridge.ports import QueueKey
from jst_bridge.rocketmq import ClientSettings, ConsumerSettings, MessageExt, MessageQueue
from jst_bridge.rocketmq.message import pack_host
from jst_bridge.sources.rocketmq import LandingLimits, RocketmqSource, delivery

QUEUE = MessageQueue("T", "broker-a", 3)
KEY = QueueKey("jushita", "GID_x", "", "broker-a", "T", 3)


def start_of(
    start: int, committed: int | None, position: int | None, *, shared: bool = False, tags: str = "*"
) -> int:
    async def stored() -> dict[QueueKey, int]:
        return {} if position is None else {KEY: position}

    settings = ConsumerSettings(ClientSettings(("127.0.0.1:1",)), group="GID_x", subscriptions={"T": tags})

    async def work() -> int:
        source = RocketmqSource("jushita", settings, LandingLimits(), stored, shared=shared)
        return await source._compare_with_position(QUEUE, start, committed)

    return asyncio.run(work())


def warnings(caplog: pytest.LogCaptureFixture) -> int:
    return sum(record.levelno >= logging.WARNING for record in caplog.records)


@pytest.mark.parametrize("shared", [True, False])
def test_a_store_ahead_of_the_broker_is_what_a_crash_leaves(
    shared: bool, caplog: pytest.LogCaptureFixture
) -> None:
    assert start_of(100, 100, 120, shared=shared) == 100  # what comes again is absorbed
    assert start_of(100, 100, 100, shared=shared) == 100
    assert warnings(caplog) == 0


def test_a_shared_store_behind_the_broker_is_believed(caplog: pytest.LogCaptureFixture) -> None:
    assert start_of(100, 100, 60, shared=True) == 60
    assert warnings(caplog) == 1


def test_a_store_of_this_host_behind_the_broker_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    assert start_of(100, 100, 60) == 100
    assert warnings(caplog) == 1
    assert "committed 100" in caplog.text
    assert "up to 60" in caplog.text


def test_a_store_that_holds_nothing_of_a_queue_the_group_has_read_is_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert start_of(100, 100, None) == 100
    assert warnings(caplog) == 1


def test_a_tag_filter_explains_the_difference(caplog: pytest.LogCaptureFixture) -> None:
    assert start_of(100, 100, 60, tags="A || B") == 100
    assert warnings(caplog) == 0


def test_a_group_the_broker_forgot_goes_on_where_the_store_is(caplog: pytest.LogCaptureFixture) -> None:
    assert start_of(500, None, 60) == 60  # start_from = last would have skipped what lies between
    assert warnings(caplog) == 1


def test_a_first_start_is_no_news(caplog: pytest.LogCaptureFixture) -> None:
    assert start_of(500, None, None) == 500
    assert start_of(0, 0, None) == 0
    assert warnings(caplog) == 0


def test_a_delivery_tells_what_the_stored_message_holds() -> None:
    host = pack_host("10.0.0.5", 10911)
    properties = b"KEYS\x01a b\x02TAGS\x01TagA\x02ORIGIN_MESSAGE_ID\x01AC\x02"
    stored = MessageExt("T", b"body", properties, 3, 7, 1024, 111, 222, 2, 0, host, host, fault="why")
    found = delivery(stored, KEY)
    assert (found.body, found.fault, found.born_at, found.queue, found.offset) == (
        b"body",
        "why",
        111,
        KEY,
        7,
    )
    assert (found.tag, found.keys, found.attempt, found.origin_id) == ("TagA", "a b", 2, "AC")
    assert found.transport_id == "0A00000500002A9F0000000000000400"
