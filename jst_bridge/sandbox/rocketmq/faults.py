"""What can be made to go wrong, for one request or all, a number of times or until it is cleared. Deterministic.

The first kinds strike a request before or instead of its work, in the order of this file; Redeliver, Reorder,
Duplicate and NoRoute change what the work does, BinaryHeader how the answer is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

__all__ = [
    "KINDS",
    "LONGEST_DELAY",
    "Armed",
    "BinaryHeader",
    "Delay",
    "Drop",
    "Duplicate",
    "Fault",
    "Faults",
    "Garbage",
    "Lose",
    "NoRoute",
    "Redeliver",
    "Refuse",
    "Reorder",
    "Silence",
]

MOST_ARMED: Final = 1_000
LONGEST_DELAY: Final = 600.0


@dataclass(frozen=True, slots=True)
class Delay:
    """Do the work, and answer, so many seconds later. Other requests overtake."""

    seconds: float

    def __post_init__(self) -> None:
        if not 0 <= self.seconds <= LONGEST_DELAY:
            raise ValueError(f"a delay has 0 to {LONGEST_DELAY:.0f} seconds")


@dataclass(frozen=True, slots=True)
class Drop:
    """Cut the connection instead of answering; with `acted` after the work was done."""

    acted: bool = False


@dataclass(frozen=True, slots=True)
class Silence:
    """Never answer; with `acted` the work was done."""

    acted: bool = False


@dataclass(frozen=True, slots=True)
class Garbage:
    """Send bytes that are no frame instead of an answer."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """Answer this code; with `acted` the work was done all the same."""

    code: int
    remark: str = "refused by the sandbox"
    acted: bool = False


@dataclass(frozen=True, slots=True)
class Lose:
    """Answer success and do nothing: the send-back, or the commit, is lost. Of a send: it names no place."""


@dataclass(frozen=True, slots=True)
class Redeliver:
    """Answer a pull from so many messages before what it asks for."""

    back: int = 1

    def __post_init__(self) -> None:
        if self.back < 1:
            raise ValueError("a pull goes back by at least one message")


@dataclass(frozen=True, slots=True)
class Reorder:
    """Answer a pull with its messages in reverse order."""


@dataclass(frozen=True, slots=True)
class Duplicate:
    """Store what is sent twice, as a producer that sends again after a lost answer does."""


@dataclass(frozen=True, slots=True)
class NoRoute:
    """The name server does not know the topic (17), or with `empty` knows it without queues and brokers."""

    empty: bool = False


@dataclass(frozen=True, slots=True)
class BinaryHeader:
    """Write the answer with a binary header, as a broker set up for it does whatever it was asked in."""


Fault = (
    Delay
    | Drop
    | Silence
    | Garbage
    | Refuse
    | Lose
    | Redeliver
    | Reorder
    | Duplicate
    | NoRoute
    | BinaryHeader
)
KINDS: Final[Mapping[str, type[Fault]]] = {
    "drop": Drop, "silence": Silence, "delay": Delay, "garbage": Garbage, "refuse": Refuse, "lose": Lose,
    "redeliver": Redeliver, "reorder": Reorder, "duplicate": Duplicate, "no-route": NoRoute,
    "binary-header": BinaryHeader,
}  # fmt: skip
"""What each is called on the command line."""
Intercepting = Delay | Drop | Silence | Garbage | Refuse | Lose
Kind = TypeVar("Kind", bound=Fault)


@dataclass(slots=True)
class Armed:
    """One fault in line."""

    fault: Fault
    requests: frozenset[int] | None
    """Request codes; None: every request."""
    topic: str | None
    left: int | None
    """How often it still strikes; None: until it is cleared."""
    every: int
    met: int = 0


class Faults:
    """The faults in line of one cluster."""

    def __init__(self) -> None:
        self.line: list[Armed] = []
        self.struck = 0
        """Times that a fault struck."""

    def arm(
        self,
        fault: Fault,
        *,
        request: int | frozenset[int] | None,
        topic: str | None,
        times: int | None,
        every: int,
    ) -> None:
        """ValueError: not usable, or too many."""
        if (times is not None and times < 1) or every < 1:
            raise ValueError("`times` and `every` count from 1")
        if len(self.line) >= MOST_ARMED:
            raise ValueError(f"at most {MOST_ARMED} faults can wait; clear them first")
        requests = frozenset({request}) if isinstance(request, int) else request
        self.line.append(Armed(fault, requests, topic, times, every))

    def clear(self) -> None:
        self.line.clear()

    def intercept(self, request: int, topic: str) -> Intercepting | None:
        """The fault that strikes a request before its work."""
        return (
            self.take(Delay, request, topic)
            or self.take(Drop, request, topic)
            or self.take(Silence, request, topic)
            or self.take(Garbage, request, topic)
            or self.take(Refuse, request, topic)
            or self.take(Lose, request, topic)
        )

    def take(self, kind: type[Kind], request: int, topic: str) -> Kind | None:
        """The fault of this kind that strikes, which uses it up once."""
        for armed in self.line:
            fault = armed.fault
            if not isinstance(fault, kind):
                continue
            if armed.requests is not None and request not in armed.requests:
                continue
            if armed.topic not in (None, topic):
                continue
            armed.met += 1
            if armed.met % armed.every:
                return None
            if armed.left is not None:
                armed.left -= 1
                if not armed.left:
                    self.line.remove(armed)
            self.struck += 1
            return fault
        return None
