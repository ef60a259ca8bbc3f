"""What a sandbox cluster is like: which broker it plays, how much it keeps, how patient it is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from jst_bridge.errors import ConfigurationError

__all__ = ["DELAY_LEVELS", "Account", "Flavour", "SandboxSettings"]

Flavour = Literal["4.9", "5.3"]
"""Whose behaviour is played where 4.9.7 and 5.3.3 differ."""

DELAY_LEVELS: Final = (1, 5, 10, 30, 60, 120, 180, 240, 300, 360, 420, 480, 540, 600, 1200, 1800, 3600, 7200)
"""Seconds of delay levels 1 to 18 (reference 2.10)."""

_VERSIONS: Final = {"4.9": 407, "5.3": 479}
_LEAST_BYTES: Final = 8 << 20
_MOST_BROKERS: Final = 16
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True)
class Account:
    """Keys that a request may be signed with."""

    access_key: str
    secret_key: str = field(repr=False)
    topics: frozenset[str] | None = None
    """The topics it may read and write; None for all. Its groups are its own."""


@dataclass(frozen=True, slots=True)
class SandboxSettings:
    """Times in seconds. ConfigurationError: not usable."""

    flavour: Flavour = "5.3"
    topics: Mapping[str, int] = field(default_factory=dict)
    """Topics that are there from the start: name -> queues on each broker."""
    brokers: int = 1
    """Named broker-a, broker-b, ..., each with queues of its own."""
    cluster_name: str = "DefaultCluster"
    host: str = "127.0.0.1"
    """IPv4 address to listen on, and the one that routes tell."""
    max_bytes: int = 256 << 20
    """Of the messages that one broker keeps, what Python needs for each included; the oldest make room."""
    default_queues: int = 8
    """Queues of TBW102: the most that a first send gives a topic."""
    auto_create_topics: bool = True
    auto_create_groups: bool = True
    delay_levels: tuple[float, ...] = DELAY_LEVELS
    max_reconsume_times: int = 16
    """After so many a message that is sent back becomes a dead letter, unless the client says otherwise."""
    accounts: tuple[Account, ...] = ()
    """Brokers serve signed requests of these only; when empty, everybody."""
    server_side_reset: bool = True
    """Of 5.3: an offset reset is kept by the broker and told by one pull answer 21. False: told by request 220."""
    park_tick: float = 5.0
    """Parked pulls are looked at so often, besides being woken by a matching message (reference 2.7.3)."""
    client_expiry: float = 120.0
    """A client that sent no heartbeat, or no byte, for so long is dropped and its socket closed."""
    lock_lease: float = 60.0
    """How long a queue lock outlives its last renewal (reference 2.11)."""

    def __post_init__(self) -> None:
        faults = [
            (self.flavour not in _VERSIONS, f"flavour {self.flavour!r} is neither 4.9 nor 5.3"),
            (not 1 <= self.brokers <= _MOST_BROKERS, f"a cluster has 1 to {_MOST_BROKERS} brokers"),
            (self.max_bytes < _LEAST_BYTES, f"max_bytes is at least {_LEAST_BYTES}"),
            (not self.delay_levels or min(self.delay_levels) < 0, "delay_levels are seconds, at least one"),
            (min(self.park_tick, self.client_expiry, self.lock_lease) <= 0, "times are more than 0 seconds"),
            (not _NAME.fullmatch(self.cluster_name), "a cluster's name has letters, digits, - and _"),
        ]
        for wrong, sentence in faults:
            if wrong:
                raise ConfigurationError(f"the sandbox cannot be set up so: {sentence}")

    @property
    def modern(self) -> bool:
        """5.3 is played, not 4.9."""
        return self.flavour == "5.3"

    @property
    def version(self) -> int:
        """The MQVersion that answers carry (reference 1.6)."""
        return _VERSIONS[self.flavour]
