"""`jst-bridge store`, on a SQLite file: what it shows, what it changes, when it refuses."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from rich.cells import cell_len

from jst_bridge.cli import cli
from jst_bridge.messages import Decoder
from jst_bridge.ports import PlainDelivery
from jst_bridge.store import LandingStore, open_store
from jst_bridge.store.database import now_ms
from jst_bridge.store.leases import acquire
from jst_bridge.store.migrations import newest
from tests.stores import dead, landing, message, rows
from tests.traffic import traffic

HOSTILE = "店[/b]\x1b[31m\u202e铺"
DAY = 24 * 3600 * 1000


@pytest.fixture
def config(tmp_path: Path) -> str:
    file = tmp_path / "jst-bridge.toml"
    file.write_text('[app]\nkey = "12345678"\n')
    return str(file)


@pytest.fixture
def store(tmp_path: Path, config: str) -> Iterator[LandingStore]:
    """Holds 60 messages of several sellers, 40 days old but for the last 10, one of HOSTILE, and a dead letter."""
    opened = open_store(f"sqlite:///{tmp_path}/jst-bridge.db")
    opened.open()
    decoder = Decoder("jushita", "12345678")
    deliveries = [
        PlainDelivery(fact.body, fact.tag, fact.keys, f"T{n}", f"T{n}", n, now_ms())
        for n, fact in enumerate(traffic(59, sellers=3))
    ]
    hostile = message("hostile", seller=HOSTILE, user_id="1", tid="1", oid="1", body=HOSTILE.encode())
    opened.land(landing(*map(decoder.decode, deliveries), hostile, dead_letters=[dead()]))
    ages = f"{now_ms()} - CASE WHEN id <= 50 THEN {40 * DAY} ELSE 0 END"
    write(opened, f"UPDATE messages SET landed_at = {ages}, born_at = {ages}")
    yield opened
    opened.close()


def write(store: LandingStore, statement: str) -> None:
    store.database.transact(lambda cursor: cursor.execute(statement))


def call(config: str, *arguments: str, answer: str | None = None) -> Result:
    runner = CliRunner(env={"COLUMNS": "80"})
    return runner.invoke(cli, ["-c", config, "store", *arguments], input=answer)


def wide(text: str) -> int:
    return max(cell_len(line) for line in text.splitlines())


@pytest.fixture
def on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jst_bridge.cli.store._is_asked", lambda: True)


class TestInfo:
    def test_shows_rows_sizes_and_ages_in_80_columns(self, config: str, store: LandingStore) -> None:
        done = call(config, "info")
        assert done.exit_code == 0, done.stderr
        assert wide(done.stdout) <= 80
        lines = {line.split()[0]: line.split() for line in done.stdout.splitlines() if line.strip()}
        assert lines["messages"][1] == "60"
        assert lines["messages"][-1] == "landed"
        assert lines["dead_letters"][1] == "1"
        assert lines["gaps"][1] == "0"
        assert lines["schema"] == ["schema", str(newest())]

    def test_as_json_has_epoch_milliseconds(self, config: str, store: LandingStore) -> None:
        found = json.loads(call(config, "info", "--json").stdout)
        assert found["store"].endswith("jst-bridge.db")
        assert (found["schema"], found["free_bytes"]) == (newest(), 0)
        tables = {table["name"]: table for table in found["tables"]}
        assert tables["messages"]["rows"] == 60
        assert tables["messages"]["newest"] - tables["messages"]["oldest"] == 40 * DAY

    def test_of_no_store_makes_none(self, config: str, tmp_path: Path) -> None:
        done = call(config, "info")
        assert done.exit_code == 69
        assert "no store at" in done.stderr
        assert "remedy" in done.stderr
        assert [path.name for path in tmp_path.iterdir()] == ["jst-bridge.toml"]


class TestMigrate:
    def test_makes_the_tables_once(self, config: str, tmp_path: Path) -> None:
        first, again = call(config, "migrate"), call(config, "migrate")
        assert (first.exit_code, again.exit_code) == (0, 0)
        assert f"has schema {newest()} now: " in first.stdout.replace("\n", "")
        assert f"already has schema {newest()}" in again.stdout.replace("\n", "")
        assert json.loads(call(config, "info", "--json").stdout)["schema"] == newest()

    def test_prints_the_whole_schema_of_a_store_that_is_not_there_and_makes_none(
        self, config: str, tmp_path: Path
    ) -> None:
        done = call(config, "migrate", "--print-sql")
        assert done.exit_code == 0
        assert not (tmp_path / "jst-bridge.db").exists()
        with closing(sqlite3.connect(":memory:")) as connection:
            connection.executescript(done.stdout)
            assert connection.execute("SELECT version FROM schema_migrations").fetchall() == [(newest(),)]
            assert connection.execute("SELECT count(*) FROM v_messages").fetchall() == [(0,)]

    def test_prints_what_is_lacking_and_changes_nothing(self, config: str, store: LandingStore) -> None:
        write(store, "DROP TABLE leases")
        write(store, "DELETE FROM schema_migrations")
        write(store, "INSERT INTO schema_migrations VALUES (1, 1)")
        done = call(config, "migrate", "--print-sql")
        assert "CREATE TABLE leases (" in done.stdout
        assert "CREATE TABLE messages" not in done.stdout
        assert rows(store, "SELECT version FROM schema_migrations") == [(1,)]

    def test_prints_nothing_when_nothing_is_lacking(self, config: str, store: LandingStore) -> None:
        done = call(config, "migrate", "--print-sql")
        assert (done.exit_code, done.stdout) == (0, "")
        assert "already has schema" in done.stderr


class TestPrune:
    def test_counts_only_in_a_dry_run(self, config: str, store: LandingStore) -> None:
        done = call(config, "prune", "--dry-run")
        assert done.exit_code == 0, done.stderr
        assert done.stdout.startswith("50 messages that landed before ")
        assert done.stdout.endswith(" would be deleted\n")
        assert rows(store, "SELECT count(*) FROM messages") == [(60,)]

    def test_deletes_what_is_old_and_gives_the_lease_back(self, config: str, store: LandingStore) -> None:
        done = call(config, "prune", "--json")
        assert done.exit_code == 0, done.stderr
        assert json.loads(done.stdout)["messages"] == 50
        assert rows(store, "SELECT count(*), min(id) FROM messages") == [(10, 51)]
        assert rows(store, "SELECT count(*) FROM leases") == [(0,)]
        assert call(config, "prune").stdout.startswith("0 messages that landed before ")

    def test_leaves_it_to_a_bridge_that_prunes(self, config: str, store: LandingStore) -> None:
        acquire(store.database, "prune", "host-7 pid 42", 300)
        done = call(config, "prune")
        assert done.exit_code == 75
        assert "host-7 pid 42" in done.stderr
        assert "remedy" in done.stderr
        assert rows(store, "SELECT count(*) FROM messages") == [(60,)]

    def test_refuses_when_messages_are_kept_forever(self, config: str, store: LandingStore) -> None:
        with open(config, "a") as file:
            file.write('[store]\nkeep_messages = "forever"\n')
        for arguments in (["prune"], ["prune", "--dry-run"]):
            done = call(config, *arguments)
            assert done.exit_code == 78
            assert "keep_messages" in done.stderr
            assert "remedy" in done.stderr

    def test_interrupted_keeps_what_is_done_and_gives_the_lease_back(
        self, config: str, store: LandingStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupt(_: float) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("jst_bridge.cli.store.time.sleep", interrupt)
        done = call(config, "prune")
        assert done.exit_code == 130
        assert "interrupted: 50 messages deleted so far" in done.stderr
        assert rows(store, "SELECT count(*) FROM leases") == [(0,)]

    @pytest.mark.parametrize(
        "command", [["prune"], ["prune", "--dry-run"], ["purge", "--seller", "x", "--yes"]]
    )
    def test_of_no_store_makes_none(self, config: str, tmp_path: Path, command: list[str]) -> None:
        done = call(config, *command)
        assert done.exit_code == 69
        assert "jst-bridge store migrate" in done.stderr
        assert [path.name for path in tmp_path.iterdir()] == ["jst-bridge.toml"]


class TestPurge:
    def test_needs_somebody_to_ask_or_yes(self, config: str, store: LandingStore) -> None:
        done = call(config, "purge", "--seller", HOSTILE, answer="y\n")
        assert done.exit_code == 2
        assert "--yes" in done.stderr
        assert rows(store, "SELECT count(*) FROM messages") == [(60,)]

    @pytest.mark.parametrize("nick", ["", "\0", "\udc80"])
    def test_refuses_what_is_no_nick(self, config: str, store: LandingStore, nick: str) -> None:
        done = call(config, "purge", "--yes", "--seller", nick)
        assert done.exit_code == 2
        assert "--seller" in done.stderr

    @pytest.mark.usefixtures("on_a_terminal")
    def test_shows_what_there_is_and_does_nothing_when_told_no(
        self, config: str, store: LandingStore
    ) -> None:
        done = call(config, "purge", "--seller", HOSTILE, answer="n\n")
        assert done.exit_code == 1
        assert done.stdout == ""
        assert "messages" in done.stderr
        assert "nothing was deleted" in done.stderr
        assert "\x1b" not in done.stderr
        assert "\u202e" not in done.stderr
        assert rows(store, "SELECT count(*) FROM messages") == [(60,)]

    @pytest.mark.usefixtures("on_a_terminal")
    def test_forgets_the_seller_when_told_yes(self, config: str, store: LandingStore) -> None:
        done = call(config, "purge", "--seller", HOSTILE, answer="y\n")
        assert done.exit_code == 0, done.stderr
        counts = {line.split()[0]: line.split()[-1] for line in done.stdout.splitlines() if line.strip()}
        assert (counts["messages"], counts["trades"], counts["refunds"]) == ("1", "1", "0")
        assert wide(done.stdout) <= 80
        assert "lands again" in done.stderr
        assert rows(store, "SELECT count(*) FROM messages") == [(59,)]

    @pytest.mark.usefixtures("on_a_terminal")
    def test_asks_nothing_when_there_is_nothing(self, config: str, store: LandingStore) -> None:
        done = call(config, "purge", "--seller", "nobody", answer="y\n")
        assert (done.exit_code, done.stdout) == (0, "")
        assert "nothing of nobody" in done.stderr

    def test_with_yes_asks_nobody(self, config: str, store: LandingStore) -> None:
        nick = rows(store, "SELECT seller FROM messages WHERE id = 1")[0][0]
        done = call(config, "purge", "--seller", nick, "--yes", "--json")
        assert done.exit_code == 0, done.stderr
        found = json.loads(done.stdout)
        assert found["seller"] == nick
        assert found["before"] is None
        assert found["erased"] is True
        assert found["deleted"]["messages"] + rows(store, "SELECT count(*) FROM messages")[0][0] == 60
        assert rows(store, f"SELECT count(*) FROM messages WHERE seller = '{nick}'") == [(0,)]

    def test_of_what_is_old_leaves_what_is_young(self, config: str, store: LandingStore) -> None:
        first = rows(store, "SELECT seller, published_at FROM messages WHERE id = 1")[0]
        write(store, f"UPDATE messages SET published_at = {now_ms()} WHERE id > 1 AND seller = '{first[0]}'")
        done = call(config, "purge", "--seller", first[0], "--before", "1d", "--yes")
        assert done.exit_code == 0, done.stderr
        assert "folded again" in done.stdout
        assert rows(store, "SELECT count(*), min(id) FROM messages") == [(59, 2)]


class TestRebuild:
    def test_says_that_nothing_differed(self, config: str, store: LandingStore) -> None:
        write(store, "DELETE FROM messages WHERE message_key = 'hostile'")
        done = call(config, "rebuild")
        assert done.exit_code == 0, done.stderr
        assert wide(done.stdout) <= 80
        assert "every row is what they say" in done.stdout

    def test_repairs_and_shows_what_differed(self, config: str, store: LandingStore) -> None:
        write(store, "DELETE FROM messages WHERE message_key = 'hostile'")
        write(store, "UPDATE trades SET status = 'NONSENSE' WHERE seller <> '' AND tid <> '1'")
        count = rows(store, "SELECT count(*) FROM trades WHERE status = 'NONSENSE'")[0][0]
        done = call(config, "rebuild")
        assert done.exit_code == 0, done.stderr
        assert wide(done.stdout) <= 80
        assert "NONSENSE" in done.stdout
        assert f"{count} rows differed, and are repaired" in " ".join(done.stdout.split())
        assert rows(store, "SELECT count(*) FROM trades WHERE status = 'NONSENSE'") == [(0,)]

    def test_as_json_masks_free_text(self, config: str, store: LandingStore) -> None:
        write(store, "UPDATE trades SET seller_memo = 'call 13812345678'")
        found = json.loads(call(config, "rebuild", "--json").stdout)
        assert found["tables"]["trades"]["changed"] > 0
        shown = [one for one in found["differences"] if one["field"] == "seller_memo"]
        assert shown[0]["was"] == "call 138****5678"
        assert "13812345678" not in json.dumps(found)
