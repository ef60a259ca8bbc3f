"""The whole world on loopback: name server and broker, the TOP gateway, sellers who authorised one app, their orders.

    with Platform(sellers=3) as platform:
        text = platform.configuration("sqlite:///jst-bridge.db")    # a jst-bridge.toml that points at it
        platform.sessions                                           # nick -> what `jst-bridge users add` is given

Messages flow for sellers that are open at the gateway, and only of the message types they are open for.
"""

from __future__ import annotations

import secrets
import time
from types import TracebackType
from typing import Final, Self

from .rocketmq import Account, ClusterThread, SandboxSettings
from .top import TopGateway
from .traffic import Seller
from .traffic.lives import TOPICS
from .traffic.orders import sellers as make_sellers

__all__ = ["MARK", "Platform"]

MARK: Final = "# Points at a sandbox"
"""How a configuration begins that a sandbox wrote."""

GROUP: Final = "GID_jst_bridge"
_REMEMBERED: Final = 0.2
"""Seconds for which an answer about who is open is not asked again: traffic asks at every message."""


class Platform:
    """Servers in threads of their own. A context manager, or `start` and `stop`; a port of 0 takes a free one."""

    def __init__(
        self,
        *,
        app_key: str = "12345678",
        sellers: int = 5,
        seed: int = 1,
        name_server_port: int = 0,
        broker_port: int = 0,
        gateway_port: int = 0,
        rocketmq: SandboxSettings | None = None,
    ) -> None:
        """`rocketmq`: another broker than the default one, which wants requests signed with the app's keys."""
        self.app_key = app_key
        self.secret = secrets.token_hex(16)
        self.system_topic = f"rmq_sys_jst_{app_key}"
        self.sellers = make_sellers(sellers, seed)
        self.sessions: dict[str, str] = {}
        """Of each seller, by nick; known once it runs."""
        settings = rocketmq or SandboxSettings(
            topics={self.system_topic: 8}, accounts=(Account(app_key, self.secret),)
        )
        self.rocketmq = ClusterThread(settings, name_server_port=name_server_port, broker_port=broker_port)
        # The app's secret opens the control endpoints, too: whoever has the configuration has both.
        self.gateway = TopGateway(port=gateway_port, token=self.secret)
        self._open: frozenset[tuple[str, str]] = frozenset()
        self._asked = float("-inf")

    def __repr__(self) -> str:
        return f"<Platform {self.rocketmq.name_server} {self.gateway.url}>"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def name_server(self) -> str:
        return self.rocketmq.name_server

    def start(self) -> None:
        """Listen. ConfigurationError: a port is taken, or the extra `sandbox` is not installed."""
        try:
            self.gateway.start()
            self.rocketmq.start()
        except BaseException:
            self.stop()
            raise
        self.gateway.add_app(self.app_key, self.secret, topics=sorted(TOPICS))
        for seller in self.sellers:
            if seller.nick not in self.sessions:
                self.sessions[seller.nick] = self.gateway.add_seller(
                    seller.nick, user_id=seller.user_id
                ).session

    def stop(self) -> None:
        """Close every port. Idempotent."""
        self.rocketmq.stop()
        self.gateway.stop()

    def is_open(self, seller: Seller, topic: str) -> bool:
        """Whether messages of this type flow for the seller now."""
        now = time.monotonic()
        if now - self._asked > _REMEMBERED:
            self._asked = now
            self._open = frozenset(
                (one.nick, name) for one in self.gateway.open_sellers(self.app_key) for name in one.topics
            )
        return (seller.nick, topic) in self._open

    def configuration(self, store_url: str) -> str:
        """A jst-bridge.toml that lands what comes here in the store. It holds the app's secret."""
        return (
            f"{MARK} on this machine, which lives as long as the process that wrote this.\n"
            "[app]\n"
            f'key = "{self.app_key}"\n'
            f'secret = "{self.secret}"\n'
            f'gateway = "{self.gateway.url}"\n\n'
            "[store]\n"
            f'url = "{store_url}"\n\n'
            "[[source]]\n"
            'type = "rocketmq"\n'
            f'name_servers = ["{self.name_server}"]\n'
            f'group = "{GROUP}"\n'
        )

    def roster(self) -> str:
        """The sellers and their sessions as `jst-bridge users import` reads them."""
        return "nick,session\n" + "".join(f"{nick},{session}\n" for nick, session in self.sessions.items())
