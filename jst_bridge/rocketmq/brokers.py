"""Where brokers are: what all known routes say, and which of their addresses this host reaches otherwise."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from ..errors import ConnectionFailed
from .route import MASTER, Route

__all__ = ["Brokers", "reachable"]


class Brokers:
    """The routes of all topics in use, and the brokers they name."""

    def __init__(self, address_map: Mapping[str, str]) -> None:
        """`address_map`: advertised address (host:port, or host for every port) -> the one to dial."""
        self.routes: dict[str, Route] = {}
        """The last known route of each topic: kept when a name server forgets it (reference 4.16)."""
        self.table: dict[str, dict[int, str]] = {}
        """Broker name -> broker id -> address to dial, of all routes."""
        self.advertised: dict[str, str] = {}
        """Address to dial -> the one the name server told, where they differ."""
        self._address_map = dict(address_map)
        self._former: dict[str, dict[int, str]] = {}
        """The last addresses of brokers that no route names any more: what is on the way to them still ends."""

    def learn(self, route: Route) -> Route:
        """Remember a route; answers it with the addresses to dial."""
        route = replace(
            route, brokers={name: self.dialled(addresses) for name, addresses in route.brokers.items()}
        )
        self.routes[route.topic] = route
        # Anew from all routes, so that a broker that was taken away is not dialled for ever.
        former, self.table = self.table, {}
        for known in self.routes.values():
            self.table |= known.brokers
        self._former |= {name: addresses for name, addresses in former.items() if addresses}
        return route

    def dialled(self, addresses: Mapping[int, str]) -> dict[int, str]:
        """Broker id -> address to dial, for advertised ones."""
        found = {broker_id: reachable(address, self._address_map) for broker_id, address in addresses.items()}
        self.advertised |= {
            found[broker_id]: address
            for broker_id, address in addresses.items()
            if found[broker_id] != address
        }
        return found

    def address(self, broker: str, broker_id: int) -> str:
        """Address of one broker id, falling back to the master and then to any (reference 2.7.3).

        Raises ConnectionFailed when no route ever named one.
        """
        addresses = self.table.get(broker) or self._former.get(broker)
        if not addresses:
            raise ConnectionFailed(f"no route names an address of broker {broker}")
        return addresses.get(broker_id) or addresses.get(MASTER) or next(iter(addresses.values()))

    def addresses(self) -> list[str]:
        """Masters and slaves of every known route, in stable order."""
        return sorted({address for members in self.table.values() for address in members.values()})


def reachable(address: str, address_map: Mapping[str, str]) -> str:
    """What to dial for an advertised address; an entry without a port keeps the advertised one."""
    host, _, port = address.rpartition(":")
    target = address_map.get(address) or address_map.get(host)
    if target is None:
        return address
    return target if re.search(r":\d+$", target) else f"{target}:{port}"
