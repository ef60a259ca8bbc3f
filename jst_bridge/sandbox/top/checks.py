"""The gateway's checks, in its order (reference 12): the first that fails is the answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from .methods import METHODS, Arguments, Method
from .parameters import instant
from .refusals import Refused, typical
from .signature import SIGN_METHODS, is_signed
from .world import App, Seller, World

__all__ = ["Admitted", "admit", "holder"]

TOLERATED: Final = 600.0
"""Seconds that a timestamp may be off, either way."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """A request that passed every check."""

    app: App
    method: Method
    seller: Seller | None
    """Whose session it carries."""
    arguments: Arguments


def admit(
    world: World, http_method: str, parameters: Mapping[str, str], limit: Callable[[App], None]
) -> Admitted:
    """Check a request; `limit` is the flow control, which may refuse, too. Raises Refused."""
    _check_system_parameters(world, http_method, parameters)
    app = world.apps.get(parameters["app_key"])
    if app is None:
        raise Refused(typical(29))
    limit(app)
    method = METHODS.get(parameters["method"])
    if method is None:
        raise Refused(typical(22))
    if parameters["sign_method"] not in app.sign_methods or not is_signed(parameters, app.secret):
        raise Refused(typical(25))
    seller = _check_session(world, app, method, parameters.get("session", ""))
    if app.methods is not None and method.name not in app.methods:
        raise Refused(typical(11))
    return Admitted(app, method, seller, method.read(parameters))


def holder(world: World, parameters: Mapping[str, str]) -> Seller | None:
    """Whose session a request carries, checked or not."""
    session = world.sessions.get(parameters.get("session", ""))
    return None if session is None else session.seller


def _check_system_parameters(world: World, http_method: str, parameters: Mapping[str, str]) -> None:
    def given(name: str, missing: int) -> str:
        value = parameters.get(name, "")
        if not value:
            raise Refused(typical(missing))
        return value

    if http_method not in ("GET", "POST"):
        raise Refused(typical(9))
    if parameters.get("format", "xml") not in ("json", "xml"):
        raise Refused(typical(23))
    # Which code a bad sign_method gets is documented nowhere: those of the signature are the nearest.
    if given("sign_method", 24) not in SIGN_METHODS:
        raise Refused(typical(25))
    given("app_key", 28)
    given("sign", 24)
    given("method", 21)
    moment = instant(given("timestamp", 30))
    if moment is None or abs(moment - world.now()) > TOLERATED:
        raise Refused(typical(31))
    version = given("v", 32)
    if not re.fullmatch(r"[0-9]{1,3}\.[0-9]{1,3}", version):
        raise Refused(typical(33))
    if version != "2.0":
        raise Refused(typical(34))


def _check_session(world: World, app: App, method: Method, token: str) -> Seller | None:
    if not token:
        if method.needs_session:
            raise Refused(typical(26))
        return None
    session = world.sessions.get(token)
    if session is None:
        raise Refused(typical(27))
    if session.app_key != app.key:
        raise Refused(typical(27, sub_code="sessionkey-not-generated-by-server"))
    if session.expires_at <= world.now():
        raise Refused(typical(27, detail="session-expired", sub_code="session-expired"))
    return session.seller
