"""A seller's right to be forgotten: what goes, what stays, and that nobody else notices."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from jst_bridge.messages import Decoder
from jst_bridge.messages.families import LogisticsTrace, Trade
from jst_bridge.ports import Message, PlainDelivery
from jst_bridge.store import Database, LandingStore, open_store
from jst_bridge.store.database import now_ms
from jst_bridge.store.purge import Purged, purge, spellings, survey
from jst_bridge.store.rebuild import rebuild
from jst_bridge.store.schema import METADATA
from tests.integration.test_store_retention import alone, keys, some, store, write
from tests.stores import NOW, TID, dead, landing, message, rows, state
from tests.traffic import Fact, traffic

__all__ = ["alone", "store"]


def decoded(facts: Iterable[Fact], **envelope: Any) -> list[Message]:
    """As the source hands them over; `envelope` replaces fields, None leaves one out."""
    messages = []
    for number, fact in enumerate(facts):
        fields = {k: v for k, v in {**json.loads(fact.body), **envelope}.items() if v is not None}
        if "user_nick" in envelope:
            content = json.loads(fields["content"])
            content.pop("seller_nick", None)
            fields["content"] = json.dumps(content)
        body = json.dumps(fields, ensure_ascii=False).encode() if envelope else fact.body
        delivery = PlainDelivery(body, fact.tag, fact.keys, f"T{number}", f"T{number}", number, now_ms())
        messages.append(Decoder("jushita", "12345678").decode(delivery))
    return messages


def everything(database: Database) -> str:
    """All that another program can read, as text; bodies as UTF-8."""
    cells = (
        bytes(cell).decode("utf-8", "replace") if isinstance(cell, bytes | memoryview) else str(cell)
        for table in METADATA.tables
        for row in rows(database, f"SELECT * FROM {table}")
        for cell in row
    )
    return "\n".join(cells)


class TestPurge:
    @pytest.fixture
    def facts(self) -> list[Fact]:
        return list(traffic(600, sellers=12))

    def test_leaves_no_trace_and_no_other_seller_notices(
        self, store: LandingStore, alone: LandingStore, facts: list[Fact]
    ) -> None:
        nick = facts[0].seller
        user_id = json.loads(facts[0].body)["user_id"]
        ours, others = ([f for f in facts if (f.seller == nick) is own] for own in (True, False))
        silent = decoded(traffic(8, seed=3), user_nick=None, user_id=user_id)
        letters = [dead(f"D{n}", body=f'{{"user_nick": "{nick}", {n}'.encode()) for n in range(40)]
        letter = dead("D77", body=f'{{"user_nick": "{nick}x"'.encode())
        store.land(landing(*decoded(facts), *silent, dead_letters=[*letters, letter]))
        alone.land(landing(*decoded(others), dead_letters=[letter]))
        assert rows(store, "SELECT count(*) FROM messages WHERE seller = ''") == [(8,)]

        found = survey(store.database, nick)
        assert found.deleted["messages"] == len(ours) + 8
        assert found.deleted["dead_letters"] == 40
        assert min(found.deleted[table] for table in ("trades", "trade_lines", "logistics_traces")) > 0
        seen: list[int] = []
        done = purge(store.database, nick, progress=lambda count: seen.append(count.rows))
        assert done == found
        assert seen == sorted(seen)
        assert seen[-1] == done.rows

        assert state(store) == state(alone)
        columns = "message_key, seller, body FROM messages ORDER BY message_key"
        assert rows(store, f"SELECT {columns}") == rows(alone, f"SELECT {columns}")
        assert rows(store, "SELECT transport_id FROM dead_letters") == [("D77",)]
        assert not spellings(nick).search(everything(store.database).encode())
        assert rebuild(store.database).differed == 0
        assert survey(store.database, nick).rows == 0

    def test_leaves_no_bytes_in_a_file(self, tmp_path: Path, facts: list[Fact]) -> None:
        file = tmp_path / "bridge.db"
        with closing(open_store(f"sqlite:///{file}")) as store:
            store.open()
            nick = "被遗忘的旗舰店"
            letters = [dead(f"D{n}", body=f"nick={nick}".encode()) for n in range(3)]
            store.land(landing(*decoded(facts)))
            store.land(landing(*decoded(list(traffic(300, seed=2)), user_nick=nick), dead_letters=letters))

            def contents() -> bytes:
                return b"".join(path.read_bytes() for path in tmp_path.iterdir() if path.suffix != ".db-shm")

            assert contents().count(nick.encode()) > 300
            store.database.transact(lambda cursor: cursor.execute("PRAGMA secure_delete = OFF").fetchall())
            done = purge(store.database, nick)
            assert done.erased
            assert nick.encode() not in contents()
            assert len(keys(store)) == 600
            assert store.land(landing(*some(0, 1))).landed == 1

    def test_says_when_a_reader_keeps_the_log_from_being_emptied(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("jst_bridge.store.purge.LOG_SECONDS", 0.1)
        with closing(open_store(f"sqlite:///{tmp_path}/bridge.db")) as store:
            store.open()
            store.land(landing(*some(0, 10)))
            with closing(store.database.connect_reading()) as reader:
                reader.execute("BEGIN")
                reader.execute("SELECT count(*) FROM messages").fetchall()
                assert not purge(store.database, "沐微霜").erased
            assert purge(store.database, "沐微霜").erased

    def test_of_what_is_old_leaves_the_state_that_the_rest_makes(
        self, store: LandingStore, alone: LandingStore, facts: list[Fact]
    ) -> None:
        nick, before = facts[0].seller, facts[400].published_at
        store.land(landing(*decoded(facts)))
        alone.land(landing(*decoded(f for f in facts if f.seller != nick or f.published_at >= before)))
        found = survey(store.database, nick, before)
        assert purge(store.database, nick, before) == found
        assert found.deleted["messages"] == sum(f.seller == nick and f.published_at < before for f in facts)
        assert found.rewritten["trades"] > 0
        assert state(store) == state(alone)
        assert len(keys(store)) == len(keys(alone))
        assert rebuild(store.database).differed == 0

    def test_of_what_is_old_forgets_values_whose_messages_were_pruned(self, store: LandingStore) -> None:
        memo = Trade(tid=TID, oid=TID, seller_memo="call me", seller_flag=3)
        paid = Trade(tid=TID, oid=TID, status="WAIT_SELLER_SEND_GOODS")
        topic = "taobao_trade_TradeMemoModified"
        store.land(
            landing(message("a", content=memo, topic=topic), message("b", content=paid, published_at=NOW + 9))
        )
        write(store, "DELETE FROM messages WHERE message_key = 'a'")
        columns = "SELECT seller_memo, seller_flag, status, message_key, older FROM trades"
        assert rows(store, columns)[0][:2] == ("call me", 3)
        purge(store.database, "沐微霜", NOW + 9)
        assert rows(store, columns) == [(None, None, "WAIT_SELLER_SEND_GOODS", "b", "")]

    def test_is_exact_about_the_nick(self, store: LandingStore) -> None:
        nicks = ["shop", "Shop", "shop1", "shöp", "店", "旗舰店", "shop "]
        lines = {n: {"tid": str(n + 1), "oid": str(n + 1), "user_id": str(n + 1)} for n in range(len(nicks))}
        store.land(landing(*(message(f"m{n}", seller=nicks[n], **line) for n, line in lines.items())))
        trace = {"content": LogisticsTrace(tid=TID), "topic": "taobao_logistics_LogsticDetailTrace"}
        store.land(
            landing(*(message(f"t{n}", seller=nicks[n], **line, **trace) for n, line in lines.items()))
        )
        done = purge(store.database, "shop")
        assert [count for count in done.deleted.values() if count] == [2, 1, 1]
        assert keys(store) == [f"{kind}{n}" for kind in "mt" for n in range(1, 7)]
        assert rows(store, "SELECT seller FROM trades ORDER BY tid") == [(nick,) for nick in nicks[1:]]

    def test_keeps_what_lands_meanwhile(self, store: LandingStore) -> None:
        store.land(landing(*some(0, 5, topic="taobao_trade_TradeCreate")))
        late = message("late", tid="1", oid="1", published_at=NOW + 99)

        def land_late(_: Purged) -> None:
            store.land(landing(late))

        purge(store.database, "沐微霜", progress=land_late)
        assert keys(store) == ["late"]
        assert rows(store, "SELECT tid, message_key, older FROM trades") == [("1", "late", "")]
        assert rebuild(store.database).differed == 0

    def test_interrupted_anywhere_and_begun_again_it_finds_the_rest(
        self, store: LandingStore, alone: LandingStore, facts: list[Fact]
    ) -> None:
        nick, user_id = facts[0].seller, json.loads(facts[0].body)["user_id"]
        silent = decoded(traffic(8, seed=3), user_nick=None, user_id=user_id)
        store.land(landing(*decoded(facts), *silent, dead_letters=[dead(body=nick.encode())]))
        alone.land(landing(*decoded(fact for fact in facts if fact.seller != nick)))
        calls = itertools.count(1)

        def interrupt(_: Purged) -> None:
            if next(calls) % 2 == 0:
                raise KeyboardInterrupt

        for _ in range(20):
            try:
                purge(store.database, nick, progress=interrupt)
                break
            except KeyboardInterrupt:
                continue
        purge(store.database, nick)
        assert state(store) == state(alone)
        assert sorted(keys(store)) == sorted(keys(alone))
        assert rows(store, "SELECT count(*) FROM dead_letters") == [(0,)]

    def test_of_nobody_is_a_defect(self, store: LandingStore) -> None:
        with pytest.raises(ValueError, match="empty"):
            purge(store.database, "")

    def test_finds_a_dead_letter_that_names_the_seller_only_by_its_id(self, store: LandingStore) -> None:
        fact = next(traffic(1))
        [readable] = decoded([fact], user_nick=None)
        bodies = {"D1": readable.delivery.body, "D2": readable.delivery.body.replace(b"73374", b"83374")}
        store.land(landing(*decoded([fact]), dead_letters=[dead(t, body=b) for t, b in bodies.items()]))
        purge(store.database, fact.seller)
        assert rows(store, "SELECT transport_id FROM dead_letters") == [("D2",)]


NICK = "沐微霜/A😀"
ESCAPED = json.dumps(NICK)[1:-1]


@pytest.mark.parametrize(
    "body",
    [
        f'{{"user_nick":"{NICK}"}}'.encode(),
        f'{{"user_nick":"{ESCAPED}"}}'.encode(),
        f'{{"user_nick":"{ESCAPED.upper().replace("U", "u")}"}}'.encode(),
        json.dumps({"content": json.dumps({"seller_nick": NICK})}).encode(),
        json.dumps({"content": json.dumps({"seller_nick": NICK}, ensure_ascii=False)}).encode(),
        f'{{"user_nick":"沐{ESCAPED[6:]}"}}'.encode(),
        f'{{"user_nick":"{NICK}"}}'.replace("/", "\\/").encode(),
        f"user_nick={NICK}&x".encode("gb18030"),
        NICK.encode(),
        f'\\u0022{ESCAPED}\\u0022'.encode(),
        f'"{NICK}:客服"'.encode(),
        b"\xff\x00 " + NICK.encode(),
    ],
    ids=lambda body: body.decode("utf-8", "replace")[:60],
)  # fmt: skip
def test_a_nick_is_found_however_it_is_written(body: bytes) -> None:
    assert spellings(NICK).search(body)


@pytest.mark.parametrize(
    "body",
    [
        f"“{NICK}1”".encode(),
        f'"x{NICK}"'.encode(),
        f'"{NICK}店"'.encode(),
        f'"大{NICK}"'.encode(),
        f'"{NICK}\\u5e97"'.encode(),
        f'"\\u5e97{NICK}"'.encode(),
        f'"{NICK.lower()}"'.encode(),
        NICK[:-1].encode(),
        f"大{NICK}".encode("gb18030"),
    ],
    ids=lambda body: body.decode("utf-8", "replace")[:60],
)
def test_a_longer_or_another_nick_is_not_taken_for_it(body: bytes) -> None:
    assert not spellings(NICK).search(body)
