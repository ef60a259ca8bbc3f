"""The control endpoints, behind a token: what TopGateway's methods do, for programs in other processes.

GET    /_sandbox/state      counts, faults in line, all sellers (nick -> user id), the open ones per app
GET    /_sandbox/requests   the last requests, without secrets
DELETE /_sandbox/requests   forget counts and requests
POST   /_sandbox/apps       {"key", "secret", "topics", "methods", "sign_methods"}
POST   /_sandbox/sellers    {"nick", "user_id", "session", "valid_for", "app_key"} -> with its session
POST   /_sandbox/faults     {"fault": {"kind": "refuse", "code": 15}, "method", "times", "every"}
DELETE /_sandbox/faults     clear them
POST   /_sandbox/clock      {"shift": seconds}
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from .faults import Fault, Faults
from .journal import Journal
from .methods import METHODS
from .signature import SIGN_METHODS
from .world import World

__all__ = ["Control", "check_method"]

Answer = tuple[int, object]
_DAY: Final = 86_400.0


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, frozen=True)


class _App(_Document):
    key: str
    secret: SecretStr
    topics: list[str] = Field(default=[], max_length=10_000)
    methods: list[str] | None = None
    sign_methods: list[str] = sorted(SIGN_METHODS)


class _Seller(_Document):
    nick: str
    user_id: int | None = Field(None, ge=0, lt=1 << 63)
    session: SecretStr | None = None
    valid_for: float = Field(365 * _DAY, ge=0, le=3_650 * _DAY)
    app_key: str | None = None


class _Injection(_Document):
    fault: Annotated[Fault, Field(discriminator="kind")]
    method: str | None = None
    times: int | None = 1
    every: int = 1


class _Clock(_Document):
    shift: float = Field(ge=-3_650 * _DAY, le=3_650 * _DAY)


class Control:
    """Answers the control endpoints."""

    def __init__(self, world: World, faults: Faults, journal: Journal, token: str) -> None:
        self._world = world
        self._faults = faults
        self._journal = journal
        self._token = token
        self._endpoints: Mapping[tuple[str, str], Callable[[bytes], object]] = {
            ("GET", "state"): self._state,
            ("GET", "requests"): self._requests,
            ("DELETE", "requests"): self._forget,
            ("POST", "apps"): self._add_app,
            ("POST", "sellers"): self._add_seller,
            ("POST", "faults"): self._inject,
            ("DELETE", "faults"): self._clear,
            ("POST", "clock"): self._shift,
        }

    def handle(self, method: str, path: str, authorization: str, body: bytes) -> Answer:
        """Status and document. Without the token nothing is told, not even which endpoints there are."""
        if not hmac.compare_digest(authorization.encode(), f"Bearer {self._token}".encode()):
            return 401, {"error": "give the sandbox's token: Authorization: Bearer ..."}
        endpoint = self._endpoints.get((method, path))
        if endpoint is None:
            return 404, {"error": "no such endpoint"}
        try:
            return 200, endpoint(body)
        except ValidationError as error:
            # Without the input, which may hold a secret.
            faulty = error.errors(include_input=False, include_url=False, include_context=False)
            return 422, {"error": [{"where": each["loc"], "what": each["msg"]} for each in faulty]}
        except ValueError as error:
            return 422, {"error": str(error)}

    def _state(self, _body: bytes) -> object:
        with self._world.lock:
            sellers = {
                key: [asdict(seller) for seller in self._world.open_sellers(key)] for key in self._world.apps
            }
            shift = self._world.shift
            known = dict(self._world.sellers)
        return {
            "sellers": known,
            "counts": self._journal.counts(),
            "faults": self._faults.described(),
            "open_sellers": sellers,
            "shift": shift,
        }

    def _requests(self, _body: bytes) -> object:
        return [
            {
                "method": asked.method,
                "seller": asked.seller,
                "parameters": dict(asked.parameters),
                "outcome": asked.outcome,
                "sub_code": asked.sub_code,
                "acted": asked.acted,
                "seconds": asked.seconds,
            }
            for asked in self._journal.last()
        ]

    def _forget(self, _body: bytes) -> object:
        self._journal.clear()
        return {}

    def _add_app(self, body: bytes) -> object:
        asked = _App.model_validate_json(body)
        with self._world.lock:
            app = self._world.add_app(
                asked.key,
                asked.secret.get_secret_value(),
                topics=asked.topics,
                methods=asked.methods,
                sign_methods=asked.sign_methods,
            )
        return {"key": app.key}

    def _add_seller(self, body: bytes) -> object:
        asked = _Seller.model_validate_json(body)
        with self._world.lock:
            seller = self._world.add_seller(
                asked.nick,
                user_id=asked.user_id,
                session=asked.session.get_secret_value() if asked.session else None,
                valid_for=asked.valid_for,
                app_key=asked.app_key,
            )
        return {"nick": seller.nick, "user_id": seller.user_id, "session": seller.session}

    def _inject(self, body: bytes) -> object:
        asked = _Injection.model_validate_json(body)
        check_method(asked.method)
        self._faults.arm(
            asked.fault, method=asked.method, times=asked.times, every=asked.every, now=self._world.now()
        )
        return {}

    def _clear(self, _body: bytes) -> object:
        self._faults.clear()
        return {}

    def _shift(self, body: bytes) -> object:
        asked = _Clock.model_validate_json(body)
        with self._world.lock:
            self._world.shift = asked.shift
        return {"shift": asked.shift}


def check_method(method: str | None) -> None:
    """A fault for a method that does not exist would never strike. ValueError says so."""
    if method is not None and method not in METHODS:
        raise ValueError(f"no such method; there are {', '.join(METHODS)}")
