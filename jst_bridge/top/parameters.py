"""What is sent: the settings of an app, values as wire text, and one signed form body per attempt.

Sources: reference 2 (system parameters, value encoding, transport) and 3 (signature).
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Final
from urllib.parse import quote, quote_plus, urlencode, urlsplit

from ..errors import ConfigurationError
from .errors import InvalidArgument
from .signing import SIGN_METHODS, SignMethod, base_string, sign

__all__ = ["BEIJING", "DEFAULT_GATEWAY", "Call", "Secret", "SignedCall", "TopSettings", "wire_text"]

BEIJING: Final = timezone(timedelta(hours=8), "Beijing")
"""The platform's only zone. A fixed offset: no daylight saving since 1991, and no time zone data needed."""
DEFAULT_GATEWAY: Final = "https://eco.taobao.com/router/rest"
MASK: Final = "***"

_SYSTEM: Final = frozenset(
    {"method", "app_key", "session", "access_token", "timestamp", "format", "v", "sign_method", "sign", "simplify"}
)  # fmt: skip
_SHORTEST_SECRET: Final = 4
"""Anything shorter would be found within ordinary words."""


@dataclass(frozen=True, slots=True)
class TopSettings:
    """One app at the platform, and how to call it. Times in seconds, sizes in bytes.

    Raises ConfigurationError for a value that cannot be used.
    """

    app_key: str
    secret: str = field(repr=False)
    gateway: str = DEFAULT_GATEWAY
    sign_method: SignMethod = "hmac-sha256"
    simplify: bool = False
    """Ask for answers without wrappers (reference 5.3). Both forms are understood either way."""
    connect_timeout: float = 3.0
    read_timeout: float = 15.0
    """Longest silence of the gateway within one request."""
    total_timeout: float = 30.0
    """One request from connecting to the last byte; waiting for bans and the rate limit is not counted."""
    attempts: int = 4
    """Requests that one call may cost, the first included."""
    ban_wait: float = 60.0
    """A ban this long or shorter is waited out; a longer one is raised (reference 6.3)."""
    calls_per_second: float = 20.0
    burst: int = 10
    """Calls that may go at once after a pause; then `calls_per_second` holds."""
    connections: int = 10
    answer_limit: int = 4 << 20
    """Largest answer, decompressed."""

    def __post_init__(self) -> None:
        _require(
            bool(re.fullmatch(r"[!-~]{1,64}", self.app_key)), "the app key must be the digits of the console"
        )
        _require(_encodes(self.secret), "the app secret is empty, or cannot be written in UTF-8")
        _require(
            self.sign_method in SIGN_METHODS, f"the sign method must be one of {', '.join(SIGN_METHODS)}"
        )
        _require(_is_gateway(self.gateway), "the gateway must be a plain URL such as " + DEFAULT_GATEWAY)
        numbers = (
            self.connect_timeout, self.read_timeout, self.total_timeout, self.calls_per_second,
            self.attempts, self.burst, self.connections, self.answer_limit,
        )  # fmt: skip
        _require(
            all(number > 0 for number in numbers) and self.ban_wait >= 0,
            "timeouts, limits and counts must be positive numbers",
        )


def _require(condition: bool, sentence: str) -> None:
    # None of the values is quoted: any of them may hold a secret that was put into the wrong place.
    if not condition:
        raise ConfigurationError(f"TOP client: {sentence}", remedy="correct it in the [app] table")


def _is_gateway(url: str) -> bool:
    """No user, query or fragment: they would be sent or logged beside what is signed."""
    try:
        parts = urlsplit(url)
        port_fits = parts.port is None or parts.port > 0
    except ValueError:
        return False
    plain = not (parts.username or parts.password or parts.query or parts.fragment)
    printable = re.fullmatch(r"[!-~]+", url) is not None
    return parts.scheme in ("http", "https") and bool(parts.hostname) and port_fits and plain and printable


def _encodes(text: str) -> bool:
    try:
        return bool(text.encode())
    except UnicodeEncodeError:
        return False


# --- values -----------------------------------------------------------------------------------------


def wire_text(value: object) -> str | None:
    """A Python value as the platform reads it (reference 2.3), None when the parameter is left out.

    Empty text is left out as well: SDKs differ in whether they sign it. Raises InvalidArgument, which
    never quotes the value.
    """
    if value is None:
        return None
    if isinstance(value, list | tuple):
        text = _list_text(value)
    elif isinstance(value, Mapping):
        text = _json_text(value)
    else:
        text = _scalar_text(value)
    if text and not _encodes(text):
        raise InvalidArgument("a value holds a lone surrogate, which UTF-8 cannot express")
    return text or None


