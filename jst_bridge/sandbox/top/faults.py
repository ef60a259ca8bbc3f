"""What can be made to go wrong, for one method or all, a number of times or until it is cleared. Deterministic.

Faults of different kinds meet in one request (but a Reset leaves a Page to the next); those of one kind wait in
line. The front end's faults (Slow, Reset, Page) strike before the checks, a Ban strikes at the flow control,
Refuse and Alter after all checks, the others shape the answer that would have been given.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import ClassVar, Final, Literal, TypeVar

from pydantic import ConfigDict

from .answers import Oddity
from .refusals import Refusal, typical

__all__ = [
    "Alter",
    "Armed",
    "Ban",
    "Fault",
    "Faults",
    "Gzip",
    "Page",
    "Refuse",
    "Reset",
    "Slow",
    "Truncate",
    "Twist",
    "WrongDate",
]

MOST_ARMED: Final = 1_000
LONGEST_WAIT: Final = 600.0
MOST_HTML: Final = 65_536


class _FromOutside:
    """Documents from the control endpoints may hold the fields of their kind only."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")


@dataclass(frozen=True, slots=True)
class Refuse(_FromOutside):
    """Answer an error. None stands for what usually comes with the code.

    With `acted` the platform does what was asked all the same, as a time-out behind the gateway may.
    """

    code: int
    sub_code: str | None = None
    sub_msg: str | None = None
    msg: str | None = None
    acted: bool = False
    kind: Literal["refuse"] = "refuse"

    @property
    def refusal(self) -> Refusal:
        usual = typical(self.code, sub_code=self.sub_code, sub_msg=self.sub_msg)
        return usual if self.msg is None else replace(usual, msg=self.msg)


@dataclass(frozen=True, slots=True)
class Ban(_FromOutside):
    """Code 7 with a text that names the seconds.

    A `lasting` ban tells the seconds that are left and ends by itself; `times` has no meaning for it.
    """

    seconds: int
    scope: Literal["app", "api", "app-api", "dynamic"] = "app-api"
    lasting: bool = False
    kind: Literal["ban"] = "ban"

    @property
    def refusal(self) -> Refusal:
        return typical(
            7,
            sub_code=f"accesscontrol.limited-by-{self.scope}-access-count",
            sub_msg=f"This ban will last for {self.seconds} more seconds",
        )


@dataclass(frozen=True, slots=True)
class Alter(_FromOutside):
    """Put these fields into a success: `{"is_success": False}`, `{"result_code": "isp.system-error"}`."""

    fields: Mapping[str, bool | int | str]
    kind: Literal["alter"] = "alter"


@dataclass(frozen=True, slots=True)
class Slow(_FromOutside):
    """Wait before the work, with `acted` after it; a client that leaves meanwhile gets nothing."""

    seconds: float
    acted: bool = False
    kind: Literal["slow"] = "slow"

    def __post_init__(self) -> None:
        if not 0 <= self.seconds <= LONGEST_WAIT:
            raise ValueError(f"a wait has 0 to {LONGEST_WAIT:.0f} seconds")


@dataclass(frozen=True, slots=True)
class Reset(_FromOutside):
    """Reset the connection instead of answering, with `halfway` after half of the answer.

    With `acted`, or `halfway`, the platform has done what was asked.
    """

    acted: bool = False
    halfway: bool = False
    kind: Literal["reset"] = "reset"


@dataclass(frozen=True, slots=True)
class Page(_FromOutside):
    """A page of the front end, HTML unless `html` says otherwise, instead of an answer."""

    status: int = 502
    html: str = (
        "<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>"
    )
    acted: bool = False
    location: str = ""
    """Where a redirect points to."""
    kind: Literal["page"] = "page"

    def __post_init__(self) -> None:
        if not 200 <= self.status <= 599 or len(self.html) > MOST_HTML or not self.location.isprintable():
            raise ValueError("a page has a status of 200 to 599 and not more than 64 KiB")


@dataclass(frozen=True, slots=True)
class Truncate(_FromOutside):
    """Send the first `keep` characters of the document only (half of it when None), as if that were all."""

    keep: int | None = None
    kind: Literal["truncate"] = "truncate"


@dataclass(frozen=True, slots=True)
class Twist(_FromOutside):
    """Write the answer oddly."""

    oddities: frozenset[Oddity]
    kind: Literal["twist"] = "twist"


@dataclass(frozen=True, slots=True)
class Gzip(_FromOutside):
    """Compress the answer where the client accepts that, with `broken` so that it cannot be read."""

    broken: bool = False
    kind: Literal["gzip"] = "gzip"


@dataclass(frozen=True, slots=True)
class WrongDate(_FromOutside):
    """Send a `Date` that is off by so many seconds. The gateway's own idea of the time: TopGateway.shift_clock."""

    seconds: float
    kind: Literal["wrong date"] = "wrong date"


Fault = Refuse | Ban | Alter | Slow | Reset | Page | Truncate | Twist | Gzip | WrongDate
_Kind = TypeVar("_Kind", bound=Fault)


@dataclass(slots=True)
class Armed:
    """One fault in line."""

    fault: Fault
    method: str | None
    """None: every method."""
    left: int | None
    """How often it still strikes; None: until it is cleared."""
    every: int
    """It strikes each time this many requests have met it."""
    ends_at: float | None
    """Of a lasting ban, in epoch seconds of the gateway's clock."""
    met: int = field(default=0)

    def described(self) -> dict[str, object]:
        """For the control endpoints."""
        fault = {
            name: sorted(value) if isinstance(value, frozenset) else value
            for name, value in asdict(self.fault).items()
        }
        return {**fault, "method": self.method, "times": self.left, "every": self.every}


class Faults:
    """The faults in line. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._line: list[Armed] = []

    def arm(self, fault: Fault, *, method: str | None, times: int | None, every: int, now: float) -> None:
        """ValueError: not usable, or too many."""
        if (times is not None and times < 1) or every < 1:
            raise ValueError("`times` and `every` count from 1")
        lasting = isinstance(fault, Ban) and fault.lasting
        ends_at = now + fault.seconds if isinstance(fault, Ban) and fault.lasting else None
        with self._lock:
            if len(self._line) >= MOST_ARMED:
                raise ValueError(f"at most {MOST_ARMED} faults can wait; clear them first")
            self._line.append(Armed(fault, method, None if lasting else times, every, ends_at))

    def clear(self) -> None:
        with self._lock:
            self._line.clear()

    def described(self) -> list[dict[str, object]]:
        with self._lock:
            return [armed.described() for armed in self._line]

    def take(self, kind: type[_Kind], method: str, now: float) -> _Kind | None:
        """The fault of this kind that strikes a request for `method`, which uses it up once."""
        with self._lock:
            self._line = [each for each in self._line if each.ends_at is None or each.ends_at > now]
            for armed in self._line:
                if not isinstance(armed.fault, kind) or armed.method not in (None, method):
                    continue
                armed.met += 1
                if armed.met % armed.every:
                    return None
                if armed.left is not None:
                    armed.left -= 1
                    if not armed.left:
                        self._line.remove(armed)
                return _as_of(armed.fault, armed.ends_at, now)
        return None


def _as_of(fault: _Kind, ends_at: float | None, now: float) -> _Kind:
    if ends_at is not None and isinstance(fault, Ban):
        return replace(fault, seconds=math.ceil(ends_at - now))
    return fault
