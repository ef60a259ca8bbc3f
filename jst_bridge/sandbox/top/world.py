"""What the platform knows: apps, sellers, their sessions, who is open for messages, seller groups. In memory, bounded.

Everything here is called under `World.lock`, by the thread of the server and by that of a test.
"""

from __future__ import annotations

import random
import threading
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, Literal

from .signature import SIGN_METHODS

__all__ = ["App", "OpenSeller", "Opening", "Seller", "SellerGroup", "Session", "Unknown", "World"]

Unknown = Literal["quiet", "empty", "refused"]
"""How a seller that is not open is answered, which no document tells (reference 14.1).

quiet: user.get without `ons_user`, topics.get without `results`, a deletion is confirmed. empty: `ons_user` and
`results` are `{}`, a deletion says `is_success` false. refused: code 50 with `isv.user-not-exist:invalid-nick`.
"""

MOST_APPS: Final = 1_000
MOST_SELLERS: Final = 100_000
MOST_GROUPS: Final = 1_000
"""Of one app."""
MOST_IN_GROUP: Final = 10_000
MOST_SESSIONS: Final = 200_000
_YEAR: Final = 31_536_000.0
_FIRST_USER_ID: Final = 2_200_000_000_000
_BASE36: Final = "0123456789abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True)
class App:
    """One app of an ISV."""

    key: str
    secret: str = field(repr=False)
    topics: frozenset[str]
    """The message types it subscribes in its console."""
    methods: frozenset[str] | None
    """The methods its permission packages allow, None for all."""
    sign_methods: frozenset[str]


@dataclass(frozen=True, slots=True)
class Seller:
    """A seller, and the session with which it authorised an app."""

    nick: str
    user_id: int
    session: str = field(repr=False)


@dataclass(slots=True)
class Session:
    """What a session key stands for; times are epoch seconds."""

    app_key: str
    seller: Seller
    expires_at: float


@dataclass(slots=True)
class Opening:
    """That a seller's messages flow to an app (user.add)."""

    seller: Seller
    created: float
    modified: float
    topics: tuple[str, ...] | None
    """None: whatever the app subscribes."""


@dataclass(frozen=True, slots=True)
class OpenSeller:
    """One seller as a reader sees it: `topics` worked out, `is_valid` while a session lives."""

    nick: str
    user_id: int
    topics: tuple[str, ...]
    created: float
    modified: float
    is_valid: bool


@dataclass(slots=True)
class SellerGroup:
    """TOP's grouping of sellers."""

    name: str
    created: float
    nicks: set[str] = field(default_factory=set)


