"""From an error code to its type and its remedy: the tables of reference 6, and nothing else.

Codes below 100 other than 15, 40 and 41 come from the gateway's own checks. Under 15, 50 and any code that is
not listed, the prefix of `sub_code` decides: isp.* is the platform's trouble, isv.* the caller's (reference 6.2).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from .errors import (
    AppRefused,
    Banned,
    BanScope,
    BusinessRefused,
    CallLimited,
    ClockSkewed,
    PermissionRefused,
    PlatformRefused,
    Refusal,
    RequestRefused,
    ServiceUnavailable,
    SessionRefused,
    SignatureRefused,
    UnknownSeller,
)

__all__ = ["Circumstances", "refused"]


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What the client knows beside the answer."""

    signed: str = ""
    """The base string with secrets masked."""
    skew: float | None = None
    """Seconds this clock is ahead of the answer's Date header; None without one."""


TOLERATED_SKEW: Final = 600.0
"""Seconds the platform tolerates either way (reference 2.1)."""
_SIGNED_SHOWN: Final = 1000

_AUTHORISE = "let the seller authorise the app again, and use the new session"
_CONSOLE = (
    "ask for the permission in the app's console at open.taobao.com, then let the seller authorise again"
)
_SEND = (
    "this is a defect of the client or of something between it and the gateway: report it with the request id"
)
_ARGUMENTS = "correct the argument that the platform names"
_LATER = "nothing is wrong here: try again later"
_SLOWER = "try again later, with fewer calls per second; look for other programs that call with this app key"
_KEY = "check app.key, and that it belongs to this gateway: sandbox keys are refused by the formal one"
_CLOCK = "set this machine's clock by NTP; its time zone does not matter"
_REPLAY = "the same request came twice: look for a proxy that repeats requests"
_SIGN = "check app.secret (copied whole, of this app key); for an old app try sign_method md5 or hmac"

_GATEWAY: Final[Mapping[int, tuple[type[PlatformRefused], str]]] = {
    3: (RequestRefused, "send a smaller file, or none: this client uploads nothing"),
    4: (CallLimited, _SLOWER),
    5: (CallLimited, _SLOWER),
    6: (CallLimited, _SLOWER),
    8: (CallLimited, _SLOWER),
    9: (RequestRefused, "the call must reach the gateway as POST: check for a proxy or a redirect before it"),
    10: (ServiceUnavailable, _LATER),
    11: (PermissionRefused, _CONSOLE),
    12: (PermissionRefused, "let the seller's main account grant the right, or authorise with the main account"),
    13: (PermissionRefused, _CONSOLE),
    21: (RequestRefused, _SEND),
    22: (RequestRefused, "check the name of the method; the platform may have retired it"),
    23: (RequestRefused, _SEND),
    24: (SignatureRefused, "something before the gateway drops parameters, or it is no TOP gateway: check app.gateway"),
    25: (SignatureRefused, _SIGN),
    26: (SessionRefused, "give the seller's session: this method needs one"),
    27: (SessionRefused, _AUTHORISE),
    28: (AppRefused, "check that app.key is set"),
    29: (AppRefused, _KEY),
    30: (ClockSkewed, _SEND),
    31: (ClockSkewed, _CLOCK),
    32: (RequestRefused, _SEND),
    33: (RequestRefused, _SEND),
    34: (RequestRefused, _SEND),
    40: (RequestRefused, "give the argument that the platform names"),
    41: (RequestRefused, _ARGUMENTS),
    42: (PermissionRefused, "the session allows less than this method needs: let the seller authorise again"),
    43: (RequestRefused, _ARGUMENTS),
    44: (SessionRefused, _AUTHORISE),
    47: (RequestRefused, "write the arguments in UTF-8, without control characters"),
    53: (SessionRefused, "the session's security level is too low: let the seller authorise again, for longer"),
}  # fmt: skip

