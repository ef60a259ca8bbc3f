"""A server's whole process tree: to end, to kill and to freeze.

As a program (`python process.py PID SIGNAL`) this file is the leash: it waits until its stdin ends, which it does
when the process that holds the other end is gone, however that happened, and then ends the server.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

__all__ = ["Account", "ServerProcess", "account", "environment", "gone"]

STOP_SECONDS = 60.0
KILL_SECONDS = 20.0


class Account(NamedTuple):
    """Whom a server runs as, in numbers."""

    name: str
    user: int
    group: int


def account(*names: str) -> Account | None:
    """The first of these users that exists, when we are root; None when servers can run as ourselves."""
    if os.geteuid() != 0:
        return None
    for name in names:
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return Account(name, entry.pw_uid, entry.pw_gid)
    raise LookupError(f"none of these users exists: {', '.join(names)}")


def environment() -> dict[str, str]:
    """Nothing of the developer's, PGPORT and MYSQL_HOME above all; messages in English."""
    return {"PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}


class ServerProcess:
    """A server, its words appended to `log`. Runs from the moment it is made.

    On a leash: when this process is gone it gets the signal `hasty`.
    """

    def __init__(self, command: Sequence[str], log: Path, who: Account | None, hasty: signal.Signals) -> None:
        with log.open("a") as words:
            self._server = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=words,
                stderr=words,
                start_new_session=True,
                env=environment(),
                user=who and who.user,
                group=who and who.group,
                extra_groups=who and [],
            )
        self._root = psutil.Process(self._server.pid)
        self._leash = subprocess.Popen(
            [sys.executable, "-P", __file__, str(self._server.pid), str(int(hasty))],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self._server.pid

    @property
    def returncode(self) -> int | None:
        """How it ended; None while it runs."""
        return self._server.poll()

    def end(self, how: signal.Signals) -> None:
        """Send a signal, also to a frozen server, and wait. Raises TimeoutError, with the server killed."""
        if self.returncode is None:
            self.thaw()
            self._server.send_signal(how)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._server.wait(STOP_SECONDS)
        late = self.returncode is None
        self.kill()
        if late:
            raise TimeoutError(f"the server did not end within {STOP_SECONDS:g} s of {how.name}")

    def kill(self) -> None:
        """SIGKILL for every process of the server; returns when they are gone. Idempotent."""
        if self.returncode is None:
            killed = kill_tree(self._root)
            self._server.wait(KILL_SECONDS)
            wait_for_all(killed, gone)
        assert self._leash.stdin is not None
        self._leash.stdin.close()
        self._leash.wait(KILL_SECONDS)

    def freeze(self) -> None:
        """SIGSTOP for every process: connections stay open, the kernel accepts new ones, nobody answers."""
        wait_for_all(stop_tree(self._root), lambda one: gone(one) or one.status() == psutil.STATUS_STOPPED)

    def thaw(self) -> None:
        """SIGCONT for every process."""
        thaw_tree(self._root)


def stop_tree(root: psutil.Process) -> list[psutil.Process]:
    """Stop the root first: from then on there are no new children."""
    send(root, signal.SIGSTOP)
    below = children(root)
    for one in below:
        send(one, signal.SIGSTOP)
    return [root, *below]


def thaw_tree(root: psutil.Process) -> None:
    for one in [*children(root), root]:
        send(one, signal.SIGCONT)


def kill_tree(root: psutil.Process) -> list[psutil.Process]:
    """Not by process group: each of PostgreSQL's processes leads a session of its own."""
    tree = stop_tree(root)
    for one in reversed(tree):
        send(one, signal.SIGKILL)
    return tree


def children(root: psutil.Process) -> list[psutil.Process]:
    try:
        return root.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def send(process: psutil.Process, how: signal.Signals) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(how)


def gone(process: psutil.Process) -> bool:
    """True of a zombie too: an orphan's may stay for ever where process 1 does not reap."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_for_all(processes: list[psutil.Process], condition: Callable[[psutil.Process], bool]) -> None:
    limit = time.monotonic() + KILL_SECONDS
    while not all(map(condition, processes)):
        if time.monotonic() > limit:
            raise TimeoutError(f"the processes {[one.pid for one in processes]} do not obey signals")
        time.sleep(0.005)


def leash(pid: int, hasty: int) -> None:
    try:
        root = psutil.Process(pid)
    except psutil.NoSuchProcess:
        return
    sys.stdin.read()
    if not gone(root):
        thaw_tree(root)
        send(root, signal.Signals(hasty))
        try:
            wait_for_all([root], gone)
        except TimeoutError:
            kill_tree(root)


if __name__ == "__main__":
    leash(int(sys.argv[1]), int(sys.argv[2]))
