"""The sandbox's state machines: records byte for byte, queues, the bound, groups, delays, locks."""

from __future__ import annotations

import ipaddress
import json
from pathlib import Path
from typing import Any

import psutil
import pytest

from jst_bridge.rocketmq.frame import decode_frame
from jst_bridge.rocketmq.message import decode_messages, pack_host
from jst_bridge.rocketmq.properties import find_property
from jst_bridge.sandbox.rocketmq.bodies import BrokerPlace, cluster_body, queue_table, route_body
from jst_bridge.sandbox.rocketmq.delays import Delays, Locks
from jst_bridge.sandbox.rocketmq.groups import Groups, Member
from jst_bridge.sandbox.rocketmq.offsets import Committed, Offsets
from jst_bridge.sandbox.rocketmq.records import (
    Draft,
    pack_record,
    split_batch,
    unpack_record,
    with_properties,
)
from jst_bridge.sandbox.rocketmq.store import Queue, Store, Topic
from tests.sandbox_asker import packed

CAPTURES: dict[str, dict[str, Any]] = {
    capture["name"]: capture
    for capture in json.loads(
        (Path(__file__).parents[1] / "data" / "rocketmq-wire-captures.json").read_text()
    )["frames"]
}
HOST = pack_host("127.0.0.1", 10911)


def store(max_bytes: int = 1 << 20, queues: int = 1) -> Store:
    made = Store(max_bytes=max_bytes, store_host=HOST)
    made.create("T", queues, queues)
    return made


def draft(body: bytes = b"x", queue: int = 0, tag: str = "") -> Draft:
    return Draft("T", queue, body, f"TAGS\x01{tag}\x02".encode() if tag else b"", 1, HOST)


def filled(count: int, **options: Any) -> tuple[Store, Queue]:
    made = store(**options)
    for number in range(count):
        made.append(draft(b"%d" % number), 1000 + number)
    return made, made.topics["T"].queues[0]


@pytest.mark.parametrize(
    "name", [name for name, capture in CAPTURES.items() if "messages" in capture and "ipv6" not in name]
)
def test_a_message_of_a_real_broker_is_written_byte_for_byte(name: str) -> None:
    body = decode_frame(bytes.fromhex(CAPTURES[name]["hex"])).body
    written = b""
    for seen in CAPTURES[name]["messages"]:
        record = body[len(written) : len(written) + seen["size"]]
        host, _, port = seen["storeHost"].rpartition(":")
        written += pack_record(
            unpack_record(record),
            seen["queueOffset"],
            seen["physicalOffset"],
            seen["storeTimestamp"],
            pack_host(str(ipaddress.ip_address(host)), int(port)),
            seen["topic"].encode(),
        )
    assert written == body


def test_bodies_are_those_of_real_servers() -> None:
    topic = Topic("TopicTest", 1, 1)
    queue = topic.queues[0]
    old, new = BrokerPlace("broker-a", "127.0.0.1:37911"), BrokerPlace("broker-a", "127.0.0.1:10911")
    found = [(old, topic)]
    row = {"brokerOffset": 4, "consumerOffset": 2, "lastTimestamp": 1795311842659, "pullOffset": 4}
    stats = {"lastUpdateTimestamp": 1795311847987, "maxOffset": 4, "minOffset": 0}
    written = {
        "route_strict_497": route_body("DefaultCluster", found, strict=True, modern=False),
        "route_bare_keys_497": route_body("DefaultCluster", found, strict=False, modern=False),
        "route_strict_533": route_body("DefaultCluster", [(new, topic)], strict=True, modern=True),
        "cluster_info_533": cluster_body("DefaultCluster", [new], modern=True),
        "consume_stats_533": queue_table("offsetTable", "broker-a", [(queue, row)], consumeTps=0.0),
        "topic_stats_533": queue_table("offsetTable", "broker-a", [(queue, stats)], topicPutTps=0.0),
        "reset_offset_request_497": queue_table("offsetTable", "broker-a", [(queue, 0)]),
    }
    assert {name: body.decode() for name, body in written.items()} == {
        name: CAPTURES[name]["body_text"] for name in written
    }


@pytest.mark.parametrize(
    ("offset", "status", "following"),
    [
        (2, "OFFSET_TOO_SMALL", 3),
        (3, "FOUND", 10),
        (9, "FOUND", 10),
        (10, "OFFSET_OVERFLOW_ONE", 10),
        (11, "OFFSET_OVERFLOW_BADLY", 10),
        (-1, "OFFSET_TOO_SMALL", 3),
    ],
)
def test_a_read_tells_where_an_offset_lies(offset: int, status: str, following: int) -> None:
    made, queue = filled(10)
    made.expire(queue, 3)
    reading = made.read(queue, offset, 32, None)
    assert (reading.status, reading.next_offset) == (status, following)
    assert bool(reading.records) == (status == "FOUND")


def test_an_empty_queue_has_no_message_at_any_offset() -> None:
    made = store()
    assert made.read(made.topics["T"].queues[0], 5, 32, None) == ("NO_MESSAGE_IN_QUEUE", 0, [])


def test_a_read_ends_with_its_count_and_its_bytes_but_gives_one_message_of_any_size() -> None:
    made = store(max_bytes=8 << 20)
    for size in (100_000, 100_000, 100_000, 1_000_000):
        made.append(draft(b"x" * size), 1)
    queue = made.topics["T"].queues[0]
    assert [len(made.read(queue, offset, 32, None).records) for offset in (0, 2, 3)] == [2, 1, 1]
    assert made.read(queue, 0, 1, None).next_offset == 1


