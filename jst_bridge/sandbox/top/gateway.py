"""The gateway as a thing to start and stop, with everything a test wants to set and to see."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from jst_bridge.errors import ConfigurationError

from .control import Control, check_method
from .desk import Desk
from .faults import Fault, Faults
from .journal import Asked, Journal
from .signature import SIGN_METHODS
from .world import App, OpenSeller, Seller, Unknown, World

if TYPE_CHECKING:
    from .server import ServerThread

__all__ = ["TopGateway"]

_HOST: Final = "127.0.0.1"
_YEAR: Final = 31_536_000.0


class TopGateway:
    """A TOP gateway on loopback, in a thread of its own. A context manager, or `start` and `stop`.

    `port` 0 takes a free one, which it keeps when it is stopped and started again; its state stays, too. The last
    `remembered` requests are kept. `unknown` says how sellers that are not open are answered. Everything made up
    (sessions, request ids) follows from `seed`; the token of the control endpoints is random unless given.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        remembered: int = 1_000,
        unknown: Unknown = "quiet",
        seed: int = 1,
        token: str = "",
    ) -> None:
        self.port = port
        self.token = token or secrets.token_urlsafe(24)
        self._world = World(seed=seed, unknown=unknown)
        self._faults = Faults()
        self._journal = Journal(remembered)
        self._thread: ServerThread | None = None

    def __repr__(self) -> str:
        return f"<TopGateway {self.url if self._thread else 'not running'}>"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """What a client is given as its gateway."""
        return f"http://{_HOST}:{self.port}/router/rest"

    @property
    def control_url(self) -> str:
        """Where the control endpoints are; they want the header `Authorization: Bearer <token>`."""
        return f"http://{_HOST}:{self.port}/_sandbox"

    @property
    def now(self) -> float:
        """The gateway's idea of the time, in epoch seconds."""
        return self._world.now()

    def start(self) -> None:
        """Listen. ConfigurationError: the extra is not installed, or the port is taken."""
        if self._thread is not None:
            return
        try:
            from .server import ServerThread
        except ModuleNotFoundError as missing:
            raise ConfigurationError(
                f"the sandbox needs {missing.name}, which is not installed",
                remedy="pip install 'jst-bridge[sandbox]'",
            ) from None
        control = Control(self._world, self._faults, self._journal, self.token)
        listener = _listener(self.port)
        self.port = listener.getsockname()[1]
        thread = ServerThread(Desk(self._world, self._faults, self._journal), control, listener)
        thread.start()
        self._thread = thread

    def stop(self) -> None:
        """Reset what is open, and be gone."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.stop()

    # --- the world ---------------------------------------------------------------------------------------

    def add_app(
        self,
        key: str,
        secret: str,
        *,
        topics: Iterable[str] = (),
        methods: Iterable[str] | None = None,
        sign_methods: Iterable[str] = SIGN_METHODS,
    ) -> App:
        """Register an app, or replace it. `topics` it subscribes; `methods` it may call, None for all."""
        with self._world.lock:
            return self._world.add_app(key, secret, topics=topics, methods=methods, sign_methods=sign_methods)

    def add_seller(
        self,
        nick: str,
        *,
        user_id: int | None = None,
        session: str | None = None,
        valid_for: float = _YEAR,
        app_key: str | None = None,
    ) -> Seller:
        """A seller authorises the app for `valid_for` seconds: its `session` is made up unless given.

        Again: one more session of the same seller. `app_key` is needed where there are several apps.
        """
        with self._world.lock:
            return self._world.add_seller(
                nick, user_id=user_id, session=session, valid_for=valid_for, app_key=app_key
            )

    def expire(self, session: str) -> None:
        """Let a session run out now. KeyError: nobody has it."""
        with self._world.lock:
            self._world.expire(session)

    def open_sellers(self, app_key: str | None = None) -> tuple[OpenSeller, ...]:
        """The sellers opened by user.add and not deleted since, in the order of opening."""
        with self._world.lock:
            return tuple(self._world.open_sellers(self._world.app(app_key).key))

    def groups(self, app_key: str | None = None) -> dict[str, frozenset[str]]:
        """Seller group -> the nicks in it."""
        with self._world.lock:
            key = self._world.app(app_key).key
            return {
                name: frozenset(group.nicks)
                for (owner, name), group in self._world.groups.items()
                if owner == key
            }

    def shift_clock(self, seconds: float) -> None:
        """Let the gateway's clock be so many seconds ahead of the real one (behind, when negative)."""
        with self._world.lock:
            self._world.shift = seconds

    # --- faults ------------------------------------------------------------------------------------------

    def inject(
        self, fault: Fault, *, method: str | None = None, times: int | None = 1, every: int = 1
    ) -> None:
        """Let requests for `method` (None: all) meet a fault `times` times, or until cleared when None.

        With `every` 50 it strikes the 50th, the 100th, ... of the requests that meet it. ValueError: not usable.
        """
        check_method(method)
        self._faults.arm(fault, method=method, times=times, every=every, now=self._world.now())

    def clear_faults(self) -> None:
        self._faults.clear()

    # --- what was asked ----------------------------------------------------------------------------------

    def count(self, method: str | None = None, *, seller: str | None = None, acted: bool = False) -> int:
        """Requests so far, of a method, with a seller's session; `acted`: those that had an effect."""
        return self._journal.count(method, seller, acted=acted)

    def requests(self, method: str | None = None) -> list[Asked]:
        """The last requests, oldest first."""
        return [asked for asked in self._journal.last() if method in (None, asked.method)]

    def forget_requests(self) -> None:
        """Start counting anew."""
        self._journal.clear()


def _listener(port: int) -> socket.socket:
    # Only with the protocol named does asyncio set TCP_NODELAY; without it, each answer takes 40 ms.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((_HOST, port))
    except OSError as error:
        listener.close()
        raise ConfigurationError(
            f"the sandbox gateway cannot listen on {_HOST}:{port}: {error.strerror}",
            remedy="choose another port, or 0 for any that is free",
        ) from None
    return listener
