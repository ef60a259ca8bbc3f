"""Keeping the routes of the subscribed topics fresh (reference 4.1, 4.3, 4.16)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from ..errors import DecodeError, SourceError
from .client import Client

__all__ = ["RouteWatch"]

log = logging.getLogger(__name__)


class RouteWatch:
    """Asks for the routes of one consumer's topics; what a name server does not know changes nothing."""

    def __init__(self, client: Client, topics: Iterable[str]) -> None:
        self._client = client
        self._topics = tuple(topics)
        self._kept: dict[str, type[Exception]] = {}
        """Topics whose last known route is in use, and because of what: told once."""

    async def refresh(self) -> bool:
        """Ask for every topic. Returns whether any route changed."""
        return any([await self._refresh(topic) for topic in self._topics])

    async def look_for(self, topic: str) -> None:
        """A topic that is about to appear: the first heartbeat of a group makes its retry topic within a few ms."""
        for pause in (0.0, 0.01, 0.05):
            await asyncio.sleep(pause)
            if await self._refresh(topic):
                return

    async def _refresh(self, topic: str) -> bool:
        """Whether it changed. A name server that knows nothing now changes nothing: it may have restarted."""
        before = self._client.routes.get(topic)
        try:
            changed = await self._client.fetch_route(topic) != before
        except (SourceError, DecodeError) as error:
            told = topic.startswith("%RETRY%") or self._kept.get(topic) is type(error)
            self._kept[topic] = type(error)
            log.log(
                logging.DEBUG if told else logging.WARNING, "route of %s kept as it was: %s", topic, error
            )
            return False
        self._kept.pop(topic, None)
        return changed
