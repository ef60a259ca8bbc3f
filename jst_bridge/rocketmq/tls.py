"""TLS to name servers and brokers (reference 5.6): from the first byte, on the usual port."""

from __future__ import annotations

import functools
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ..errors import ConfigurationError, CredentialsRefused, SourceError, TlsFailed

__all__ = ["NO_CERTIFICATE", "PLAINTEXT_REFUSED", "Tls", "is_tls_alert", "tls_failure"]

PLAINTEXT_REFUSED: Final = "if the server speaks TLS only, give the source a [source.tls] table"
NO_CERTIFICATE: Final = "if the server wants a client certificate, set tls.cert_file and tls.key_file"
"""What may be wrong when a server closes a connection without having said a word."""
_EXPIRED, _NOT_YET_VALID = 10, 9
_OTHER_HOST: Final = (62, 64)
"""Codes of OpenSSL's X509_verify_cert_error_string: host name and IP address mismatch."""
_CLIENT_CERTIFICATE_ALERTS: Final = (
    "CERTIFICATE_REQUIRED", "BAD_CERTIFICATE", "ALERT_UNKNOWN_CA", "CERTIFICATE_EXPIRED", "CERTIFICATE_REVOKED",
    "CERTIFICATE_UNKNOWN", "UNSUPPORTED_CERTIFICATE", "ACCESS_DENIED",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tls:
    """How to trust a server, and who to be. All files are PEM."""

    ca_file: Path | None = None
    """The CAs to trust; those of the system when None."""
    cert_file: Path | None = None
    """The client certificate with its chain."""
    key_file: Path | None = None
    """Its key; None when `cert_file` holds it too."""
    key_password: str = field(default="", repr=False)
    server_name: str = ""
    """The name to ask for (SNI) and to find in each server's certificate; '' is the host that was dialled."""
    insecure: bool = False
    """No certificate is checked: anybody in between can read and change everything."""

    def context(self) -> ssl.SSLContext:
        """One context for all connections, a new one when a file has changed.

        Raises ConfigurationError for a file that cannot be used.
        """
        files = (self.ca_file, self.cert_file, self.key_file)
        return _context(self, tuple(_changed_at(file) for file in files if file is not None))

    def _make(self) -> ssl.SSLContext:
        if self.insecure:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        else:
            try:
                context = ssl.create_default_context(cafile=self.ca_file)
            except (OSError, ssl.SSLError) as error:
                raise ConfigurationError(
                    f"tls.ca_file {self.ca_file} cannot be used: {_reason(error)}",
                    remedy="name a PEM file with the certificates of the CAs to trust, readable by this user",
                ) from None
        if self.cert_file is not None:
            try:
                # Never None: OpenSSL would ask for the password on the terminal.
                context.load_cert_chain(self.cert_file, self.key_file, self.key_password)
            except (OSError, ssl.SSLError, ValueError) as error:
                raise ConfigurationError(
                    f"tls.cert_file {self.cert_file} with tls.key_file {self.key_file or '(in the same file)'} "
                    f"cannot be used: {_reason(error)}",
                    remedy="name PEM files of a certificate and of its own key, readable by this user, and "
                    "tls.key_password_file when the key is encrypted",
                ) from None
        return context


@functools.lru_cache(maxsize=16)
def _context(tls: Tls, changed_at: tuple[int, ...]) -> ssl.SSLContext:
    return tls._make()


def _changed_at(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return 0


def tls_failure(address: str, error: OSError, tls: Tls) -> SourceError:
    """What a failed handshake, or an alert of the server after it, means."""
    if isinstance(error, ssl.SSLCertVerificationError):
        problem, remedy = _distrust(error, tls)
        return TlsFailed(f"{address}: {problem}", remedy=remedy)
    reason = getattr(error, "reason", None) or ""
    if any(alert in reason for alert in _CLIENT_CERTIFICATE_ALERTS):
        shown = f"the client certificate {tls.cert_file}" if tls.cert_file else "a client without certificate"
        return CredentialsRefused(
            f"{address} refused {shown} ({_reason(error)})",
            remedy="set tls.cert_file and tls.key_file to a certificate that the server's CA has signed and that "
            "has not expired",
        )
    return TlsFailed(
        f"{address} does not speak TLS, or not as this client does: {_reason(error)}",
        remedy="remove the [source.tls] table if this server is plaintext; else have TLS 1.2 or newer turned on there",
    )


def is_tls_alert(data: bytes) -> bool:
    """Whether a server answered a plaintext request with an alert record of TLS."""
    return data[:2] == b"\x15\x03"


def _distrust(error: ssl.SSLCertVerificationError, tls: Tls) -> tuple[str, str]:
    if error.verify_code in _OTHER_HOST:
        return (
            f"its certificate is for another host: {error.verify_message}",
            "set tls.server_name to a name that the certificate has, or dial the server by such a name "
            "(name_servers, broker_address_map)",
        )
    if error.verify_code in (_EXPIRED, _NOT_YET_VALID):
        return (
            f"its certificate is not valid now: {error.verify_message}",
            "have it renewed, and check the clock of this host",
        )
    trusted = f"a CA in {tls.ca_file}" if tls.ca_file else "a CA that this system trusts"
    return (
        f"its certificate is not signed by {trusted}: {error.verify_message}",
        "set tls.ca_file to the certificate of the CA that signed it",
    )


def _reason(error: Exception) -> str:
    """OpenSSL's words without the position in its source."""
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
    words = (
        str(reason).replace("_", " ").lower() if str(reason).isupper() or "_" in str(reason) else str(reason)
    )
    return words or "the connection was closed during the handshake"
