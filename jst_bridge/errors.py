"""Every error that jst-bridge raises on purpose.

    JstBridgeError
    ├── ConfigurationError          78  the configuration cannot be used as written
    ├── DecodeError                  1  bytes from outside are not what they claim to be
    │   └── UndecodableError         1  one message cannot be typed: it becomes a dead letter
    ├── SourceError                 69  a source refused or cannot be used
    │   ├── ConnectionFailed        69  no connection, or it broke (retriable)
    │   │   └── TlsFailed           69  no TLS, or a certificate that is not trusted
    │   ├── RequestTimeout          69  no answer in time (retriable)
    │   ├── BrokerRefused           69  a name server or broker answered with an error code
    │   ├── TopicNotFound           69  no name server knows the topic
    │   ├── GroupOnline             75  the consumer group must not be running for this
    │   └── CredentialsRefused      77  the keys, or their permissions, were refused
    ├── StoreError                  69  the store refused
    │   ├── StoreUnavailable        75  locked, full, gone: nothing is known to be durable (retriable)
    │   │   └── StoreCredentialsRefused  77  the database refuses the user or the password
    │   ├── InstanceTaken           75  another process has the instance name of a broadcasting source
    │   └── SchemaOutdated          78  the schema is older or newer than this program
    ├── TopError                    69  the Taobao Open Platform refused or failed: see jst_bridge.top.errors
    └── DrainTimeout                75  `--drain` did not reach its mark in time

`exit_code` follows sysexits(3); `retriable` says whether the same call may succeed later. A message
names what was wrong and where; `remedy` names what to do next. Neither ever holds a secret.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "BrokerRefused",
    "ConfigurationError",
    "ConnectionFailed",
    "CredentialsRefused",
    "DecodeError",
    "DrainTimeout",
    "GroupOnline",
    "InstanceTaken",
    "JstBridgeError",
    "RequestTimeout",
    "SchemaOutdated",
    "SourceError",
    "StoreCredentialsRefused",
    "StoreError",
    "StoreUnavailable",
    "TlsFailed",
    "TopError",
    "TopicNotFound",
    "UndecodableError",
]


class JstBridgeError(Exception):
    """The root: catch it to catch everything raised on purpose."""

    exit_code: ClassVar[int] = 1
    retriable: bool = False

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy

    def __str__(self) -> str:
        return str(self.args[0])


class ConfigurationError(JstBridgeError):
    """The configuration cannot be used as written."""

    exit_code = 78


class DecodeError(JstBridgeError):
    """Bytes from outside are not what they claim to be."""


class UndecodableError(DecodeError):
    """One message cannot be typed. `reason` is a stable word, `str()` the sentence for people."""

    def __init__(self, reason: str, message: str, *, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.reason = reason


class SourceError(JstBridgeError):
    """A source refused, or cannot be used."""

    exit_code = 69


class ConnectionFailed(SourceError):
    """No connection to a server, or it broke before the answer came."""

    retriable = True


class TlsFailed(ConnectionFailed):
    """A server speaks no TLS, or its certificate is not to be trusted: somebody has to change something."""

    retriable = False


class RequestTimeout(SourceError):
    """A server did not answer in time; whether it acted is unknown."""

    retriable = True


class BrokerRefused(SourceError):
    """A name server or broker answered `code`, with `remark` as its own words."""

    def __init__(self, code: int, remark: str, address: str, request: str, *, remedy: str = "") -> None:
        super().__init__(
            f"{address} refused {request}: {remark or 'no reason given'} (code {code})", remedy=remedy
        )
        self.code = code
        self.remark = remark
        self.address = address
        self.request = request


class TopicNotFound(SourceError):
    """No name server knows the topic."""


class GroupOnline(SourceError):
    """Members of the consumer group are running, and what was asked for needs them stopped."""

    exit_code = 75


class CredentialsRefused(SourceError):
    """The access key, its signature or its permissions were refused."""

    exit_code = 77


class StoreError(JstBridgeError):
    """The store refused."""

    exit_code = 69


class StoreUnavailable(StoreError):
    """The store cannot be used now (locked, full, gone). Whatever was being written counts as not written."""

    exit_code = 75
    retriable = True


class StoreCredentialsRefused(StoreUnavailable):
    """The database refuses the user or the password. Retriable: while running, somebody may be changing them."""

    exit_code = 77


class InstanceTaken(StoreError):
    """Another process has the instance name of a broadcasting source; it is free once that one has ended."""

    exit_code = 75


class SchemaOutdated(StoreError):
    """The store's schema is older or newer than this program."""

    exit_code = 78


class TopError(JstBridgeError):
    """The Taobao Open Platform refused a call, or could not be reached. Its kinds: jst_bridge.top.errors."""

    exit_code = 69
    may_have_acted: bool = False
    """Whether the platform may have done what was asked all the same."""
    attempts: int = 1
    """How many requests the call has cost."""

    def __str__(self) -> str:
        tried = f" (tried {self.attempts} times)" if self.attempts > 1 else ""
        return super().__str__() + tried


class DrainTimeout(JstBridgeError):
    """The consumer group did not reach the drain mark in time."""

    exit_code = 75
