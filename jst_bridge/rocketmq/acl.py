"""Request signing (reference 5.1, 5.2): HMAC-SHA1 over the sorted ext values and the body; and what refusals mean."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal

from ..errors import ConfigurationError, CredentialsRefused
from .codes import Request, Response
from .frame import Frame

__all__ = ["CredentialFiles", "Credentials", "credentials_refused"]

LONGEST: Final = 64 * 1024
"""Bytes of a file with a key or a token."""
LOOK_PERIOD: Final = 1.0
"""Seconds between two looks at whether a file changed: a signature must not cost a look each."""

KeyPart = Literal["access_key", "secret_key", "security_token"]


@dataclass(frozen=True, slots=True)
class Credentials:
    """Keys of one account. For ONS and Jushita: app key, app secret, and `channel` CLOUD."""

    access_key: str
    secret_key: str = field(repr=False)
    security_token: str = field(default="", repr=False)
    channel: str = ""
    """Sent as `OnsChannel` when not empty. It takes part in the signature."""
    origin: str = "the access key and its secret key"
    """Where they are set, for remedies."""

    def current(self, *, fresh: bool = False) -> Credentials:
        """What to sign with now: these."""
        return self

    def sign(self, ext: dict[str, str], body: bytes) -> None:
        """Add the identity and the signature to `ext`. Nothing may be added to it afterwards."""
        ext["AccessKey"] = self.access_key
        if self.channel:
            ext["OnsChannel"] = self.channel
        if self.security_token:
            ext["SecurityToken"] = self.security_token
        text = "".join(ext[name] for name in sorted(ext) if name != "Signature").encode()
        digest = hmac.new(self.secret_key.encode(), text + body, hashlib.sha1).digest()
        ext["Signature"] = base64.b64encode(digest).decode()


class CredentialFiles:
    """Credentials of which parts are in files that somebody renews, as those of a temporary (STS) token.

    A changed file is noticed within LOOK_PERIOD, and at once when a broker refuses. A file that is missing or
    empty for a moment changes nothing.
    """

    def __init__(self, credentials: Credentials, files: Mapping[KeyPart, Path]) -> None:
        """`credentials` says what no file does. Raises ConfigurationError when a file cannot be read."""
        self._credentials = credentials
        self._files = dict(files)
        self._stamp = self._stamp_now()
        self._next_look = 0.0
        self._read(strict=True)

    @property
    def access_key(self) -> str:
        return self._credentials.access_key

    def current(self, *, fresh: bool = False) -> Credentials:
        """What to sign with now; `fresh` reads the files whatever their times of change say."""
        now = time.monotonic()
        if fresh or now >= self._next_look:
            self._next_look = now + LOOK_PERIOD
            stamp = self._stamp_now()
            if fresh or stamp != self._stamp:
                self._stamp = stamp
                self._read(strict=False)
        return self._credentials

    def _stamp_now(self) -> list[tuple[int, int, int]]:
        stamps = []
        for path in self._files.values():
            try:
                found = path.stat()
            except OSError:
                stamps.append((0, 0, 0))
            else:
                stamps.append((found.st_mtime_ns, found.st_size, found.st_ino))
        return stamps

    def _read(self, *, strict: bool) -> None:
        parts: dict[str, str] = {}
        for part, path in self._files.items():
            try:
                with path.open("rb") as stream:
                    text = stream.read(LONGEST).decode().removesuffix("\n").removesuffix("\r")
            except (OSError, UnicodeDecodeError) as error:
                text, reason = "", getattr(error, "strerror", None) or "it is not UTF-8 text"
            else:
                reason = "it is empty"
            if text:
                parts[part] = text
            elif strict:
                raise ConfigurationError(
                    f"{path} cannot be used: {reason}",
                    remedy=f"write only the {part.replace('_', ' ')} into it",
                )
        self._credentials = replace(self._credentials, **parts)

    def __repr__(self) -> str:
        return f"CredentialFiles({self.access_key!r}, {sorted(self._files)})"


# --- refusals -------------------------------------------------------------------------------------------

_AUTHENTICATION_REMARKS: Final = (
    "AclException", "check signature failed", "has no permission to access", "username cannot be null",
)  # fmt: skip
_RESOURCE: Final = re.compile(
    r"(?:no permission to access|permission for) (topic|group):\s*([%|\w-]+)", re.IGNORECASE
)
_SUB: Final = "Sub"
_RIGHTS: Final[Mapping[Request, str]] = {
    Request.HEART_BEAT: _SUB,
    Request.PULL_MESSAGE: _SUB,
    Request.CONSUMER_SEND_MSG_BACK: _SUB,
    Request.UNREGISTER_CLIENT: _SUB,
    Request.QUERY_CONSUMER_OFFSET: "Sub or Get",
    Request.GET_CONSUMER_LIST_BY_GROUP: "Sub or Get",
    Request.UPDATE_CONSUMER_OFFSET: "Sub or Update",
    Request.GET_MAX_OFFSET: "Get",
    Request.GET_MIN_OFFSET: "Get",
    Request.SEARCH_OFFSET_BY_TIMESTAMP: "Get",
    Request.GET_CONSUMER_CONNECTION_LIST: "Get",
    Request.GET_CONSUME_STATS: "Get",
    Request.SEND_MESSAGE: "Pub",
    Request.SEND_MESSAGE_V2: "Pub",
}
"""The permission that a request takes, as ACL 2.0 calls it (reference 5.5); plain ACL (5.4) has PUB and SUB only."""


def credentials_refused(
    frame: Frame, address: str, request: Request, credentials: Credentials | None
) -> CredentialsRefused | None:
    """What an answer says against the keys or their permissions; None when it is about something else.

    4.9 answers code 1 and names its AclException, 5.x answers 16 (reference 5.4, 5.5).
    """
    remark = " ".join(frame.remark.split())
    unknown_user = remark.startswith("User:") and "not found" in remark
    if frame.code not in (Response.SYSTEM_ERROR, Response.NO_PERMISSION) or not (
        unknown_user or any(mark in remark for mark in _AUTHENTICATION_REMARKS)
    ):
        return None
    who = f"access key {credentials.access_key}" if credentials else "an unsigned request"
    resource = _RESOURCE.search(remark)
    if resource is None:
        lacking = ""
        remedy = (
            f"check {credentials.origin}"
            + (", and the security token, which may have expired" if credentials.security_token else "")
            if credentials
            else "the broker wants signed requests: set app.secret, or access_key and secret_key of the source"
        )
        if "Need admin permission" in remark:
            remedy = f"use a key with admin permission instead of {who}"
    else:
        kind, name = resource[1].lower(), resource[2]
        right = _RIGHTS.get(request, "the permission")
        lacking = f", which lacks {right} on {kind} {name}"
        remedy = f"grant {right} on {kind} {name} to {who}"
        if right == "Get":
            remedy += " (offsets are looked up with it)"
    return CredentialsRefused(
        f"{address} refused {request.name} by {who}{lacking}: {remark} (code {frame.code})", remedy=remedy
    )
