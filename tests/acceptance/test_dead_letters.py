"""Dead letters as an operator handles them: found after a run, looked at, replayed and dropped."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from jst_bridge.messages import Decoder
from jst_bridge.ports import DeadLetter, Landing, PlainDelivery, QueueKey
from jst_bridge.store import LandingStore, open_store
from tests.bridge_process import Installation
from tests.cluster import RunningCluster, wait_until
from tests.stores import state
from tests.traffic import Fact, Truth, traffic

QUEUE = QueueKey("rocketmq", "GID_bridge", "", "broker-a", "rmq_sys_jst_12345678", 3)
NONSENSE = {
    "not_json": b"{oops",
    "not_an_object": b"[1,2]",
    "not_text": b"\xff\xfe\x00\x01",
    "not_an_envelope": b'{"a":1}',
}


@pytest.fixture
def installation(tmp_path: Path, database_url: str) -> Installation:
    """Its broker is away: dead letters are handled without one."""
    return Installation(tmp_path, "127.0.0.1:1", "rmq_sys_jst_12345678", "GID_bridge", store=database_url)


@pytest.fixture
def store(database_url: str) -> Iterator[LandingStore]:
    opened = open_store(database_url)
    opened.open()
    yield opened
    opened.close()


def arriving(fact: Fact) -> PlainDelivery:
    identity = f"T{fact.outgoing_id}"
    return PlainDelivery(
        fact.body, fact.tag, fact.keys, identity, identity, 5, fact.published_at, 0, "", QUEUE
    )


def given_up(facts: list[Fact], reason: str) -> Landing:
    """A landing as of a version that could not read what this one can."""
    sentence = "an older version could not read it"
    return Landing([], [DeadLetter(QUEUE, arriving(fact), reason, sentence) for fact in facts], [], [])


@pytest.mark.one_broker
def test_after_a_run_they_are_found_looked_at_and_given_up(
    tmp_path: Path, cluster: RunningCluster, topic: str, group: str
) -> None:
    installation = Installation(tmp_path, cluster.name_server, topic, group)
    facts = list(traffic(20))
    bad = [{"topic": topic, "body_base64": base64.b64encode(body).decode()} for body in NONSENSE.values()]
    cluster.publish([*bad, *(fact.line(topic) for fact in facts)])
    assert installation.run("run", "--drain").code == 0

    listed = installation.run("dead", "list", "--json")
    assert listed.code == 0, listed.err
    letters = {row["reason"]: row for row in map(json.loads, listed.out.splitlines())}
    assert letters.keys() == NONSENSE.keys()
    for reason, seen in (("not_json", "{oops"), ("not_text", "ff fe 00 01")):
        shown = installation.run("dead", "show", letters[reason]["id"])
        assert shown.code == 0, shown.err
        assert letters[reason]["transport_id"] in shown.out
        assert seen in shown.out

    for arguments in (["--dry-run"], []):
        again = installation.run("dead", "replay", "--all", *arguments)
        assert (again.code, again.err) == (1, "4 still dead\n")
    assert installation.rows("SELECT DISTINCT outcome, replays FROM dead_letters") == [("open", 1)]
    ids = [row["id"] for row in letters.values()]
    assert installation.run("dead", "drop", *ids, "--why", "sent by a test").code == 0
    assert installation.rows("SELECT DISTINCT outcome_note FROM dead_letters") == [("sent by a test",)]
    assert installation.count() == len(facts)


def test_what_an_older_version_could_not_read_lands_as_if_it_had_just_come(
    installation: Installation, store: LandingStore, tmp_path: Path
) -> None:
    facts = list(traffic(240))
    decoder = Decoder(QUEUE.source, "12345678")
    ordinary = open_store(f"sqlite:///{tmp_path}/ordinary.db")
    ordinary.open()
    ordinary.land(Landing([decoder.decode(arriving(fact)) for fact in facts], [], [], []))
    store.land(given_up(facts[:120], "bad_body"))
    store.land(given_up(facts[120:], "not_json"))

    tried = installation.run("dead", "replay", "--all", "--dry-run")
    assert (tried.code, tried.err) == (0, "240 readable\n")
    assert installation.count() == 0
    first = installation.run("dead", "replay", "--all", "--reason", "not_json", "--json")
    assert (first.code, first.err) == (0, "120 landed\n")
    assert len(first.out.splitlines()) == 120
    rest = installation.run("dead", "replay", "--all")
    assert (rest.code, rest.err) == (0, "120 landed\n")

    columns = (
        "message_key, source, topic, seller, tid, oid, refund_id, published_at, born_at, body_hash, body"
    )
    query = f"SELECT {columns} FROM messages ORDER BY message_key"
    expected = Installation(
        tmp_path, "127.0.0.1:1", "t", "g", store=f"sqlite:///{tmp_path}/ordinary.db"
    ).rows(query)
    assert installation.rows(query) == expected
    assert state(store) == state(ordinary)
    ordinary.close()


def test_a_replay_killed_in_the_middle_and_begun_again_lands_every_message_once(
    installation: Installation, store: LandingStore
) -> None:
    """What it prints is not read, so that it stands still when the pipe is full, long before it is done."""
    facts = list(traffic(2_000))
    store.land(given_up(facts, "not_json"))
    done = "SELECT count(*) FROM dead_letters WHERE outcome = 'replayed'"
    with subprocess.Popen(
        installation.command("dead", "replay", "--all", "--json"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env=installation.environ,
    ) as replaying:
        try:
            wait_until(lambda: installation.rows(done) != [(0,)], "a first batch", 60)
        finally:
            replaying.kill()
    ((replayed,),) = installation.rows(done)
    assert 0 < replayed < len(facts)
    assert installation.count() == replayed

    again = installation.run("dead", "replay", "--all")

    assert (again.code, again.err) == (0, f"{len(facts) - replayed:,} landed\n")
    assert installation.rows(done) == [(len(facts),)]
    keys = [key for (key,) in installation.rows("SELECT message_key FROM messages")]
    assert sorted(keys) == sorted(f"tb:12345678:{fact.outgoing_id}" for fact in facts)
    statuses = dict(installation.rows("SELECT tid, status FROM trades"))
    truth = Truth.of(facts)
    assert {tid: statuses.get(tid) for tid in truth.statuses} == truth.statuses
