"""Real PostgreSQL and MariaDB servers on loopback, to fill, to look into, to stop, to kill and to freeze."""

from tests.databases.running import (
    DatabaseRefused,
    RunningDatabases,
    RunningMariadb,
    RunningPostgresql,
    query,
)
from tests.databases.server import MariadbServer, PostgresqlServer

__all__ = [
    "DatabaseRefused",
    "MariadbServer",
    "PostgresqlServer",
    "RunningDatabases",
    "RunningMariadb",
    "RunningPostgresql",
    "query",
]
