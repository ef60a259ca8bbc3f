"""What the reading commands show of a real store: messages, timeline, status."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rich.cells import cell_len

from jst_bridge.cli import cli
from jst_bridge.messages import Decoder
from jst_bridge.ports import DeadLetter, Delivery, Gap, Landing, PlainDelivery, QueueKey
from jst_bridge.settings import BEIJING
from jst_bridge.store import open_store

TID = "4474213330011932701"
OID = "4474213330011932999"
HOSTILE = "店[/b]\x1b[31m\u202e铺"
PHONE = "13812345678"
QUEUE = QueueKey("jushita", "GID_bridge", "", "broker-a", "rmq_sys_jst_12345678", 0)


def beijing(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=BEIJING).timestamp() * 1000)


def delivery(number: int, topic: str, at: str, content: dict[str, Any], seller: str = "沐微霜豆") -> Delivery:
    body = {
        "content": json.dumps(content, ensure_ascii=False),
        "outgoing_id": 4112500053989189490 + number,
        "publish_time": beijing(at),
        "topic": topic,
        "user_id": 733741520,
        "user_nick": seller,
    }
    return PlainDelivery(
        body=json.dumps(body, ensure_ascii=False).encode(),
        tag=topic,
        keys="",
        transport_id=f"T{number}",
        origin_id=f"T{number}",
        offset=number,
        born_at=beijing(at) + 1000,
    )


DELIVERIES = [
    delivery(
        1,
        "taobao_trade_TradeCreate",
        "2026-01-30T23:59:58",
        {"tid": int(TID), "oid": int(TID), "payment": "59.78"},
    ),
    delivery(
        2,
        "taobao_trade_TradeBuyerPay",
        "2026-01-31T00:00:05",
        {
            "tid": int(TID),
            "oid": int(TID),
            "payment": "59.78",
            "post_fee": "6.00",
            "status": "WAIT_SELLER_SEND_GOODS",
            "buyer_nick": "c**",
            "type": "guarantee_trade",
        },
    ),
    delivery(
        3,
        "taobao_trade_TradeMemoModified",
        "2026-01-31T08:00:00",
        {"tid": int(TID), "oid": int(TID), "seller_memo": f"call {PHONE} [/b]\x1b[2J", "seller_flag": 2},
    ),
    delivery(
        4,
        "taobao_trade_TradeChanged",
        "2026-01-31T08:30:00",
        {"tid": int(TID), "oid": int(OID), "status": "WAIT_BUYER_CONFIRM_GOODS", "payment": "9.50"},
    ),
    delivery(
        5,
        "taobao_logistics_LogsticDetailTrace",
        "2026-01-31T09:00:00",
        {
            "tid": int(TID),
            "action": "ARRIVAL",
            "company_name": "申通快递",
            "out_sid": "685264139374",
            "desc": f"快件已到达【北京十里堡公司】 扫描员是【李小明】电话{PHONE}",
            "time": "2026-01-31 08:59:00",
        },
    ),
    delivery(
        6,
        "taobao_refund_RefundCreated",
        "2026-01-31T10:00:00",
        {
            "tid": int(TID),
            "oid": int(OID),
            "refund_id": 3294084395821101,
            "refund_fee": "9.50",
            "refund_phase": "onsale",
            "bill_type": "return_bill",
            "modified": "2026-01-31 10:00:00",
        },
    ),
    delivery(
        7, "taobao_item_ItemUpdate", "2026-02-01T00:00:00", {"num_iid": 15508664441, "nick": HOSTILE}, HOSTILE
    ),
]


def wide(text: str) -> int:
    return max(cell_len(line) for line in text.splitlines())


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A configuration whose store holds DELIVERIES, a dead letter and a gap; its broker is away."""
    directory = tmp_path_factory.mktemp("bridge")
    file = directory / "jst-bridge.toml"
    file.write_text(
        '[app]\nkey = "12345678"\n[[source]]\ntype = "rocketmq"\nname = "jushita"\n'
        'name_servers = ["127.0.0.1:1"]\ngroup = "GID_bridge"\n'
    )
    decoder = Decoder("jushita", "12345678")
    store = open_store(f"sqlite:///{directory}/jst-bridge.db")
    store.open()
    dead = PlainDelivery(b"\x00no", "", "", "T99", "T99", 99, 1)
    store.land(
        Landing(
            [decoder.decode(one) for one in DELIVERIES],
            [DeadLetter(QUEUE, dead, "not_json", "no JSON")],
            [],
            [Gap(QUEUE, 10, 12, f"expired {HOSTILE}")],
        )
    )
    store.close()
    return str(file)


