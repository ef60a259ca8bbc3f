"""Frames of real 4.9.7 and 5.3.3 servers, and examples computed by hand, through the codecs."""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from jst_bridge.rocketmq.acl import Credentials
from jst_bridge.rocketmq.codes import FrameFlag, SysFlag
from jst_bridge.rocketmq.frame import Frame, FrameReader, decode_frame, encode_frame
from jst_bridge.rocketmq.loosejson import decode_json
from jst_bridge.rocketmq.message import MessageExt, decode_messages, encode_message, pack_host
from jst_bridge.rocketmq.properties import decode_properties
from jst_bridge.rocketmq.route import decode_cluster, decode_route
from jst_bridge.rocketmq.subscription import Subscription

CAPTURES: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "data" / "rocketmq-wire-captures.json").read_text()
)["frames"]
BY_NAME = {capture["name"]: capture for capture in CAPTURES}
every_frame = pytest.mark.parametrize("capture", CAPTURES, ids=lambda capture: str(capture["name"]))
frames_with_messages = pytest.mark.parametrize(
    "capture",
    [capture for capture in CAPTURES if "messages" in capture],
    ids=lambda capture: str(capture["name"]),
)


def captured(name: str) -> Frame:
    return decode_frame(bytes.fromhex(BY_NAME[name]["hex"]))


def test_the_collection_is_whole() -> None:
    assert len(CAPTURES) == 60
    assert sum(capture["header_type"] == "ROCKETMQ" for capture in CAPTURES) == 4
    assert sum(len(capture.get("messages", ())) for capture in CAPTURES) >= 14


@every_frame
def test_a_captured_frame_decodes_to_what_was_seen(capture: Mapping[str, Any]) -> None:
    frame = decode_frame(bytes.fromhex(capture["hex"]))
    header = capture["header"]
    assert frame.code == header["code"]
    assert frame.opaque == header["opaque"]
    assert frame.flag == header["flag"]
    assert frame.language == header["language"]
    assert frame.version == header["version"]
    assert frame.remark == (header.get("remark") or "")
    assert frame.ext == (header.get("extFields") or {})
    assert len(frame.body) == capture["body_bytes"]
    if "body_text" in capture:
        assert frame.body.decode() == capture["body_text"]
    assert frame.is_response == capture["direction"].endswith("->client") or frame.code in {40, 220, 307, 309}


@every_frame
def test_a_captured_frame_survives_being_encoded_again(capture: Mapping[str, Any]) -> None:
    frame = decode_frame(bytes.fromhex(capture["hex"]))
    assert decode_frame(encode_frame(frame)) == frame


def test_all_captured_frames_in_one_stream_come_out_in_order() -> None:
    stream = b"".join(bytes.fromhex(capture["hex"]) for capture in CAPTURES)
    frames = FrameReader().feed(stream)
    assert [frame.opaque for frame in frames] == [capture["header"]["opaque"] for capture in CAPTURES]


@frames_with_messages
def test_captured_messages_decode_to_what_was_seen(capture: Mapping[str, Any]) -> None:
    messages, complete = decode_messages(captured(capture["name"]).body)
    assert complete
    assert len(messages) == len(capture["messages"])
    for message, seen in zip(messages, capture["messages"], strict=True):
        assert message.fault == ""
        assert_message(message, seen)


def assert_message(message: MessageExt, seen: Mapping[str, Any]) -> None:
    assert message.topic == seen["topic"]
    assert message.queue_id == seen["queueId"]
    assert message.queue_offset == seen["queueOffset"]
    assert message.physical_offset == seen["physicalOffset"]
    assert message.flag == seen["flag"]
    assert message.sys_flag == seen["sysFlag"]
    assert message.body_crc == seen["bodyCrc"]
    assert message.born_timestamp == seen["bornTimestamp"]
    assert message.store_timestamp == seen["storeTimestamp"]
    assert message.reconsume_times == seen["reconsumeTimes"]
    assert message.prepared_transaction_offset == seen["preparedTransactionOffset"]
    assert host_text(message.born_host) == seen["bornHost"]
    assert host_text(message.store_host) == seen["storeHost"]
    assert message.offset_message_id == seen_offset_id(seen)
    stored = [(name, value) for name, value in seen["properties"]]
    last = dict(stored)
    first_unique_key = {name: value for name, value in reversed(stored) if name == "UNIQ_KEY"}
    assert message.properties == last | first_unique_key
    assert message.tag == dict(stored).get("TAGS", "")
    assert message.keys == dict(stored).get("KEYS", "")
    if "decompressedSha256" in seen:
        assert len(message.body) == seen["decompressedBytes"]
        assert hashlib.sha256(message.body).hexdigest() == seen["decompressedSha256"]
    else:
        assert message.body.decode() == seen["body"]


def host_text(packed: bytes) -> str:
    address = ipaddress.ip_address(packed[:-4])
    return f"{address}:{int.from_bytes(packed[-4:], 'big')}"


def seen_offset_id(seen: Mapping[str, Any]) -> str:
    host, _, port = seen["storeHost"].rpartition(":")
    return (
        (ipaddress.ip_address(host).packed + struct.pack(">iq", int(port), seen["physicalOffset"]))
        .hex()
        .upper()
    )


