"""The signature as a server works it out (reference 3), from the parameters that arrived."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Final

__all__ = ["SIGN_METHODS", "is_signed", "signature"]

SIGN_METHODS: Final = frozenset({"md5", "hmac", "hmac-sha256"})


def signature(parameters: Mapping[str, str], secret: str, sign_method: str) -> str:
    """Upper-case hexadecimal digits: 32, with hmac-sha256 64. `sign` itself is left out. KeyError: no such method."""
    arrived = sorted((name.encode(), value.encode()) for name, value in parameters.items() if name != "sign")
    document = b"".join(name + value for name, value in arrived)
    key = secret.encode()
    if sign_method == "md5":
        digest = hashlib.md5(key + document + key, usedforsecurity=False).hexdigest()
    else:
        digest = hmac.new(key, document, {"hmac": "md5", "hmac-sha256": "sha256"}[sign_method]).hexdigest()
    return digest.upper()


def is_signed(parameters: Mapping[str, str], secret: str) -> bool:
    """Whether `sign` is what `sign_method` gives with this secret. Both must be there."""
    expected = signature(parameters, secret, parameters["sign_method"])
    return hmac.compare_digest(expected.encode(), parameters["sign"].encode())
