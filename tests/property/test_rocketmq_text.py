"""Properties, loose JSON, routes, tags: round trips, and nothing but DecodeError from what comes from outside."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jst_bridge.errors import DecodeError
from jst_bridge.rocketmq.loosejson import MAX_DEPTH, decode_json
from jst_bridge.rocketmq.message import MessageQueue
from jst_bridge.rocketmq.properties import (
    MAX_PROPERTIES,
    decode_properties,
    encode_properties,
    find_property,
)
from jst_bridge.rocketmq.route import MAX_QUEUES, decode_cluster, decode_route
from jst_bridge.rocketmq.subscription import Subscription, java_hash, parse_tags

words = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\x01\x02"), min_size=1, max_size=8
)

# --- properties -----------------------------------------------------------------------------------------


@given(st.dictionaries(words, words, max_size=6))
def test_properties_survive_encoding(properties: dict[str, str]) -> None:
    encoded = encode_properties(properties)
    assert decode_properties(encoded) == properties
    assert decode_properties(encoded.removesuffix(b"\x02")) == properties  # 4.9 writes no last separator


@given(st.dictionaries(words, words, max_size=6), words)
def test_one_property_is_found_as_the_whole_decoding_has_it(properties: dict[str, str], other: str) -> None:
    for encoded in (encode_properties(properties), encode_properties(properties).removesuffix(b"\x02")):
        for name in {*properties, other}:
            assert find_property(encoded, name.encode() + b"\x01") == properties.get(name, "")


@given(st.binary(max_size=80).map(lambda data: data.replace(b"a", b"\x01").replace(b"b", b"\x02")))
@example(b"\x01\x02\x01\x01\x02\x02")
@example(b"TAGS\x01\xff\x02KEYS")
def test_any_bytes_are_properties(data: bytes) -> None:
    assert all(name and value for name, value in decode_properties(data).items())
    for marker in (b"TAGS\x01", b"\x00\x01", b"\x01\x01"):
        find_property(data, marker)


@pytest.mark.parametrize(
    ("data", "tag"),
    [
        (b"TAGS\x01A", "A"),
        (b"XTAGS\x01no\x02TAGS\x01yes\x02", "yes"),
        (b"TAGS\x01yes\x02XTAGS\x01no\x02", "yes"),
        (b"KEYS\x01TAGS\x01no\x02", ""),
        (b"XTAGS\x01no\x02", ""),
        (b"", ""),
        (b"TAGS", ""),
        (b"TAGS\x01\x02", ""),
        (b"TAGS\x01a\x01b\x02", "a\x01b"),
    ],
)
def test_a_name_is_matched_whole(data: bytes, tag: str) -> None:
    assert find_property(data, b"TAGS\x01") == tag
    assert decode_properties(data).get("TAGS", "") == tag


def test_of_a_repeated_name_the_last_counts_but_the_first_unique_key() -> None:
    data = b"WAIT\x01true\x02UNIQ_KEY\x01own\x02WAIT\x01false\x02UNIQ_KEY\x01batch\x02"
    assert decode_properties(data) == {"WAIT": "false", "UNIQ_KEY": "own"}
    assert find_property(data, b"WAIT\x01") == "false"


@pytest.mark.parametrize("text", ["a\x01b", "a\x02b"])
def test_separators_inside_a_property_are_refused(text: str) -> None:
    for properties in ({text: "v"}, {"n": text}):
        with pytest.raises(ValueError, match="separators"):
            encode_properties(properties)


def test_properties_longer_than_their_length_field_are_refused() -> None:
    assert len(encode_properties({"n": "v" * (MAX_PROPERTIES - 3)})) == MAX_PROPERTIES
    with pytest.raises(ValueError, match="32768 bytes exceed"):
        encode_properties({"n": "v" * (MAX_PROPERTIES - 2)})


def test_empty_names_and_values_are_left_out() -> None:
    assert encode_properties([("", "v"), ("n", ""), ("a", "b")]) == b"a\x01b\x02"


# --- JSON -----------------------------------------------------------------------------------------------

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
)
strict = st.recursive(
    scalars | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(strict)
def test_strict_json_reads_as_any_reader_has_it(value: Any) -> None:
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False, indent=1)):
        try:
            data = text.encode()
        except UnicodeEncodeError:  # a lone surrogate cannot be sent unescaped
            continue
        assert decode_json(data) == json.loads(text)


@given(strict)
def test_the_loose_reader_agrees_on_strict_json(value: Any) -> None:
    data = b"{0:" + json.dumps(value).encode() + b"}"  # the bare key sends all of it to the loose reader
    assert decode_json(data) == {"0": json.loads(json.dumps(value))}


@given(st.dictionaries(st.integers(-(2**63), 2**63), st.text(max_size=5), max_size=5))
def test_bare_numeric_keys_become_text(table: dict[int, str]) -> None:
    text = "{" + ",".join(f"{key}:{json.dumps(value)}" for key, value in table.items()) + "}"
    assert decode_json(text.encode()) == {str(key): value for key, value in table.items()}


@given(st.dictionaries(st.text(max_size=5), st.integers(0, 9) | st.text(max_size=3), min_size=1, max_size=3))
def test_object_keys_become_sorted_pairs(key: dict[str, Any]) -> None:
    text = '{"t" : {' + json.dumps(key) + ": [1] , " + json.dumps(key)[:-1] + ',"\U0001f600x":0}:2}}'
    read = decode_json(text.encode())
    assert read == {
        "t": {tuple(sorted(key.items())): [1], tuple(sorted({**key, "\U0001f600x": 0}.items())): 2}
    }


def test_keys_that_are_other_scalars_keep_their_spelling() -> None:
    assert decode_json(b"{true:1,null:2,1.50:3,0:4}") == {"true": 1, "null": 2, "1.50": 3, "0": 4}


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b"{0:", b"{{"])
def test_nesting_has_an_end(opening: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_json(opening * 100_000)


def test_loose_nesting_up_to_the_limit_passes() -> None:
    def nested(depth: int) -> bytes:
        return b"{0:" * depth + b"1" + b"}" * depth

    decode_json(nested(MAX_DEPTH))
    with pytest.raises(DecodeError, match="deep"):
        decode_json(nested(MAX_DEPTH + 1))


@given(st.binary(max_size=100) | st.text('{}[]:,0129.eE-+"\\ua tnrl', max_size=40).map(str.encode))
@example(b'{{"a":[1]}:2}')
@example(b'{{{"a":1}:2,"b":3}:4}')
@example(b"{[1]:2}")
@example(b"{0:1}x")
@example(b"\xff")
@example(b"{0:" + b"9" * 5000 + b"}")
def test_any_bytes_are_json_or_a_decode_error(data: bytes) -> None:
    for decode in (decode_json, lambda body: decode_route("T", body), decode_cluster):
        try:
            decode(data)
        except DecodeError:
            continue


# --- routes ---------------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def route_json(**changes: Any) -> dict[str, Any]:
    queue = {"brokerName": "b", "perm": 6, "readQueueNums": 2, "writeQueueNums": 3, "topicSysFlag": 0}
    return {
        "brokerDatas": [{"brokerName": "b", "brokerAddrs": {"0": "h:1", "1": "h:2"}}],
        "queueDatas": [queue | changes],
    }


@given(st.sampled_from(["brokerDatas", "queueDatas", "brokerAddrs", "perm", "readQueueNums"]), json_values)
@example("perm", float("inf"))
@example("readQueueNums", float("inf"))
@example("readQueueNums", 10**30)
@example("readQueueNums", -1)
def test_a_route_with_any_value_in_a_field_is_a_route_or_a_decode_error(field: str, value: Any) -> None:
    route = route_json()
    target = route if field.endswith("Datas") else route["queueDatas"][0]
    if field == "brokerAddrs":
        target = route["brokerDatas"][0]
    target[field] = value
    try:
        decoded = decode_route("T", json.dumps(route).encode())
        assert len(decoded.read_queues()) <= MAX_QUEUES
    except DecodeError:
        return


def test_a_route_without_a_field_is_refused() -> None:
    for body in (b"{}", b"[]", b"null", b'"x"', b'{"brokerDatas":[],"queueDatas":[{}]}'):
        with pytest.raises(DecodeError, match="route of T"):
            decode_route("T", body)
    with pytest.raises(DecodeError, match="cluster info"):
        decode_cluster(b'{"brokerAddrTable":[]}')


def test_a_route_that_claims_too_many_queues_in_all_is_refused() -> None:
    route = route_json(readQueueNums=MAX_QUEUES // 2 + 1)
    assert len(decode_route("T", json.dumps(route).encode()).read_queues()) == MAX_QUEUES // 2 + 1
    route["queueDatas"] *= 2
    with pytest.raises(DecodeError, match="queues"):
        decode_route("T", json.dumps(route).encode())


@pytest.mark.parametrize(
    ("perm", "readable", "writable"), [(6, 2, 3), (4, 2, 0), (2, 0, 3), (0, 0, 0), (7, 2, 3), (14, 2, 3)]
)
def test_the_permission_bits_decide_what_is_read_and_written(perm: int, readable: int, writable: int) -> None:
    route = decode_route("T", json.dumps(route_json(perm=perm)).encode())
    assert route.read_queues() == [MessageQueue("T", "b", queue) for queue in range(readable)]
    assert route.write_queues() == [MessageQueue("T", "b", queue) for queue in range(writable)]


def test_a_broker_without_a_master_is_not_written() -> None:
    value = route_json()
    del value["brokerDatas"][0]["brokerAddrs"]["0"]
    route = decode_route("T", json.dumps(value).encode())
    assert route.write_queues() == []
    assert len(route.read_queues()) == 2


def test_routes_that_differ_in_order_only_are_equal() -> None:
    value = route_json()
    value["brokerDatas"].append({"brokerName": "a", "brokerAddrs": {"0": "h:3"}})
    value["queueDatas"].append({"brokerName": "a", "perm": 6, "readQueueNums": 1, "writeQueueNums": 1})
    one = decode_route("T", json.dumps(value).encode())
    for part in value.values():
        part.reverse()
    assert decode_route("T", json.dumps(value).encode()) == one
    assert one.read_queues() == [
        MessageQueue("T", "a", 0),
        MessageQueue("T", "b", 0),
        MessageQueue("T", "b", 1),
    ]


# --- tags -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("TagA", 2598919),
        ("TagB", 2598920),
        ("中文", 646394),
        ("polygenelubricants", -(2**31)),
        ("a\U0001f600", 1866116),
        ("", 0),
    ],
)
def test_hashes_equal_javas(text: str, value: int) -> None:
    assert java_hash(text) == value


@given(st.text(max_size=20))
def test_a_hash_is_an_int32_and_follows_the_rule(text: str) -> None:
    data = text.encode("utf-16-be", "surrogatepass")
    units = [int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2)]
    expected = sum(unit * 31 ** (len(units) - 1 - at) for at, unit in enumerate(units)) & 0xFFFFFFFF
    assert java_hash(text) == (expected ^ 2**31) - 2**31


@pytest.mark.parametrize(
    ("expression", "tags"),
    [
        ("*", set()),
        ("", set()),
        (" * ", set()),
        ("A", {"A"}),
        ("A||B", {"A", "B"}),
        (" A || ||B||", {"A", "B"}),
    ],
)
def test_expressions_name_tags(expression: str, tags: set[str]) -> None:
    assert parse_tags(expression) == tags


@pytest.mark.parametrize("expression", ["||", " || ", "||||"])
def test_an_expression_without_a_tag_is_refused(expression: str) -> None:
    with pytest.raises(ValueError, match="names no tag"):
        Subscription("T", expression)


@given(
    st.sets(words.filter(lambda word: "|" not in word and word == word.strip() and word != "*"), max_size=4),
    words,
)
def test_a_subscription_matches_exactly_its_tags(tags: set[str], other: str) -> None:
    subscription = Subscription("T", " || ".join(sorted(tags)) or "*")
    assert subscription.tags == tags
    assert all(subscription.matches(tag) for tag in tags)
    assert subscription.matches(other) == (not tags or other in tags)
    assert subscription.matches("") == (not tags)
    assert subscription.as_heartbeat()["codeSet"] == [java_hash(tag) for tag in sorted(tags)]
