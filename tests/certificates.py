"""Certificates for tests: CAs, servers and clients, as PEM files."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

__all__ = ["Authority", "Identity"]


class Identity:
    """A certificate and its key: PEM files in one directory. The key is PKCS#8, which Netty wants."""

    def __init__(self, certificate: trustme.LeafCert, directory: Path, name: str, password: str = "") -> None:
        self.cert_file = directory / f"{name}.pem"
        self.cert_file.write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
        lock: KeySerializationEncryption = NoEncryption()
        if password:
            lock = BestAvailableEncryption(password.encode())
        key = load_pem_private_key(certificate.private_key_pem.bytes(), None)
        self.key_file = directory / f"{name}.key"
        self.key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock))


class Authority:
    """A CA of its own, with its certificate in `ca_file`."""

    def __init__(self, directory: Path, name: str = "ca") -> None:
        self.ca_file = directory / f"{name}.pem"
        self._ca = trustme.CA()
        self._ca.cert_pem.write_to_path(self.ca_file)
        self._directory = directory
        self._name = name

    def issue(self, *hosts: str, name: str = "server", expired: bool = False, password: str = "") -> Identity:
        """A certificate for these hosts, as a server or as a client."""
        ended = datetime.now(UTC) - timedelta(days=1)
        certificate = self._ca.issue_cert(
            *hosts,
            key_type=trustme.KeyType.RSA,
            not_before=ended - timedelta(days=2),
            not_after=ended if expired else ended + timedelta(days=100),
        )
        return Identity(certificate, self._directory, f"{self._name}-{name}", password)

    def server_context(self, identity: Identity, *, wants_client: bool = False) -> ssl.SSLContext:
        """For a server in this process."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(identity.cert_file, identity.key_file)
        if wants_client:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.ca_file)
        return context
