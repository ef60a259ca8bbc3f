"""How another process makes a running sandbox fail: one request of our own, which no real server knows.

It goes to the name server's port, signed where the brokers want signatures, and no fault strikes it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from jst_bridge.errors import ConfigurationError
from jst_bridge.rocketmq.codes import Response

from .accounts import Accounts
from .calls import Call, Refusal
from .codes import Request
from .faults import KINDS, LONGEST_DELAY, Armed

if TYPE_CHECKING:
    from .cluster import SandboxCluster

__all__ = ["REQUESTS", "Armament", "Control", "Order", "Report"]

log = logging.getLogger(__name__)

REQUESTS: Final[Mapping[str, frozenset[int]]] = {
    "send": frozenset({Request.SEND_MESSAGE, Request.SEND_MESSAGE_V2, Request.SEND_BATCH_MESSAGE}),
    "pull": frozenset({Request.PULL_MESSAGE, Request.LITE_PULL_MESSAGE}),
    "commit": frozenset({Request.UPDATE_CONSUMER_OFFSET}),
    "offset": frozenset({Request.QUERY_CONSUMER_OFFSET}),
    "send-back": frozenset({Request.CONSUMER_SEND_MSG_BACK}),
    "heartbeat": frozenset({Request.HEART_BEAT}),
    "members": frozenset({Request.GET_CONSUMER_LIST_BY_GROUP}),
    "route": frozenset({Request.GET_ROUTEINFO_BY_TOPIC}),
}
"""What a request is called -> its codes, in all its forms."""


class Order(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """What is to be done. Every order is answered with a `Report` of how things stand then."""

    do: Literal["report", "arm", "clear", "cut", "outage"] = "report"
    """`cut` all connections once; `outage`: a server is gone for some seconds."""
    kind: str = ""
    """To arm: one of KINDS, struck with `fields`."""
    fields: dict[str, Any] = {}
    request: str = ""
    """One of REQUESTS, or '' for every request."""
    topic: str | None = None
    times: int | None = 1
    """None: until it is cleared."""
    every: int = 1
    server: Literal["broker", "name-server"] = "broker"
    seconds: float = 5.0


class Armament(msgspec.Struct, omit_defaults=True):
    """A fault that waits."""

    kind: str
    fields: dict[str, Any]
    request: str
    topic: str | None
    left: int | None
    every: int


class Report(msgspec.Struct):
    """The faults that wait, and how many have struck so far."""

    armed: list[Armament]
    struck: int


class Control:
    """Carries orders out."""

    def __init__(self, cluster: SandboxCluster) -> None:
        self._cluster = cluster
        self._guard = Accounts(cluster.settings) if cluster.settings.accounts else None
        self._outages: set[asyncio.Task[None]] = set()

    def handle(self, call: Call) -> None:
        """Answers a Report. Refusal: unsigned, or an order that makes no sense."""
        if self._guard is not None:
            self._guard.admit(call)
        try:
            self._obey(msgspec.json.decode(call.frame.body, type=Order))
        except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
            raise Refusal(Response.SYSTEM_ERROR, str(error)) from None
        faults = self._cluster.faults
        call.answer(body=msgspec.json.encode(Report([_told(armed) for armed in faults.line], faults.struck)))

    def end(self) -> None:
        """No server comes back by itself any more."""
        for outage in self._outages:
            outage.cancel()
        self._outages.clear()

    def _obey(self, order: Order) -> None:
        cluster = self._cluster
        match order.do:
            case "arm":
                if order.kind not in KINDS:
                    raise ValueError(f"no such fault; there are {', '.join(KINDS)}")
                if order.request and order.request not in REQUESTS:
                    raise ValueError(f"no such request; there are {', '.join(REQUESTS)}")
                cluster.inject(
                    msgspec.convert(order.fields, KINDS[order.kind]),
                    request=REQUESTS.get(order.request),
                    topic=order.topic,
                    times=order.times,
                    every=order.every,
                )
            case "clear":
                cluster.clear_faults()
            case "cut":
                asyncio.get_running_loop().call_soon(cluster.drop_connections)  # after this answer
            case "outage":
                if not 0 < order.seconds <= LONGEST_DELAY:
                    raise ValueError(f"an outage has more than 0 and at most {LONGEST_DELAY:.0f} seconds")
                task = asyncio.get_running_loop().create_task(self._outage(order))
                self._outages.add(task)
                task.add_done_callback(self._outages.discard)
            case "report":
                pass

    async def _outage(self, order: Order) -> None:
        cluster = self._cluster
        servers = [cluster.name_servers] if order.server == "name-server" else list(cluster.brokers)
        for server in servers:
            await server.stop()
        await asyncio.sleep(order.seconds)
        for server in servers:
            try:
                await server.start()
            except ConfigurationError as error:  # somebody took its port meanwhile
                log.error("the outage does not end: %s", error)


def _told(armed: Armed) -> Armament:
    fault = armed.fault
    kind = next(name for name, made in KINDS.items() if made is type(fault))
    request = next((name for name, codes in REQUESTS.items() if codes == armed.requests), "")
    if armed.requests is not None and not request:
        request = ", ".join(str(int(code)) for code in sorted(armed.requests))
    return Armament(kind, msgspec.to_builtins(fault), request, armed.topic, armed.left, armed.every)
