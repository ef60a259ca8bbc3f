"""Where a topic lives: the answer of GET_ROUTEINFO_BY_TOPIC (reference 2.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from ..errors import DecodeError
from .loosejson import decode_json
from .message import MessageQueue

__all__ = ["Route", "TopicQueues", "decode_cluster", "decode_route"]

MASTER: Final = 0
_READ, _WRITE = 4, 2
MAX_QUEUES: Final = 65_536
"""Ceiling of one topic's queues on all brokers: a route that claims more is not believed."""


@dataclass(frozen=True, slots=True, order=True)
class TopicQueues:
    """One broker's queues of a topic."""

    broker: str
    read_queues: int
    write_queues: int
    perm: int


@dataclass(frozen=True, slots=True)
class Route:
    """One topic's queues, and the addresses of the brokers that hold them."""

    topic: str
    brokers: dict[str, dict[int, str]]
    """Broker name -> broker id -> host:port. Id 0 is the master."""
    queues: tuple[TopicQueues, ...]
    """Sorted, so that routes that say the same are equal (reference 2.1)."""

    def read_queues(self) -> list[MessageQueue]:
        """The queues a consumer reads, sorted by broker name and queue id."""
        return sorted(
            MessageQueue(self.topic, entry.broker, queue_id)
            for entry in self.queues
            if entry.perm & _READ
            for queue_id in range(entry.read_queues)
        )

    def write_queues(self) -> list[MessageQueue]:
        """The queues a producer writes: of brokers that have a master."""
        return sorted(
            MessageQueue(self.topic, entry.broker, queue_id)
            for entry in self.queues
            if entry.perm & _WRITE and MASTER in self.brokers.get(entry.broker, {})
            for queue_id in range(entry.write_queues)
        )


def decode_route(topic: str, body: bytes) -> Route:
    """Raises DecodeError."""
    value = decode_json(body)
    try:
        brokers = {
            str(entry["brokerName"]): _addresses(entry["brokerAddrs"]) for entry in value["brokerDatas"]
        }
        queues = sorted(
            TopicQueues(
                broker=str(entry["brokerName"]),
                read_queues=_count(entry["readQueueNums"]),
                write_queues=_count(entry["writeQueueNums"]),
                perm=int(entry["perm"]),
            )
            for entry in value["queueDatas"]
        )
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise DecodeError(f"route of {topic} lacks or garbles a field: {error!r}") from None
    if sum(max(entry.read_queues, entry.write_queues) for entry in queues) > MAX_QUEUES:
        raise DecodeError(f"route of {topic} claims more than {MAX_QUEUES} queues")
    return Route(topic, brokers, tuple(queues))


def decode_cluster(body: bytes) -> dict[str, dict[int, str]]:
    """Broker name -> id -> address, of GET_BROKER_CLUSTER_INFO (reference 2.15). Raises DecodeError."""
    value = decode_json(body)
    try:
        return {
            str(name): _addresses(entry["brokerAddrs"]) for name, entry in value["brokerAddrTable"].items()
        }
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise DecodeError(f"cluster info lacks or garbles a field: {error!r}") from None


def _addresses(table: dict[str, Any]) -> dict[int, str]:
    return {int(broker_id): str(address) for broker_id, address in table.items()}


def _count(value: Any) -> int:
    count = int(value)
    if count < 0:
        raise ValueError(f"{count} queues")
    return count
