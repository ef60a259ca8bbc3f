"""Traffic without end: the lives of many orders of many sellers, told in the order of publishing."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count as counting
from typing import Final

from .disturbances import Disturbances, Outgoing, disturbed
from .lives import Happening, life
from .orders import Seller, new_order, sellers, weights
from .publishing import Published, publish

__all__ = ["Traffic", "TrafficSettings"]

_FIRST_OUTGOING_ID: Final = 4_112_500_053_989_000_000
_IDS_OF_A_RUN: Final = 10_000_000_000
Admits = Callable[[Seller, str], bool]


def _everyone(seller: Seller, topic: str) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class TrafficSettings:
    """What the traffic is like. Everything follows from it."""

    seed: int = 1
    start: int = 1_668_096_000_000
    """Epoch ms of the first order; 2022-11-11 in Beijing. Part of every id, as on the platform."""
    sellers: int = 20
    skew: float = 1.0
    """How unequal their sales are: 0 all alike, 1 the n-th sells an n-th of what the first does (Zipf)."""
    spacing: float = 1800.0
    """Seconds of life between two orders, on average, of all sellers together."""
    speed: float = 60.0
    """How much faster than the platform's time runs here."""
    several: float = 0.25
    """Share of the orders with two to four lines."""
    disturbances: Disturbances = field(default_factory=Disturbances)

    def __post_init__(self) -> None:
        if self.sellers < 1 or self.spacing <= 0 or self.speed <= 0 or self.skew < 0:
            raise ValueError("traffic needs a seller, and a spacing and a speed above 0")


class Traffic:
    """An endless sale.

    `named`: the sellers to use, in the order of their sales; made up when None. `admits` is asked at each message
    whether the seller is open for its topic; a message that is not admitted is never published. With `clock` (epoch
    ms) messages carry the time at which they are taken from here; without, that of the story, and all follows from
    the settings alone.
    """

    def __init__(
        self,
        settings: TrafficSettings,
        *,
        named: Sequence[Seller] | None = None,
        admits: Admits = _everyone,
        clock: Callable[[], int] | None = None,
    ) -> None:
        self.settings = settings
        self.sellers = list(named) if named is not None else sellers(settings.sellers, settings.seed)
        self._admits = admits
        self._clock = clock
        self._chance = random.Random(settings.seed)
        self._weights = weights(len(self.sellers), settings.skew)
        self._happenings = self._happening()
        run = settings.start // 1000 % 90_000 + settings.seed
        self._ids = counting(_FIRST_OUTGOING_ID + run * _IDS_OF_A_RUN)
        self._last = settings.start

    def step(self) -> Published | None:
        """The next message; None when its seller is not open for it."""
        at, happening = next(self._happenings)
        if not self._admits(happening.order.seller, happening.topic):
            return None
        # Strictly rising: no two messages are published in one millisecond.
        self._last = max(self._last + 1, at if self._clock is None else self._clock())
        return publish(next(self._ids), happening, self._last)

    def published(self, count: int) -> Iterator[Published]:
        """The next `count` messages of the story; those that are not admitted count, too."""
        for _ in range(count):
            message = self.step()
            if message is not None:
                yield message

    def outgoing(self, count: int | None = None) -> Iterator[Outgoing | None]:
        """The same, or without end, with the disturbances of the settings. None: it was not admitted."""
        steps = counting() if count is None else range(count)
        return disturbed((self.step() for _ in steps), self.settings.disturbances, self.settings.seed)

    def _happening(self) -> Iterator[tuple[int, Happening]]:
        """(epoch ms of the story, what happens), in time order."""
        settings, chance = self.settings, self._chance
        waiting: list[tuple[float, int, Happening]] = []
        opened, tickets = 0.0, counting()
        for serial in counting():
            while waiting and waiting[0][0] < opened:
                after, _, happening = heapq.heappop(waiting)
                yield settings.start + round(after * 1000 / settings.speed), happening
            seller = chance.choices(self.sellers, self._weights)[0]
            order = new_order(chance, seller, self._tid(serial), several=settings.several)
            for happening in life(chance, order):
                heapq.heappush(waiting, (opened + happening.after, next(tickets), happening))
            opened += chance.expovariate(1 / settings.spacing)

    def _tid(self, serial: int) -> int:
        """19 digits: time and order, then six of the buyer's, as on the platform; never the same twice."""
        moment = self.settings.start // 1000 % 10_000 * 10_000_000 + serial * 10
        return (27 * 10**11 + moment) * 1_000_000 + self._chance.randrange(1_000_000)
