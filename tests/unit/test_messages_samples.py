"""Every recorded sample, in each form a broker could deliver it: read, or refused with the stated reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jst_bridge.errors import UndecodableError
from jst_bridge.messages import Decoder, family_of
from jst_bridge.messages.json_text import parse
from jst_bridge.ports import Delivery, PlainDelivery

BORN = 1_700_000_000_000
FILES = sorted((Path(__file__).parent.parent / "data" / "samples").glob("*.json"))
SAMPLES = [
    pytest.param(sample, id=f"{file.stem}-{index}-{sample['kind']}")
    for file in FILES
    for index, sample in enumerate(json.loads(file.read_text("utf-8")))
]
REFUSED_BARE = {"jdp": "rds_row", "outgoing": "not_an_envelope"}
DECODER = Decoder("samples", "12345678")

Sample = dict[str, Any]


def content_text(sample: Sample) -> str:
    content = sample["content"]
    return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)


def fields_of(sample: Sample) -> dict[str, Any]:
    fields = parse(content_text(sample))
    assert isinstance(fields, dict)
    return fields


def ons_body(sample: Sample, *, as_object: bool) -> dict[str, Any]:
    envelope = {
        "outgoing_id": 5091501188142226555,
        "publish_time": BORN - 1000,
        "publisher_appkey": "12497914",
    }
    if "user_nick" in sample:
        envelope |= {"user_id": 74717909, "user_nick": sample["user_nick"]}
    content = json.loads(content_text(sample), strict=False) if as_object else content_text(sample)
    return {"topic": sample["topic"], "content": content} | envelope


def own_body(sample: Sample) -> bytes:
    """The body in the form in which the sample was found."""
    envelope = dict(sample.get("envelope", {}))
    content = content_text(sample)
    if sample["kind"] == "comet_notify":
        notice = f'{{"{envelope["wrapper"]}":{content}}}'
        packet = envelope.get("packet_code")
        return (f'{{"packet":{{"code":{packet},"msg":{notice}}}}}' if packet else notice).encode()
    return encoded(envelope | {"content": sample["content"]}) if envelope else content.encode()


def encoded(body: dict[str, Any]) -> bytes:
    return json.dumps(body, ensure_ascii=False).encode()


def delivery(sample: Sample, body: bytes) -> Delivery:
    return PlainDelivery(body, sample["topic"], "", "AC1", "AC1", 1, BORN)


def expected_id(fields: dict[str, Any], *names: str) -> str | None:
    return next((str(fields[name]) for name in names if fields.get(name) not in (None, 0, "")), None)


def check(sample: Sample, message: Any) -> None:
    fields = fields_of(sample)
    assert message.topic == sample["topic"]
    assert message.tid == expected_id(fields, "tid", "tc_order_id")
    assert message.oid == expected_id(fields, "oid")
    assert message.refund_id == expected_id(fields, "refund_id")
    assert message.num_iid == expected_id(fields, "num_iid", "iid")
    assert message.seller == (
        sample.get("user_nick") or fields.get("seller_nick") or fields.get("nick") or ""
    )
    if family_of(message.topic) != "other" and sample["kind"] != "comet_notify":
        assert message.content.extra.keys() <= {"topic", "user_id"}


@pytest.mark.parametrize("sample", SAMPLES)
@pytest.mark.parametrize("as_object", [False, True])
def test_every_sample_is_read_from_an_ons_envelope(sample: Sample, as_object: bool) -> None:
    message = DECODER.decode(delivery(sample, encoded(ons_body(sample, as_object=as_object))))
    assert message.key == "tb:12345678:5091501188142226555"
    assert message.published_from == "publish_time"
    if sample["kind"] != "jdp":
        check(sample, message)


@pytest.mark.parametrize("sample", SAMPLES)
def test_every_sample_is_read_in_its_own_form_or_refused_with_its_reason(sample: Sample) -> None:
    body = delivery(sample, own_body(sample))
    if sample["kind"] in REFUSED_BARE:
        with pytest.raises(UndecodableError) as caught:
            DECODER.decode(body)
        assert caught.value.reason == REFUSED_BARE[sample["kind"]]
        return
    message = DECODER.decode(body)
    check(sample, message)
    identity = sample.get("envelope", {}).get("id") or sample.get("envelope", {}).get("outgoing_id")
    assert message.key == f"tb:12345678:{identity}" if identity else message.key.startswith("rmq:AC1:")


def test_the_samples_are_all_there() -> None:
    assert {file.stem for file in FILES} == {
        "fenxiao",
        "item",
        "logistics",
        "other",
        "rate",
        "refund",
        "trade",
    }
    assert len(SAMPLES) >= 70
