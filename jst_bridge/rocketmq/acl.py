"""Request signing (reference 5.1, 5.2): HMAC-SHA1 over the sorted ext values and the body."""

from __future__ import annotations

import base64
import hashlib
import hmac
from dataclasses import dataclass, field

__all__ = ["Credentials"]


@dataclass(frozen=True, slots=True)
class Credentials:
    """Keys of one account. For ONS and Jushita: app key, app secret, and `channel` CLOUD."""

    access_key: str
    secret_key: str = field(repr=False)
    security_token: str = field(default="", repr=False)
    channel: str = ""
    """Sent as `OnsChannel` when not empty. It takes part in the signature."""

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
