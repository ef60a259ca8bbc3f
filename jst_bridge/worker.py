"""One thread for what blocks: the store's."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["Worker"]

T = TypeVar("T")


class Worker:
    """Runs calls one after another in its own thread.

    Not a ThreadPoolExecutor: the interpreter would wait at exit for a call that hangs in a dead disk. A call that
    was begun is always finished by the thread, whether or not anybody still awaits it.
    """

    def __init__(self, name: str) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    async def call(self, job: Callable[[], T]) -> T:
        """Run `job` in the thread and wait for what it returns or raises."""
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[T] = loop.create_future()

        def deliver(setter: Callable[[Any], None], value: Any) -> None:
            if not outcome.done():
                setter(value)

        def run() -> None:
            try:
                result = job()
            except BaseException as error:  # noqa: BLE001 - handed to who awaits it
                setter, value = outcome.set_exception, error
            else:
                setter, value = outcome.set_result, result  # type: ignore[assignment]
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(deliver, setter, value)

        self._jobs.put(run)
        return await outcome

    def close(self, timeout: float | None = None) -> bool:
        """Let the thread end after what was asked for; wait up to `timeout` seconds. False: it is still busy."""
        self._jobs.put(None)
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
            del job
