"""Private database servers of a test session: Debian's packages, scratch directories, loopback, any free port.

They write as in production (a commit is on the disk when it is acknowledged) and take little memory.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self
from urllib.parse import quote, urlsplit

import psycopg
import pymysql

from tests.cluster import ClusterError, wait_until
from tests.databases.process import Account, ServerProcess, account, environment
from tests.databases.running import RunningDatabases, RunningMariadb, RunningPostgresql
from tests.java.toolchain import ToolMissing
from tests.servers import free_port

__all__ = ["MariadbServer", "PostgresqlServer"]

START_SECONDS = 60.0
"""Either one is made and answers within 1 s, and is back 0.2 s after a kill; a busy machine takes a few times that."""
USER = "jst"
REDO_LOG = "32M"


class PrivateServer(RunningDatabases):
    """A server to be stopped, killed and frozen at will. A context manager; leaving it deletes the data.

    `data` is where its files are to be (a directory that does not exist or is empty, by default one in `scratch`);
    `settings` are added to those on its command line. Raises ToolMissing where it is not installed.
    """

    accounts: ClassVar[tuple[str, ...]]
    scheme: ClassVar[str]
    graceful: ClassVar[signal.Signals]
    hasty: ClassVar[signal.Signals]
    """What ends a server whose data are not needed any more, without leaving anything in shared memory."""

    def __init__(
        self, scratch: Path, *, data: Path | None = None, settings: Mapping[str, object] | None = None
    ) -> None:
        self.port = free_port(0)
        super().__init__(f"{self.scheme}://{USER}:{secrets.token_hex(8)}@127.0.0.1:{self.port}")
        self._admin_password = secrets.token_hex(8)
        self.data = data or scratch / "data"
        self.log = scratch / f"{self.kind}.log"
        self._scratch = scratch
        self._settings = dict(settings or {})
        self._account = self._find_account()
        self._ready_to_start = False
        self._process: ServerProcess | None = None

    @property
    def address(self) -> str:
        """`127.0.0.1:port`, whether it runs or not."""
        return f"127.0.0.1:{self.port}"

    @property
    def alive(self) -> bool:
        """False also when it ended by itself, as MariaDB does on a full disk."""
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int:
        """Of its first process. Raises ClusterError when it does not run."""
        return self._running().pid

    def start(self) -> Self:
        """Start it where it was left, the first time after making it, and wait until it answers."""
        if self.alive:
            raise ClusterError(f"{self.kind} was started already")
        self.kill()  # the leash of one that ended by itself
        new = not self._ready_to_start
        if new:
            self._make_directories()
            self._make_data()
        self._process = ServerProcess(self._command(new=new), self.log, self._account, self.hasty)
        try:
            self._wait()
            if new:
                self._make_user()
                self._ready_to_start = True
        except BaseException:
            self.kill()
            raise
        return self

    def stop(self) -> None:
        """Stop it in an orderly way: sessions are ended, data are kept. Idempotent."""
        self._end(self.graceful)

    def kill(self) -> None:
        """SIGKILL for all its processes, and wait until they are gone. Idempotent."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def freeze(self) -> None:
        """Stop all its processes where they are; connecting and asking then take for ever."""
        self._running().freeze()

    def thaw(self) -> None:
        """Let a frozen server go on."""
        self._running().thaw()

    def set_password(self, password: str) -> None:
        """Give the user another password. URLs from before are refused from now on, sessions stay."""
        self._change_password(password)
        parts = urlsplit(self._url)
        self._url = parts._replace(netloc=f"{USER}:{quote(password, safe='')}@{self.address}").geturl()

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.discard()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()

    def discard(self) -> None:
        """End it in whatever way is fast, and delete its data."""
        self._end(self.hasty)
        self._clean_memory()
        shutil.rmtree(self.data, ignore_errors=True)

    @property
    def _admin_url(self) -> str:
        return (
            f"{self.scheme}://{self._admin_user}:{self._admin_password}@{self.address}/{self._admin_database}"
        )

    def _clean_memory(self) -> None:
        """Remove what a server that was killed leaves outside its directories."""

    _admin_user: ClassVar[str]
    _admin_database: ClassVar[str]

    @abstractmethod
    def _make_data(self) -> None: ...

    @abstractmethod
    def _command(self, *, new: bool) -> list[str]: ...

    @abstractmethod
    def _make_user(self) -> None: ...

    @abstractmethod
    def _change_password(self, password: str) -> None: ...

    def _running(self) -> ServerProcess:
        if self._process is None:
            raise ClusterError(f"{self.kind} does not run")
        return self._process

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.end(how)

    def _find_account(self) -> Account | None:
        try:
            return account(*self.accounts)
        except LookupError as missing:
            raise ToolMissing(f"no user to run {self.kind} as, and root may not: {missing}") from None

    def _make_directories(self) -> None:
        """Make what the server writes into its account's own, and all above it passable."""
        for directory in (self._scratch, self.data):
            directory.mkdir(parents=True, exist_ok=True)
        if self._account is None:
            return
        for directory in (self._scratch, self.data):
            os.chown(directory, self._account.user, self._account.group)
            for above in directory.parents:
                if above.is_relative_to(tempfile.gettempdir()) and above.stat().st_uid == os.geteuid():
                    above.chmod(above.stat().st_mode | 0o011)
        if self._run(["test", "-w", str(self.data)]).returncode:
            raise ClusterError(
                f"the user {self._account.name} must be able to pass every directory above {self.data}"
            )

    def _secret_file(self, name: str, text: str) -> Path:
        file = self._scratch / name
        file.touch(mode=0o600)
        file.write_text(text)
        if self._account is not None:
            os.chown(file, self._account.user, self._account.group)
        return file

    def _run(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        who = self._account
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=START_SECONDS,
            check=False,
            start_new_session=True,
            cwd=self._scratch,
            env=environment(),
            user=who and who.user,
            group=who and who.group,
            extra_groups=who and [],
        )

    def _make(self, command: Sequence[str]) -> None:
        outcome = self._run(command)
        if outcome.returncode:
            raise ClusterError(f"{command[0]} ended with {outcome.returncode}:\n{outcome.stdout[-2000:]}")

    def _wait(self) -> None:
        process = self._running()
        last: Exception | None = None

        def answers() -> bool:
            nonlocal last
            if process.returncode is not None:
                raise ClusterError(f"{self.kind} ended with {process.returncode} while starting")
            try:
                self.admin("SELECT 1")
            except (psycopg.OperationalError, pymysql.err.OperationalError) as error:
                last = error
                return False
            return True

        try:
            wait_until(answers, f"{self.kind} to answer at {self.address}", START_SECONDS)
        except ClusterError as error:
            words = self.log.read_text(errors="replace")[-2000:]
            raise ClusterError(f"{error} (last: {last}); its log ends with:\n{words}") from None


