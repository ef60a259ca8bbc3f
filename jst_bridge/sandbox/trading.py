"""Traffic for a sandbox in another process: its sellers sell while they are open, as its gateway tells."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

import httpx2

from jst_bridge.errors import ConfigurationError, ConnectionFailed
from jst_bridge.reaching import client_settings
from jst_bridge.rocketmq import Producer
from jst_bridge.settings import Settings

from .traffic import Outgoing, Seller, Traffic, TrafficSettings
from .traffic.feeding import feed

__all__ = ["Trade", "now", "sandbox_of"]

_LOOK: Final = 0.3
"""Seconds between two questions to the gateway, who is open."""


def now() -> int:
    """Epoch ms."""
    return time.time_ns() // 1_000_000


def sandbox_of(settings: Settings) -> tuple[SplitResult, str]:
    """The gateway of the sandbox that `settings` point at, and its token. ConfigurationError when that is none."""
    secret = settings.app.secret
    url = urlsplit(settings.app.gateway)
    if url.scheme != "http" or url.hostname not in ("127.0.0.1", "localhost", "::1") or secret is None:
        raise ConfigurationError(
            f"{settings.file or 'environment'}: app.gateway is no sandbox on this machine: nothing is sent there",
            remedy="run `jst-bridge sandbox --write sandbox.toml`, and name that file with -c",
        )
    if not settings.source:
        raise ConfigurationError(f"{settings.file or 'environment'}: source: there is none to send to")
    return url, secret.get_secret_value()


class Trade:
    """Sends the traffic of the sandbox that `settings` point at. Raises ConfigurationError when that is none."""

    def __init__(self, settings: Settings, traffic: TrafficSettings) -> None:
        url, self._token = sandbox_of(settings)
        self._settings = settings
        self._traffic = traffic
        self._state_url = f"{url.scheme}://{url.netloc}/_sandbox/state"
        self._open: frozenset[tuple[str, str]] = frozenset()
        self._sent: Counter[str] = Counter()
        self._kinds: Counter[str] = Counter()

    async def run(self, rate: float | None, count: int | None) -> None:
        """Send the next `count` messages of the story, or for ever. Raises SourceError, ConfigurationError."""
        async with httpx2.AsyncClient(
            headers={"Authorization": f"Bearer {self._token}"}, trust_env=False
        ) as http:
            state = await self._ask(http)
            sellers = [Seller(nick, int(user_id)) for nick, user_id in state["sellers"].items()]
            if not self._open:
                raise ConfigurationError(
                    "no seller is open at the sandbox, so no message flows",
                    remedy="add sellers: `jst-bridge users import` with the file that `sandbox --write` named",
                )
            story = Traffic(self._traffic, named=sellers, admits=self._is_open, clock=now)
            source = self._settings.source[0]
            async with Producer(client_settings(self._settings, source)) as producer:
                feeding = feed(
                    producer, source.system_topic or "", story.outgoing(count), rate=rate, on_sent=self._count
                )
                tasks = [asyncio.create_task(feeding), asyncio.create_task(self._look(http))]
                try:
                    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for task in tasks:
                        task.cancel()
                    await asyncio.gather(*tasks, return_exceptions=True)
                for task in done:
                    task.result()  # raises what ended it

    def summary(self) -> dict[str, Any]:
        """What was sent: numbers by kind and by seller."""
        return {"event": "traffic", "sent": self._kinds.total(), **self._kinds, "sellers": dict(self._sent)}

    def _is_open(self, seller: Seller, topic: str) -> bool:
        return (seller.nick, topic) in self._open

    async def _look(self, http: httpx2.AsyncClient) -> None:
        while True:
            await asyncio.sleep(_LOOK)
            await self._ask(http)

    async def _ask(self, http: httpx2.AsyncClient) -> dict[str, Any]:
        try:
            answer = await http.get(self._state_url)
            answer.raise_for_status()
            state: dict[str, Any] = answer.json()
        except httpx2.HTTPStatusError as error:
            raise ConfigurationError(
                f"the sandbox at {self._state_url} refuses this app.secret ({error.response.status_code})",
                remedy="use the FILE that `jst-bridge sandbox --write FILE` wrote last",
            ) from None
        except (httpx2.HTTPError, ValueError) as error:
            raise ConnectionFailed(
                f"the sandbox at {self._state_url} does not answer: {type(error).__name__}",
                remedy="start `jst-bridge sandbox --write FILE`, and use the FILE it wrote last",
            ) from None
        opened = state["open_sellers"].get(self._settings.app.key, [])
        self._open = frozenset((one["nick"], topic) for one in opened for topic in one["topics"])
        return state

    def _count(self, outgoing: Outgoing) -> None:
        if outgoing.message is None:
            self._kinds["bad"] += 1
        elif outgoing.again:
            self._kinds["duplicates"] += 1
        else:
            self._kinds["messages"] += 1
            self._sent[outgoing.message.seller.nick] += 1