class World:
    """The state. `clock` gives epoch seconds; `shift` seconds are added to it everywhere."""

    def __init__(self, *, seed: int, unknown: Unknown, clock: Callable[[], float] = time.time) -> None:
        self.lock = threading.RLock()
        self.unknown: Unknown = unknown
        self.shift = 0.0
        self.apps: dict[str, App] = {}
        self.sellers: dict[str, int] = {}
        """nick -> user id"""
        self.sessions: dict[str, Session] = {}
        self.openings: dict[tuple[str, str], Opening] = {}
        """(app key, nick) -> since when, with which topics"""
        self.groups: dict[tuple[str, str], SellerGroup] = {}
        """(app key, name) -> group"""
        self._clock = clock
        self._chance = random.Random(seed)

    def now(self) -> float:
        return self._clock() + self.shift

    def request_id(self) -> str:
        return "".join(self._chance.choices(_BASE36, k=self._chance.choice((12, 13))))

    # --- what the console and the sellers do -----------------------------------------------------------

    def add_app(
        self,
        key: str,
        secret: str,
        *,
        topics: Iterable[str] = (),
        methods: Iterable[str] | None = None,
        sign_methods: Iterable[str] = SIGN_METHODS,
    ) -> App:
        """Register an app, or replace it; sessions and open sellers stay. ValueError: not usable."""
        _check_text("app key", key, 64)
        _check_text("secret", secret, 256)
        signs = frozenset(sign_methods)
        if not signs <= SIGN_METHODS:
            raise ValueError(f"sign methods are {', '.join(sorted(SIGN_METHODS))}")
        if key not in self.apps:
            _check_room("apps", len(self.apps), MOST_APPS)
        app = App(key, secret, frozenset(topics), None if methods is None else frozenset(methods), signs)
        self.apps[key] = app
        return app

    def add_seller(
        self,
        nick: str,
        *,
        user_id: int | None = None,
        session: str | None = None,
        valid_for: float = _YEAR,
        app_key: str | None = None,
    ) -> Seller:
        """A seller authorises an app, for `valid_for` seconds. Again: one more session of the same seller.

        `app_key` may be left out while there is one app only. ValueError: not usable.
        """
        _check_text("nick", nick, 64)
        app = self.app(app_key)
        token = self._new_session() if session is None else session
        _check_text("session", token, 256)
        holder = self.sessions.get(token)
        if holder is not None and (holder.seller.nick, holder.app_key) != (nick, app.key):
            raise ValueError("this session belongs to somebody else")
        if nick not in self.sellers:
            _check_room("sellers", len(self.sellers), MOST_SELLERS)
        if holder is None:
            _check_room("sessions", len(self.sessions), MOST_SESSIONS)
        known = self.sellers.setdefault(
            nick, _FIRST_USER_ID + len(self.sellers) if user_id is None else user_id
        )
        if user_id not in (None, known):
            raise ValueError(f"{nick!r} has the user id {known}")
        seller = Seller(nick, known, token)
        self.sessions[token] = Session(app.key, seller, self.now() + valid_for)
        return seller

    def expire(self, session: str) -> None:
        """Let a session run out now. KeyError: nobody has it."""
        self.sessions[session].expires_at = self.now()

    def app(self, key: str | None) -> App:
        """The app with this key, or the only one there is. ValueError: there is none such."""
        if key is not None and key in self.apps:
            return self.apps[key]
        if key is None and len(self.apps) == 1:
            return next(iter(self.apps.values()))
        raise ValueError("name the key of an app that was added")

    # --- what can be asked -------------------------------------------------------------------------------

    def open_sellers(self, app_key: str) -> Iterator[OpenSeller]:
        """The sellers whose messages flow to an app, in the order of opening."""
        valid = {
            session.seller.nick
            for session in self.sessions.values()
            if session.app_key == app_key and session.expires_at > self.now()
        }
        for (key, nick), opening in self.openings.items():
            if key == app_key:
                yield self._seen(app_key, opening, is_valid=nick in valid)

    def open_seller(self, app_key: str, nick: str) -> OpenSeller | None:
        """One of them."""
        opening = self.openings.get((app_key, nick))
        if opening is None:
            return None
        last = self.sessions[opening.seller.session]
        valid = last.expires_at > self.now() or any(
            session.seller.nick == nick and session.app_key == app_key and session.expires_at > self.now()
            for session in self.sessions.values()
        )
        return self._seen(app_key, opening, is_valid=valid)

    def _seen(self, app_key: str, opening: Opening, *, is_valid: bool) -> OpenSeller:
        topics = tuple(sorted(self.apps[app_key].topics)) if opening.topics is None else opening.topics
        seller = opening.seller
        return OpenSeller(seller.nick, seller.user_id, topics, opening.created, opening.modified, is_valid)

    def _new_session(self) -> str:
        return "6100" + "".join(self._chance.choices("0123456789abcdef", k=52))


def _check_text(what: str, text: str, longest: int) -> None:
    unusable = any(unicodedata.category(character) in ("Cc", "Cs") for character in text)
    if not text.strip() or len(text) > longest or unusable:
        raise ValueError(f"a {what} has 1 to {longest} characters, and no control characters")


def _check_room(what: str, number: int, most: int) -> None:
    if number >= most:
        raise ValueError(f"the sandbox holds at most {most} {what}")
