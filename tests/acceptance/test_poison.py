"""Every poison at a random place of ordinary traffic: each one dead letter or one row, and all else lands."""

from __future__ import annotations

import base64
import json
import os
import random
from dataclasses import dataclass
from pathlib import Path

import pytest

from jst_bridge.messages import REASONS
from tests.bridge_process import Installation, lag
from tests.cluster import RunningCluster
from tests.conftest import serial
from tests.poison import POISONS
from tests.traffic import Fact, Truth, traffic

pytestmark = pytest.mark.one_broker
MESSAGES = int(os.environ.get("JST_TEST_POISON_MESSAGES", "4000"))
SEED = int(os.environ.get("JST_TEST_SEED", "1"))
PUBLISHED = [body for body in POISONS.values() if body]
"""No client sends an empty body."""


@dataclass(frozen=True)
class Poisoned:
    """A topic that holds the facts and, somewhere between them, every poison once."""

    topic: str
    facts: list[Fact]


@pytest.fixture(scope="module")
def poisoned(cluster: RunningCluster, tmp_path_factory: pytest.TempPathFactory) -> Poisoned:
    topic = f"rmq_sys_jst_{next(serial)}"
    facts = list(traffic(MESSAGES, seed=SEED))
    lines = [fact.line(topic) for fact in facts]
    dice = random.Random(SEED)
    print(f"seed {SEED}, {len(PUBLISHED)} poisons")
    for body in PUBLISHED:
        lines.insert(dice.randrange(1, len(lines)), poison_line(topic, body))
    file = tmp_path_factory.mktemp("poisoned") / "lines.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    cluster.flood(topic, file, len(lines), batch=32)
    return Poisoned(topic, facts)


def poison_line(topic: str, body: bytes) -> dict[str, object]:
    """As the Java publisher takes it."""
    text = base64.b64encode(body).decode()
    return {"topic": topic, "tag": "taobao_trade_TradeBuyerPay", "body_base64": text}


@pytest.mark.timeout(300)
def test_each_poison_makes_one_dead_letter_or_one_row_and_all_else_lands(
    tmp_path: Path, cluster: RunningCluster, poisoned: Poisoned, group: str, database_url: str
) -> None:
    topic = poisoned.topic
    installation = Installation(tmp_path, cluster.name_server, topic, group, store=database_url)

    outcome = installation.run("run", "--drain")

    assert outcome.code == 0, outcome.err
    assert "Traceback" not in outcome.err
    rows = [bytes(body) for (body,) in installation.rows("SELECT body FROM messages")]
    dead = [bytes(body) for (body,) in installation.rows("SELECT body FROM dead_letters")]
    ordinary = {fact.body for fact in poisoned.facts}
    assert sorted(body for body in rows + dead if body not in ordinary) == sorted(PUBLISHED)
    assert sorted(body for body in rows if body in ordinary) == sorted(ordinary)
    assert not ordinary.intersection(dead)
    reasons = {reason for (reason,) in installation.rows("SELECT reason FROM dead_letters")}
    assert reasons <= REASONS.keys()  # found by decoding: the database had nothing to refuse
    assert (outcome.summary["landed"], outcome.summary["dead_letters"]) == (len(rows), len(dead))
    assert_state_equals(installation, Truth.of(poisoned.facts))
    assert set(lag(cluster, group, topic).values()) == {0}


def assert_state_equals(installation: Installation, truth: Truth) -> None:
    """The state of the ordinary orders, whatever else the poisons made of theirs."""
    trades = {tid: (status, seller) for tid, status, seller in installation.rows(
        "SELECT tid, status, seller FROM trades")}  # fmt: skip
    assert {tid: trades[tid][0] for tid in truth.statuses} == truth.statuses
    assert {tid: trades[tid][1] for tid in truth.sellers} == truth.sellers
    refunds = dict(installation.rows("SELECT refund_id, topic FROM refunds"))
    assert {refund: refunds[refund] for refund in truth.refunds} == truth.refunds
    traces = {(tid, sid or "", action) for tid, sid, action in installation.rows(
        "SELECT tid, out_sid, action FROM logistics_traces")}  # fmt: skip
    orders = truth.sellers.keys()
    assert {trace for trace in traces if trace[0] in orders} == truth.traces