class PostgresqlServer(PrivateServer, RunningPostgresql):
    """A PostgreSQL server. It sorts by language where nothing says COLLATE "C", as most of them do."""

    accounts = ("postgres", "nobody")
    scheme = "postgresql"
    graceful = signal.SIGINT  # "fast": does not wait for clients
    hasty = signal.SIGQUIT
    _admin_user = "postgres"
    _admin_database = "postgres"
    _owner_clause = f"OWNER {USER}"

    def __init__(self, scratch: Path, **options: Any) -> None:
        self._programs = postgresql_programs()
        super().__init__(scratch, **options)

    def _clean_memory(self) -> None:
        lock_file = self.data / "postmaster.pid"
        if lock_file.exists():  # it was killed
            remove_shared_memory(lock_file)

    def _make_data(self) -> None:
        password = self._secret_file("password", self._admin_password)
        version = self._run([str(self._programs / "postgres"), "--version"]).stdout
        # "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"
        sorting = (
            ["--locale-provider=icu", "--icu-locale=zh"]
            if int(version.split()[2].split(".")[0]) >= 15
            else []
        )
        self._make(
            [
                *(str(self._programs / "initdb"), "-D", str(self.data), "-U", self._admin_user),
                *("-A", "scram-sha-256", f"--pwfile={password}", "--no-sync", "--no-instructions"),
                *("-E", "UTF8", "--locale=C", *sorting),
            ]
        )
        password.unlink()

    def _command(self, *, new: bool) -> list[str]:
        settings: dict[str, object] = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": "",
            "fsync": "on",
            "synchronous_commit": "on",
            "shared_buffers": "32MB",
            "min_wal_size": "32MB",
            "max_wal_size": "256MB",
            "dynamic_shared_memory_type": "mmap",  # in files below `data`, which nothing outlives
            **self._settings,
        }
        flags = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return [str(self._programs / "postgres"), "-D", str(self.data), *flags]

    def _make_user(self) -> None:
        self.admin(f"CREATE ROLE {USER} LOGIN PASSWORD '{urlsplit(self._url).password}'")

    def _change_password(self, password: str) -> None:
        text = password.replace("'", "''")
        self.admin(f"ALTER ROLE {USER} PASSWORD '{text}'")