def _scalar_text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, Decimal) and value.is_finite():
        return format(value, "f")
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise InvalidArgument("a time must name its zone: pass an aware datetime")
        return value.astimezone(BEIJING).strftime("%Y-%m-%d %H:%M:%S")
    raise InvalidArgument(
        f"a value of type {type(value).__name__} cannot be sent",
        remedy="pass text, int, bool, Decimal, an aware datetime, or lists and dicts of these",
    )


def _list_text(values: list[object] | tuple[object, ...]) -> str:
    if any(isinstance(value, Mapping | list | tuple) for value in values):
        return _json_text(values)
    texts = [_scalar_text(value) for value in values]
    if any("," in text or not text for text in texts):
        raise InvalidArgument("an element of a list is empty or holds a comma: the platform would split it")
    return ",".join(texts)


def _json_text(value: object) -> str:
    failure: str
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        failure = type(error).__name__
    raise InvalidArgument(f"a dict or list cannot be written as JSON ({failure})")


# --- secrets ----------------------------------------------------------------------------------------


class Secret(str):
    """Text that does not show itself, not even in a traceback that prints local variables."""

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(MASK)


def _forms(secret: str) -> Iterable[str]:
    """As it is, percent-encoded, as HTML and in JSON: something in between may quote a request in any of these."""
    return secret, quote_plus(secret), quote(secret), html.escape(secret), json.dumps(secret)[1:-1]


# --- one call ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Call:
    """What one call asks for; signed anew for each attempt, because the timestamp is part of it."""

    method: str
    parameters: Mapping[str, str]
    session: Secret | None = None

    @classmethod
    def of(cls, method: str, parameters: Mapping[str, object], session: Secret | None = None) -> Call:
        """Raises InvalidArgument for names that belong to the system and for values that cannot be sent."""
        if not _encodes(method) or (session is not None and not _encodes(session)):
            raise InvalidArgument("the method or the session is empty, or cannot be written in UTF-8")
        texts: dict[str, str] = {}
        for name, value in parameters.items():
            if name in _SYSTEM or not re.fullmatch(r"[!-~]+", name):
                raise InvalidArgument(
                    f"{name!a} cannot be a parameter of {method}: the client itself sends the system parameters"
                )
            text = wire_text(value)
            if text is not None:
                texts[name] = text
        return cls(method, texts, session)

    @property
    def idempotent(self) -> bool:
        """Whether doing it twice is doing it once: every jms call (reference 6.2), and every `.get`."""
        return self.method.startswith("taobao.jushita.jms.") or self.method.endswith(".get")

    def signed(self, settings: TopSettings, now: float) -> SignedCall:
        """The request as sent at `now` (epoch seconds)."""
        sent = dict(self.parameters) | {
            "method": self.method,
            "app_key": settings.app_key,
            "timestamp": datetime.fromtimestamp(now, UTC).astimezone(BEIJING).strftime("%Y-%m-%d %H:%M:%S"),
            "format": "json",
            "v": "2.0",
            "sign_method": settings.sign_method,
        }
        if settings.simplify:
            sent["simplify"] = "true"
        if self.session is not None:
            sent["session"] = self.session
        sent["sign"] = sign(sent, settings.secret, settings.sign_method)
        return SignedCall(sent, settings.secret)


class SignedCall:
    """A form body, and the only place that knows which of its words must never be shown."""

    __slots__ = ("_hidden", "_sent", "body")

    def __init__(self, sent: Mapping[str, str], secret: str) -> None:
        self._sent = sent
        secrets = {secret, sent["sign"], sent.get("session", "")}
        forms = {form for word in secrets for form in _forms(word)}
        longest_first = sorted(
            (form for form in forms if len(form) >= _SHORTEST_SECRET), key=len, reverse=True
        )
        self._hidden = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)", re.IGNORECASE)
        self.body = urlencode(sent).encode()
        """application/x-www-form-urlencoded, UTF-8 percent-encoded."""

    def __repr__(self) -> str:
        return f"<SignedCall {self._sent['method']}>"

    def hide(self, text: str) -> str:
        """Foreign text with secret, session and signature masked, whatever quoted them."""
        return self._hidden.sub(MASK, text)

    def shown(self) -> str:
        """What was signed, for people who search for a difference: the base string with secrets masked."""
        masked = {name: MASK if name == "session" else value for name, value in self._sent.items()}
        text = base_string(masked)
        return self.hide(f"{MASK}{text}{MASK}" if self._sent["sign_method"] == "md5" else text)
