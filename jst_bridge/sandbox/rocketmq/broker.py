"""One broker: its state behind a port, and what happens by itself as time goes on."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterable
from typing import Final

from jst_bridge.rocketmq.properties import encode_properties

from .accounts import Accounts
from .administration import Administration
from .bodies import BrokerPlace
from .consuming import Consuming
from .faults import Faults
from .pulling import Pulling
from .records import Draft
from .sending import Sending
from .server import Channel, Server
from .settings import SandboxSettings
from .state import BrokerState
from .store import Place, Queue

__all__ = ["Broker"]

_CHECKS_PER_EXPIRY: Final = 12
"""Silent clients are looked for so often within their time."""


class Broker(Server):
    """A broker in memory. Stopped and started again it has its port, messages and offsets; locks and members go."""

    what = "broker"

    def __init__(self, settings: SandboxSettings, name: str, faults: Faults, *, port: int = 0) -> None:
        super().__init__(settings, faults, port=port)
        self.name = name
        self.state: BrokerState
        self._pulling: Pulling
        self._consuming: Consuming
        self._woken: set[Queue] = set()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._serial = itertools.count()

    def opened(self) -> None:
        if not hasattr(self, "state"):
            self._set_up()
        self._tick()
        self._look_for_silent()
        self._deliver_due()

    def _set_up(self) -> None:
        """What needs the port, which is in every message id."""
        state = self.state = BrokerState(self.settings, BrokerPlace(self.name, self.address), self._faults)
        state.on_stored, state.on_delayed = self._wake_soon, self._deliver_due
        self._pulling, self._consuming = Pulling(state), Consuming(state)
        parts = (self._pulling, self._consuming, Sending(state), Administration(state))
        self.handlers = {code: handler for part in parts for code, handler in part.handlers().items()}
        self.guard = Accounts(self.settings) if self.settings.accounts else None

    async def stop(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        await super().stop()

    def lost(self, channel: Channel) -> None:
        super().lost(channel)
        self._pulling.forget(channel)
        self._consuming.lost(channel)

    def publish(
        self,
        topic: str,
        body: bytes,
        *,
        tag: str = "",
        keys: str = "",
        queue_id: int | None = None,
        properties: Iterable[tuple[str, str]] = (),
        born_at: int | None = None,
        level: int = 0,
    ) -> Place:
        """Store a message without a producer, in the queues in turn unless one is named. On the loop only.

        `born_at` in epoch ms, `level` a delay level. ConfigurationError is not raised for a topic that is not there:
        it is made as by a first send. calls.Refusal: an illegal name.
        """  # fmt: skip
        target = self.state.writable_topic(topic, self.settings.default_queues)
        number = next(self._serial)
        if queue_id is None:
            queue_id = number % target.write_queues
        host = self.state.store.store_host
        unique = f"{host.hex().upper()}{number:016X}"
        text = encode_properties([
            ("KEYS", keys), ("UNIQ_KEY", unique), ("TAGS", tag), *properties, ("CLUSTER", self.settings.cluster_name),
        ]
        )  # fmt: skip
        draft = Draft(topic, queue_id, body, text, born_at or int(time.time() * 1000), host)
        return self.state.put(draft, level)

    # --- as time goes on ---------------------------------------------------------------------------------

    def _wake_soon(self, queue: Queue) -> None:
        """Once for all that one read brings: a parked pull gets them together."""
        if not self._woken:
            self.loop.call_soon(self._wake)
        self._woken.add(queue)

    def _wake(self) -> None:
        woken, self._woken = self._woken, set()
        for queue in woken:
            self._pulling.wake(queue)

    def _tick(self) -> None:
        self._pulling.tick(self.loop.time())
        self._timers["tick"] = self.loop.call_later(self.settings.park_tick, self._tick)

    def _look_for_silent(self) -> None:
        expiry = self.settings.client_expiry
        self._consuming.drop_silent(time.monotonic() - expiry)
        for channel in list(self.channels):
            if channel.heard_at < self.loop.time() - expiry:
                channel.abort()
        self._timers["silent"] = self.loop.call_later(expiry / _CHECKS_PER_EXPIRY, self._look_for_silent)

    def _deliver_due(self) -> None:
        self.state.deliver_due()
        timer = self._timers.pop("due", None)
        if timer is not None:
            timer.cancel()
        due = self.state.delays.next_due
        if due is not None and self.running:
            self._timers["due"] = self.loop.call_later(max(0.0, due - time.monotonic()), self._deliver_due)
