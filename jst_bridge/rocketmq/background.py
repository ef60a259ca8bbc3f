"""Tasks that run as long as their owner does: one that ends by itself is the owner's failure (design, section 6)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from ..errors import SourceError

__all__ = ["Background"]


class Background:
    """The tasks of one owner. Whatever ends one of them, but `cancel` and the return of an errand, is reported."""

    def __init__(self, failed: Callable[[str, BaseException], None]) -> None:
        """`failed` is called once for each task that failed, with its name and its error."""
        self._failed = failed
        self._running: dict[asyncio.Task[None], bool] = {}
        """Task -> whether it may not even return."""
        self._cancelled: set[asyncio.Task[None]] = set()

    def spawn(
        self, name: str, work: Coroutine[Any, Any, None], *, endless: bool = True
    ) -> asyncio.Task[None]:
        """Run `work`. An `endless` one may not return; any other is an errand."""
        task = asyncio.create_task(work, name=name)
        self._running[task] = endless
        task.add_done_callback(self._ended)
        return task

    def cancel(self, *tasks: asyncio.Task[None]) -> None:
        """End these tasks, all when none is named; `join` waits until they are gone."""
        for task in tasks or tuple(self._running):
            if self._running.pop(task, None) is not None:
                self._cancelled.add(task)
                task.cancel()

    async def join(self) -> None:
        """Wait for what was cancelled."""
        await asyncio.gather(*self._cancelled, return_exceptions=True)

    @property
    def names(self) -> list[str]:
        """What runs now, sorted."""
        return sorted(task.get_name() for task in self._running)

    def stacks(self) -> str:
        """Where each task waits: function, file and line, outermost last; and no value of anything."""
        lines: list[str] = []
        for task in sorted(self._running, key=lambda task: task.get_name()):
            places: list[str] = []
            waiting: Any = task.get_coro()
            while (frame := getattr(waiting, "cr_frame", None)) is not None:
                code = frame.f_code
                places.append(f"  at {code.co_qualname} ({code.co_filename}:{frame.f_lineno})")
                waiting = waiting.cr_await
            lines += [task.get_name(), *reversed(places)]
        return "\n".join(lines)

    def _ended(self, task: asyncio.Task[None]) -> None:
        endless = self._running.pop(task, None)
        self._cancelled.discard(task)
        name = task.get_name()
        if task.cancelled():
            # Not by us: something below it was cancelled, and took it along.
            if endless is not None:
                self._failed(name, SourceError(f"the task {name!r} was cancelled from outside"))
        elif (error := task.exception()) is not None:
            self._failed(name, error)
        elif endless:
            self._failed(name, SourceError(f"the task {name!r} ended, which it never should"))
