"""Dead letters on every database: found, decoded and landed again exactly once, or dropped."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

import pytest

from jst_bridge.errors import UndecodableError
from jst_bridge.messages import Decoder
from jst_bridge.ports import DeadLetter, Delivery, Gap, Message, PlainDelivery, Position
from jst_bridge.store import LandingStore, dead_letters, open_database, open_store
from jst_bridge.store.dead_letters import DeadLetters, Fate, Replay, Result, Selection, drop
from tests.stores import NOW, QUEUE, dead, landing, message, rows, state
from tests.traffic import Fact, traffic

APP_KEY = "12345678"
FACTS = list(traffic(450))

LANDED = (
    "SELECT message_key, source, topic, seller, user_id, tid, oid, refund_id, num_iid, published_at, published_from,"
    " born_at, body_hash, body FROM messages ORDER BY message_key"
)
"""All but what differs by nature: the serial number and the time of landing."""


@pytest.fixture
def store(database_url: str) -> Iterator[LandingStore]:
    opened = open_store(database_url)
    opened.open()
    yield opened
    opened.close()


@pytest.fixture
def ordinary(tmp_path: Path) -> Iterator[LandingStore]:
    """A store to compare with, in which everything landed as it came."""
    opened = open_store(f"sqlite:///{tmp_path}/ordinary.db")
    opened.open()
    yield opened
    opened.close()


def decode(source: str, delivery: Delivery) -> Message:
    return Decoder(source, APP_KEY).decode(delivery)


def arriving(fact: Fact, copy: str = "T") -> PlainDelivery:
    identity = f"{copy}{fact.outgoing_id}"
    return PlainDelivery(
        fact.body, fact.tag, fact.keys, identity, identity, 5, fact.published_at + 9, 2, "", QUEUE
    )


def unread(*deliveries: PlainDelivery, reason: str = "not_json") -> list[DeadLetter]:
    """Letters as a version left them that could not read what this one can."""
    return [DeadLetter(QUEUE, delivery, reason, "an older version") for delivery in deliveries]


class Command(Protocol):
    def __call__(self, decode: dead_letters.Decode = ..., **chosen: Any) -> list[Result]: ...


@pytest.fixture
def replay_all(database_url: str) -> Command:
    """What the command does, on connections of its own."""

    def run(decode: dead_letters.Decode = decode, **chosen: Any) -> list[Result]:
        database = open_database(database_url)
        with closing(database), DeadLetters(database) as letters:
            replay = Replay(database, decode)
            return [result for batch in letters.batches(Selection(**chosen)) for result in replay.run(batch)]

    return run


def fates(results: Sequence[Result]) -> dict[Fate, int]:
    return dict(Counter(result.fate for result in results))


def outcomes(store: LandingStore) -> list[tuple[Any, ...]]:
    return rows(store, "SELECT outcome, count(*) FROM dead_letters GROUP BY outcome ORDER BY outcome")


def test_replayed_letters_leave_the_tables_as_if_they_had_landed(
    store: LandingStore, replay_all: Command, ordinary: LandingStore
) -> None:
    deliveries = [arriving(fact) for fact in FACTS]
    ordinary.land(landing(*(decode(QUEUE.source, delivery) for delivery in deliveries)))
    store.land(landing(dead_letters=unread(*deliveries)))

    results = replay_all()

    assert fates(results) == {Fate.LANDED: len(FACTS)}
    assert rows(store, LANDED) == rows(ordinary, LANDED)
    assert state(store) == state(ordinary)
    assert outcomes(store) == [("replayed", len(FACTS))]
    noted = rows(store, "SELECT outcome_note FROM dead_letters WHERE outcome_at >= dead_at ORDER BY 1")
    assert noted == rows(store, "SELECT message_key FROM messages ORDER BY 1")
    assert replay_all() == []


def test_letters_still_unreadable_stay_open_with_todays_reason_and_stop_no_other(
    store: LandingStore, replay_all: Command
) -> None:
    good = arriving(FACTS[0])
    letters = [dead("T1", body=b"[]"), *unread(good), dead("T2", body=b"{ 1")]
    store.land(landing(dead_letters=letters))

    assert fates(replay_all()) == {Fate.STILL_DEAD: 2, Fate.LANDED: 1}
    first, last = replay_all()
    assert (first.fate, first.reason) == (Fate.STILL_DEAD, "not_an_object")
    assert (last.fate, last.reason) == (Fate.STILL_DEAD, "not_json")

    assert rows(store, "SELECT reason, detail, replays, outcome FROM dead_letters ORDER BY id") == [
        ("not_an_object", "the body is a JSON array, not an object", 2, "open"),
        ("not_json", "an older version", 0, "replayed"),
        ("not_json", last.note, 2, "open"),
    ]
    assert "char 2" in last.note
    assert rows(store, "SELECT count(*) FROM messages") == [(1,)]


def test_a_body_that_could_not_be_unpacked_is_tried_as_it_is(
    store: LandingStore, replay_all: Command
) -> None:
    packed = PlainDelivery(b"\x78\x9c\xff", "t", "", "T1", "T1", 1, NOW)
    store.land(landing(dead_letters=unread(packed, arriving(FACTS[0]), reason="bad_body")))
    assert fates(replay_all()) == {Fate.STILL_DEAD: 1, Fate.LANDED: 1}
    assert rows(store, "SELECT reason, detail, replays FROM dead_letters WHERE outcome = 'open'") == [
        ("bad_body", "an older version", 1)
    ]


def test_a_letter_the_database_refuses_stays_open_and_the_rest_lands(
    store: LandingStore, replay_all: Command
) -> None:
    def with_culprits(source: str, delivery: Delivery) -> Message:
        read = decode(source, delivery)
        if delivery.transport_id in ("T3", "T8"):
            read.published_at = 2**63
        return read

    deliveries = [arriving(fact) for fact in FACTS[:12]]
    for number, delivery in enumerate(deliveries):
        delivery.transport_id = f"T{number}"
    store.land(landing(dead_letters=unread(*deliveries)))
    assert fates(replay_all(with_culprits)) == {Fate.LANDED: 10, Fate.STILL_DEAD: 2}
    refused = (
        "SELECT transport_id, replays, outcome FROM dead_letters WHERE reason = 'store_refused' ORDER BY id"
    )
    assert rows(store, refused) == [("T3", 1, "open"), ("T8", 1, "open")]
    assert rows(store, "SELECT count(*) FROM messages") == [(10,)]
    assert fates(replay_all(reason="store_refused")) == {Fate.LANDED: 2}
    assert rows(store, "SELECT count(*) FROM dead_letters") == [(12,)]


def test_a_defect_of_decoding_leaves_its_letter_open(
    store: LandingStore, replay_all: Command, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(source: str, delivery: Delivery) -> Message:
        if delivery.body == b"{":
            raise RuntimeError("odd \ud800\0")
        return decode(source, delivery)

    store.land(landing(dead_letters=[dead(), *unread(arriving(FACTS[0]))]))
    assert fates(replay_all(broken)) == {Fate.STILL_DEAD: 1, Fate.LANDED: 1}
    assert rows(store, "SELECT reason, outcome FROM dead_letters ORDER BY id") == [
        ("decode_failed", "open"),
        ("not_json", "replayed"),
    ]
    assert "defect" in caplog.text


def test_a_message_that_landed_meanwhile_is_found_and_not_landed_twice(
    store: LandingStore, replay_all: Command
) -> None:
    first, second = FACTS[0], FACTS[1]
    store.land(landing(decode(QUEUE.source, arriving(first, "other"))))
    store.land(
        landing(dead_letters=unread(*(arriving(fact, copy) for copy in "AB" for fact in (first, second))))
    )

    results = replay_all()

    assert [result.fate for result in results] == [
        Fate.HELD_ALREADY,
        Fate.LANDED,
        Fate.HELD_ALREADY,
        Fate.HELD_ALREADY,
    ]
    keys = [f"tb:{APP_KEY}:{fact.outgoing_id}" for fact in (first, second)]
    assert [result.note for result in results] == keys * 2
    assert rows(store, "SELECT message_key FROM messages ORDER BY id") == [(key,) for key in keys]
    assert outcomes(store) == [("replayed", 4)]


def test_another_body_under_a_known_key_lands_beside_it_and_the_letter_says_where(
    store: LandingStore,
    replay_all: Command,
) -> None:
    def same_key(source: str, delivery: Delivery) -> Message:
        return message("k", body=delivery.body)

    store.land(landing(message("k", body=b"held")))
    store.land(landing(dead_letters=[dead(f"T{n}", body=b) for n, b in enumerate((b"one", b"two", b"one"))]))
    results = replay_all(same_key)
    assert [result.fate for result in results] == [Fate.LANDED, Fate.LANDED, Fate.HELD_ALREADY]
    bodies = dict(rows(store, "SELECT message_key, body FROM messages"))
    assert len(bodies) == 3
    assert [bodies[result.note] for result in results] == [b"one", b"two", b"one"]


def test_closed_and_unknown_letters_are_left_as_they_are(store: LandingStore, database_url: str) -> None:
    store.land(landing(dead_letters=unread(*(arriving(fact) for fact in FACTS[:3]))))
    with closing(open_database(database_url)) as database:
        dropped = drop(database, [2, 77], "seen, 没有用 \ud800\0😀")
        assert dropped == [Result(2, Fate.DROPPED, "seen, 没有用 \ufffd\ufffd😀"), Result(77, Fate.UNKNOWN)]
        replay = Replay(database, decode)
        key = f"tb:{APP_KEY}:{FACTS[0].outgoing_id}"
        assert replay.run([1]) == [Result(1, Fate.LANDED, key)]
        before = rows(store, "SELECT * FROM dead_letters ORDER BY id")

        assert replay.run([1, 2, 99]) == [
            Result(1, Fate.REPLAYED_BEFORE, key),
            Result(2, Fate.DROPPED_BEFORE, "seen, 没有用 \ufffd\ufffd😀"),
            Result(99, Fate.UNKNOWN),
        ]
        assert drop(database, [1, 2], "again") == [
            Result(1, Fate.REPLAYED_BEFORE, key),
            Result(2, Fate.DROPPED_BEFORE, "seen, 没有用 \ufffd\ufffd😀"),
        ]
    assert rows(store, "SELECT * FROM dead_letters ORDER BY id") == before
    assert outcomes(store) == [("dropped", 1), ("open", 1), ("replayed", 1)]


def test_a_rehearsal_writes_nothing(store: LandingStore, database_url: str) -> None:
    store.land(landing(dead_letters=[dead(), *unread(arriving(FACTS[0]))]))
    before = rows(store, "SELECT * FROM dead_letters ORDER BY id")
    database = open_database(database_url)
    with closing(database), DeadLetters(database) as letters:
        told = Replay(database, decode).rehearse([1, 2, 3], letters.whole([1, 2, 3]))
    assert [result.fate for result in told] == [Fate.STILL_DEAD, Fate.READABLE, Fate.UNKNOWN]
    assert rows(store, "SELECT * FROM dead_letters ORDER BY id") == before
    assert rows(store, "SELECT count(*) FROM messages") == [(0,)]


def test_positions_and_gaps_are_not_touched(store: LandingStore, replay_all: Command) -> None:
    queues = {"positions": [Position(QUEUE, 4)], "gaps": [Gap(QUEUE, 1, 2, "expired")]}
    store.land(landing(dead_letters=unread(arriving(FACTS[0])), **queues))
    before = [rows(store, f"SELECT * FROM {table}") for table in ("positions", "gaps")]
    replay_all()
    assert [rows(store, f"SELECT * FROM {table}") for table in ("positions", "gaps")] == before


def at_once(*tasks: Callable[[], Any]) -> list[Any]:
    """Run tasks in threads that begin together; what each returned."""
    start = threading.Barrier(len(tasks))
    results: list[Any] = [None] * len(tasks)

    def run(place: int) -> None:
        start.wait()
        try:
            results[place] = tasks[place]()
        except Exception as error:
            results[place] = error

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(tasks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_of_two_people_who_replay_at_once_each_letter_is_landed_by_one(
    store: LandingStore, replay_all: Command, ordinary: LandingStore
) -> None:
    deliveries = [arriving(fact) for fact in FACTS]
    ordinary.land(landing(*(decode(QUEUE.source, delivery) for delivery in deliveries)))
    store.land(landing(dead_letters=unread(*deliveries)))

    one, other = at_once(lambda: replay_all(), lambda: replay_all())

    together = fates(one + other)
    assert together[Fate.LANDED] == len(FACTS)
    assert together.keys() <= {Fate.LANDED, Fate.REPLAYED_BEFORE}
    assert rows(store, LANDED) == rows(ordinary, LANDED)
    assert state(store) == state(ordinary)


def test_a_replay_waits_for_whoever_is_closing_the_letter(server_url: str) -> None:
    reached = threading.Event()

    def seen(source: str, delivery: Delivery) -> Message:
        reached.set()
        return decode(source, delivery)

    with closing(open_store(server_url)) as opened, closing(open_database(server_url)) as other:
        opened.open()
        opened.land(landing(dead_letters=unread(arriving(FACTS[0]))))
        results: list[Result] = []
        replaying = threading.Thread(target=lambda: results.extend(Replay(other, seen).run([1])))

        def closing_it(cursor: Any) -> None:
            cursor.execute("UPDATE dead_letters SET outcome = 'dropped', outcome_note = 'seen' WHERE id = 1")
            replaying.start()
            reached.wait(1.0)  # what did not wait would get there

        opened.database.transact(closing_it)
        replaying.join()
        assert results == [Result(1, Fate.DROPPED_BEFORE, "seen")]
        assert rows(opened, "SELECT count(*) FROM messages") == [(0,)]


def test_a_replay_beside_a_bridge_that_lands_the_same_messages(
    store: LandingStore, ordinary: LandingStore, database_url: str
) -> None:
    """Letters are every second message, of orders that the bridge is landing events of."""
    messages = [decode(QUEUE.source, arriving(fact, "again")) for fact in FACTS]
    ordinary.land(landing(*messages))
    letters = [arriving(fact) for fact in FACTS[::2]]
    store.land(landing(dead_letters=unread(*letters)))

    def bridge() -> int:
        with closing(open_store(database_url)) as landing_store:
            landing_store.open()
            return sum(
                landing_store.land(landing(*messages[start : start + 15])).landed
                for start in range(0, len(messages), 15)
            )

    def replays() -> list[Result]:
        database = open_database(database_url)
        with closing(database):
            replay = Replay(database, decode)
            numbers = range(1, len(letters) + 1)
            return [
                r for start in range(0, len(letters), 15) for r in replay.run(numbers[start : start + 15])
            ]

    landed, results = at_once(bridge, replays)

    told = fates(results)
    assert told.keys() <= {Fate.LANDED, Fate.HELD_ALREADY}
    assert sum(told.values()) == len(letters)
    assert landed + told.get(Fate.LANDED, 0) >= len(FACTS)
    assert rows(store, LANDED.replace("born_at, ", "")) == rows(ordinary, LANDED.replace("born_at, ", ""))
    assert state(store) == state(ordinary)


def test_letters_are_found_by_reason_time_and_outcome(store: LandingStore, database_url: str) -> None:
    store.land(landing(dead_letters=[dead("T1"), *unread(arriving(FACTS[0]), reason="bad_body"), dead("T3")]))
    ((since,),) = rows(store, "SELECT max(dead_at) FROM dead_letters")
    with closing(open_database(database_url)) as database:
        drop(database, [3], "seen")
    with DeadLetters(open_database(database_url)) as letters:

        def found(**chosen: Any) -> list[int]:
            selection = Selection(**chosen)
            listed = [row.id for row in letters.newest(selection, 10)]
            assert len(listed) == letters.count(selection)
            assert [n for batch in letters.batches(selection) for n in batch] == listed[::-1]
            return listed

        assert found() == [2, 1]
        assert found(everything=True) == [3, 2, 1]
        assert found(reason="not_json") == [1]
        assert found(reason="not_json", everything=True, since=since) == [3, 1]
        assert found(since=since + 1) == []
        assert [row.id for row in letters.newest(Selection(everything=True), 2)] == [3, 2]
        letter = letters.whole([2, 9])
    assert list(letter) == [2]
    assert letter[2].delivery() == arriving(FACTS[0])
    assert letter[2].size == len(FACTS[0].body)


def test_batches_are_short_in_number_and_in_bytes(
    store: LandingStore, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, limit in {"BATCH": 3, "BATCH_BYTES": 100, "_PAGE": 4}.items():
        monkeypatch.setattr(dead_letters, name, limit)
    sizes = [10, 10, 10, 10, 95, 10, 150, 1, 1, 1]
    store.land(landing(dead_letters=[dead(f"T{n}", body=b"x" * size) for n, size in enumerate(sizes)]))
    with DeadLetters(open_database(database_url)) as letters:
        assert list(letters.batches(Selection())) == [[1, 2, 3], [4], [5], [6], [7], [8, 9, 10]]
        assert list(letters.batches([9, 5, 9, 404, 1])) == [[1], [5, 9, 404]]
        waiting = letters.batches(Selection())
        next(waiting)
        store.land(landing(dead_letters=[dead("T99")]))
        assert [number for batch in waiting for number in batch] == [4, 5, 6, 7, 8, 9, 10]


def test_what_one_version_cannot_read_another_can(store: LandingStore, replay_all: Command) -> None:
    """The whole way: a decoder that fails, a landing of its letter, a decoder that does not."""
    delivery = arriving(FACTS[0])

    def old(_source: str, _delivery: Delivery) -> Message:
        raise UndecodableError("unknown_form", "this form is not known yet")

    store.land(landing(dead_letters=unread(delivery)))
    assert fates(replay_all(old)) == {Fate.STILL_DEAD: 1}
    assert fates(replay_all(decode, reason="unknown_form")) == {Fate.LANDED: 1}
    assert outcomes(store) == [("replayed", 1)]
