"""What `tests/bench/recovery.py` measures, with limits that hold on a busy machine: nothing is lost, and it goes on.

The goals on a quiet machine, and what was measured beside the Java client, are in docs/rocketmq.md.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bench import recovery
from tests.bench.recovery import Lab
from tests.cluster import Cluster, RunningCluster
from tests.java.toolchain import Toolchain

RATE = float(os.environ.get("JST_TEST_RECOVERY_RATE", "50"))
"""Messages a second: two members and a broker share the machine with whatever else runs."""


pytestmark = pytest.mark.alone


@pytest.fixture
def lab(cluster: RunningCluster, java: Toolchain, tmp_path: Path) -> Lab:
    return Lab(cluster, tmp_path, java, RATE)


@pytest.fixture
def own_lab(own_cluster: Callable[..., Cluster], java: Toolchain, tmp_path: Path) -> Lab:
    return Lab(own_cluster(), tmp_path, java, RATE)


@pytest.mark.timeout(400)
def test_after_an_outage_of_the_broker_every_queue_is_read_again(own_lab: Lab) -> None:
    outcome = recovery.broker_down(own_lab, "ours", seconds=2)
    assert outcome.lost == 0
    assert outcome.seconds < 10


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_name_server_is_not_needed_to_read_on(own_lab: Lab) -> None:
    outcome = recovery.name_server_down(own_lab, "ours", seconds=8, after=12)
    assert (outcome.lost, outcome.twice) == (0, 0)
    assert outcome.seconds < 5


@pytest.mark.timeout(400)
def test_the_queues_of_a_killed_member_are_taken_over(lab: Lab) -> None:
    outcome = recovery.member_killed(lab, "ours")
    assert outcome.lost == 0
    assert outcome.seconds < 5


@pytest.mark.timeout(400)
def test_the_queues_of_a_stopped_member_are_taken_over_and_nothing_comes_twice(lab: Lab) -> None:
    outcome = recovery.member_stopped(lab, "ours")
    assert (outcome.lost, outcome.twice) == (0, 0)
    assert outcome.seconds < 5


@pytest.mark.timeout(400)
def test_a_member_that_joins_leaves_no_queue_unread(lab: Lab) -> None:
    outcome = recovery.member_joins(lab, "ours")
    assert outcome.lost == 0
    assert outcome.seconds < 5


@pytest.mark.timeout(400)
def test_a_connection_that_goes_silent_is_found_out_and_all_queues_are_read_again(lab: Lab) -> None:
    outcome = recovery.silent_connection(lab, "ours")
    assert outcome.lost == 0
    assert outcome.seconds < 30  # Java and Go need a hundred, when they meet their own ghost


@pytest.mark.timeout(400)
def test_sigterm_under_traffic_ends_in_order_and_nothing_comes_twice(lab: Lab) -> None:
    outcome = recovery.sigterm(lab, "ours")
    assert (outcome.lost, outcome.twice, outcome.remark) == (0, 0, "exit code 0")
    assert outcome.seconds < 10


@pytest.mark.timeout(400)
def test_a_new_group_gets_its_first_message_soon(lab: Lab) -> None:
    outcome = recovery.first_message(lab, "ours")
    assert (outcome.lost, outcome.twice) == (0, 0)
    assert outcome.seconds < 10