def test_a_filtered_read_looks_at_so_many_messages_and_says_how_far_it_came() -> None:
    made = store()
    for _ in range(1000):
        made.append(draft(tag="B"), 1)
    made.append(draft(tag="A"), 1)
    queue, wanted = made.topics["T"].queues[0], frozenset({65})  # the Java hash of "A"
    first = made.read(queue, 0, 32, wanted)
    assert (first.status, first.next_offset) == ("NO_MATCHED_MESSAGE", 800)
    second = made.read(queue, 800, 32, wanted)
    assert (second.status, second.next_offset, len(second.records)) == ("FOUND", 1001, 1)


def test_the_oldest_messages_make_room_and_the_bound_holds() -> None:
    made, queue = filled(20_000, max_bytes=256 << 10)
    assert made.held_bytes <= 256 << 10
    assert queue.maximum == 20_000
    assert 0 < queue.minimum < 20_000
    first = decode_messages(made.read(queue, queue.minimum, 1, None).records[0])[0][0]
    assert (first.queue_offset, first.body) == (queue.minimum, b"%d" % queue.minimum)
    assert made.view(first.physical_offset) is not None
    assert made.view(0) is None
    assert made.view(first.physical_offset + 1) is None


@pytest.mark.slow
def test_a_million_messages_take_no_more_memory_than_the_bound() -> None:
    bound = 64 << 20
    made, process = store(max_bytes=bound, queues=8), psutil.Process()
    message, before = draft(b"x" * 300), process.memory_info().rss
    for number in range(1_000_000):
        message.queue_id = number % 8
        made.append(message, number)
        assert made.held_bytes <= bound
    assert sum(len(queue.entries) for queue in made.topics["T"].queues) > 100_000
    assert process.memory_info().rss - before < bound * 3 // 2


def test_a_search_finds_the_offset_of_a_time() -> None:
    made, queue = filled(10)  # stored at 1000 to 1009
    assert [made.search(queue, when) for when in (0, 1004, 9999)] == [0, 4, 10]
    assert [made.search(queue, when, "upper") for when in (0, 1004, 9999)] == [0, 4, 9]
    assert [made.search(queue, when, "nearest") for when in (0, 1004, 9999)] == [0, 4, 9]
    assert made.search(Topic("E", 1, 1).queues[0], 5) == 0


def test_properties_are_set_as_a_map_of_java_sets_them() -> None:
    raw = b"UNIQ_KEY\x01own\x02WAIT\x01true\x02UNIQ_KEY\x01batch\x02TAGS\x01A"
    assert with_properties(raw, WAIT="false", DELAY="3") == (
        b"UNIQ_KEY\x01batch\x02WAIT\x01false\x02TAGS\x01A\x02DELAY\x013\x02"
    )


def test_a_batch_is_split_and_a_broken_one_refused() -> None:
    body = packed([(b"one", "TAGS\x01A"), (b"two", "")])
    assert list(split_batch(body)) == [(7, b"one", b"TAGS\x01A"), (7, b"two", b"")]
    for broken in (body[:-1], body + b"x", b"\0" * 22, b"\xff" * 40):
        with pytest.raises(ValueError, match="batch"):
            list(split_batch(broken))


def test_a_group_takes_over_newer_expressions_only_and_drops_topics_left_out() -> None:
    groups: Groups[str] = Groups(max_reconsume_times=16)
    group, new = groups.join("G", Member("link", "me", "JAVA", 479, 0.0))
    assert new
    assert group.subscribe([{"topic": "T", "subString": "A", "subVersion": 5}, {"topic": "U"}])
    assert group.subscribe([{"topic": "T", "subString": "B", "subVersion": 5}])
    assert group.subscriptions == {"T": {"topic": "T", "subString": "A", "subVersion": 5}}
    assert not group.subscribe([{"topic": "T", "subString": "B", "subVersion": "6"}])  # as C++ writes it
    assert group.subscriptions["T"]["subString"] == "B"
    assert [name for name, _ in groups.silent_since(1.0)] == ["G"]
    assert groups.leave_all("link") == [group]
    assert groups.online == {}


def test_a_reset_refuses_commits_until_it_was_told() -> None:
    offsets, key = Offsets(), Committed("G", "T", 0)
    offsets.commit(key, 7)
    offsets.reset(key, 2)
    assert (offsets.stored(key), offsets.commit(key, 8), offsets.stored(key)) == (2, False, 2)
    assert (offsets.take_reset(key), offsets.take_reset(key)) == (2, None)
    assert (offsets.commit(key, -1), offsets.stored(key)) == (True, None)


def test_delayed_messages_are_due_by_time_and_levels_end_with_the_last() -> None:
    delays = Delays((1.0, 5.0))
    assert delays.clamp(99) == 2
    delays.add(2, 100, now=0.0)
    delays.add(1, 200, now=0.0)
    assert delays.next_due == 1.0
    assert list(delays.due(1.0)) == [200]
    assert list(delays.due(4.9)) == []
    assert list(delays.due(5.0)) == [100]
    assert delays.next_due is None


def test_a_lock_is_its_owners_until_the_lease_is_over() -> None:
    locks, queue = Locks(lease=60), ("T", "broker-a", 0)
    assert locks.lock("G", queue, "one", 0.0)
    assert not locks.lock("G", queue, "two", 59.0)
    assert locks.lock("G", queue, "one", 59.0)
    locks.unlock("G", queue, "two")
    assert not locks.lock("G", queue, "two", 118.0)
    assert locks.lock("G", queue, "two", 120.0)
    locks.unlock("G", queue, "two")
    assert not locks.any_held("G", 120.0)


def test_a_delayed_message_keeps_where_it_belongs() -> None:
    raw = with_properties(b"TAGS\x01A\x02", REAL_TOPIC="%RETRY%G", REAL_QID="0")
    assert find_property(raw, b"REAL_TOPIC\x01") == "%RETRY%G"
