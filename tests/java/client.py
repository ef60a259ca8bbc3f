"""A RocketMQ cluster as the official Java client and the broker's own admin tool see it."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import ssl
import struct
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from tests.java.toolchain import ROCKETMQ_VERSION, SPARING, Toolchain

__all__ = ["ClusterError", "ProgressRow", "RunningCluster", "Sent", "ask", "end", "wait_until"]

STOP_SECONDS = 60.0
"""A broker takes up to 12 s to stop on SIGTERM."""
ROUTE_SECONDS = 60.0
"""A broker that misses its first registration has a route 10 s later."""
GET_ROUTE, GET_CLUSTER, GET_CONSUME_STATS = 105, 106, 208


class ClusterError(Exception):
    """A server or a Java program did not do what the test needs."""


class Sent(NamedTuple):
    """Where the broker put one published message."""

    broker: str
    queue: int
    offset: int
    message_id: str
    """The offset message id."""


class ProgressRow(NamedTuple):
    """One message queue in the broker's own `consumerProgress`; diff = broker_offset - consumer_offset."""

    topic: str
    broker: str
    queue: int
    broker_offset: int
    consumer_offset: int
    diff: int


class RunningCluster:
    """A cluster reachable at a name server. `scratch` takes the state of the Java programs.

    `version` is the servers', and the admin tool's; `client_options` are more JVM options of the Java programs
    and of the admin tool, `tls` is how to ask servers that take TLS only.
    """

    def __init__(
        self,
        name_server: str,
        toolchain: Toolchain,
        scratch: Path,
        *,
        version: str = ROCKETMQ_VERSION,
        queues: int = 8,
        client_options: Sequence[str] = (),
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.name_server = name_server
        self.version = version
        self.queues = queues
        self._toolchain = toolchain
        self._scratch = scratch
        self._client_options = tuple(client_options)
        self._tls = tls
        self._publisher: subprocess.Popen[str] | None = None
        self._routed: set[str] = set()
        """Topics that the name server was seen to know."""

    @property
    def broker_address(self) -> str:
        """`host:port` of the first master that the name server lists."""
        return self.broker_addresses()[0]

    def broker_addresses(self) -> list[str]:
        """`host:port` of the masters that the name server lists. Raises ClusterError when it lists none."""
        _, body = ask(self.name_server, GET_CLUSTER, tls=self._tls)
        found = re.findall(rb'\b0:"([^"]+)"', body)
        if not found:
            raise ClusterError(f"the name server {self.name_server} knows no broker")
        return [address.decode() for address in found]

    def publish(self, messages: Iterable[Mapping[str, object]]) -> list[Sent]:
        """Publish in order, each acknowledged before the next; one Java client serves all calls.

        Clients can find the topics then: a broker acknowledges a first send before the name server has heard of it.
        A message has topic, body (text) or body_base64, and perhaps tag, keys, queue (its id), queues (the
        queue count if it creates the topic) and compression (ZLIB, LZ4, ZSTD). Raises ClusterError when one
        is refused; the others of its chunk are published all the same.
        """
        publisher = self._serving_publisher()
        assert publisher.stdin is not None
        lines: list[str] = []
        topics: set[str] = set()
        for message in messages:
            lines.append(json.dumps(message) + "\n")
            topics.add(str(message["topic"]))
        sent: list[Sent] = []
        for start in range(0, len(lines), 200):  # the answers to 200 lines fit into the pipe: no deadlock
            chunk = lines[start : start + 200]
            publisher.stdin.writelines(chunk)
            publisher.stdin.flush()
            for answer in [self._answer(publisher) for _ in chunk]:
                if "error" in answer:
                    raise ClusterError(f"message {len(sent)} was not published: {answer['error']}")
                sent.append(Sent(**answer))
        for topic in topics - self._routed:
            self.wait_for_route(topic)
            self._routed.add(topic)
        return sent

    def publish_all(self, messages: Iterable[Mapping[str, object]], *, threads: int = 4) -> int:
        """Publish from several threads, in no particular order; returns how many."""
        lines = "".join(json.dumps(message) + "\n" for message in messages)
        totals = self.java("Publish", "--queues", str(self.queues), "--threads", str(threads), text=lines)
        return int(totals["messages"])

    def flood(
        self, topic: str, lines: Path, messages: int, *, threads: int = 4, batch: int = 64
    ) -> dict[str, Any]:
        """Publish `messages` as fast as the broker takes them, evenly over the queues: messages, seconds.

        `lines` holds JSON lines as `publish` takes them (their topic is replaced), read again when there are
        fewer.
        """
        options = {"topic": topic, "file": lines, "messages": messages, "queues": self.queues}
        return self.java("Flood", *flags({**options, "threads": threads, "batch": batch}))

    def consume(self, topic: str, group: str, messages: int, **options: int) -> dict[str, Any]:
        """Consume with the official push consumer, parsing each body; what it cost.

        Options: pull_batch, consume_batch, threads, timeout (seconds), warm_up (messages consumed before the
        measured ones). Gives messages, seconds, cpu_seconds, cpu_seconds_since_first, peak_rss_kb,
        nick_characters.
        """
        return self.java(
            "Consume",
            *flags({"topic": topic, "group": group, "messages": messages, **options}),
            options=("-Xms256m", "-Xmx1g"),
        )

    def java(
        self,
        main: str,
        *arguments: str,
        text: str = "",
        options: Sequence[str] = ("-Xmx512m",),
        timeout: float = 600,
    ) -> dict[str, Any]:
        """Run one of the programs in tests/java to its end and return the JSON line it prints."""
        whole = ("--name-server", self.name_server, *arguments)
        outcome = self._run(main, *whole, text=text, options=options, timeout=timeout)
        return dict(json.loads(outcome.stdout.strip().rpartition("\n")[2]))

    def admin(self, command: str, *arguments: str) -> str:
        """What mqadmin prints for a command, without the chatter of its logging. Takes 1 to 6 s.

        mqadmin ends with 0 even when it failed, and then has a stack trace on stderr: ClusterError.
        """
        outcome = self._run(
            "org.apache.rocketmq.tools.command.MQAdminStartup",
            *(command, "-n", self.name_server, *arguments),
            options=("-Xmx256m", *SPARING),
            version=self.version,
        )
        if "Exception" in outcome.stderr:
            raise ClusterError(f"mqadmin {command} failed:\n{outcome.stderr[:2000]}")
        return "".join(line for line in outcome.stdout.splitlines(keepends=True) if "|-" not in line)

    def consumer_progress(self, group: str) -> list[ProgressRow]:
        """The broker's own view of a consumer group, its retry topic included.

        Raises ClusterError for a group it does not know, so that "no lag" is never said of nothing.
        """
        rows = []
        for line in self.admin("consumerProgress", "-g", group).splitlines():
            fields = line.split()  # after the six that are read: messages in flight, time of the last one
            if len(fields) > 6 and fields[2].isdigit():
                rows.append(ProgressRow(fields[0], fields[1], *map(int, fields[2:6])))
        return rows

    def progress(self, group: str) -> list[ProgressRow]:
        """`consumer_progress` without the admin tool's 3 s: what it asks the brokers, asked directly.

        Raises ClusterError for a group that no broker knows.
        """
        rows = []
        for address in self.broker_addresses():
            _, body = ask(address, GET_CONSUME_STATS, tls=self._tls, consumerGroup=group)
            for queue, row in re.findall(rb'(\{[^{}]*"queueId"[^{}]*\}):(\{[^{}]*\})', body):
                where, what = json.loads(queue), json.loads(row)
                ends = (what["brokerOffset"], what["consumerOffset"])
                rows.append(
                    ProgressRow(
                        where["topic"], where["brokerName"], where["queueId"], *ends, ends[0] - ends[1]
                    )
                )
        if not rows:
            raise ClusterError(f"no broker knows the group {group}")
        return sorted(rows)

    def wait_for_route(self, topic: str, seconds: float = ROUTE_SECONDS) -> dict[str, Any]:
        """Wait until the name server answers with a route for the topic, and return it."""
        body = b""

        def known() -> bool:
            nonlocal body
            code, body = ask(
                self.name_server, GET_ROUTE, tls=self._tls, topic=topic, acceptStandardJsonOnly="true"
            )
            return code == 0

        wait_until(known, f"a route for {topic}", seconds)
        return dict(json.loads(body))

    def stop(self) -> None:
        """End what this object started. Idempotent."""
        if self._publisher is not None:
            end(self._publisher)
            self._publisher = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _run(
        self,
        main: str,
        *arguments: str,
        text: str = "",
        options: Sequence[str] = (),
        timeout: float = 120,
        version: str = ROCKETMQ_VERSION,
    ) -> subprocess.CompletedProcess[str]:
        outcome = subprocess.run(
            self._toolchain.command(
                main,
                *arguments,
                home=self._scratch,
                options=(*options, *self._client_options),
                version=version,
            ),
            input=text,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=timeout,
            check=False,
            start_new_session=True,
        )
        if outcome.returncode:
            raise ClusterError(
                f"{main} ended with {outcome.returncode}:\n{outcome.stdout[-2000:]}{outcome.stderr[-2000:]}"
            )
        return outcome

    def _serving_publisher(self) -> subprocess.Popen[str]:
        if self._publisher is not None and self._publisher.poll() is not None:
            end(self._publisher)
            self._publisher = None
        if self._publisher is None:
            self._publisher = subprocess.Popen(
                self._toolchain.command(
                    *("Publish", "--name-server", self.name_server, "--queues", str(self.queues), "--serve"),
                    home=self._scratch,
                    options=("-Xmx256m", *SPARING, *self._client_options),
                ),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                start_new_session=True,
            )
            self._answer(self._publisher)
        return self._publisher

    def _answer(self, publisher: subprocess.Popen[str]) -> dict[str, Any]:
        assert publisher.stdout is not None
        line = publisher.stdout.readline()
        if not line:
            raise ClusterError("the Java publisher ended by itself")
        return dict(json.loads(line))


def ask(
    address: str, code: int, body: bytes = b"", *, tls: ssl.SSLContext | None = None, **ext: str
) -> tuple[int, bytes]:
    """One remoting request on a connection of its own: response code and body. Raises OSError.

    Deliberately not the project's client, which is what these servers are there to test.
    """
    header = {"code": code, "language": "PYTHON", "version": 401, "opaque": 1, "flag": 0, "extFields": ext}
    data = json.dumps(header).encode()
    host, _, port = address.rpartition(":")
    with contextlib.ExitStack() as stack:
        connection = stack.enter_context(socket.create_connection((host, int(port)), timeout=5))
        if tls is not None:
            connection = stack.enter_context(tls.wrap_socket(connection, server_hostname=host))
        connection.sendall(struct.pack(">II", 4 + len(data) + len(body), len(data)) + data + body)
        with connection.makefile("rb") as stream:
            start = stream.read(8)
            if len(start) < 8:
                raise ConnectionError(f"{address} closed the connection")
            length, header_length = struct.unpack(">II", start)
            answer = json.loads(stream.read(header_length & 0xFFFFFF))
            return int(answer["code"]), stream.read(length - 4 - (header_length & 0xFFFFFF))


def wait_until(condition: Callable[[], bool], what: str, seconds: float) -> None:
    """Poll until the condition holds. Raises ClusterError after `seconds`."""
    limit = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > limit:
            raise ClusterError(f"waited {seconds:g} s in vain for {what}")
        time.sleep(0.05)


def end(process: subprocess.Popen[str], how: signal.Signals = signal.SIGKILL) -> None:
    """Send a signal, wait for the process, at last with SIGKILL, and close its pipes."""
    process.send_signal(how)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with contextlib.suppress(OSError):  # what was still buffered has no reader any more
                pipe.close()


def flags(options: Mapping[str, object]) -> list[str]:
    """Options as the Java programs take them: `--pull-batch 32`."""
    return [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
