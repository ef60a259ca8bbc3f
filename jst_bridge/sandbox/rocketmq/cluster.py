"""A name server and brokers as one thing to start and stop, in an event loop or in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Final, Self, TypeVar

from .broker import Broker
from .codes import CONTROL
from .control import Control
from .faults import Fault, Faults
from .name_server import NameServer
from .settings import SandboxSettings
from .store import Place

__all__ = ["ClusterThread", "SandboxCluster"]

_BROKERS: Final = "abcdefghijklmnop"
_START_SECONDS: Final = 10.0

Result = TypeVar("Result")


class SandboxCluster:
    """A cluster on loopback. An `async with`, or `start` and `stop`; everything else on its loop.

    A port of 0 takes a free one, which is kept when the server is stopped and started again.
    """

    def __init__(
        self, settings: SandboxSettings | None = None, *, name_server_port: int = 0, broker_port: int = 0
    ) -> None:
        self.settings = settings or SandboxSettings()
        self.faults = Faults()
        self.brokers = tuple(
            Broker(
                self.settings,
                f"broker-{_BROKERS[number]}",
                self.faults,
                port=broker_port + 10 * number if broker_port else 0,
            )
            for number in range(self.settings.brokers)
        )
        self.name_servers = NameServer(self.settings, self.brokers, self.faults, port=name_server_port)
        self._control = Control(self)
        self.name_servers.handlers[CONTROL] = self._control.handle

    def __repr__(self) -> str:
        return f"<SandboxCluster {self.name_server}>"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def name_server(self) -> str:
        """What a client is given as its name server: host:port."""
        return self.name_servers.address

    @property
    def broker(self) -> Broker:
        """The first broker."""
        return self.brokers[0]

    async def start(self) -> None:
        """Listen. ConfigurationError: a port is taken. Nothing stays behind then."""
        try:
            for server in (*self.brokers, self.name_servers):
                await server.start()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Close all ports and cut all connections. Idempotent; state stays for the next `start`."""
        self._control.end()
        for server in (self.name_servers, *self.brokers):
            await server.stop()

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
        broker: int = 0,
    ) -> Place:
        """Store a message on a broker without a producer; the topic is made where it is not there."""
        return self.brokers[broker].publish(
            topic, body, tag=tag, keys=keys, queue_id=queue_id, properties=properties, born_at=born_at
        )

    # --- faults ------------------------------------------------------------------------------------------

    def inject(
        self,
        fault: Fault,
        *,
        request: int | frozenset[int] | None = None,
        topic: str | None = None,
        times: int | None = 1,
        every: int = 1,
    ) -> None:
        """Let requests of a code, or of some (None: all), about a topic (None: any), meet a fault `times` times.

        None: until it is cleared. With `every` 50 it strikes the 50th, the 100th, ... that meet it.
        ValueError: not usable.
        """
        self.faults.arm(fault, request=request, topic=topic, times=times, every=every)

    def clear_faults(self) -> None:
        self.faults.clear()

    def drop_connections(self) -> None:
        """Cut every connection to every server now."""
        for server in (self.name_servers, *self.brokers):
            server.drop_connections()


class ClusterThread:
    """A cluster in a thread of its own, for programs and tests without an event loop. A context manager."""

    def __init__(
        self, settings: SandboxSettings | None = None, *, name_server_port: int = 0, broker_port: int = 0
    ) -> None:
        self.cluster = SandboxCluster(settings, name_server_port=name_server_port, broker_port=broker_port)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._ready = threading.Event()
        self._over: asyncio.Event | None = None
        self._failure: BaseException | None = None

    @property
    def name_server(self) -> str:
        return self.cluster.name_server

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Returns once it listens. ConfigurationError: a port is taken."""
        if self._thread is not None:
            return
        self._ready.clear()
        self._thread = threading.Thread(target=self._run, name="sandbox rocketmq", daemon=True)
        self._thread.start()
        self._ready.wait(_START_SECONDS)
        if self._failure is not None:
            failure, self._failure = self._failure, None
            self.stop()
            raise failure

    def stop(self) -> None:
        """Idempotent."""
        thread, self._thread = self._thread, None
        if thread is not None:
            if self._loop is not None and self._over is not None:
                with contextlib.suppress(RuntimeError):  # it ended by itself
                    self._loop.call_soon_threadsafe(self._over.set)
            thread.join(_START_SECONDS)

    def call(self, work: Callable[[SandboxCluster], Result]) -> Result:
        """Run something on the cluster's loop, such as `lambda cluster: cluster.inject(...)`, and wait for it."""

        async def run() -> Result:
            return work(self.cluster)

        assert self._loop is not None, "not started"
        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(_START_SECONDS)

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        try:
            async with self.cluster:
                self._ready.set()
                await self._over.wait()
        except BaseException as failure:  # noqa: BLE001 - raised by `start`, in the thread that called it
            self._failure = failure
        finally:
            self._ready.set()
