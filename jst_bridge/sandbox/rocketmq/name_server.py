"""The name server: which brokers hold which topic (reference 2.1, 2.15)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from jst_bridge.rocketmq.codes import Response

from .bodies import BrokerPlace, cluster_body, encode, route_body
from .broker import Broker
from .calls import Call, Refusal
from .codes import Request
from .faults import Faults, NoRoute
from .server import Server
from .settings import SandboxSettings

__all__ = ["NameServer"]

_STRICT_FROM: Final = 401
"""Client versions from this one on get strict JSON routes (reference 1.6)."""
_NO_ROUTE: Final = (
    "No topic route info in name server for the topic: {}"
    "\nSee https://rocketmq.apache.org/docs/bestPractice/06FAQ for further details."
)


class NameServer(Server):
    """It knows the brokers that run, and their topics, at once: nothing registers."""

    what = "name server"

    def __init__(
        self, settings: SandboxSettings, brokers: Sequence[Broker], faults: Faults, *, port: int = 0
    ) -> None:
        super().__init__(settings, faults, port=port)
        self._brokers = brokers
        self.handlers = {
            Request.GET_ROUTEINFO_BY_TOPIC: self.route,
            Request.GET_BROKER_CLUSTER_INFO: self.cluster,
            Request.GET_ALL_TOPIC_LIST_FROM_NAMESERVER: self.topics,
            Request.GET_TOPICS_BY_CLUSTER: self.topics,
            Request.DELETE_TOPIC_IN_NAMESRV: lambda call: call.answer(),
        }

    def route(self, call: Call) -> None:
        """Where a topic lives."""
        name = call.ext.get("topic", "")
        found = [
            (broker.state.place, broker.state.store.topics[name])
            for broker in self._running()
            if name in broker.state.store.topics
        ]
        hidden = self._faults.take(NoRoute, call.frame.code, name) if self._faults.line else None
        if not found or (hidden is not None and not hidden.empty):
            raise Refusal(Response.TOPIC_NOT_EXIST, _NO_ROUTE.format(name))
        strict = call.frame.version >= _STRICT_FROM or call.flag("acceptStandardJsonOnly")
        told = found if hidden is None else []
        call.answer(
            body=route_body(self.settings.cluster_name, told, strict=strict, modern=self.settings.modern)
        )

    def cluster(self, call: Call) -> None:
        """The brokers of the cluster."""
        places: list[BrokerPlace] = [broker.state.place for broker in self._running()]
        call.answer(body=cluster_body(self.settings.cluster_name, places, modern=self.settings.modern))

    def topics(self, call: Call) -> None:
        names = {name for broker in self._running() for name in broker.state.store.topics}
        call.answer(body=encode({"topicList": sorted(names)}))

    def unknown(self, call: Call) -> None:
        """4.9 never answers what it does not know (reference 1.4)."""
        if self.settings.modern:
            super().unknown(call)

    def _running(self) -> list[Broker]:
        return [broker for broker in self._brokers if broker.running]
