"""Consumers under faults: a steady stream of messages, members that write down what they get, and the account.

Members are processes, ours or the official Java client's; `tests/bench/recovery.py` has the faults. Times are
those of `time.time`, because two programs have to be compared.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, NamedTuple, Self

from tests.java.client import ClusterError, wait_until
from tests.java.toolchain import Toolchain

__all__ = ["Account", "Kind", "Member", "Receipt", "Stream", "longest_silence"]

Kind = Literal["ours", "java"]
ROOT = Path(__file__).resolve().parents[1]
SEND_MESSAGE = 10
RETRY = 0.02
"""Seconds between two attempts to send: how exactly it is known since when a broker takes messages."""


class Receipt(NamedTuple):
    """One message as a member got it."""

    at: float
    queue: tuple[str, int]
    key: str


class Stream:
    """Sends `rate` messages a second to a broker, to its queues in turn, and remembers what was taken.

    It speaks to the broker's address itself and knows no route: it finds out as soon as messages are taken again.
    A context manager.
    """

    def __init__(
        self, address: str, topic: str, *, queues: int = 8, rate: float = 200, prefix: str = "m"
    ) -> None:
        self.taken: dict[str, tuple[float, int]] = {}
        """Key -> when the broker said that it has the message, and the queue id."""
        self._address = address
        self._topic = topic
        self._queues = queues
        self._pause = 1 / rate
        self._prefix = prefix
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stream")
        self._socket: socket.socket | None = None

    def send(self, key: str, queue: int) -> bool:
        """Whether the broker took it."""
        ext = {
            "producerGroup": "stream", "topic": self._topic, "defaultTopic": "TBW102", "queueId": str(queue),
            "defaultTopicQueueNums": str(self._queues), "sysFlag": "0", "flag": "0", "reconsumeTimes": "0",
            "bornTimestamp": str(int(time.time() * 1000)), "properties": f"KEYS\x01{key}\x02",
            "unitMode": "false", "batch": "false",
        }  # fmt: skip
        header = {"code": SEND_MESSAGE, "language": "PYTHON", "version": 401, "opaque": 1, "flag": 0}
        data = json.dumps({**header, "extFields": ext}).encode()
        try:
            if self._socket is None:
                host, _, port = self._address.rpartition(":")
                self._socket = socket.create_connection((host, int(port)), timeout=5)
            self._socket.sendall(struct.pack(">II", 8 + len(data), len(data)) + data + b"body")
            length, header_length = struct.unpack(">II", self._exactly(self._socket, 8))
            answer = self._exactly(self._socket, length - 4)
        except OSError:
            if self._socket is not None:
                self._socket.close()
            self._socket = None
            return False
        return int(json.loads(answer[: header_length & 0xFFFFFF])["code"]) == 0

    @staticmethod
    def _exactly(stream: socket.socket, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = stream.recv(size - len(data))
            if not more:
                raise ConnectionError("the broker closed the connection")
            data += more
        return data

    def _run(self) -> None:
        number, due = 0, time.monotonic()
        while not self._ending.is_set():
            key = f"{self._prefix}{number}"
            if self.send(key, number % self._queues):
                self.taken[key] = (time.time(), number % self._queues)
                due += self._pause
            else:
                due = time.monotonic() + RETRY
            number += 1
            self._ending.wait(max(0.0, due - time.monotonic()))

    def first_taken(self, after: float) -> dict[int, float]:
        """Queue id -> when its first message after this moment was taken."""
        first: dict[int, float] = {}
        for at, queue in list(self.taken.values()):
            if at > after:
                first.setdefault(queue, at)
        return first

    def stop(self) -> None:
        self._ending.set()
        self._thread.join()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


@dataclass
class Place:
    """Where members find their messages."""

    name_server: str
    topic: str
    group: str
    scratch: Path
    toolchain: Toolchain | None = None
    """To run the Java client with."""


class Member:
    """One running process of a consumer group. Kill it at the end: `with`."""

    made = 0

    def __init__(self, kind: Kind, place: Place) -> None:
        Member.made += 1
        self._file = place.scratch / f"member-{Member.made}"
        self._errors = self._file.with_suffix(".err")
        if kind == "ours":
            script = str(ROOT / "tests" / "bench" / "member.py")
            words = [place.name_server, place.topic, place.group, str(self._file)]
            command = [sys.executable, script, *words]
        else:
            assert place.toolchain is not None
            options = {"name-server": place.name_server, "topic": place.topic, "group": place.group}
            words = [word for name, value in options.items() for word in (f"--{name}", value)]
            command = place.toolchain.command("Member", *words, "--file", str(self._file), home=place.scratch)
        self.launched_at = time.time()
        with self._errors.open("w") as errors:
            self._process = subprocess.Popen(
                command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, start_new_session=True,
            )  # fmt: skip

    def _lines(self) -> list[str]:
        text = self._file.read_text() if self._file.exists() else ""
        return text[: text.rfind("\n") + 1].splitlines()

    @property
    def started_at(self) -> float:
        """When its consumer was started: a process takes longer to begin."""
        return float(self._lines()[0].split()[1])

    def receipts(self) -> list[Receipt]:
        """What it got so far, in order."""
        found = []
        for line in self._lines()[1:]:
            at, broker, queue, key = line.split()
            found.append(Receipt(float(at), (broker, int(queue)), key))
        return found

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def log(self) -> str:
        """What it said on stderr."""
        return self._errors.read_text(errors="replace")

    def kill(self) -> float:
        """SIGKILL; returns when."""
        at = time.time()
        self._process.kill()
        self._process.wait()
        return at

    def terminate(self) -> tuple[float, float, int]:
        """SIGTERM and wait: when it was sent, the seconds until the end, and the exit code."""
        at = time.time()
        self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(60)
        return at, time.time() - at, code

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self.kill()


class Account:
    """What was sent beside what was received."""

    def __init__(self, stream: Stream, members: Sequence[Member]) -> None:
        self._stream = stream
        self._members = members

    def receipts(self, after: float = 0.0) -> list[Receipt]:
        """Of all members, in the order of time."""
        return sorted(one for member in self._members for one in member.receipts() if one.at > after)

    def wait_for_all_queues(self, queues: int, after: float = 0.0, seconds: float = 120) -> None:
        """Wait until every queue gave a message since."""
        try:
            wait_until(
                lambda: len({one.queue for one in self.receipts(after)}) >= queues,
                f"messages from all {queues} queues",
                seconds,
            )
        except ClusterError as error:
            said = "\n".join(member.log()[-2000:] for member in self._members)
            found = sorted(self.resumed(after, {one.queue for one in self.receipts()}).items())
            codes = [member.exit_code for member in self._members]
            raise ClusterError(
                f"{error}; there were {found}; exit codes {codes} (None: it runs); members said:\n{said}"
            ) from None

    def resumed(self, after: float, queues: Iterable[tuple[str, int]]) -> dict[tuple[str, int], float]:
        """Queue -> seconds from `after` to its first message since; only of queues that gave one."""
        first: dict[tuple[str, int], float] = {}
        for one in self.receipts(after):
            first.setdefault(one.queue, one.at - after)
        return {queue: first[queue] for queue in queues if queue in first}

    def settle(self, seconds: float = 40) -> tuple[int, int]:
        """End the stream, wait for what is on its way: how many were lost, and how many came twice."""
        self._stream.stop()
        taken = set(self._stream.taken)
        limit = time.time() + seconds
        while time.time() < limit and not taken <= {one.key for one in self.receipts()}:
            time.sleep(0.2)
        counts = Counter(one.key for one in self.receipts())
        return len(taken - counts.keys()), sum(count - 1 for count in counts.values())


def longest_silence(receipts: Iterable[Receipt], since: float, until: float) -> float:
    """Seconds between two messages of one queue, the longest of any queue, within a window."""
    last: dict[tuple[str, int], float] = {}
    longest = 0.0
    for one in sorted(receipts):
        if since <= one.at <= until:
            longest = max(longest, one.at - last.get(one.queue, since))
            last[one.queue] = one.at
    return max([longest, *(until - at for at in last.values())])
