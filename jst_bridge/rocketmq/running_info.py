"""The self-portrait a consumer gives to the admin tool: ConsumerRunningInfo (reference 2.13)."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from .assignment import Assignment
from .codes import CLIENT_VERSION
from .namespace import Namespace
from .requests import object_keyed
from .subscription import Subscription

__all__ = ["Traffic", "running_info"]

SAMPLES: Final = 3
"""Taken with each heartbeat: rates are those of the last minute or so."""
_VERSION_NAME: Final = {409: "V4_9_8"}[CLIENT_VERSION]


class Traffic:
    """Messages of each topic, pulled and settled, and how many of them per second."""

    def __init__(self) -> None:
        self._pulled: defaultdict[str, int] = defaultdict(int)
        self._settled: defaultdict[str, int] = defaultdict(int)
        self._samples: deque[tuple[float, dict[str, int], dict[str, int]]] = deque(maxlen=SAMPLES)
        self.sample()

    def pulled(self, topic: str, messages: int) -> None:
        self._pulled[topic] += messages

    def settled(self, topic: str, messages: int) -> None:
        self._settled[topic] += messages

    def sample(self) -> None:
        self._samples.append((time.monotonic(), dict(self._pulled), dict(self._settled)))

    def rates(self, topic: str) -> tuple[float, float]:
        """Messages per second since the oldest sample: pulled, settled."""
        at, pulled, settled = self._samples[0]
        seconds = max(time.monotonic() - at, 1e-3)
        return (
            (self._pulled[topic] - pulled.get(topic, 0)) / seconds,
            (self._settled[topic] - settled.get(topic, 0)) / seconds,
        )


def running_info(
    *,
    name_servers: Iterable[str],
    namespace: Namespace,
    started_at: float,
    subscriptions: Mapping[str, Subscription],
    assignments: Iterable[Assignment],
    traffic: Traffic,
    stacks: str | None,
) -> bytes:
    """The body. `started_at` in epoch seconds. Java's words: a landed batch is a consumed one.

    Round trip and consuming times are not measured: they are told as 0.
    """
    rates = {topic: traffic.rates(topic) for topic in subscriptions}
    info: dict[str, Any] = {
        "properties": {
            "PROP_CLIENT_VERSION": _VERSION_NAME,
            "PROP_CONSUMEORDERLY": "false",
            "PROP_CONSUMER_START_TIMESTAMP": str(int(started_at * 1000)),
            "PROP_CONSUME_TYPE": "CONSUME_PASSIVELY",
            "PROP_NAMESERVER_ADDR": ";".join(name_servers),
            "PROP_THREADPOOL_CORE_SIZE": "1",
            "language": "PYTHON",
        },
        "subscriptionSet": [entry.as_heartbeat(namespace) for entry in subscriptions.values()],
        "mqTable": object_keyed({entry.queue: _process_queue(entry) for entry in assignments}, namespace),
        "statusTable": {
            namespace.wrap_topic(topic): {
                "consumeFailedMsgs": 0,
                "consumeFailedTPS": 0.0,
                "consumeOKTPS": settled,
                "consumeRT": 0.0,
                "pullRT": 0.0,
                "pullTPS": pulled,
            }
            for topic, (pulled, settled) in rates.items()
        },
    }
    if stacks is not None:
        info["jstack"] = stacks
    return msgspec.json.encode(info)


def _process_queue(assignment: Assignment) -> dict[str, object]:
    first, last = assignment.cached_offsets
    behind_clock = time.time() - time.monotonic()
    return {
        "cachedMsgCount": assignment.cached,
        "cachedMsgMaxOffset": last,
        "cachedMsgMinOffset": first,
        "cachedMsgSizeInMiB": assignment.cached_size >> 20,
        "commitOffset": assignment.settled_offset,
        "droped": assignment.dropped,  # Java's spelling
        "lastConsumeTimestamp": int((assignment.last_settled + behind_clock) * 1000),
        "lastLockTimestamp": 0,
        "lastPullTimestamp": int((assignment.last_good_pull + behind_clock) * 1000),
        "locked": False,
        "transactionMsgCount": 0,
        "transactionMsgMaxOffset": 0,
        "transactionMsgMinOffset": 0,
        "tryUnlockTimes": 0,
    }
