"""The signature of a request (reference 3; vendor page "API调用方法详解", open.taobao.com docId=101617).

Pure: text in, text out. What is signed are the raw values, so percent-encoding comes afterwards.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Final, Literal

__all__ = ["SIGN_METHODS", "SignMethod", "base_string", "sign"]

SignMethod = Literal["md5", "hmac", "hmac-sha256"]
SIGN_METHODS: Final[tuple[SignMethod, ...]] = ("md5", "hmac", "hmac-sha256")
"""`hmac` is HMAC-MD5. `hmac-sha256` is documented, but may be missing for old apps (reference 14.4)."""


def base_string(parameters: Mapping[str, str]) -> str:
    """All names and raw values, without separators, sorted by name in ASCII order; `sign` is left out."""
    return "".join(name + parameters[name] for name in sorted(parameters) if name != "sign")


def sign(parameters: Mapping[str, str], secret: str, sign_method: SignMethod) -> str:
    """The signature in upper-case hex: 32 characters, for hmac-sha256 64.

    Raises UnicodeEncodeError for a lone surrogate, which UTF-8 cannot express.
    """
    text, key = base_string(parameters).encode(), secret.encode()
    if sign_method == "md5":  # the protocol's choice, not ours
        return hashlib.md5(key + text + key, usedforsecurity=False).hexdigest().upper()
    return hmac.new(key, text, "md5" if sign_method == "hmac" else "sha256").hexdigest().upper()
