"""What PostgreSQL and MySQL have in common: a URL with a host, a login, and connections that break."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import Dialect
from sqlalchemy.engine import URL

from jst_bridge.errors import ConfigurationError
from jst_bridge.store.database import Database

__all__ = ["ANSWER_SECONDS", "LOCK_SECONDS", "VALUE_ERRORS", "ServerDatabase"]

CONNECT_SECONDS = 10
ANSWER_SECONDS = 30
"""A statement that is not answered by then counts as lost with its connection; nothing the store does takes
a tenth of it, and a lock is waited for less long."""
LOCK_SECONDS = 10

VALUE_ERRORS = (ArithmeticError, AttributeError, TypeError, ValueError)
"""What a value can do to a driver or to folding."""


class ServerDatabase(Database):
    """A database on a server, in `url`. Raises ConfigurationError for options it does not know."""

    shared = True
    migrates_itself = False
    options: Collection[str]
    """What may stand behind the question mark of the URL."""

    def __init__(self, url: URL, dialect: Dialect) -> None:
        shown = url.set(password=None, query={})
        super().__init__(shown.render_as_string(hide_password=True), dialect)
        unknown = sorted(set(url.query) - set(self.options))
        if unknown:
            raise ConfigurationError(
                f"[store] url: {unknown[0]} is not an option of {dialect.name}",
                remedy=f"known ones are {', '.join(sorted(self.options))}",
            )
        if not url.database:
            raise ConfigurationError(
                "[store] url names no database", remedy=f"write it like {url.drivername}://user@host/database"
            )
        self._url = url
        seconds = url.query.get("connect_timeout", str(CONNECT_SECONDS))
        if not (isinstance(seconds, str) and seconds.isdecimal() and 0 < int(seconds) <= 600):
            raise ConfigurationError(
                "[store] url: connect_timeout is no number of seconds", remedy="write 1 to 600"
            )
        self._connect_seconds = int(seconds)
        self._query: dict[str, Any] = {
            name: value if isinstance(value, str) else value[-1] for name, value in url.query.items()
        }
