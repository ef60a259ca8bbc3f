"""JSON bodies as fastjson writes them: object keys and bare numeric keys included (reference 1.8)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from .store import Queue, Topic

__all__ = ["BrokerPlace", "cluster_body", "encode", "queue_table", "route_body", "topic_config"]

encode = msgspec.json.Encoder(order="sorted").encode


class BrokerPlace(NamedTuple):
    """A broker as routes tell of it."""

    name: str
    address: str


def route_body(
    cluster: str, found: Iterable[tuple[BrokerPlace, Topic]], *, strict: bool, modern: bool
) -> bytes:
    """The answer of 105; not `strict`: with bare numeric keys, for versions below 401 (reference 2.1)."""
    brokers, queues = [], []
    for broker, topic in found:
        brokers.append(_broker(broker, cluster, strict=strict, modern=modern))
        queues.append(
            encode({
                "brokerName": broker.name,
                "perm": topic.perm,
                "readQueueNums": topic.read_queues,
                "topicSysFlag": 0,
                "writeQueueNums": topic.write_queues,
            })
        )  # fmt: skip
    return b'{"brokerDatas":[%b],"filterServerTable":{},"queueDatas":[%b]}' % (
        b",".join(brokers),
        b",".join(queues),
    )


def cluster_body(cluster: str, brokers: Iterable[BrokerPlace], *, modern: bool) -> bytes:
    """The answer of 106: bare numeric keys, whoever asks."""
    places = list(brokers)
    table = b",".join(
        b"%b:%b" % (encode(place.name), _broker(place, cluster, strict=False, modern=modern))
        for place in places
    )
    names = encode({cluster: [place.name for place in places]})
    return b'{"brokerAddrTable":{%b},"clusterAddrTable":%b}' % (table, names)


def _broker(place: BrokerPlace, cluster: str, *, strict: bool, modern: bool) -> bytes:
    key = b'"0"' if strict else b"0"
    return b'{"brokerAddrs":{%b:%b},"brokerName":%b,"cluster":%b%b}' % (
        key,
        encode(place.address),
        encode(place.name),
        encode(cluster),
        b',"enableActingMaster":false' if modern else b"",
    )


def queue_table(name: str, broker: str, rows: Iterable[tuple[Queue, Any]], **others: Any) -> bytes:
    """`{name: {{queue}: value}}`, the queue an object that is a key; `others` beside it."""
    table = b",".join(
        encode({"brokerName": broker, "queueId": queue.queue_id, "topic": queue.topic.name})
        + b":"
        + encode(value)
        for queue, value in rows
    )
    members: Mapping[str, bytes] = {key: encode(value) for key, value in others.items()} | {
        name: b"{%b}" % table
    }
    return b"{%b}" % b",".join(b"%b:%b" % (encode(key), members[key]) for key in sorted(members))


def topic_config(topic: Topic) -> dict[str, Any]:
    """TopicConfig."""
    return {
        "attributes": {},
        "order": topic.order,
        "perm": topic.perm,
        "readQueueNums": topic.read_queues,
        "topicFilterType": "SINGLE_TAG",
        "topicName": topic.name,
        "topicSysFlag": 0,
        "writeQueueNums": topic.write_queues,
    }