@pytest.mark.parametrize(
    "name",
    [
        "pull_found_3_plain_497",
        "pull_found_3_plain_533",
        "pull_retry_topic_533",
        "pull_batch_java5_533",
        "pull_ipv6_born_host_533",
        "pull_magic_v2_533",
    ],
)
def test_captured_messages_encode_to_the_very_bytes_the_broker_sent(name: str) -> None:
    body = captured(name).body
    messages, _ = decode_messages(body)
    assert b"".join(encode_message(message) for message in messages) == body


def test_a_retried_copy_names_its_first_topic_and_its_first_stored_copy() -> None:
    ((copy,), _) = decode_messages(captured("pull_retry_topic_533").body)
    assert copy.topic == "%RETRY%demo_group"
    assert copy.visible_topic == "TopicTest"
    assert copy.origin_message_id == "7F00000100002A9F000000000049D918"
    assert copy.origin_message_id != copy.offset_message_id
    first = decode_messages(captured("pull_found_3_plain_533").body)[0][0]
    assert first.origin_message_id == first.offset_message_id == copy.origin_message_id
    assert first.visible_topic == "TopicTest"


def test_messages_of_a_java_batch_keep_their_own_unique_key() -> None:
    messages, _ = decode_messages(captured("pull_batch_java5_533").body)
    own = [message.properties["UNIQ_KEY"] for message in messages]
    assert len(set(own)) == 3


def test_routes_read_the_same_in_both_json_forms() -> None:
    strict = decode_route("T", captured("route_strict_497").body)
    bare = decode_route("T", captured("route_bare_keys_497").body)
    assert strict == bare
    assert strict.brokers == {"broker-a": {0: "127.0.0.1:37911"}}
    assert [(queue.broker, queue.queue_id) for queue in strict.read_queues()] == [("broker-a", 0)]


def test_cluster_info_with_bare_numeric_keys_is_read() -> None:
    assert decode_cluster(captured("cluster_info_533").body) == {"broker-a": {0: "127.0.0.1:10911"}}


@pytest.mark.parametrize("name", ["consume_stats_497", "consume_stats_533", "reset_offset_request_497"])
def test_tables_keyed_by_queues_are_read(name: str) -> None:
    table = decode_json(captured(name).body)["offsetTable"]
    assert list(table) == [(("brokerName", "broker-a"), ("queueId", 0), ("topic", "TopicTest"))]


# --- signatures -----------------------------------------------------------------------------------------


def test_the_accepted_signed_request_verifies_with_its_key() -> None:
    ext = captured("acl_signed_request_onschannel_497").ext
    signature = ext.pop("Signature")
    fields = {name: ext[name] for name in ("consumerGroup", "topic", "queueId")}
    Credentials("consumer01", "consumersecret1", channel="ALIYUN").sign(fields, b"")
    assert fields == ext | {"Signature": signature}


EXAMPLE = {
    "commitOffset": "5",
    "consumerGroup": "demo_group",
    "expressionType": "TAG",
    "maxMsgNums": "32",
    "queueId": "0",
    "queueOffset": "5",
    "subVersion": "1700000000000",
    "suspendTimeoutMillis": "15000",
    "sysFlag": "3",
    "topic": "TopicTest",
}


@pytest.mark.parametrize(
    ("channel", "signature"),
    [("", "ARDzb8QWovs8KWWGq9/1pkxmkrY="), ("ALIYUN", "7VHYxlxjMdHZ1CnYAo4FntUOaN8=")],
)
def test_signatures_equal_the_worked_example(channel: str, signature: str) -> None:
    ext = dict(EXAMPLE)
    Credentials("rocketmq2", "12345678", channel=channel).sign(ext, b"")
    assert ext["Signature"] == signature
    assert ("OnsChannel" in ext) is bool(channel)


def test_the_body_and_the_token_take_part_in_the_signature() -> None:
    ext = {"topic": "T"}
    Credentials("key", "secret", security_token="token").sign(ext, b"\x00body")
    digest = hmac.new(b"secret", b"key" + b"token" + b"T" + b"\x00body", hashlib.sha1).digest()
    assert ext["SecurityToken"] == "token"
    assert ext["Signature"] == base64.b64encode(digest).decode()


def test_signing_again_ignores_the_former_signature() -> None:
    credentials = Credentials("key", "secret")
    ext = {"topic": "T"}
    credentials.sign(ext, b"")
    once = dict(ext)
    credentials.sign(ext, b"")
    assert ext == once


def test_secrets_do_not_show() -> None:
    shown = repr(Credentials("key", "the-secret", security_token="the-token"))
    assert "the-secret" not in shown
    assert "the-token" not in shown


# --- the worked example: one pull and its answer in both header forms ------------------------------------