def call(config: str, *arguments: str, width: int = 80) -> Result:
    return CliRunner(env={"COLUMNS": str(width)}).invoke(cli, ["-c", config, *arguments])


def records(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


class TestMessages:
    def test_are_a_table_of_80_columns_the_newest_first(self, config: str) -> None:
        done = call(config, "messages")
        assert done.exit_code == 0, done.stderr
        assert wide(done.stdout) <= 80
        rows = done.stdout.splitlines()[2:]
        assert "2026-02-01 00:00:00" in rows[0]
        assert "ItemUpdate" in rows[0]
        assert "15508664441" in rows[0]
        assert "TradeCreate" in rows[-1]
        assert TID in rows[-1]

    @pytest.mark.parametrize(
        ("arguments", "numbers"),
        [
            (["--seller", "沐微霜豆"], [6, 5, 4, 3, 2, 1]),
            (["--topic", "taobao_trade_*"], [4, 3, 2, 1]),
            (["--topic", "taobao_trade_TradeBuyerPay"], [2]),
            (["--topic", "TradeBuyerPay"], [2]),
            (["--topic", "Trade"], []),
            (["--tid", TID, "--limit", "2"], [6, 5]),
            (["--since", "2026-01-31T10:00"], [7, 6]),
            (["--since", "2026-01-31T02:00Z"], [7, 6]),
            (["--since", "1s"], []),
            (["--since", "9999w"], [7, 6, 5, 4, 3, 2, 1]),
        ],
    )
    def test_are_chosen_by_the_options(
        self, config: str, arguments: Sequence[str], numbers: list[int]
    ) -> None:
        if "1s" in arguments and beijing("2026-02-01") > datetime.now().timestamp() * 1000:
            pytest.skip("the clock of this host is behind the sample messages")
        found = records(call(config, "messages", "--json", *arguments))
        assert [row["message_key"] for row in found] == [
            f"tb:12345678:{4112500053989189490 + number}" for number in numbers
        ]

    def test_for_programs_have_ids_as_text_and_no_body_unless_raw(self, config: str) -> None:
        (row,) = records(call(config, "messages", "--json", "--topic", "TradeBuyerPay"))
        assert row["tid"] == TID
        assert row["user_id"] == "733741520"
        assert isinstance(row["id"], str)
        assert row["published_at"] == beijing("2026-01-31T00:00:05")
        assert "body" not in row
        (raw,) = records(call(config, "messages", "--json", "--raw", "--topic", "TradeBuyerPay"))
        assert raw["body"].encode() == DELIVERIES[1].body

    def test_with_their_bodies_are_whole_and_escaped(self, config: str) -> None:
        done = call(config, "messages", "--raw", "--topic", "TradeMemoModified")
        assert PHONE in done.stdout
        assert "\\\\u001b[2J" in done.stdout
        assert "\x1b" not in done.stdout

    def test_of_hostile_sellers_cannot_steer_a_terminal_or_a_table(self, config: str) -> None:
        for arguments in (["messages"], ["messages", "--json"], ["messages", "--raw"]):
            done = call(config, *arguments, "--seller", HOSTILE, width=200)
            assert "\x1b" not in done.stdout
            assert "\u202e" not in done.stdout
            assert "店[/b]" in done.stdout
        assert records(call(config, "messages", "--json", "--seller", HOSTILE))[0]["seller"] == HOSTILE

    def test_that_nobody_sent_are_no_failure(self, config: str) -> None:
        done = call(config, "messages", "--tid", "1")
        assert (done.exit_code, done.stdout) == (0, "")
        assert "no message matches" in done.stderr


class TestTimeline:
    def test_tells_the_order_in_80_columns(self, config: str) -> None:
        done = call(config, "timeline", TID)
        assert done.exit_code == 0, done.stderr
        assert wide(done.stdout) <= 80
        text = done.stdout
        for expected in (
            f"Order {TID}",
            "沐微霜豆",
            "59.78 yuan, postage 6.00",
            "c**",
            "flag 2",
            OID,
            "3294084395821101",
        ):
            assert expected in text
        for section in ("Lines", "Refunds", "Logistics", "2026-01-30", "2026-01-31"):
            assert f"\n{section}\n" in text

    def test_has_every_event_in_time_order_with_its_chinese_title(self, config: str) -> None:
        text = call(config, "timeline", TID, width=200).stdout
        events = [line for line in text.splitlines() if line[2:3] == ":"]
        assert [line[:8] for line in events] == [
            "23:59:58",
            "00:00:05",
            "08:00:00",
            "08:30:00",
            "09:00:00",
            "10:00:00",
        ]
        assert "TradeBuyerPay 买家付完款" in events[1]
        assert "payment 59.78" in events[1]
        assert f"line {OID}" in events[3]
        assert "申通快递, waybill 685264139374, 快件已到达" in events[4]
        assert "refund 3294084395821101, amount 9.50" in events[5]

    def test_masks_phone_numbers_unless_raw(self, config: str) -> None:
        for arguments in ([], ["--json"]):
            done = call(config, "timeline", TID, *arguments, width=200)
            assert PHONE not in done.stdout
            assert "138****5678" in done.stdout
            assert "\x1b" not in done.stdout
            assert PHONE in call(config, "timeline", TID, "--raw", *arguments, width=300).stdout

    def test_for_programs_is_one_object(self, config: str) -> None:
        (record,) = records(call(config, "timeline", TID, "--json"))
        assert record["tid"] == TID
        assert record["trade"]["payment"] == "59.78"
        assert [line["oid"] for line in record["lines"]] == [OID]
        assert [refund["refund_id"] for refund in record["refunds"]] == ["3294084395821101"]
        assert [trace["out_sid"] for trace in record["traces"]] == ["685264139374"]
        assert len(record["events"]) == 6

    def test_of_an_unknown_order_exits_1(self, config: str) -> None:
        done = call(config, "timeline", "1\x1b")
        assert done.exit_code == 1
        assert done.stdout == ""
        assert done.stderr == "error: nothing has landed for order 1\\x1b\n"


class TestStatus:
    def test_shows_the_store_even_when_no_broker_answers(self, config: str) -> None:
        done = call(config, "status")
        assert done.exit_code == 69
        assert wide(done.stdout) <= 80
        assert "Gaps: 1" in done.stdout
        assert "10-12" in done.stdout
        assert "not_json" in done.stdout
        assert "taobao_trade_TradeBuyerPay" in done.stdout
        assert "\x1b" not in done.stdout
        assert done.stderr.startswith("error: ")
        assert "127.0.0.1:1" in done.stderr

    def test_for_programs_is_one_object(self, config: str) -> None:
        done = call(config, "status", "--json")
        assert done.exit_code == 69
        record = json.loads(done.stdout)
        assert record["queues"] == []
        assert record["store"]["messages"] == 7
        assert record["store"]["dead_letters"] == 1
        assert record["store"]["topics"]["taobao_trade_TradeBuyerPay"] == 1
        assert record["gaps"][0]["first_offset"] == 10
        assert len(record["problems"]) == 1


@pytest.mark.parametrize("arguments", [["messages"], ["timeline", "1"], ["status"]])
def test_without_a_store_the_remedy_is_to_run_once(tmp_path: Path, arguments: list[str]) -> None:
    file = tmp_path / "jst-bridge.toml"
    file.write_text('[app]\nkey = "12345678"\n')
    done = call(str(file), *arguments)
    assert done.exit_code == 69
    assert "there is no store at" in done.stderr
    assert "  remedy: " in done.stderr
    assert not (tmp_path / "jst-bridge.db").exists()
