"""`jst-bridge peek`: what it shows of the messages at the broker."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from click.testing import Result

from jst_bridge.rocketmq.codes import Request
from jst_bridge.rocketmq.message import MessageExt
from tests.scripted import Call, refusing
from tests.scripted_cluster import GROUP, TOPIC, stored
from tests.scripted_operations import Desk, play
from tests.traffic import Fact, traffic

FACTS = list(traffic(60))
NO_GROUP = refusing(
    16, "User:k has no permission to access Group:TOOLS_CONSUMER from 127.0.0.1, no matched policies."
)


def put(desk: Desk, facts: Sequence[Fact], *, topic: str = TOPIC, properties: str = "") -> None:
    """Store them one after another, over the queues in turn."""
    queues = desk.cluster.topics[topic]
    for number, fact in enumerate(facts):
        queue = desk.cluster.queue(number % queues, topic)
        named = f"TAGS\x01{fact.tag}\x02KEYS\x01{fact.keys}\x02{properties}".encode()
        message = stored(queue.maximum, number % queues)
        queue.messages.append(
            msgspec.structs.replace(
                message,
                topic=topic,
                body=fact.body,
                raw_properties=named,
                store_timestamp=1_769_821_205_000 + number,
            )
        )


def unreadable(desk: Desk) -> None:
    queue = desk.cluster.queue(0)
    bad: MessageExt = msgspec.structs.replace(
        stored(queue.maximum), body=b'{"phone": "13812345678"', raw_properties=b"TAGS\x01x_y_Z\x02",
        store_timestamp=1_769_829_205_000,
    )  # fmt: skip
    queue.messages.append(bad)


def records(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def keys(facts: Sequence[Fact]) -> list[str]:
    return [f"tb:12345678:{fact.outgoing_id}" for fact in facts]


def test_the_newest_come_first_decoded_and_nothing_is_moved_or_joined(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        put(desk, FACTS)
        found = records(await desk.call("peek", "--limit", "7", "--json"))
        assert [record["message_key"] for record in found] == keys(FACTS[:-8:-1])
        assert (found[0]["seller"], found[0]["topic"]) == (FACTS[-1].seller, FACTS[-1].topic)
        assert found[0]["stored_at"] == 1_769_821_205_000 + 59
        assert "body" not in found[0]
        broker = desk.cluster.broker
        assert not broker.told(Request.HEART_BEAT)
        assert not broker.told(Request.UPDATE_CONSUMER_OFFSET)
        assert desk.cluster.queue(0).commits == []
        assert not (tmp_path / "bridge.db").exists()

    play(work, tmp_path)


def test_people_see_a_table_of_80_columns_and_how_far_back_it_goes(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        put(desk, FACTS)
        result = await desk.call("peek", "--limit", "3")
        assert "2026-01-31 09:00:05" in result.stdout
        assert str(FACTS[-1].content["tid"]) in result.stdout
        assert "3 shown of" in result.stderr
        assert "back to 2026-01-31 09:00:05" in result.stderr
        assert "\x1b" not in result.stdout
        whole = await desk.call("peek", "--limit", "100")
        assert "60 shown of 60 messages looked at, all that the broker has" in whole.stderr

    play(work, tmp_path)


def test_tag_and_seller_choose(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        put(desk, FACTS)
        paid = [fact for fact in FACTS if fact.tag == "taobao_trade_TradeBuyerPay"]
        for tag in ("TradeBuyerPay", "taobao_trade_TradeBuyerPay", "*_TradeBuyer*"):
            found = records(await desk.call("peek", "--tag", tag, "--json"))
            assert [record["message_key"] for record in found] == keys(paid[::-1][:20]), tag
        seller = FACTS[5].seller
        his = [fact for fact in FACTS if fact.seller == seller]
        found = records(await desk.call("peek", "--seller", seller, "--json"))
        assert [record["message_key"] for record in found] == keys(his[::-1][:20])

    play(work, tmp_path)


def test_what_cannot_be_read_is_shown_with_its_reason_and_masked_unless_raw(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        unreadable(desk)
        [record] = records(await desk.call("peek", "--json"))
        assert record["reason"] == "not_json"
        assert "message_key" not in record
        people = await desk.call("peek")
        assert "unreadable" in people.stdout
        assert "13812345678" not in people.stdout
        raw = await desk.call("peek", "--raw")
        assert "13812345678" in raw.stdout

    play(work, tmp_path)


def test_the_dead_letters_of_the_group_tell_where_they_are_from(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        dead = f"%DLQ%{GROUP}"
        desk.cluster.topics[dead] = 1
        put(desk, FACTS[:3], topic=dead, properties=f"RETRY_TOPIC\x01{TOPIC}\x02ORIGIN_MESSAGE_ID\x01AB\x02")
        found = records(await desk.call("peek", "--dead", "--json"))
        assert [record["message_key"] for record in found] == keys(FACTS[2::-1])
        assert {(r["system_topic"], r["origin_topic"], r["origin_id"]) for r in found} == {
            (dead, TOPIC, "AB")
        }

    play(work, tmp_path)


def test_no_dead_letters_yet_are_none_and_no_topic_is_an_error(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        for option in ("--dead", "--retry"):
            none = await desk.call("peek", option)
            assert (none.exit_code, none.stdout) == (0, "")
            assert "0 shown of 0" in none.stderr
        del desk.cluster.topics[TOPIC]
        assert (await desk.call("peek")).exit_code == 69

    play(work, tmp_path)


def test_a_key_that_may_not_use_the_tools_group_looks_in_the_name_of_its_own(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        put(desk, FACTS[:1])
        desk.cluster.broker.once(Request.PULL_MESSAGE, NO_GROUP)
        assert len(records(await desk.call("peek", "--json"))) == 1
        pulls: list[Call] = desk.cluster.broker.told(Request.PULL_MESSAGE)
        assert [call.ext["consumerGroup"] for call in pulls] == ["TOOLS_CONSUMER", GROUP]

    play(work, tmp_path, queues=1)


def test_a_refusal_explains_which_permission_it_takes(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        for option, said in (
            ("--dead", f"Sub and Get on topic %DLQ%{GROUP}"),
            ("--topic", f"Sub and Get on topic {TOPIC}"),
            ("--retry", f"Sub and Get on group {GROUP}"),
        ):
            desk.cluster.topics |= {f"%DLQ%{GROUP}": 1, f"%RETRY%{GROUP}": 1}
            desk.cluster.broker.on(
                Request.GET_MAX_OFFSET,
                refusing(16, "User:k has no permission to access Topic:x from 127.0.0.1"),
            )
            refused = await desk.call("peek", option)
            assert refused.exit_code == 77, refused.stderr
            assert said in refused.stderr

    play(work, tmp_path)