PULL_HEADER = (
    b'{"code":11,"extFields":{"commitOffset":"5","consumerGroup":"demo_group","expressionType":"TAG",'
    b'"maxMsgNums":"32","queueId":"0","queueOffset":"5","subVersion":"1700000000000",'
    b'"suspendTimeoutMillis":"15000","sysFlag":"3","topic":"TopicTest"},"flag":0,"language":"PYTHON",'
    b'"opaque":7,"serializeTypeCurrentRPC":"JSON","version":401}'
)
PULL_BINARY = bytes.fromhex(
    "000000f0010000ec000b03019100000007000000000000000000 0000d7000d636f6e73756d657247726f75700000000a"
    "64656d6f5f67726f75700005746f70696300000009546f70696354657374000771756575654964000000013000 0b7175"
    "6575654f66667365740000000135000a6d61784d73674e756d730000000233320007737973466c616700000001 33000c"
    "636f6d6d69744f6666736574000000013500 1473757370656e6454696d656f75744d696c6c6973000000053135303030"
    "000a73756256657273696f6e0000000d31373030303030303030303030000e65787072657373696f6e54797065000000"
    "03544147"
)
MESSAGE = bytes.fromhex(
    "000000e8da a320a73610a686000000000000000000000000000000050000000000000400000000000000018bcfe5687b"
    "0a0000050000c3510000018bcfe568827f00000100002a9f000000000000000000000000000000 0568656c6c6f09546f"
    "70696354657374007f4b455953016f726465722d3102544147530154616741 02"
) + (
    b"UNIQ_KEY\x010A00000510E11B28CDFA4FE7E27B0001\x02CLUSTER\x01DefaultCluster\x02"
    b"MSG_REGION\x01DefaultRegion\x02TRACE_ON\x01true\x02"
)
ANSWER_BINARY = (
    bytes.fromhex(
        "000001570100006b000000019900000007000000010000000546 4f554e4400000051"
        "001473756767657374576869636842726f6b65724964000000013000 0f6e657874426567696e4f6666736574"
        "000000013600096d696e4f6666736574000000013000096d61784f66667365740000000136"
    )
    + MESSAGE
)


def test_the_worked_pull_reads_the_same_in_both_header_forms() -> None:
    as_json = decode_frame(struct.pack(">II", 331, 327) + PULL_HEADER)
    as_binary = decode_frame(PULL_BINARY)
    assert len(PULL_BINARY) == 244
    assert as_json == as_binary == Frame(11, 7, 0, EXAMPLE, version=401)


def test_an_encoded_pull_says_the_same_as_the_worked_one() -> None:
    data = encode_frame(Frame(11, 7, 0, EXAMPLE, version=401))
    assert len(data) == 335
    assert json.loads(data[8:]) == json.loads(PULL_HEADER)


def test_the_worked_answer_and_its_message_are_read() -> None:
    frame = decode_frame(ANSWER_BINARY)
    assert (frame.code, frame.remark, frame.version, frame.language) == (0, "FOUND", 409, "JAVA")
    assert frame.flag == FrameFlag.RESPONSE
    assert frame.ext == {
        "suggestWhichBrokerId": "0",
        "nextBeginOffset": "6",
        "minOffset": "0",
        "maxOffset": "6",
    }
    ((message,), complete) = decode_messages(frame.body)
    assert complete
    assert message.body == b"hello"
    assert (message.topic, message.tag, message.keys) == ("TopicTest", "TagA", "order-1")
    assert (message.queue_offset, message.physical_offset) == (5, 1024)
    assert message.offset_message_id == "7F00000100002A9F0000000000000400"
    assert decode_properties(message.raw_properties)["UNIQ_KEY"] == "0A00000510E11B28CDFA4FE7E27B0001"


def test_encoding_gives_the_worked_message_byte_for_byte() -> None:
    message = MessageExt(
        topic="TopicTest",
        body=b"hello",
        raw_properties=MESSAGE[-127:],
        queue_id=0,
        queue_offset=5,
        physical_offset=1024,
        born_timestamp=1700000000123,
        store_timestamp=1700000000130,
        reconsume_times=0,
        sys_flag=0,
        born_host=pack_host("10.0.0.5", 50001),
        store_host=pack_host("127.0.0.1", 10911),
    )
    assert len(MESSAGE) == 232
    assert encode_message(message) == MESSAGE


def test_compression_bits_stay_visible_after_decompression() -> None:
    ((message,), _) = decode_messages(captured("pull_zstd_533").body)
    assert message.sys_flag == SysFlag.COMPRESSED | SysFlag.COMPRESSION_ZSTD
    assert message.body.startswith(b"line 0 of a compressible body")


def test_a_heartbeat_describes_a_subscription_as_an_accepted_one_did() -> None:
    accepted = decode_json(captured("heartbeat_request_533").body)
    entries = accepted["consumerDataSet"][0]["subscriptionDataSet"]
    for entry in entries:
        ours = Subscription(entry["topic"], entry["subString"], entry["subVersion"]).as_heartbeat()
        assert ours.keys() == entry.keys()
        assert {**ours, "codeSet": set(), "tagsSet": set()} == {**entry, "codeSet": set(), "tagsSet": set()}
        for name in ("codeSet", "tagsSet"):
            assert sorted(ours[name]) == sorted(entry[name])  # type: ignore[call-overload]
