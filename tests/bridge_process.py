"""The whole program as a user runs it: a configuration file, a process, its output, its database."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from jst_bridge.store import open_database
from tests.cluster import RunningCluster, wait_until
from tests.stores import DATABASE_ERRORS, rows
from tests.traffic import Truth

__all__ = ["BridgeProcess", "Installation", "Outcome"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command that ended left behind."""

    code: int
    out: str
    err: str

    @property
    def summary(self) -> dict[str, Any]:
        """The JSON object that `run` prints at its end."""
        return dict(json.loads(self.out.strip().rpartition("\n")[2]))


class Installation:
    """One configuration file with its database; any number of processes may run with it."""

    def __init__(
        self,
        directory: Path,
        name_server: str,
        topic: str,
        group: str,
        *,
        store: str | None = None,
        source: Mapping[str, object] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """`store`: the URL of another database than a SQLite file in `directory`."""
        self.directory = directory
        self.environ = {**os.environ, **(environ or {})}
        self.topic = topic
        self.group = group
        self.database = directory / "jst-bridge.db"
        self.store = open_database(store or f"sqlite:///{self.database}")
        self.config = directory / "jst-bridge.toml"
        keys: dict[str, object] = {
            "type": "rocketmq",
            "name_servers": [name_server],
            "group": group,
            "system_topic": topic,
            **(source or {}),
        }
        lines = ['[app]\nkey = "12345678"\n']
        if store is not None:
            lines.append(f"[store]\nurl = {json.dumps(store)}\n")
        lines.append("[[source]]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
        self.config.write_text("\n".join(lines) + "\n")

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "jst_bridge", *arguments, "-c", str(self.config)]

    def run(self, *arguments: str, timeout: float = 120, environ: Mapping[str, str] | None = None) -> Outcome:
        """Run a command to its end."""
        done = subprocess.run(
            self.command(*arguments),
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=timeout,
            check=False,
            stdin=subprocess.DEVNULL,
            env={**self.environ, **(environ or {})},
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    def start(self, *arguments: str) -> BridgeProcess:
        """Start `jst-bridge run` (or another command) in the background."""
        return BridgeProcess(self, arguments or ("run",))

    # --- the database -------------------------------------------------------------------------------

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """What another program sees. Money is text."""
        return rows(self.store, sql)

    def count(self, table: str = "messages") -> int:
        """Rows of a table; 0 while the database is not there yet or does not answer."""
        try:
            return int(self.rows(f"SELECT count(*) FROM {table}")[0][0])
        except DATABASE_ERRORS:
            return 0

    def wait_for(self, messages: int, seconds: float = 60) -> None:
        """Wait until so many messages are durable."""
        wait_until(lambda: self.count() >= messages, f"{messages} landed messages", seconds)

    def assert_equals(self, truth: Truth) -> None:
        """Every message exactly once, and the state tables as the truth has them."""
        keys = [key for (key,) in self.rows("SELECT message_key FROM messages")]
        assert len(keys) == len(set(keys))
        assert {key.rpartition(":")[2] for key in keys} == truth.outgoing_ids
        statuses = dict(self.rows("SELECT tid, status FROM trades"))
        assert {tid: statuses.get(tid) for tid in truth.statuses} == truth.statuses
        assert dict(self.rows("SELECT tid, seller FROM trades")) == truth.sellers
        assert dict(self.rows("SELECT refund_id, topic FROM refunds")) == truth.refunds
        traces = {(tid, sid or "", action) for tid, sid, action in self.rows(
            "SELECT tid, out_sid, action FROM logistics_traces")}  # fmt: skip
        assert traces == truth.traces
        assert self.count("dead_letters") == 0


class BridgeProcess:
    """A running command. Leaving the `with` kills it when it still runs."""

    def __init__(self, installation: Installation, arguments: Iterable[str]) -> None:
        self._out = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 - closed by __exit__
        self._err = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115
        self.process = subprocess.Popen(
            installation.command(*arguments),
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=self._err,
            env=installation.environ,
            start_new_session=True,
            preexec_fn=_obey_interrupts,
        )

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.process.kill()
        self.process.wait()

    def wait(self, seconds: float = 30) -> Outcome:
        """Wait for its end."""
        code = self.process.wait(seconds)
        return Outcome(code, self._read(self._out), self._read(self._err))

    def log(self) -> str:
        """What it logged so far."""
        return self._read(self._err)

    def wait_for_log(self, text: str, seconds: float = 30) -> None:
        wait_until(
            lambda: text in self.log() or self.process.poll() is not None, f"{text!r} in the log", seconds
        )
        assert text in self.log(), self.log()

    @staticmethod
    def _read(file: Any) -> str:
        return Path(f"/proc/self/fd/{file.fileno()}").read_text(encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.kill()
        self._out.close()
        self._err.close()


def _obey_interrupts() -> None:
    """A shell that runs the tests in the background lets its children ignore SIGINT, and theirs."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def lag(cluster: RunningCluster, group: str, topic: str) -> dict[int, int]:
    """Queue id -> messages behind, by the broker's books."""
    return {row.queue: row.diff for row in cluster.progress(group) if row.topic == topic}
