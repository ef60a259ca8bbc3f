"""How each source reaches its servers: settings become a client's addresses, keys and certificates."""

from __future__ import annotations

from pathlib import Path

from pydantic import SecretStr

from .rocketmq import ClientSettings, Credentials
from .rocketmq.acl import CredentialFiles, KeyPart
from .rocketmq.namespace import Namespace
from .rocketmq.tls import Tls
from .settings import RocketmqSource, Settings

__all__ = ["client_settings"]


def client_settings(settings: Settings, source: RocketmqSource) -> ClientSettings:
    """Raises ConfigurationError for a certificate or key that cannot be used."""
    tls = _tls(source)
    if tls is not None:
        tls.context()
    return ClientSettings(
        name_servers=source.name_servers,
        credentials=_credentials(settings, source),
        tls=tls,
        namespace=Namespace(source.namespace, source.namespace_system_topic),
        broker_address_map=source.broker_address_map,
    )


def _credentials(settings: Settings, source: RocketmqSource) -> Credentials | CredentialFiles | None:
    signing = settings.signing(source)
    if signing == "none":
        return None
    own = source.access_key is not None
    files: dict[KeyPart, Path | None] = {
        "access_key": source.access_key_file,
        "secret_key": source.secret_key_file if own else settings.app.secret_file,
        "security_token": source.security_token_file,
    }
    credentials = Credentials(
        source.access_key or settings.app.key,
        _text(source.secret_key or settings.app.secret),
        _text(source.security_token),
        channel=source.channel if signing == "ons" else "",
        origin=f"access_key and secret_key of source {source.name}" if own else "app.key and app.secret",
    )
    # A pipe can be read only once, and settings have done so.
    kept = {part: path for part, path in files.items() if path is not None and path.is_file()}
    return CredentialFiles(credentials, kept) if kept else credentials


def _tls(source: RocketmqSource) -> Tls | None:
    tls = source.tls
    if tls is None:
        return None
    return Tls(
        ca_file=tls.ca_file,
        cert_file=tls.cert_file,
        key_file=tls.key_file,
        key_password=_text(tls.key_password),
        server_name=tls.server_name,
        insecure=tls.insecure,
    )


def _text(secret: SecretStr | None) -> str:
    return secret.get_secret_value() if secret is not None else ""
