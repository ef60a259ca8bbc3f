"""What was asked of the gateway: counts per method and seller, and the last requests, without their secrets."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final

from .methods import METHODS

__all__ = ["OTHER", "Asked", "Entry", "Journal"]

OTHER: Final = "other"
"""Under which requests for methods that do not exist are counted."""
_SECRET: Final = frozenset({"session", "access_token", "sign"})
_LONGEST: Final = 200
_MOST_PARAMETERS: Final = 40


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, and what became of it."""

    method: str
    """As it was sent."""
    seller: str
    """The nick behind its session, '' without one."""
    parameters: Mapping[str, str] = field(repr=False)
    """Without the session and the signature; long values cut."""
    connection: int
    """The client's port: the same for requests that share a connection."""
    outcome: str = "waiting"
    """`success`, an error code, `reset`, `page`, `left` (by the client), or `waiting` as long as nothing happened."""
    sub_code: str = ""
    acted: bool = False
    """Whether the platform did what was asked."""
    seconds: float = 0.0
    """From arrival to the answer."""


@dataclass(slots=True)
class Entry:
    """The place of one request in the journal."""

    asked: Asked


class Journal:
    """Bounded: it keeps the last `remembered` requests. Safe to use from any thread."""

    def __init__(self, remembered: int) -> None:
        self._lock = threading.Lock()
        self._last: deque[Entry] = deque(maxlen=remembered)
        self._asked: Counter[tuple[str, str]] = Counter()
        self._acted: Counter[tuple[str, str]] = Counter()

    def arrived(self, method: str, seller: str, parameters: Mapping[str, str], connection: int) -> Entry:
        """Count a request. What comes back is to be handed to `ended`."""
        kept = {
            name[:_LONGEST]: value[:_LONGEST]
            for name, value in list(parameters.items())[:_MOST_PARAMETERS]
            if name not in _SECRET
        }
        entry = Entry(Asked(method[:_LONGEST], seller, MappingProxyType(kept), connection))
        with self._lock:
            self._last.append(entry)
            self._asked[_counted(method), seller] += 1
        return entry

    def ended(self, entry: Entry, outcome: str, sub_code: str, *, acted: bool, seconds: float) -> None:
        """Write down what became of a request."""
        with self._lock:
            asked = entry.asked
            entry.asked = replace(
                asked, outcome=outcome, sub_code=sub_code[:_LONGEST], acted=acted, seconds=seconds
            )
            if acted:
                self._acted[_counted(asked.method), asked.seller] += 1

    def count(self, method: str | None, seller: str | None, *, acted: bool) -> int:
        """Requests so far; None stands for any."""
        with self._lock:
            counts = self._acted if acted else self._asked
            if method is not None and seller is not None:
                return counts[method, seller]
            return sum(
                number
                for (each, whose), number in counts.items()
                if method in (None, each) and seller in (None, whose)
            )

    def last(self) -> list[Asked]:
        """The last requests, oldest first."""
        with self._lock:
            return [entry.asked for entry in self._last]

    def counts(self) -> dict[str, int]:
        """Method -> requests."""
        with self._lock:
            total: Counter[str] = Counter()
            for (method, _), number in self._asked.items():
                total[method] += number
            return dict(total)

    def clear(self) -> None:
        """Forget counts and requests."""
        with self._lock:
            self._last.clear()
            self._asked.clear()
            self._acted.clear()


def _counted(method: str) -> str:
    """So that made-up names cannot fill the memory."""
    return method if method in METHODS else OTHER
