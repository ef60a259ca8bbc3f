"""`users`, `topics` and `seller-groups` as people and programs see them, against a gateway that is really there."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rich.cells import cell_len

from jst_bridge.cli import cli
from jst_bridge.errors import JstBridgeError
from jst_bridge.onboarding import read_roster
from jst_bridge.sandbox.top import TopGateway
from jst_bridge.settings import App, load
from jst_bridge.store import open_database, open_store
from jst_bridge.store.sellers import Opened, Sellers
from jst_bridge.top import DEFAULT_GATEWAY, SIGN_METHODS
from tests.stores import landing, message, rows
from tests.top_caller import ADD, DELETE, GET, KEY, NICK, SECRET, SESSION, TOPICS, ready

LONG = "沐微霜豆官方旗舰店一二三四五六七八九十"
HOSTILE = "店[/b]\u202e铺"
PAY, REFUND = TOPICS[1], TOPICS[0]


@pytest.fixture
def gateway() -> Iterator[TopGateway]:
    with ready() as running:
        yield running


class Desk:
    """A configuration, and commands that use it."""

    def __init__(self, directory: Path, url: str, secret: str | None = SECRET) -> None:
        self.directory = directory
        self.config = directory / "jst-bridge.toml"
        lines = ["[app]", f'key = "{KEY}"', f'gateway = "{url}"']
        self.config.write_text("\n".join([*lines, f'secret = "{secret}"' if secret else ""]))
        self.database = f"sqlite:///{directory}/jst-bridge.db"

    def call(self, *arguments: str, env: dict[str, str] | None = None, width: int = 80) -> Result:
        runner = CliRunner(env={"COLUMNS": str(width), **(env or {})})
        return runner.invoke(cli, ["-c", str(self.config), *arguments])

    def add(self, nick: str = NICK, session: str = SESSION, *more: str) -> Result:
        return self.call("users", "add", "--nick", nick, *more, env={"JST_SESSION": session})

    def remember(self, *opened: Opened) -> None:
        with closing(Sellers(open_database(self.database))) as sellers:
            sellers.require_usable()
            sellers.remember(opened)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        with closing(open_database(self.database)) as database:
            return rows(database, sql)


@pytest.fixture
def desk(tmp_path: Path, gateway: TopGateway) -> Desk:
    return Desk(tmp_path, gateway.url)


def records(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def wide(text: str) -> int:
    return max(cell_len(line) for line in text.splitlines())


class TestAdd:
    def test_opens_the_seller_reads_it_back_and_remembers_it(self, desk: Desk, gateway: TopGateway) -> None:
        done = desk.add(NICK, SESSION, "--topics", PAY)
        assert done.exit_code == 0, done.stderr
        assert NICK in done.stdout
        assert "valid" in done.stdout
        assert wide(done.stdout) <= 80
        [seller] = gateway.open_sellers()
        assert (seller.nick, seller.topics) == (NICK, (PAY,))
        columns = "nick, user_id, topics, seller_group, is_valid, deleted_at FROM sellers"
        assert desk.rows(f"SELECT {columns}") == [(NICK, str(seller.user_id), PAY, "", 1, None)]
        assert b"CANARY" not in (desk.directory / "jst-bridge.db").read_bytes()

    def test_again_replaces_the_topics_and_keeps_the_day(self, desk: Desk, gateway: TopGateway) -> None:
        desk.add(NICK, SESSION, "--topics", PAY)
        [(added_at,)] = desk.rows("SELECT added_at FROM sellers")
        done = desk.add(NICK, SESSION, "--json")
        [record] = records(done)
        assert (record["nick"], record["topics"], record["remembered"]) == (NICK, None, True)
        assert desk.rows("SELECT added_at, topics FROM sellers") == [(added_at, "")]

    def test_takes_the_session_from_a_file_or_the_environment_but_never_as_an_argument(
        self, desk: Desk, gateway: TopGateway
    ) -> None:
        file = desk.directory / "session"
        file.write_text(f"\ufeff{SESSION}\r\n", encoding="utf-8")
        assert desk.call("users", "add", "--session-file", str(file)).exit_code == 0
        assert desk.call("users", "add", env={"JST_SESSION": SESSION}).exit_code == 0
        assert gateway.count(ADD, acted=True) == 2
        assert not any("session" in name and name != "--session-file" for name in options("users", "add"))

    def test_without_a_nick_says_that_nothing_is_remembered(self, desk: Desk) -> None:
        done = desk.call("users", "add", env={"JST_SESSION": SESSION})
        assert done.exit_code == 0
        assert "name it with --nick" in done.stderr
        assert not (desk.directory / "jst-bridge.db").exists()

    @pytest.mark.parametrize("text", ["", "two words", "店铺", "x" * 257, "x" * 5000])
    def test_what_is_no_session_is_refused_without_being_shown(
        self, desk: Desk, gateway: TopGateway, text: str
    ) -> None:
        file = desk.directory / "session"
        file.write_text(text, encoding="utf-8")
        done = desk.call("users", "add", "--session-file", str(file))
        assert done.exit_code == 2
        assert "holds no session" in done.stderr
        assert not text or text not in done.stderr
        assert gateway.count() == 0

    def test_asks_for_the_session_on_a_terminal_and_does_not_show_it(
        self, desk: Desk, gateway: TopGateway, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("jst_bridge.cli.users._is_asked", lambda: True)
        runner = CliRunner()
        done = runner.invoke(
            cli, ["-c", str(desk.config), "users", "add", "--nick", NICK], input=f"{SESSION}\n"
        )
        assert done.exit_code == 0, done.stderr
        assert "Session" in done.stderr
        assert SESSION not in done.output
        assert [seller.nick for seller in gateway.open_sellers()] == [NICK]

    def test_without_a_session_and_a_terminal_says_where_to_put_it(self, desk: Desk) -> None:
        done = desk.call("users", "add")
        assert done.exit_code == 2
        assert "--session-file" in done.stderr

    def test_of_another_sellers_session_is_not_remembered(self, desk: Desk) -> None:
        done = desk.add("somebody else")
        assert done.exit_code == 1
        assert "another seller" in done.stderr
        assert desk.rows("SELECT count(*) FROM sellers") == [(0,)]

    def test_a_typing_error_in_a_topic_is_pointed_out(self, desk: Desk) -> None:
        done = desk.add(NICK, SESSION, "--topics", "taobao_trade_TradeByerPay")
        assert done.exit_code == 69
        assert f"did you mean {PAY}?" in done.stderr

    def test_a_store_that_cannot_be_used_is_noticed_before_anything_is_done(
        self, desk: Desk, gateway: TopGateway
    ) -> None:
        os.mkdir(desk.directory / "jst-bridge.db")
        done = desk.add()
        assert done.exit_code in (69, 75)
        assert gateway.count(ADD) == 0

    def test_a_store_that_fails_meanwhile_is_told_with_what_to_run(
        self, desk: Desk, gateway: TopGateway, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        usable = Sellers.require_usable

        def then_gone(sellers: Sellers) -> None:
            usable(sellers)
            (desk.directory / "jst-bridge.db").unlink()

        monkeypatch.setattr(Sellers, "require_usable", then_gone)
        done = desk.add()
        assert done.exit_code == 75
        assert f"the platform has added {NICK}, but the store does not remember it" in done.stderr
        assert "run the same command again" in done.stderr
        assert gateway.count(ADD, acted=True) == 1


def options(*names: str) -> list[str]:
    from click import Context

    command: Any = cli
    for name in names:
        command = command.get_command(Context(cli), name)
    return [option for parameter in command.params for option in parameter.opts]


@pytest.mark.parametrize(
    "arguments",
    [
        ("users", "add"),
        ("users", "get", "n"),
        ("users", "delete", "n"),
        ("users", "import", "sellers.csv"),
        ("topics", "get", "n"),
        ("seller-groups", "list"),
        ("seller-groups", "add", "g", "n"),
        ("seller-groups", "delete", "g", "--all"),
    ],
)
class TestEveryCommand:
    def test_without_the_secret_is_a_configuration_error(
        self, tmp_path: Path, gateway: TopGateway, arguments: tuple[str, ...]
    ) -> None:
        done = Desk(tmp_path, gateway.url, secret=None).call(*arguments, env={"JST_SESSION": SESSION})
        assert done.exit_code == 78
        assert "app.secret" in done.stderr
        assert "secret_file" in done.stderr
        assert gateway.count() == 0

    def test_takes_a_gateway_that_is_a_plain_url(self, desk: Desk, arguments: tuple[str, ...]) -> None:
        for url in ("gw.example", "http://u:p@h/router/rest", "http://h/?session=1", "http://h:99999/"):
            done = desk.call(*arguments, "--gateway", url)
            assert done.exit_code == 2
            assert "u:p" not in done.stderr

    def test_knows_json(self, arguments: tuple[str, ...]) -> None:
        assert {"--json", "--gateway"} <= set(options(*arguments[:2]))


def test_the_option_wins_over_the_configured_gateway(tmp_path: Path, gateway: TopGateway) -> None:
    desk = Desk(tmp_path, "http://127.0.0.1:1/router/rest")
    assert desk.call("users", "get", NICK, "--gateway", gateway.url).exit_code == 1
    assert gateway.count(GET) == 1


def test_the_gateway_of_the_settings_is_the_clients(tmp_path: Path) -> None:
    assert App(key="1").gateway == DEFAULT_GATEWAY
    assert set(App.model_fields["sign_method"].annotation.__args__) == set(SIGN_METHODS)  # type: ignore[union-attr]
    file = tmp_path / "jst-bridge.toml"
    file.write_text('[app]\nkey = "1"\ngateway = "ftp://x/"\n')
    with pytest.raises(JstBridgeError, match=r"app\.gateway: must be a plain URL"):
        load(str(file), {})
    assert load(str(file), {"JST_APP__GATEWAY": "http://[::1]:8/rest"}).app.gateway == "http://[::1]:8/rest"


class TestGetAndDelete:
    def test_get_shows_what_the_platform_knows(self, desk: Desk) -> None:
        desk.add()
        [record] = records(desk.call("users", "get", NICK, "--json"))
        assert (record["nick"], record["is_valid"]) == (NICK, True)
        assert NICK in desk.call("users", "get", NICK).stdout

    @pytest.mark.parametrize("unknown", ["quiet", "refused", "empty"])
    def test_get_of_nobody_is_a_clear_line(self, desk: Desk, gateway: TopGateway, unknown: Any) -> None:
        gateway._world.unknown = unknown
        done = desk.call("users", "get", "nobody")
        assert (done.exit_code, done.stdout) == (1, "")
        assert "the platform does not know nobody" in done.stderr

    def test_delete_stops_it_here_and_there(self, desk: Desk, gateway: TopGateway) -> None:
        desk.add()
        done = desk.call("users", "delete", NICK)
        assert done.exit_code == 0, done.stderr
        assert gateway.open_sellers() == ()
        assert desk.rows("SELECT count(*) FROM sellers WHERE deleted_at IS NOT NULL") == [(1,)]
        assert "no seller" in desk.call("users", "list").stderr
        assert "deleted" in desk.call("users", "list", "--all").stdout
        desk.add()
        assert desk.rows("SELECT deleted_at FROM sellers") == [(None,)]

    def test_delete_of_whom_the_platform_forgot_lets_the_store_forget_it(
        self, desk: Desk, gateway: TopGateway
    ) -> None:
        gateway._world.unknown = "refused"
        desk.remember(Opened(NICK))
        done = desk.call("users", "delete", NICK)
        assert done.exit_code == 1
        assert "does not know" in done.stderr
        assert desk.rows("SELECT count(*) FROM sellers WHERE deleted_at IS NULL") == [(0,)]
        assert gateway.count(DELETE) == 1

    @pytest.mark.parametrize("nick", ["", " x", "a\nb", "x" * 129, "a,b"])
    def test_what_is_no_nick_is_wrong_usage(self, desk: Desk, nick: str) -> None:
        assert desk.call("users", "get", nick).exit_code == 2


class TestList:
    def test_shows_who_is_silent_since_when_in_80_columns(self, desk: Desk) -> None:
        now = time.time_ns() // 1_000_000
        desk.remember(*(Opened(nick, "2200000000001", (PAY,), True) for nick in (LONG, "quiet", HOSTILE)))
        with closing(open_store(desk.database)) as store:
            store.open()
            hour = 3_600_000
            store.land(landing(message("a", seller=LONG, published_at=now - 50 * hour)))
            store.land(landing(message("b", seller=HOSTILE, published_at=now - hour - 60_000)))
        done = desk.call("users", "list")
        assert done.exit_code == 0, done.stderr
        assert wide(done.stdout) <= 80
        assert "2d 2h" in done.stdout
        assert "1h 1m" in done.stdout
        assert "never" in done.stdout
        assert "\u202e" not in done.stdout
        found = {record["nick"]: record for record in records(desk.call("users", "list", "--json"))}
        assert found[LONG]["last_published_at"] == now - 50 * hour
        assert found[LONG]["topics"] == [PAY]
        assert found["quiet"]["silent_ms"] is None
        assert [r["nick"] for r in records(desk.call("users", "list", "--silent", "2d", "--json"))] == [LONG]
        assert "no seller" in desk.call("users", "list", "--silent", "9d").stderr

    def test_without_a_store_says_so(self, desk: Desk) -> None:
        done = desk.call("users", "list")
        assert done.exit_code == 69
        assert "there is no store" in done.stderr

    def test_an_export_can_be_imported_once_it_has_sessions(self, desk: Desk) -> None:
        desk.remember(Opened(NICK, "1", (PAY, REFUND), True), Opened(LONG))
        done = desk.call("users", "export")
        assert done.exit_code == 0
        file = desk.directory / "sellers.csv"
        file.write_text(done.stdout, encoding="utf-8")
        assert {row.nick: row.fault for row in read_roster(file)} == dict.fromkeys(
            (NICK, LONG), "the session is empty"
        )
        file.write_text(done.stdout.replace(f"{NICK},", f"{NICK},s"), encoding="utf-8")
        found = {row.nick: row.topics for row in read_roster(file) if not row.fault}
        assert found == {NICK: (PAY, REFUND)}
        assert {record["nick"] for record in records(desk.call("users", "export", "--json"))} == {NICK, LONG}


class TestCheck:
    def test_is_quiet_when_both_agree(self, desk: Desk) -> None:
        desk.add(NICK, SESSION, "--topics", PAY)
        done = desk.call("users", "check")
        assert (done.exit_code, done.stdout) == (0, "")
        assert "1 sellers checked, 0 differ" in done.stderr

    def test_tells_every_kind_of_drift(self, desk: Desk, gateway: TopGateway) -> None:
        nicks = ("gone", "ended", "other topics", "other id", "deleted")
        for nick in nicks:
            session = gateway.add_seller(nick).session
            assert desk.add(nick, session, "--topics", PAY).exit_code == 0
            if nick == "ended":
                gateway.expire(session)
        desk.remember(Opened("gone"), Opened("other id", "1"), Opened("other topics", "", (PAY, REFUND)))
        desk.call("users", "delete", "gone")
        desk.remember(Opened("gone"))
        with closing(Sellers(open_database(desk.database))) as sellers:
            sellers.mark_deleted("deleted")
        done = desk.call("users", "check", "--json")
        assert done.exit_code == 1
        drift = {record["nick"]: " ".join(record["drift"]) for record in records(done)}
        assert "does not know it" in drift["gone"]
        assert "authorisation has ended" in drift["ended"]
        assert f"not open any more: {REFUND}" in drift["other topics"]
        assert "user id" in drift["other id"]
        assert "deleted here" in drift["deleted"]
        assert wide(desk.call("users", "check").stdout) <= 80
        assert desk.rows("SELECT is_valid FROM sellers WHERE nick = 'ended'") == [(0,)]


class TestTopics:
    def test_list_finds_by_name_title_and_glob(self, desk: Desk) -> None:
        done = desk.call("topics", "list", "TradeBuyerPay")
        assert done.exit_code == 0
        assert PAY in done.stdout
        assert wide(done.stdout) <= 80
        everything = desk.call("topics", "list")
        assert wide(everything.stdout) <= 80
        assert "1,279 message types" in everything.stderr
        [record] = records(desk.call("topics", "list", "taobao_trade_TradeClose", "--json"))[:1]
        assert record["family"] == "trade"
        assert {"name", "required", "type", "note"} <= set(record["fields"][0])
        assert wide(desk.call("topics", "list", "*_TradeClose", "--fields").stdout) <= 80

    def test_list_of_nothing_is_exit_1(self, desk: Desk) -> None:
        assert desk.call("topics", "list", "no such topic").exit_code == 1

    def test_get_shows_what_is_open(self, desk: Desk) -> None:
        desk.add(NICK, SESSION, "--topics", PAY)
        assert PAY in desk.call("topics", "get", NICK).stdout
        assert records(desk.call("topics", "get", NICK, "--json")) == [{"nick": NICK, "topics": [PAY]}]

    @pytest.mark.parametrize("unknown", ["quiet", "refused", "empty"])
    def test_get_of_nobody_is_exit_1(self, desk: Desk, gateway: TopGateway, unknown: Any) -> None:
        gateway._world.unknown = unknown
        done = desk.call("topics", "get", "nobody")
        assert done.exit_code == 1
        assert "no message type is open for nobody" in done.stderr


class TestSellerGroups:
    def test_are_added_listed_and_deleted(self, desk: Desk, gateway: TopGateway) -> None:
        nicks = [f"店{number}" for number in range(45)]
        desk.remember(Opened(nicks[0]))
        assert desk.call("seller-groups", "add", "大卖家", *nicks).exit_code == 0
        assert gateway.groups() == {"大卖家": frozenset(nicks)}
        assert desk.rows("SELECT nick, seller_group FROM sellers") == [(nicks[0], "大卖家")]
        listed = desk.call("seller-groups", "list")
        assert "大卖家" in listed.stdout
        assert wide(listed.stdout) <= 80
        assert desk.call("seller-groups", "delete", "大卖家", nicks[0]).exit_code == 0
        assert len(gateway.groups()["大卖家"]) == 44
        assert desk.rows("SELECT seller_group FROM sellers") == [("",)]
        [record] = records(desk.call("seller-groups", "delete", "大卖家", "--all", "--json"))
        assert record["state"] == "deleted"
        assert gateway.groups() == {}

    def test_a_missing_one_is_exit_1(self, desk: Desk) -> None:
        done = desk.call("seller-groups", "list", "nothing")
        assert done.exit_code == 1
        assert "there is no seller group nothing" in done.stderr

    @pytest.mark.parametrize(
        "arguments", [("delete", "g"), ("delete", "g", "n", "--all"), ("add", "default1", "n")]
    )
    def test_what_is_ambiguous_or_reserved_is_wrong_usage(
        self, desk: Desk, arguments: tuple[str, ...]
    ) -> None:
        assert desk.call("seller-groups", *arguments).exit_code == 2
