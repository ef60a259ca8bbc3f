"""`users import`: the file, what becomes of its rows, and the journal that lets it go on."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path
from typing import Any

import pytest

from jst_bridge.onboarding import Journal, Row, Stage, read_roster
from jst_bridge.sandbox.top import Slow, TopGateway
from jst_bridge.store.sellers import Sellers
from jst_bridge.top.parameters import Secret
from tests.top_caller import ADD, SECRET, SESSION
from tests.unit.test_cli_users import LONG, PAY, REFUND, Desk, desk, gateway, wide

__all__ = ["desk", "gateway"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gbk"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_file_is_read_as_spreadsheets_write_it(tmp_path: Path, encoding: str, separator: str) -> None:
    file = tmp_path / "in.csv"
    text = f"Nick,SESSION,group\r\n商家,{SESSION},大\r\n\r\n 店 ,s2,\r\n".replace(",", separator)
    file.write_bytes(text.encode(encoding))
    assert [
        (row.line, row.nick, row.session, row.topics, row.group, row.fault) for row in read_roster(file)
    ] == [
        (2, "商家", SESSION, None, "大", ""),
        (4, "店", "s2", None, "", ""),
    ]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (",s,,", "the nick is empty"),
        ("n,,,", "the session is empty"),
        ("n,a b,,", "blanks"),
        ("n,s,坏,", "坏 is no message type"),
        (f'n,s,"{",".join(f"t{n}" for n in range(21))}",', "more than 20 topics"),
        ("n,s,,default", "reserves"),
        ("n,s,,,extra", "more cells"),
        ("first,s,,", "its nick is in line 2, too"),
        ("n,hidden,,", "its session is in line 2, too"),
        ("n", "the session is empty"),
    ],
)
def test_a_bad_row_says_why(tmp_path: Path, line: str, fault: str) -> None:
    file = tmp_path / "in.csv"
    file.write_text(
        f"nick,session,topics,group\nfirst,hidden,,\n{line}\nlast,two,{PAY} {REFUND},\n", encoding="utf-8"
    )
    first, bad, last = read_roster(file)
    assert fault in bad.fault
    assert (first.fault, last.fault, last.topics) == ("", "", (PAY, REFUND))
    assert "hidden" not in repr(first)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"nick;topics\n",
        b"nick,session,topic\n",
        b"nick,nick,session\n",
        b"\xff\xff\x00",
        b'nick,session\n"a',
    ],
)
def test_what_is_no_such_file_is_one_clear_error(desk: Desk, gateway: TopGateway, content: bytes) -> None:
    file = desk.directory / "in.csv"
    file.write_bytes(content)
    done = desk.call("users", "import", str(file))
    assert done.exit_code == 1
    assert str(file) in done.stderr
    assert gateway.count(ADD) == 0
    assert "Traceback" not in done.stderr


class TestImport:
    def file(self, desk: Desk, gateway: TopGateway, count: int = 4) -> Path:
        file = desk.directory / "in.csv"
        sellers = [gateway.add_seller(f"{LONG[:6]}{number}") for number in range(count)]
        lines = [f"{seller.nick},{seller.session},{PAY},vip" for seller in sellers]
        file.write_text("\n".join(["nick,session,topics,group", *lines, "bad,,,", ""]), encoding="utf-8")
        return file

    def test_a_rehearsal_changes_nothing(self, desk: Desk, gateway: TopGateway) -> None:
        file = self.file(desk, gateway)
        done = desk.call("users", "import", str(file), "--dry-run")
        assert done.exit_code == 1
        assert "to be added  4" in done.stdout
        assert "the session is empty" in done.stdout
        assert gateway.count() == 0
        assert sorted(path.name for path in desk.directory.iterdir()) == ["in.csv", "jst-bridge.toml"]

    def test_adds_all_but_the_bad_ones_and_leaves_a_result(self, desk: Desk, gateway: TopGateway) -> None:
        file = self.file(desk, gateway, 45)
        done = desk.call("users", "import", str(file), "--rate", "1000")
        assert done.exit_code == 1
        assert wide(done.stdout.replace(str(desk.directory), "")) <= 80
        assert len(gateway.open_sellers()) == len(gateway.groups()["vip"]) == 45
        assert desk.rows("SELECT count(*) FROM sellers WHERE seller_group = 'vip'") == [(45,)]
        result = (desk.directory / "in.result.csv").read_text(encoding="utf-8-sig").splitlines()
        assert len(result) == 47
        assert result[-1] == "47,bad,bad row,,the session is empty,"
        for name in ("in.result.csv", "in.journal"):
            assert stat.S_IMODE((desk.directory / name).stat().st_mode) == 0o600
        asked = gateway.count()
        again = desk.call("users", "import", str(file))
        assert "added before  45" in again.stdout
        assert gateway.count() == asked

    def test_a_seller_deleted_since_is_added_again(self, desk: Desk, gateway: TopGateway) -> None:
        file = self.file(desk, gateway)
        desk.call("users", "import", str(file))
        nick = gateway.open_sellers()[0].nick
        desk.call("users", "delete", nick)
        desk.call("users", "import", str(file))
        assert nick in {seller.nick for seller in gateway.open_sellers()}

    def test_another_import_of_the_same_file_has_to_wait(self, desk: Desk, gateway: TopGateway) -> None:
        file = self.file(desk, gateway)
        with Journal(desk.directory / "in.journal", "", ""):
            done = desk.call("users", "import", str(file))
        assert done.exit_code == 75
        assert "another import" in done.stderr
        assert gateway.count() == 0

    def test_somebodys_file_is_not_taken_for_a_journal(self, desk: Desk, gateway: TopGateway) -> None:
        file = self.file(desk, gateway)
        (desk.directory / "in.journal").write_text("my diary\n")
        done = desk.call("users", "import", str(file))
        assert done.exit_code == 1
        assert "is not the journal" in done.stderr
        assert (desk.directory / "in.journal").read_text() == "my diary\n"

    def test_a_store_that_fails_meanwhile_costs_no_second_addition(
        self, desk: Desk, gateway: TopGateway, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = self.file(desk, gateway)
        remember = Sellers.remember

        def gone(sellers: Sellers, opened: Any) -> None:
            shutil.rmtree(desk.directory / "jst-bridge.db", ignore_errors=True)
            (desk.directory / "jst-bridge.db").unlink(missing_ok=True)
            remember(sellers, opened)

        with monkeypatch.context() as patch:
            patch.setattr(Sellers, "remember", gone)
            done = desk.call("users", "import", str(file))
        assert done.exit_code == 75
        assert "that the store does not remember" in done.stderr
        assert "the same command goes on" in done.stderr
        desk.call("users", "import", str(file))
        assert gateway.count(ADD, acted=True) == 4
        assert desk.rows("SELECT count(*) FROM sellers") == [(4,)]

    def test_wrong_keys_stop_it_at_once(self, desk: Desk, gateway: TopGateway) -> None:
        file = self.file(desk, gateway)
        desk.config.write_text(desk.config.read_text().replace(SECRET, "another secret"))
        done = desk.call("users", "import", str(file))
        assert done.exit_code == 77
        assert gateway.count() == 1
        assert "not tried" in (desk.directory / "in.result.csv").read_text(encoding="utf-8-sig")

    def test_a_slow_gateway_is_waited_for(self, desk: Desk, gateway: TopGateway) -> None:
        gateway.inject(Slow(0.2))
        assert "added    1" in desk.call("users", "import", str(self.file(desk, gateway, 1))).stdout


class TestJournal:
    def row(self, **changes: Any) -> Row:
        return Row(**{"line": 2, "nick": "n", "session": Secret("s"), "topics": None, **changes})

    def test_survives_a_line_that_a_kill_has_cut(self, tmp_path: Path) -> None:
        path = tmp_path / "j"
        with Journal(path, "a", "s") as journal:
            journal.note(["one", "two"], Stage.ADDED)
        whole = path.read_bytes()
        for cut in range(len(whole)):
            path.write_bytes(whole[:cut])
            with Journal(path, "a", "s") as journal:
                journal.note(["three"], Stage.DONE)
            with Journal(path, "a", "s") as journal:
                assert journal.stage("three") is Stage.DONE
                assert (journal.stage("two") is None) == (cut < len(whole))

    def test_names_a_row_by_all_that_is_sent(self, tmp_path: Path) -> None:
        journal, other = Journal(tmp_path / "j", "a", "s"), Journal(tmp_path / "j", "b", "s")
        changed = (
            self.row(nick="m"),
            self.row(session=Secret("t")),
            self.row(topics=("x",)),
            self.row(group="g"),
        )
        marks = {journal.mark(row) for row in (self.row(), self.row(line=9), *changed)}
        assert len(marks) == 5
        assert other.mark(self.row()) not in marks
