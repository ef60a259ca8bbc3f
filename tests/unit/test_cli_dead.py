"""`jst-bridge dead` as people and programs see it, on a real store."""

from __future__ import annotations

import base64
import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rich.cells import cell_len

from jst_bridge.cli import body, cli
from jst_bridge.errors import UndecodableError
from jst_bridge.messages import Decoder
from jst_bridge.ports import DeadLetter, Landing, PlainDelivery, QueueKey
from jst_bridge.store import open_store

QUEUE = QueueKey("jushita", "GID_bridge", "", "broker-a", "rmq_sys_jst_12345678", 3)
BORN = 1_769_788_800_000  # 2026-01-31 00:00 in Beijing
PHONE, MAIL = "13812345678", "wei.shuang@example.com"
HOSTILE = "店[/b]\x1b[31m\u202e铺"


def envelope(content: str, outgoing_id: int) -> bytes:
    fields = {
        "content": content,
        "outgoing_id": outgoing_id,
        "publish_time": BORN,
        "topic": "taobao_trade_TradeBuyerPay",
        "user_nick": "沐微霜豆",
    }
    return json.dumps(fields, ensure_ascii=False).encode()


BODIES = (
    b'{"phone": ' + PHONE.encode() + b", oops} " + MAIL.encode(),
    f'{{"店": "{HOSTILE}\n", {PHONE} }}'.encode(),
    ('{"名" "测试", "电话": "' + PHONE + '", "信": "' + MAIL + '"} ').encode("gbk") + b"\0" * 5000,
    envelope(f'{{"tid": 1, "memo": "打 {PHONE}", 坏}}', 5),
    b"",
    envelope('{"tid": 4474213330011932701, "payment": "9.50"}', 6),
    envelope('{"tid": 4474213330011932701, "payment": "9.50"}', 7),
)
UNREADABLE = 5


def letter(number: int, payload: bytes) -> DeadLetter:
    delivery = PlainDelivery(
        payload,
        "taobao_trade_TradeBuyerPay",
        "4474213330011932701",
        f"T{number}",
        "T0",
        9,
        BORN,
        1,
        "",
        QUEUE,
    )
    try:
        Decoder("jushita", "12345678").decode(delivery)
    except UndecodableError as error:
        return DeadLetter(QUEUE, delivery, error.reason, str(error))
    return DeadLetter(QUEUE, delivery, "unknown_compression", f"an older version; call {PHONE}")


@pytest.fixture
def config(tmp_path: Path) -> str:
    """A configuration whose store holds a letter for each of BODIES, with ids from 1."""
    file = tmp_path / "jst-bridge.toml"
    file.write_text('[app]\nkey = "12345678"\n')
    store = open_store(f"sqlite:///{tmp_path}/jst-bridge.db")
    store.open()
    store.land(Landing([], [letter(n, payload) for n, payload in enumerate(BODIES, start=1)], [], []))
    store.close()
    return str(file)


def call(config: str, *arguments: str, width: int = 80) -> Result:
    return CliRunner(env={"COLUMNS": str(width)}).invoke(cli, ["-c", config, "dead", *arguments])


