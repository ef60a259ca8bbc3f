"""The loop that feeds one target: mutate, run, keep what went a new way, save what must not happen.

One case in 16 is traced: the steps from line to line it makes in the package, and the memory it takes. A case
that makes a new step joins the corpus.
"""

from __future__ import annotations

import hashlib
import random
import resource
import signal
import sys
import time
import traceback
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Final

from jst_bridge.errors import DecodeError, SourceError
from tests.fuzz.mutation import Mutator

__all__ = ["Failure", "Report", "Target", "fuzz", "reproduce"]

TRACED: Final = 16
CASE_SECONDS: Final = 10.0
"""Time for one case; far more than any takes, because other programs run beside."""
CASE_MEMORY: Final = 64 << 20
"""Bytes one case may take at its peak: 8 MiB of a pull and 4 MiB of a message, some of it twice."""
PACKAGE: Final = f"{Path(__file__).parents[2] / 'jst_bridge'}"


@dataclass(frozen=True, slots=True)
class Target:
    """Something that reads bytes. `work` may raise DecodeError or SourceError; anything else is a finding."""

    name: str
    work: Callable[[bytes], None]
    seeds: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Failure:
    """What must not happen, and how to see it again."""

    what: str
    command: str


@dataclass
class Report:
    """What came of one target."""

    target: str
    cases: int = 0
    refused: int = 0
    """Cases that ended with an error of ours."""
    slowest: float = 0.0
    """Seconds of the slowest case that was not traced."""
    peak: int = 0
    """Bytes: the most that a traced case took by itself."""
    steps: int = 0
    """Steps from line to line seen in the package."""
    seconds: float = 0.0
    failures: list[Failure] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.target:<14} {self.cases:>9} cases {self.refused:>9} refused {len(self.failures):>3} failures"
            f"  slowest {1000 * self.slowest:>7.1f} ms  peak {self.peak / 1024:>7.0f} KiB  {self.steps:>5} steps"
            f"  {self.seconds:>6.1f} s"
        )


class TooSlow(BaseException):
    """Raised into a case by the clock; no `except Exception` of the package can swallow it."""


def fuzz(target: Target, seconds: float, seed: int, directory: Path) -> Report:
    """Feed a target for so long; failing inputs are saved in `directory`, the first of each kind."""
    report = Report(target.name)
    dice = random.Random(f"{seed}/{target.name}")
    mutator, corpus, steps = Mutator(dice), list(target.seeds), Steps()
    kinds: set[str] = set()
    began = time.monotonic()
    while report.cases < len(target.seeds) or time.monotonic() - began < seconds:
        if report.cases < len(target.seeds):
            data, traced = target.seeds[report.cases], True
        else:
            data, traced = (
                mutator.mutate(dice.choice(corpus), dice.choice(corpus)),
                report.cases % TRACED == 0,
            )
        report.cases += 1
        try:
            with steps.of_one_case() if traced else stopwatch(report):
                target.work(data)
        except (DecodeError, SourceError):
            report.refused += 1
        except (Exception, TooSlow) as error:
            kind = f"{type(error).__name__} at {traceback.extract_tb(error.__traceback__)[-1][:2]}"
            if kind not in kinds:
                kinds.add(kind)
                report.failures.append(saved(target, data, directory, error))
        if traced:
            report.peak = max(report.peak, steps.peak)
            if steps.peak > CASE_MEMORY and "memory" not in kinds:
                kinds.add("memory")
                greedy = MemoryError(f"{steps.peak >> 20} MiB for an input of {len(data)} bytes")
                report.failures.append(saved(target, data, directory, greedy))
            if steps.fresh:
                corpus.append(data)
    report.steps, report.seconds = len(steps.seen), time.monotonic() - began
    return report


def reproduce(target: Target, data: bytes) -> None:
    """Run one input as the loop does; raises what the loop would save."""
    steps = Steps()
    try:
        with steps.of_one_case():
            target.work(data)
    except (DecodeError, SourceError) as error:
        print(f"refused: {error}")
    print(f"peak {steps.peak / 1024:.0f} KiB")


def saved(target: Target, data: bytes, directory: Path, error: BaseException) -> Failure:
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / f"{target.name}-{hashlib.sha256(data).hexdigest()[:12]}.bin"
    file.write_bytes(data)
    what = "".join(traceback.format_exception(error)[-6:])
    return Failure(what, f"python -m tests.fuzz --target {target.name} --reproduce {file}")


def peak_rss() -> int:
    """Bytes this process ever had in memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextmanager
def stopwatch(report: Report) -> Iterator[None]:
    began = time.perf_counter()
    try:
        with time_limit():
            yield
    finally:
        report.slowest = max(report.slowest, time.perf_counter() - began)


@contextmanager
def time_limit() -> Iterator[None]:
    def ring(number: int, frame: FrameType | None) -> None:
        raise TooSlow(f"still at it after {CASE_SECONDS:g} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, CASE_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Steps:
    """Which steps from one line of the package to the next were ever made."""

    def __init__(self) -> None:
        self.seen: set[tuple[str, int, int]] = set()
        self.fresh = False
        """Whether the last case made a new one."""
        self.peak = 0
        """Bytes the last case took."""
        self._made: set[tuple[str, int, int]] = set()
        self._last = 0

    @contextmanager
    def of_one_case(self) -> Iterator[None]:
        self._made.clear()
        self._last = 0
        before = sys.gettrace()
        with time_limit():
            tracemalloc.start()
            sys.settrace(self._called)
            try:
                yield
            finally:
                sys.settrace(before)
                self.peak = tracemalloc.get_traced_memory()[1]
                tracemalloc.stop()
                self.fresh = not self._made <= self.seen
                self.seen |= self._made

    def _called(self, frame: FrameType, event: str, argument: object) -> Any:
        return self._stepped if frame.f_code.co_filename.startswith(PACKAGE) else None

    def _stepped(self, frame: FrameType, event: str, argument: object) -> Any:
        self._made.add((frame.f_code.co_filename, self._last, frame.f_lineno))
        self._last = frame.f_lineno
        return self._stepped