_DEAD_SESSION: Final = frozenset(
    {
        "invalid-sessionkey",
        "session-expired",
        "session-not-exist",
        "session-is-blank",
        "sessionkey-not-generated-by-server",
        "isv.session-expired",
        "isv.invalid-access-token",
    }
)
_WRONG_CLOCK: Final = frozenset({"isv.timestamp-limit-error", "isv.request-replay-error"})
_UNKNOWN_SELLER: Final = re.compile(
    r"isv\.(?:[a-z-]*user-not-(?:exist|found)|invalid-nick|[a-z-]+:invalid-nick)"
)
_BAN: Final = re.compile(r"(\d{1,9})\s+more\s+second", re.IGNORECASE)


def refused(refusal: Refusal, circumstances: Circumstances) -> PlatformRefused:
    """The typed error of a refusal. Total: any code and any text give an error of ours."""
    sub_code = refusal.sub_code.lower()
    if refusal.code == 7 or sub_code.startswith("accesscontrol."):
        return _banned(refusal, sub_code)
    if sub_code in _DEAD_SESSION:
        return SessionRefused(
            refusal, remedy=_GATEWAY[26][1] if sub_code == "session-is-blank" else _AUTHORISE
        )
    if sub_code in _WRONG_CLOCK:
        return _skewed(refusal, _REPLAY if "replay" in sub_code else _CLOCK, circumstances)
    if sub_code.startswith("isv.permission-"):
        address = "ip-whitelist" in sub_code
        return PermissionRefused(
            refusal, remedy="put this machine's address on the app's IP white list" if address else _CONSOLE
        )
    kind, remedy = _GATEWAY.get(refusal.code, (None, ""))
    if kind is None:
        return _by_prefix(refusal, sub_code)
    if kind is SignatureRefused:
        return SignatureRefused(refusal, signed=circumstances.signed[:_SIGNED_SHOWN], remedy=remedy)
    if kind is ClockSkewed:
        return _skewed(refusal, remedy, circumstances)
    return kind(refusal, remedy=remedy)


def _by_prefix(refusal: Refusal, sub_code: str) -> PlatformRefused:
    """Codes 15 and 50, the old business codes, and codes nobody has seen yet."""
    if sub_code == "isp.call-limited":
        return CallLimited(refusal, remedy=_SLOWER)
    if sub_code.startswith("isv.") and sub_code.endswith("-service-rejection"):
        return ServiceUnavailable(refusal, remedy=_LATER, slow=True)
    if sub_code.startswith(("isp.", "ism.")):
        return ServiceUnavailable(refusal, remedy=_LATER)
    if _UNKNOWN_SELLER.match(sub_code):
        return UnknownSeller(
            refusal, remedy="check the nick, letter by letter: it is the seller's login name"
        )
    if sub_code.startswith("isv."):
        return BusinessRefused(
            refusal, remedy="correct what the platform names; it refuses this call as it is"
        )
    return BusinessRefused(
        refusal, remedy="ask the platform's support with the request id: this code is not documented"
    )


def _banned(refusal: Refusal, sub_code: str) -> Banned:
    """Scope from the sub code, seconds from the text (reference 6.3)."""
    match = _BAN.search(refusal.sub_msg) or _BAN.search(refusal.msg)
    of_api = "-api-" in sub_code or "by-dynamic-" in sub_code
    daily = "by-app-access" in sub_code
    return Banned(
        refusal,
        scope=BanScope.API if of_api else BanScope.APP,
        retry_after=float(match[1]) if match else None,
        remedy="the app's calls of today are used up: wait until midnight in Beijing, or buy more"
        if daily
        else _SLOWER,
    )


def _skewed(refusal: Refusal, remedy: str, circumstances: Circumstances) -> ClockSkewed:
    skew = circumstances.skew
    if skew is None:
        detail = "the gateway did not tell its own time"
    elif abs(skew) < TOLERATED_SKEW / 2:
        detail = (
            f"this clock and the gateway's differ by {abs(round(skew))} s only, so the clock is not the cause"
        )
        remedy = _SEND if remedy is _CLOCK else remedy
    else:
        detail = f"this machine's clock is {abs(round(skew))} s {'ahead of' if skew > 0 else 'behind'} the gateway's"
    return ClockSkewed(refusal, skew=skew, remedy=remedy, detail=detail)