def records(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def wide(text: str) -> int:
    return max(cell_len(line) for line in text.splitlines())


class TestList:
    def test_is_a_table_of_80_columns_the_newest_first(self, config: str) -> None:
        done = call(config, "list")
        assert (done.exit_code, done.stderr) == (0, "")
        assert wide(done.stdout) <= 80
        ids = [line.split()[0] for line in done.stdout.splitlines()[2:] if line[:2].strip().isdigit()]
        assert ids == ["7", "6", "5", "4", "3", "2", "1"]
        assert "jushita TradeBuyerPay" in done.stdout
        assert "not_json: the body" in done.stdout
        assert PHONE not in done.stdout
        assert wide(call(config, "list", "--all").stdout) <= 80

    def test_says_how_many_it_does_not_show(self, config: str) -> None:
        done = call(config, "list", "--limit", "2", "--json")
        assert [row["id"] for row in records(done)] == ["7", "6"]
        assert done.stderr == "and 5 older ones: see --limit\n"

    def test_for_programs_has_everything_but_the_body(self, config: str) -> None:
        (row,) = records(call(config, "list", "--json", "--reason", "empty_body"))
        assert row.pop("dead_at") > BORN
        assert row == {
            "id": "5",
            "source": "jushita",
            "consumer_group": "GID_bridge",
            "instance": "",
            "broker": "broker-a",
            "system_topic": "rmq_sys_jst_12345678",
            "queue_id": 3,
            "transport_id": "T5",
            "origin_id": "T0",
            "queue_offset": 9,
            "tag": "taobao_trade_TradeBuyerPay",
            "keys_": "4474213330011932701",
            "born_at": BORN,
            "attempt": 1,
            "reason": "empty_body",
            "detail": "the body is empty (0 bytes)",
            "replays": 0,
            "outcome": "open",
            "outcome_at": None,
            "outcome_note": None,
            "size": 0,
        }

    def test_leaves_out_what_is_done_unless_asked(self, config: str) -> None:
        assert call(config, "drop", "5", "--why", "seen").exit_code == 0
        assert "5" not in [row["id"] for row in records(call(config, "list", "--json"))]
        done = call(config, "list", "--all", "--reason", "empty_body")
        assert "dropped" in done.stdout

    @pytest.mark.parametrize("arguments", [["--reason", "nothing"], ["--since", "2200-01-01"]])
    def test_of_nothing_is_no_failure(self, config: str, arguments: list[str]) -> None:
        done = call(config, "list", *arguments)
        assert (done.exit_code, done.stdout, done.stderr) == (0, "", "no dead letters\n")


class TestShow:
    def test_tells_what_failed_and_where(self, config: str) -> None:
        done = call(config, "show", "1")
        assert done.exit_code == 0, done.stderr
        assert wide(done.stdout) <= 80
        for expected in (
            "Dead letter 1",
            "not_json: the body is text, but no JSON",
            "2026-01-31 00:00:00",
            "jushita, group GID_bridge",
            "rmq_sys_jst_12345678 broker-a:3, offset 9",
            "T1",
            f"Body, {len(BODIES[0])} bytes",
        ):
            assert expected in done.stdout
        lines = done.stdout.splitlines()
        caret = next(line for line in lines if line.strip() == "^")
        place = lines[lines.index(caret) - 1]
        assert place[caret.index("^") :].startswith("oops}")

    def test_finds_the_place_inside_the_content(self, config: str) -> None:
        lines = call(config, "show", "4").stdout.splitlines()
        caret = next(line for line in lines if line.strip() == "^")
        place = lines[lines.index(caret) - 1]
        assert place == '{"tid": 1, "memo": "打 138****5678", 坏}'
        assert cell_len(place[: place.index("坏")]) == caret.index("^")

    @pytest.mark.parametrize("number", ["1", "2", "3", "4"])
    def test_masks_phones_and_mails_unless_raw(self, config: str, number: str) -> None:
        shown = call(config, "show", number).stdout
        assert PHONE not in shown.replace("\n", "")
        assert PHONE.encode().hex(" ")[:20] not in shown
        assert "shuang" not in shown
        assert "\x1b" not in shown
        assert "\u202e" not in shown
        raw = call(config, "show", number, "--raw").stdout
        assert PHONE in raw or PHONE.encode().hex(" ")[:17] in raw
        assert "\x1b" not in raw

    def test_dumps_what_is_no_text_up_to_4_kib(self, config: str) -> None:
        done = call(config, "show", "3", "--raw")
        dump = [line for line in done.stdout.splitlines() if line[8:10] == "  " and line.endswith("|")]
        assert len(dump) == 256
        assert dump[0] == '00000000  7b 22 c3 fb 22 20 22 b2 e2 ca d4 22 2c 20 22 b5  |{".." "....", ".|'
        assert wide(done.stdout) <= 80
        assert f"... and {len(BODIES[2]) - 4096:,} bytes more" in done.stdout

    def test_for_programs_has_the_exact_bytes(self, config: str) -> None:
        for number, payload in enumerate(BODIES, start=1):
            (row,) = records(call(config, "show", str(number), "--json", "--raw"))
            assert base64.b64decode(row["body_base64"]) == payload
            assert row["body"] == payload.decode("utf-8", "backslashreplace")
            (masked,) = records(call(config, "show", str(number), "--json"))
            assert PHONE not in masked["body"] + masked["detail"]

    def test_of_one_that_is_not_there_exits_1(self, config: str) -> None:
        done = call(config, "show", "404")
        assert (done.exit_code, done.stdout) == (1, "")
        assert done.stderr.startswith("error: there is no dead letter 404\n  remedy: ")
        assert call(config, "show", "x").exit_code == 2

    def test_says_what_became_of_it(self, config: str) -> None:
        call(config, "drop", "1", "--why", "seen [/b]\x1b")
        call(config, "replay", "6")
        assert "because seen [/b]\\x1b" in call(config, "show", "1").stdout
        assert "as tb:12345678:6" in call(config, "show", "6").stdout


class TestReplay:
    @pytest.mark.parametrize(
        "arguments", [[], ["1", "--all"], ["1", "--reason", "x"], ["1", "--since", "2h"], ["0"], ["x"]]
    )
    def test_must_be_told_which(self, config: str, arguments: list[str]) -> None:
        done = call(config, "replay", *arguments)
        assert (done.exit_code, done.stdout) == (2, "")
        assert "Usage" in done.stderr

    def test_says_of_each_what_happened(self, config: str) -> None:
        done = call(config, "replay", "7", "6", "7", "1")
        assert done.exit_code == 1
        lines = done.stdout.splitlines()
        assert [line.split()[0] for line in lines] == ["1", "6", "7"]
        assert "still dead" in lines[0]
        assert "not_json: " in lines[0]
        assert lines[1].split() == ["6", "landed", "tb:12345678:6"]
        assert wide(done.stdout) <= 80
        assert done.stderr == "1 still dead, 2 landed\n"

    def test_succeeds_when_all_that_were_named_are_in_the_store(self, config: str) -> None:
        assert call(config, "replay", "6").exit_code == 0
        done = call(config, "replay", "6", "7", "--json")
        assert done.exit_code == 0
        assert [(row["id"], row["fate"], row["note"]) for row in records(done)] == [
            ("6", "replayed before", "tb:12345678:6"),
            ("7", "landed", "tb:12345678:7"),
        ]
        assert (
            call(config, "replay", "--all", "--reason", "unknown_compression").stderr == "no dead letters\n"
        )

    def test_of_all_takes_the_open_ones(self, config: str) -> None:
        call(config, "drop", "1", "--why", "seen")
        done = call(config, "replay", "--all", "--since", "1h")
        assert done.exit_code == 1
        assert done.stderr == f"{UNREADABLE - 1} still dead, 2 landed\n"
        listed = records(call(config, "list", "--json"))
        assert {row["replays"] for row in listed} == {1}

    def test_refuses_a_dropped_one_and_does_the_others(self, config: str) -> None:
        call(config, "drop", "7", "--why", "seen")
        done = call(config, "replay", "7", "6", "404")
        assert done.exit_code == 1
        assert "error: dropped before, and left as it is: 7\n" in done.stderr
        assert "error: there is no dead letter 404\n" in done.stderr
        assert "6  landed" in done.stdout

    def test_dry_only_reads(self, config: str) -> None:
        before = call(config, "list", "--json", "--all").stdout
        done = call(config, "replay", "--all", "--dry-run")
        assert done.exit_code == 1
        assert done.stderr == f"{UNREADABLE} still dead, 2 readable\n"
        assert call(config, "list", "--json", "--all").stdout == before
        assert call(config, "replay", "6", "--dry-run").exit_code == 0
        assert records(CliRunner().invoke(cli, ["-c", config, "messages", "--json"])) == []


class TestDrop:
    @pytest.mark.parametrize("arguments", [["1"], ["1", "--why", " "], ["--why", "seen"]])
    def test_must_be_told_which_and_why(self, config: str, arguments: list[str]) -> None:
        assert call(config, "drop", *arguments).exit_code == 2
        assert len(records(call(config, "list", "--json"))) == len(BODIES)

    def test_keeps_the_row_and_the_first_reason(self, config: str) -> None:
        assert call(config, "drop", "1", "2", "1", "--why", " not ours ").exit_code == 0
        again = call(config, "drop", "2", "--why", "another")
        assert (again.exit_code, again.stderr) == (0, "1 dropped before\n")
        dropped = [
            row for row in records(call(config, "list", "--json", "--all")) if row["outcome"] == "dropped"
        ]
        assert [(row["id"], row["outcome_note"]) for row in dropped] == [("2", "not ours"), ("1", "not ours")]

    def test_of_a_replayed_one_is_refused_and_the_others_are_done(self, config: str) -> None:
        call(config, "replay", "6")
        done = call(config, "drop", "6", "1", "404", "--why", "seen")
        assert done.exit_code == 1
        assert "error: replayed before, and left as it is: 6\n" in done.stderr
        assert "error: there is no dead letter 404\n" in done.stderr
        assert "1  dropped" in done.stdout


class TestExport:
    def test_writes_every_column_and_the_exact_bytes(self, config: str, tmp_path: Path) -> None:
        file = tmp_path / "letters.jsonl"
        done = call(config, "export", "-o", str(file))
        assert (done.exit_code, done.stdout) == (0, "")
        assert done.stderr == f"{len(BODIES)} dead letters exported to {file}\n"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        assert [base64.b64decode(row["body_base64"]) for row in rows] == list(BODIES)
        assert PHONE in rows[-1]["detail"]
        listed = records(call(config, "list", "--json"))
        assert [set(row) - {"body_base64"} for row in rows] == [set(row) for row in listed]

    def test_goes_to_stdout_by_default_and_takes_what_is_asked_for(self, config: str) -> None:
        call(config, "drop", "1", "--why", "seen")
        assert [row["id"] for row in records(call(config, "export"))] == ["2", "3", "4", "5", "6", "7"]
        assert [row["id"] for row in records(call(config, "export", "--all", "--reason", "not_json"))] == [
            "1",
            "2",
        ]
        assert call(config, "export", "--reason", "none").stderr == "0 dead letters exported\n"

    def test_never_overwrites(self, config: str, tmp_path: Path) -> None:
        file = tmp_path / "letters.jsonl"
        file.write_text("mine")
        done = call(config, "export", "-o", str(file))
        assert done.exit_code == 1
        assert "exists" in done.stderr
        assert "  remedy: " in done.stderr
        assert file.read_text() == "mine"

    def test_into_a_directory_that_is_not_there_is_refused(self, config: str, tmp_path: Path) -> None:
        done = call(config, "export", "-o", str(tmp_path / "nowhere" / "letters.jsonl"))
        assert done.exit_code == 1
        assert "cannot be written" in done.stderr

    def test_that_fails_leaves_no_half_a_file(
        self, config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(_descriptor: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        done = call(config, "export", "-o", str(tmp_path / "letters.jsonl"))
        assert done.exit_code == 1
        assert "cannot be written: No space left on device" in done.stderr
        assert not (tmp_path / "letters.jsonl").exists()


@pytest.mark.parametrize(
    "arguments",
    [["list"], ["show", "1"], ["replay", "--all"], ["replay", "1"], ["drop", "1", "--why", "x"], ["export"]],
)
def test_without_a_store_none_is_made(tmp_path: Path, arguments: list[str]) -> None:
    file = tmp_path / "jst-bridge.toml"
    file.write_text('[app]\nkey = "12345678"\n')
    done = call(str(file), *arguments)
    assert done.exit_code == 69
    assert "there is no store at" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["jst-bridge.toml"]


class TestExcerpt:
    def place(self, payload: bytes, detail: str, *, raw: bool = False) -> str | None:
        """The excerpt with the caret's place marked by an arrow."""
        found = body.excerpt(payload, "", "not_json", detail, raw=raw)
        if found is None:
            return None
        line, caret = found
        assert cell_len(line) <= 80
        columns = caret.index("^")
        before = next(line[:n] for n in range(len(line) + 1) if cell_len(line[:n]) == columns)
        return f"{before}→{line[len(before) :]}"

    def test_marks_characters_and_bytes(self) -> None:
        text = '{"店铺": oops}'
        assert self.place(text.encode(), "no JSON (char 7)") == '{"店铺": →oops}'
        assert self.place(text.encode(), "no JSON at byte 11") == '{"店铺": →oops}'
        assert self.place(b"\xef\xbb\xbf \0" + text.encode(), "no JSON (char 7)") == '{"店铺": →oops}'
        assert self.place(b"{", "no JSON (char 1)") == "{→"

    def test_is_none_where_no_place_is_named(self) -> None:
        for detail in ("no JSON", "the body (5 bytes) is empty", "no JSON (char 9)", "at byte 3"):
            assert self.place(b"{}", detail) is None

    def test_is_cut_to_a_line_with_controls_escaped(self) -> None:
        found = self.place("长\n".encode() * 400, "no JSON (char 401)")
        assert found is not None
        before, after = found.split("→")
        assert (before[0], after[-1]) == ("…", "…")
        assert "\\n" in before

    def test_never_shows_half_a_number(self) -> None:
        payload = f"{PHONE} or ws@x.example".encode()
        for place in range(len(payload)):
            found = self.place(payload, f"no JSON (char {place})")
            assert found is not None
            assert found.replace("→", "") == "138****5678 or w***@x.example"
            shown = self.place(payload, f"no JSON (char {place})", raw=True)
            assert shown is not None
            assert shown.index("→") == place
