"""`jst-bridge offsets`: what it shows, what it moves, and when it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from jst_bridge.rocketmq.codes import Request
from tests.scripted import Call, refusing
from tests.scripted_cluster import GROUP, TOPIC
from tests.scripted_operations import Desk, key, online, play


def records(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def prepared(desk: Desk, positions: bool = True) -> None:
    """Two queues of ten and four messages, committed to 6 and not at all, landed to 8 and 2."""
    desk.cluster.publish(10)
    desk.cluster.publish(4, 1)
    desk.cluster.queue(0).committed = 6
    if positions:
        desk.land({key(0): 8, key(1): 2})


def test_show_tells_ends_offsets_and_lag_of_each_queue_the_retry_topic_last(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        prepared(desk)
        stats = b'{"offsetTable":{{"brokerName":"broker-a","queueId":0,"topic":"T"}:{"lastTimestamp":1769821205000}}}'
        desk.cluster.broker.once(
            Request.GET_CONSUME_STATS, lambda call: call.answer(body=b'{"offsetTable":{}}')
        )
        desk.cluster.broker.on(Request.GET_CONSUME_STATS, lambda call: call.answer(body=stats))
        desk.cluster.queue(topic=f"%RETRY%{GROUP}").committed = 0
        result = await desk.call("offsets", "show", "--json")
        assert result.exit_code == 0, result.stderr
        shown = [
            (r["system_topic"], r["queue_id"], r["first"], r["end"], r["committed"], r["position"], r["lag"])
            for r in records(result)
        ]
        assert shown == [
            (TOPIC, 0, 0, 10, 6, 8, 4),
            (TOPIC, 1, 0, 4, None, 2, 2),
            (f"%RETRY%{GROUP}", 0, 0, 0, 0, None, 0),
        ]
        assert records(result)[0]["committed_at"] == 1769821205000
        people = await desk.call("offsets", "show")
        assert "2026-01-31 09:00:05" in people.stdout
        assert "6 messages wait" in people.stdout
        assert max(len(line) for line in people.stdout.splitlines()) <= 80

    play(work, tmp_path, retry=True)


def test_show_works_before_there_is_a_store(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        prepared(desk, positions=False)
        result = await desk.call("offsets", "show")
        assert result.exit_code == 0, result.stderr
        assert "broker-a:0" in result.stdout
        assert not (tmp_path / "bridge.db").exists()

    play(work, tmp_path)


def test_times_that_may_not_be_asked_for_leave_the_rest(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        prepared(desk)
        refused = refusing(16, "User:k has no permission to access Group:G from 127.0.0.1")
        desk.cluster.broker.on(Request.GET_CONSUME_STATS, refused)
        result = await desk.call("offsets", "show", "--json")
        assert result.exit_code == 0, result.stderr
        assert [r["committed_at"] for r in records(result)] == [None, None]

    play(work, tmp_path)


@pytest.mark.parametrize(
    ("to", "expected"),
    [("first", (0, 0)), ("last", (10, 4)), ("store", (8, 2)), ("3", (3, 3)), ("0", (0, 0))],
)
def test_a_reset_moves_broker_and_store(to: str, expected: tuple[int, int], tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        prepared(desk)
        result = await desk.call("offsets", "reset", "--to", to, "--yes")
        assert result.exit_code == 0, result.stderr
        assert (desk.cluster.queue(0).committed, desk.cluster.queue(1).committed) == expected
        assert desk.positions() == {key(0): expected[0], key(1): expected[1]}
        assert "2 of 2 queues are moved" in result.stderr

    play(work, tmp_path)


def test_a_time_is_asked_of_the_broker_and_never_goes_beyond_the_ends(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        prepared(desk)

        def search(call: Call) -> None:
            assert call.ext["timestamp"] == str(1769821200000 - 1)
            call.answer(ext={"offset": {0: "7", 1: "99"}[call.queue[1]]})

        desk.cluster.broker.on(Request.SEARCH_OFFSET_BY_TIMESTAMP, search)
        result = await desk.call("offsets", "reset", "--to", "2026-01-31T09:00", "--yes", "--json")
        assert [(r["from"], r["to"], r["again"], r["skipped"], r["moved"]) for r in records(result)] == [
            (6, 7, 0, 1, True),
            (2, 4, 0, 2, True),
        ]

    play(work, tmp_path)


def test_a_dry_run_says_what_comes_again_and_what_is_skipped_and_moves_nothing(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        prepared(desk)
        result = await desk.call("offsets", "reset", "--to", "3", "--dry-run")
        assert result.exit_code == 0, result.stderr
        assert "3 messages come again, 1 are skipped" in result.stdout
        assert desk.cluster.queue(0).commits == []
        assert desk.positions() == {key(0): 8, key(1): 2}

    play(work, tmp_path)


def test_a_reset_of_a_store_that_is_not_there_makes_none_before_it_is_meant(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        prepared(desk, positions=False)
        result = await desk.call("offsets", "reset", "--to", "first", "--dry-run")
        assert result.exit_code == 0, result.stderr
        refused = await desk.call("offsets", "reset", "--to", "store", "--yes")
        assert refused.exit_code != 0
        assert not (tmp_path / "bridge.db").exists()

    play(work, tmp_path)


def test_queues_can_be_chosen_those_of_the_retry_topic_by_their_whole_name(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        prepared(desk)
        retry = f"%RETRY%{GROUP}@broker-a:0"
        words = ("--queue", "broker-a:1", "--queue", retry)
        result = await desk.call("offsets", "reset", "--to", "last", *words, "--yes", "--json")
        assert [(r["system_topic"], r["queue_id"]) for r in records(result)] == [
            (TOPIC, 1),
            (f"%RETRY%{GROUP}", 0),
        ]
        assert desk.cluster.queue(0).commits == []
        unknown = await desk.call("offsets", "reset", "--to", "last", "--queue", "broker-a:9", "--yes")
        assert unknown.exit_code == 2
        assert "no queue broker-a:9" in unknown.stderr

    play(work, tmp_path, retry=True)


def test_an_offset_beyond_the_end_is_refused_and_one_that_expired_is_raised(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        prepared(desk)
        beyond = await desk.call("offsets", "reset", "--to", "5", "--yes")
        assert beyond.exit_code == 2
        assert "T@broker-a:1 ends at 4" in beyond.stderr
        assert desk.cluster.queue(0).commits == []
        desk.cluster.queue(0).minimum = 4
        raised = await desk.call("offsets", "reset", "--to", "1", "--queue", "broker-a:0", "--yes")
        assert raised.exit_code == 0, raised.stderr
        assert desk.cluster.queue(0).commits == [4]

    play(work, tmp_path)


def test_a_group_that_is_being_read_is_not_moved(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        prepared(desk)
        online(desk, "10.0.0.5@77#1")
        result = await desk.call("offsets", "reset", "--to", "first", "--yes")
        assert result.exit_code == 75
        assert "10.0.0.5@77#1" in result.stderr
        assert "stop every member" in result.stderr
        assert desk.cluster.queue(0).commits == []
        assert desk.positions() == {key(0): 8, key(1): 2}

    play(work, tmp_path)


def test_nobody_to_ask_is_wrong_usage_without_yes(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        prepared(desk)
        result = await desk.call("offsets", "reset", "--to", "first")
        assert result.exit_code == 2
        assert "--yes" in result.stderr
        assert not desk.cluster.broker.calls

    play(work, tmp_path)


def test_on_a_terminal_it_asks_and_a_no_moves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jst_bridge.cli.offsets._is_asked", lambda: True)

    async def work(desk: Desk) -> None:
        prepared(desk)
        no = await desk.call("offsets", "reset", "--to", "first", answer="n\n")
        assert no.exit_code == 1
        assert "nothing was moved" in no.stderr
        assert desk.cluster.queue(0).commits == []
        yes = await desk.call("offsets", "reset", "--to", "first", answer="y\n")
        assert yes.exit_code == 0, yes.stderr
        assert desk.cluster.queue(0).commits == [0]

    play(work, tmp_path)


def test_what_is_neither_time_nor_offset_is_wrong_usage(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        for word in ("yesterday", "-1", "9" * 19):
            result = await desk.call("offsets", "reset", "--to", word, "--yes")
            assert result.exit_code == 2, word

    play(work, tmp_path)


def test_a_queue_whose_broker_refuses_is_told_and_the_others_are_moved(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        prepared(desk)
        moved: list[int] = []

        def commit(call: Call) -> None:
            if call.queue[1] == 1:
                call.answer(2, remark="busy")
            else:
                moved.append(call.queue[1])
                desk.cluster.queue(0).committed = int(call.ext["commitOffset"])
                call.answer()

        desk.cluster.broker.on(Request.UPDATE_CONSUMER_OFFSET, commit)
        result = await desk.call("offsets", "reset", "--to", "last", "--yes")
        assert result.exit_code == 69
        assert moved == [0]
        assert "1 of 2 queues are moved" in result.stderr
        assert "busy" in result.stderr
        assert desk.positions() == {key(0): 10, key(1): 2}

    play(work, tmp_path)


def test_a_group_that_is_there_already_is_left_alone(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        prepared(desk)
        assert (await desk.call("offsets", "reset", "--to", "last", "--yes")).exit_code == 0
        commits = list(desk.cluster.queue(0).commits)
        again = await desk.call("offsets", "reset", "--to", "last", "--yes")
        assert again.exit_code == 0
        assert "nothing to move" in again.stderr
        assert desk.cluster.queue(0).commits == commits

    play(work, tmp_path)


def test_in_broadcasting_only_the_positions_move(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        prepared(desk, positions=False)
        mine, other = key(0, instance="ecs-1"), key(0, instance="ecs-2")
        desk.land({mine: 5, other: 6})
        shown = await desk.call("offsets", "show", "--json")
        assert [(r["instance"], r["position"], r["lag"]) for r in records(shown)] == [
            ("ecs-1", 5, 5),
            ("ecs-1", None, 4),
        ]
        assert "committed" not in (await desk.call("offsets", "show")).stdout
        result = await desk.call("offsets", "reset", "--to", "last", "--yes")
        assert result.exit_code == 0, result.stderr
        assert desk.positions() == {mine: 10, key(1, instance="ecs-1"): 4, other: 6}
        assert desk.cluster.queue(0).commits == []
        assert (await desk.call("offsets", "reset", "--to", "store", "--yes")).exit_code == 2

    play(work, tmp_path, mode="broadcasting", instance="ecs-1")


def test_an_unknown_source_is_told_with_those_there_are(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        result = await desk.call("offsets", "show", "--source", "other")
        assert result.exit_code == 78
        assert "its sources are rocketmq" in result.stderr

    play(work, tmp_path)
