"""A RocketMQ name server and broker on loopback, in memory and in pure Python, that fail on demand.

    async with SandboxCluster(SandboxSettings(topics={"rmq_sys_jst_12345678": 8})) as cluster:
        cluster.publish("rmq_sys_jst_12345678", body, tag="taobao_trade_TradeCreate")
        cluster.inject(Drop(), request=Request.PULL_MESSAGE, times=3)
        ...                                           # any 4.x client at cluster.name_server

`ClusterThread` is the same for code without an event loop. The store, the groups and the delays are state machines
without I/O; `Broker` and `NameServer` put them behind ports.
"""

from .broker import Broker
from .calls import Refusal
from .cluster import ClusterThread, SandboxCluster
from .codes import Request
from .faults import (
    BinaryHeader,
    Delay,
    Drop,
    Duplicate,
    Fault,
    Garbage,
    Lose,
    NoRoute,
    Redeliver,
    Refuse,
    Reorder,
    Silence,
)
from .name_server import NameServer
from .settings import DELAY_LEVELS, Account, SandboxSettings
from .store import Place, Store

__all__ = [
    "DELAY_LEVELS",
    "Account",
    "BinaryHeader",
    "Broker",
    "ClusterThread",
    "Delay",
    "Drop",
    "Duplicate",
    "Fault",
    "Garbage",
    "Lose",
    "NameServer",
    "NoRoute",
    "Place",
    "Redeliver",
    "Refusal",
    "Refuse",
    "Reorder",
    "Request",
    "SandboxCluster",
    "SandboxSettings",
    "Silence",
    "Store",
]
