"""What PostgreSQL and MySQL have in common: a URL with a host, a login, and connections that break."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, ClassVar

from sqlalchemy import Dialect
from sqlalchemy.engine import URL

from jst_bridge.errors import ConfigurationError
from jst_bridge.store.database import Database
from jst_bridge.store.schema import METADATA

__all__ = ["ServerDatabase"]

CONNECT_SECONDS = 10


class ServerDatabase(Database):
    """A database on a server, in `url`. Raises ConfigurationError for options it does not know."""

    shared = True
    migrates_itself = False
    options: Collection[str]
    """What may stand behind the question mark of the URL."""
    answer_seconds: ClassVar[float] = 30
    """A statement that is not answered by then counts as lost with its connection; nothing the store does takes a
    tenth of it, and a lock is waited for less long."""
    lock_seconds: ClassVar[float] = 10

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
        try:
            (url.host or "").encode("idna")
        except UnicodeError:
            raise ConfigurationError(
                f"[store] url: {url.host} is no name of a host", remedy="correct the host"
            ) from None
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

    def _look(self, cursor: Any) -> int:
        version = super()._look(cursor)
        if version:
            self._try_rights(cursor)
        return version

    def _make_current(self, cursor: Any) -> None:
        super()._make_current(cursor)
        self._try_rights(cursor)

    def _try_rights(self, cursor: Any) -> None:
        """Change nothing in every table: a right that lacks, or a read-only server, shows now and not later."""
        for table in METADATA.sorted_tables:
            if table.name == "schema_migrations":
                continue
            names = [column.name for column in table.columns if column is not table.autoincrement_column]
            name, columns = table.name, ", ".join(names)
            cursor.execute(f"INSERT INTO {name} ({columns}) SELECT {columns} FROM {name} WHERE 1 = 0")  # noqa: S608
            cursor.execute(f"UPDATE {name} SET {names[-1]} = {names[-1]} WHERE 1 = 0")  # noqa: S608
            cursor.execute(f"DELETE FROM {name} WHERE 1 = 0")  # noqa: S608
