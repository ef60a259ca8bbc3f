"""The main job on a real broker: whatever the official Java client publishes lands, once, and is typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bridge_process import Installation
from tests.cluster import RunningCluster
from tests.samples import samples
from tests.traffic import Truth, traffic

NONSENSE = (
    ("not JSON", b"{oops", "not_json"),
    ("a list", b"[1,2]", "not_an_object"),
    ("no text", b"\xff\xfe\x00\x01", "not_text"),
    ("an envelope of nothing", b'{"a":1}', "not_an_envelope"),
)


@pytest.fixture
def installation(tmp_path: Path, cluster: RunningCluster, topic: str, group: str) -> Installation:
    return Installation(tmp_path, cluster.name_server, topic, group)


def test_all_samples_land_and_the_admin_tool_sees_no_lag(
    installation: Installation, cluster: RunningCluster
) -> None:
    topic = installation.topic
    wild = samples()
    enveloped = [sample for sample in wild if b'"id"' in sample.body or b'"outgoing_id"' in sample.body]
    cluster.publish(sample.line(topic) for sample in wild)
    cluster.publish(sample.line(topic) for sample in enveloped)  # the platform delivers at least once

    outcome = installation.run("run", "--drain")

    assert outcome.code == 0, outcome.err
    landing = [sample for sample in wild if sample.lands]
    assert installation.count() == len(landing)
    assert installation.count("dead_letters") == len(wild) - len(landing)
    assert outcome.summary["landed"] == len(landing)
    assert outcome.summary["duplicates"] == len(enveloped)
    bodies = {bytes(body) for (body,) in installation.rows("SELECT body FROM messages")}
    assert bodies == {sample.body for sample in landing}
    rows = [row for row in cluster.consumer_progress(installation.group) if row.topic == topic]
    assert {row.queue: row.diff for row in rows} == dict.fromkeys(range(8), 0)


def test_state_tables_show_the_newest_state(installation: Installation, cluster: RunningCluster) -> None:
    cluster.publish(sample.line(installation.topic) for sample in reversed(samples()))

    assert installation.run("run", "--drain").code == 0

    (trade,) = installation.rows(
        "SELECT seller, status, payment, buyer_nick FROM trades WHERE tid = '58827845840332256'"
    )
    assert trade == ("谷花海微雪豆", "TRADE_NO_CREATE_PAY", "0.10", "msiajsopvr")
    # Same body and time under two topics: the later step of a refund's life wins, whatever came first.
    refund = "SELECT tid, seller, topic, refund_fee FROM refunds WHERE refund_id = '3294084395821101'"
    assert installation.rows(refund) == [
        ("54343705877212813", "原糖麦桃林宝", "taobao_refund_RefundSellerAgreeAgreement", "59.78")
    ]
    trace = "SELECT out_sid, action FROM logistics_traces WHERE tid = '43523724247624346'"
    assert installation.rows(trace) == [("685264139374", "ARRIVAL")]
    assert installation.rows(
        "SELECT tid FROM messages WHERE tid = '2918463734761365258'"
    )  # beyond 2^53, exact


def test_undecodable_bodies_become_dead_letters_and_the_rest_of_their_batch_lands(
    installation: Installation, cluster: RunningCluster
) -> None:
    import base64

    facts = list(traffic(40))
    lines = [fact.line(installation.topic) | {"queue": 0} for fact in facts]
    for place, (_, body, _) in zip((0, 7, 20, 40), NONSENSE, strict=True):
        bad = {"topic": installation.topic, "queue": 0, "body_base64": base64.b64encode(body).decode()}
        lines.insert(place, bad)
    cluster.publish(lines)

    outcome = installation.run("run", "--drain")

    assert outcome.code == 0, outcome.err
    assert installation.count() == len(facts)
    dead = installation.rows("SELECT reason, body FROM dead_letters")
    assert sorted((reason, bytes(body)) for reason, body in dead) == sorted(
        (why, body) for _, body, why in NONSENSE
    )
    assert outcome.summary["dead_letters"] == len(NONSENSE)


def test_compressed_bodies_land_as_published(installation: Installation, cluster: RunningCluster) -> None:
    facts = list(traffic(3))
    memo = "备注" * 3000
    lines = []
    for fact, compression in zip(facts, ("ZLIB", "LZ4", "ZSTD"), strict=True):
        envelope = json.loads(fact.body)
        envelope["content"] = json.dumps({**fact.content, "seller_memo": memo}, ensure_ascii=False)
        body = json.dumps(envelope, ensure_ascii=False)
        lines.append(fact.line(installation.topic) | {"body": body, "compression": compression})
    cluster.publish(lines)

    assert installation.run("run", "--drain").code == 0
    assert installation.count() == 3
    assert {bytes(body).decode() for (body,) in installation.rows("SELECT body FROM messages")} == {
        str(line["body"]) for line in lines
    }


def test_only_subscribed_tags_land(tmp_path: Path, cluster: RunningCluster, topic: str, group: str) -> None:
    facts = list(traffic(300))
    wanted = {"taobao_trade_TradeBuyerPay", "taobao_refund_RefundCreated"}
    installation = Installation(
        tmp_path, cluster.name_server, topic, group, source={"tags": " || ".join(wanted)}
    )
    cluster.publish(fact.line(topic) for fact in facts)

    outcome = installation.run("run", "--drain")

    assert outcome.code == 0, outcome.err
    assert outcome.summary["topics"] == {
        name: count for name, count in Truth.of(facts).topics.items() if name in wanted
    }
    assert outcome.summary["gaps"] == 0


def test_start_from_last_skips_what_waited_and_reads_what_comes(
    tmp_path: Path, cluster: RunningCluster, topic: str, group: str
) -> None:
    facts = list(traffic(64))
    cluster.publish(fact.line(topic) for fact in facts[:32])
    installation = Installation(tmp_path, cluster.name_server, topic, group, source={"start_from": "last"})
    # Of a group that never committed a 4.9 broker says that it did, at 0, as long as the topic is young.
    waited = 32 if cluster.version == "4.9.7" else 0
    assert installation.run("run", "--drain").code == 0
    assert installation.count() == waited

    cluster.publish(fact.line(topic) for fact in facts[32:])
    assert installation.run("run", "--drain").code == 0
    assert installation.count() == waited + 32


def test_what_landed_can_be_looked_at(installation: Installation, cluster: RunningCluster) -> None:
    facts = list(traffic(400))
    cluster.publish(fact.line(installation.topic) for fact in facts)
    assert installation.run("run", "--drain").code == 0
    refunded = next(fact for fact in facts if "refund_id" in fact.content)
    tid = refunded.keys

    listed = installation.run("messages", "--tid", tid, "--json")
    assert listed.code == 0
    rows = [json.loads(line) for line in listed.out.splitlines()]
    assert {row["tid"] for row in rows} == {tid}
    assert len(rows) == sum(fact.keys == tid for fact in facts)

    story = installation.run("timeline", tid)
    assert story.code == 0
    assert str(refunded.content["refund_id"]) in story.out
    assert refunded.seller in story.out
    assert max(map(len, story.out.splitlines())) <= 80

    by_seller = installation.run(
        "messages", "--seller", refunded.seller, "--topic", "taobao_refund_*", "--json"
    )
    assert {json.loads(line)["seller"] for line in by_seller.out.splitlines()} == {refunded.seller}

    status = installation.run("status", "--json")
    assert status.code == 0, status.err
    assert installation.topic in status.out

    unknown = installation.run("timeline", "404")
    assert (unknown.code, unknown.out) == (1, "")
