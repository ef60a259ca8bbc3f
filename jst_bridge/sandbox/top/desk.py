"""One request from its bytes to the reply: faults, checks, the method, the document. No sockets here."""

from __future__ import annotations

import gzip
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from email.utils import formatdate
from functools import partial
from typing import Final

from .answers import Fields, Manner, write_fields, write_refusal
from .checks import Admitted, admit, holder
from .faults import Alter, Ban, Faults, Gzip, Page, Refuse, Reset, Slow, Truncate, Twist, WrongDate
from .journal import Entry, Journal
from .parameters import read_parameters, wants_json, wants_simple
from .refusals import Refusal, Refused
from .world import App, World

__all__ = ["Arrival", "Desk", "HttpRequest", "Reply"]


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """What came over the wire. `headers` are the last ones of their lower-case names."""

    method: str
    query: bytes
    headers: Mapping[str, str]
    body: bytes
    port: int
    """The client's."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request that is written down, with the front end's faults that strike it."""

    http: HttpRequest
    parameters: Mapping[str, str]
    unreadable: Refusal | None
    method: str
    slow: Slow | None
    reset: Reset | None
    page: Page | None
    entry: Entry
    began: float
    """On the monotonic clock."""

    @property
    def dropped(self) -> bool:
        """Whether the front end fails before the platform sees the request."""
        reset, page = self.reset, self.page
        return (reset is not None and not (reset.acted or reset.halfway)) or (
            page is not None and not page.acted
        )


@dataclass(frozen=True, slots=True)
class Reply:
    """What goes back. With `reset` the connection breaks: after half of the body, without one at once."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    reset: bool = False


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What the platform decided."""

    word: str
    document: str
    acted: bool
    sub_code: str = ""


_NOTHING: Final = _Outcome("", "", acted=False)


class Desk:
    """Answers requests, one after the other, out of one world."""

    def __init__(self, world: World, faults: Faults, journal: Journal) -> None:
        self._world = world
        self._faults = faults
        self._journal = journal

    def arrive(self, http: HttpRequest) -> Arrival:
        """Read the parameters, write the request down, and see which of the front end's faults strike."""
        began = time.monotonic()
        unreadable = None
        parameters: Mapping[str, str] = {}
        try:
            parameters = read_parameters(http.query, http.headers.get("content-type", ""), http.body)
        except Refused as refused:
            unreadable = refused.refusal
        method = parameters.get("method", "")
        with self._world.lock:
            now = self._world.now()
            seller = holder(self._world, parameters)
        entry = self._journal.arrived(method, seller.nick if seller else "", parameters, http.port)
        take = self._faults.take
        slow, reset = take(Slow, method, now), take(Reset, method, now)
        page = take(Page, method, now) if reset is None else None
        return Arrival(http, parameters, unreadable, method, slow, reset, page, entry, began)

    def answer(self, arrival: Arrival) -> Reply:
        """Do what was asked, and say so; or say why not."""
        reset, page = arrival.reset, arrival.page
        with self._world.lock:
            now = self._world.now()
            outcome = _NOTHING if arrival.dropped else self._decide(arrival, now)
        if reset is not None or page is not None:
            outcome = _Outcome("reset" if reset else "page", outcome.document, acted=outcome.acted)
        self._note(arrival, outcome)
        if reset is not None and not reset.halfway:
            return Reply(0, {}, b"", reset=True)
        if page is not None:
            return _page(page, now)
        reply = self._reply(arrival, outcome.document, now)
        return reply if reset is None else replace(reply, reset=True)

    def left(self, arrival: Arrival) -> None:
        """The client went away before the platform did anything."""
        self._note(arrival, _Outcome("left", "", acted=False))

    def _note(self, arrival: Arrival, outcome: _Outcome) -> None:
        seconds = time.monotonic() - arrival.began
        self._journal.ended(
            arrival.entry, outcome.word, outcome.sub_code, acted=outcome.acted, seconds=seconds
        )

    def _decide(self, arrival: Arrival, now: float) -> _Outcome:
        """The document of the answer; called under the world's lock."""
        twist = None if arrival.unreadable else self._faults.take(Twist, arrival.method, now)
        manner = Manner(
            wants_json(arrival.parameters),
            wants_simple(arrival.parameters),
            self._world.request_id(),
            twist.oddities if twist else frozenset(),
        )
        if arrival.unreadable is not None:
            return _refused(arrival.unreadable, manner)
        try:
            limit = partial(self._limit, arrival.method, now)
            admitted = admit(self._world, arrival.http.method, arrival.parameters, limit)
            refuse = self._faults.take(Refuse, arrival.method, now)
            if refuse is not None and not refuse.acted:
                return _refused(refuse.refusal, manner)
            fields = self._perform(admitted, now)
        except Refused as refused:
            return _refused(refused.refusal, manner)
        if refuse is not None:
            return _refused(refuse.refusal, manner, acted=True)
        return _Outcome("success", write_fields(admitted.method.root, fields, manner), acted=True)

    def _limit(self, method: str, now: float, _app: App) -> None:
        """Where bans strike: after the app is known, before its signature is checked."""
        ban = self._faults.take(Ban, method, now)
        if ban is not None:
            raise Refused(ban.refusal)

    def _perform(self, admitted: Admitted, now: float) -> Fields:
        fields = admitted.method.handle(self._world, admitted.app, admitted.seller, admitted.arguments)
        alter = self._faults.take(Alter, admitted.method.name, now)
        return fields if alter is None else {**fields, **alter.fields}

    def _reply(self, arrival: Arrival, document: str, now: float) -> Reply:
        truncate = self._faults.take(Truncate, arrival.method, now)
        if truncate is not None:
            document = document[: len(document) // 2 if truncate.keep is None else max(truncate.keep, 0)]
        body = document.encode("utf-8", "replace")
        kind = "text/javascript" if wants_json(arrival.parameters) else "text/xml"
        headers = {
            "Content-Type": f"{kind};charset=UTF-8",
            "Date": self._date(arrival.method, now),
            "Application-Host": "sandbox",
        }
        if "gzip" in arrival.http.headers.get("accept-encoding", "").lower():
            squeeze = self._faults.take(Gzip, arrival.method, now)
            if squeeze is not None:
                headers["Content-Encoding"] = "gzip"
                body = gzip.compress(body, mtime=0)
                body = body[:10] + b"\xff" * 8 + body[18:] if squeeze.broken else body
        return Reply(200, headers, body)

    def _date(self, method: str, now: float) -> str:
        wrong = self._faults.take(WrongDate, method, now)
        return formatdate(now + (wrong.seconds if wrong else 0.0), usegmt=True)


def _refused(refusal: Refusal, manner: Manner, *, acted: bool = False) -> _Outcome:
    return _Outcome(str(refusal.code), write_refusal(refusal, manner), acted=acted, sub_code=refusal.sub_code)


def _page(page: Page, now: float) -> Reply:
    headers = {"Content-Type": "text/html", "Date": formatdate(now, usegmt=True)}
    if page.location:
        headers["Location"] = page.location
    return Reply(page.status, headers, page.html.encode("utf-8", "replace"))
