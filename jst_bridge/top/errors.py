"""What goes wrong at the Taobao Open Platform, as types to branch on.

    TopError (jst_bridge.errors)       69
    ├── InvalidArgument                 2  the call cannot be sent as written
    ├── GatewayUnreachable             69  no connection, or it broke (retriable)
    ├── GatewayTimeout                 69  no answer in time (retriable)
    ├── GatewayUnavailable             75  a front end answered HTTP 5xx or 429 (retriable)
    ├── MalformedAnswer                69  the answer is not what the platform answers (mostly retriable)
    └── PlatformRefused                69  the platform answered with an error code
        ├── RequestRefused             69  the request itself: method, format, version, arguments
        ├── BusinessRefused            69  the service behind the gateway: isv.* and the old codes above 500
        │   └── UnknownSeller          69  it does not know the seller
        ├── ServiceUnavailable         75  isp.*, ism.*, code 10: the platform's own trouble (retriable)
        ├── CallLimited                75  codes 4, 5, 6, 8, isp.call-limited: too many calls (retriable)
        │   └── Banned                 75  code 7, accesscontrol.*: no calls for a while (retriable)
        ├── PermissionRefused          77  the app or the seller lacks a permission
        ├── SessionRefused             77  the seller's authorisation is missing, expired or not this app's
        ├── AppRefused                 77  the app key is missing, unknown, or of another environment
        │   └── SignatureRefused       77  the signature does not match; shows what was signed
        └── ClockSkewed                78  the timestamp is too far from the platform's clock

`retriable` says whether the same call may succeed later; the client has then retried already, within its limits.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from ..errors import TopError

__all__ = [
    "AppRefused",
    "BanScope",
    "Banned",
    "BusinessRefused",
    "CallLimited",
    "ClockSkewed",
    "GatewayTimeout",
    "GatewayUnavailable",
    "GatewayUnreachable",
    "InvalidArgument",
    "MalformedAnswer",
    "PermissionRefused",
    "PlatformRefused",
    "Refusal",
    "RequestRefused",
    "ServiceUnavailable",
    "SessionRefused",
    "SignatureRefused",
    "TopError",
    "UnknownSeller",
]


class InvalidArgument(TopError):
    """The call cannot be sent as written; nothing was sent."""

    exit_code = 2


class GatewayUnreachable(TopError):
    """No connection to the gateway, or it broke before the answer was complete.

    With `may_have_acted` the request had been sent.
    """

    retriable = True


class GatewayTimeout(TopError):
    """The gateway did not answer in time; whether the platform acted is unknown."""

    retriable = True
    may_have_acted = True


class GatewayUnavailable(TopError):
    """Something in front of the platform answered with HTTP `status`."""

    exit_code = 75
    retriable = True
    may_have_acted = True

    def __init__(self, message: str, *, status: int, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.status = status


class MalformedAnswer(TopError):
    """The answer is not what the platform answers: HTML, cut off, too large, another call's."""

    may_have_acted = True

    def __init__(self, message: str, *, retriable: bool = True, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.retriable = retriable


@dataclass(frozen=True, slots=True)
class Refusal:
    """The platform's error_response to `method`, free of secrets and cut to a readable length (reference 5.2)."""

    method: str
    code: int
    """0 when it is missing or no number."""
    msg: str = ""
    sub_code: str = ""
    sub_msg: str = ""
    request_id: str = ""
    """'' when the platform gave none, which it may (reference 5.1)."""

    def sentence(self) -> str:
        """One line for people: what was asked, and the platform's words."""
        words = [self.msg or "no reason given", f"(code {self.code})"]
        if self.sub_code or self.sub_msg:
            words.append("- " + ": ".join(word for word in (self.sub_code, self.sub_msg) if word))
        if self.request_id:
            words.append(f"[request {self.request_id}]")
        return f"{self.method} was refused: {' '.join(words)}"


class PlatformRefused(TopError):
    """The platform answered with an error code."""

    def __init__(self, refusal: Refusal, *, remedy: str = "", detail: str = "") -> None:
        super().__init__(refusal.sentence() + (f"; {detail}" if detail else ""), remedy=remedy)
        self.refusal = refusal

    @property
    def method(self) -> str:
        return self.refusal.method

    @property
    def code(self) -> int:
        return self.refusal.code

    @property
    def msg(self) -> str:
        return self.refusal.msg

    @property
    def sub_code(self) -> str:
        return self.refusal.sub_code

    @property
    def sub_msg(self) -> str:
        return self.refusal.sub_msg

    @property
    def request_id(self) -> str:
        return self.refusal.request_id


class RequestRefused(PlatformRefused):
    """The request itself was refused: method, format, version, encoding or arguments."""


class BusinessRefused(PlatformRefused):
    """The service behind the gateway refused, and would again."""


class UnknownSeller(BusinessRefused):
    """The service does not know the seller."""


class ServiceUnavailable(PlatformRefused):
    """The platform's own trouble. `slow` asks for longer pauses; after a time-out it may have acted."""

    exit_code = 75
    retriable = True

    def __init__(self, refusal: Refusal, *, remedy: str = "", slow: bool = False) -> None:
        super().__init__(refusal, remedy=remedy)
        self.slow = slow
        self.may_have_acted = "timeout" in refusal.sub_code


class CallLimited(PlatformRefused):
    """Too many calls by the user, the session, the partner or the app."""

    exit_code = 75
    retriable = True


class BanScope(StrEnum):
    """Whose calls a ban stops (reference 6.3)."""

    APP = "app"
    """Every call of the app."""
    API = "api"
    """Calls of this method."""


class Banned(CallLimited):
    """No calls in `scope` for `retry_after` seconds; None means that the platform did not say how long."""

    def __init__(
        self,
        refusal: Refusal,
        *,
        scope: BanScope,
        retry_after: float | None,
        remedy: str = "",
        detail: str = "",
    ) -> None:
        super().__init__(refusal, remedy=remedy, detail=detail)
        self.scope = scope
        self.retry_after = retry_after


class PermissionRefused(PlatformRefused):
    """The app, its permission package or the seller's account lacks a permission."""

    exit_code = 77


class SessionRefused(PlatformRefused):
    """The seller's session is missing, expired, revoked or belongs to another app: authorise again."""

    exit_code = 77


class AppRefused(PlatformRefused):
    """The app key is missing, unknown, or belongs to another environment than the gateway."""

    exit_code = 77


class SignatureRefused(AppRefused):
    """The signature is missing or does not match. `signed` is what was signed, with secrets masked."""

    def __init__(self, refusal: Refusal, *, signed: str, remedy: str = "") -> None:
        super().__init__(refusal, remedy=remedy, detail=f"signed was {signed}")
        self.signed = signed


class ClockSkewed(PlatformRefused):
    """The timestamp was refused. `skew` is how many seconds this clock is ahead of the gateway's; None: unknown."""

    exit_code = 78

    def __init__(self, refusal: Refusal, *, skew: float | None, remedy: str = "", detail: str = "") -> None:
        super().__init__(refusal, remedy=remedy, detail=detail)
        self.skew = skew