class MariadbServer(PrivateServer, RunningMariadb):
    """A MariaDB server, without binary log, with the character set it was built with."""

    accounts = ("mysql", "nobody")
    scheme = "mysql"
    graceful = signal.SIGTERM
    hasty = signal.SIGKILL
    _admin_user = "admin"
    _admin_database = ""

    def __init__(self, scratch: Path, **options: Any) -> None:
        self._server, self._installer = mariadb_programs()
        super().__init__(scratch, **options)

    def _make_data(self) -> None:
        log_size = f"--innodb-log-file-size={REDO_LOG}"
        self._make([self._installer, "--no-defaults", f"--datadir={self.data}", "--skip-test-db", log_size])

    def _command(self, *, new: bool) -> list[str]:
        settings: dict[str, object] = {
            "datadir": self.data,
            "tmpdir": self._scratch,
            "bind-address": "127.0.0.1",
            "port": self.port,
            "socket": "server.sock",  # below datadir: an absolute path may be too long
            "pid-file": "server.pid",
            "skip-name-resolve": "ON",
            "skip-log-bin": "ON",
            "innodb-flush-log-at-trx-commit": 1,
            "innodb-buffer-pool-size": "64M",
            "innodb-log-file-size": REDO_LOG,
            **({"init-file": self._scratch / "users.sql"} if new else {}),
            **self._settings,
        }
        if new:
            self._secret_file("users.sql", self._users())
        return [self._server, "--no-defaults", *(f"--{name}={value}" for name, value in settings.items())]

    def _users(self) -> str:
        """Statements for the first start, before anybody can connect."""
        return (
            f"CREATE USER {self._admin_user}@127.0.0.1 IDENTIFIED BY '{self._admin_password}';\n"
            f"GRANT ALL PRIVILEGES ON *.* TO {self._admin_user}@127.0.0.1 WITH GRANT OPTION;\n"
            f"CREATE USER {USER}@127.0.0.1 IDENTIFIED BY '{urlsplit(self._url).password}';\n"
        )

    def _make_user(self) -> None:
        (self._scratch / "users.sql").unlink()

    def _change_password(self, password: str) -> None:
        text = password.replace("\\", "\\\\").replace("'", "''")
        self.admin(f"ALTER USER {USER}@127.0.0.1 IDENTIFIED BY '{text}'")

    def _create(self, name: str) -> None:
        super()._create(name)
        pattern = name.replace("_", r"\_")
        self.admin(f"GRANT ALL ON `{pattern}`.* TO {USER}@127.0.0.1")


def postgresql_programs() -> Path:
    """The directory of `initdb` and `postgres`: on PATH, else Debian's newest."""
    found = shutil.which("postgres")
    places = [Path(found).resolve().parent] if found else []
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda place: -float(place.parent.name))
    for place in places:
        if (place / "initdb").exists() and (place / "postgres").exists():
            return place
    raise ToolMissing("PostgreSQL's server is not installed (Debian: apt-get install postgresql)")


def mariadb_programs() -> tuple[str, str]:
    """The paths of the server and of the program that makes its data directory."""
    path = environment()["PATH"]
    server = shutil.which("mariadbd", path=path) or shutil.which("mysqld", path=path)
    installer = shutil.which("mariadb-install-db", path=path) or shutil.which("mysql_install_db", path=path)
    if server is None or installer is None:
        raise ToolMissing("MariaDB's server is not installed (Debian: apt-get install mariadb-server)")
    return server, installer


def remove_shared_memory(lock_file: Path) -> None:
    """A killed server leaves a segment of 56 bytes that only its next start would remove; line 7 has its id."""
    lines = lock_file.read_text().splitlines()
    if len(lines) > 6 and len(lines[6].split()) == 2:
        subprocess.run(["ipcrm", "-m", lines[6].split()[1]], capture_output=True, check=False)
