"""The name server and the brokers of a cluster of the tests: one Java process each, in a home of its own."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from tests.java.client import ClusterError, ask, end, wait_until
from tests.java.toolchain import ROCKETMQ_VERSION, SPARING, Toolchain

__all__ = ["THOROUGH", "Broker", "NameServer", "Runtime", "Server", "free_port"]

START_SECONDS = 180.0
"""A broker needs 1 to 2 s to answer, and far more on a machine that starts ten of them."""
NO_TLS = "-Dtls.server.mode=disabled"
"""By default a server makes itself an RSA key at every start, a broker three: most of what starting it cost."""
THOROUGH = ("-XX:TieredStopAtLevel=4",)
"""What undoes SPARING, for servers that are part of a measurement: the option given last counts."""
TEMPLATE_TOPIC = "TBW102"
GET_ROUTE, UPDATE_BROKER_CONFIG = 105, 25
FIRST_PORT, PORTS = 20_000, 12_000
"""Below the range the system gives to outgoing connections."""


@dataclass(frozen=True)
class Runtime:
    """How the servers of one cluster run: the version, more options of their JVMs, files in their homes.

    `files` has texts by path under the home (`conf/plain_acl.yml`); `tls` is what it takes to ask the servers
    something where they serve TLS only.
    """

    toolchain: Toolchain
    version: str = ROCKETMQ_VERSION
    options: Sequence[str] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    tls: ssl.SSLContext | None = None


class Server:
    """One server of RocketMQ on loopback, to be stopped and killed at will; it keeps its data when it ends."""

    main = ""
    name = ""
    options: tuple[str, ...] = ()

    def __init__(self, runtime: Runtime, home: Path, port: int, properties: Mapping[str, object]) -> None:
        self.home = home
        self.port = port
        self._runtime = runtime
        self._properties = properties
        self._process: subprocess.Popen[str] | None = None

    @property
    def address(self) -> str:
        """`127.0.0.1:port`, whether it runs or not."""
        return f"127.0.0.1:{self.port}"

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended since."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> Self:
        """Start it and wait until it answers."""
        self.launch()
        self.wait()
        return self

    def launch(self) -> None:
        """Start it, on a leash: it ends when this process does, however that happens."""
        self.home.mkdir(exist_ok=True)
        for path, text in self._runtime.files.items():
            (self.home / path).parent.mkdir(parents=True, exist_ok=True)
            if not (self.home / path).exists():
                (self.home / path).write_text(text)
        file = self.home / "server.properties"
        file.write_text("".join(f"{key}={value}\n" for key, value in self._properties.items()))
        command = self._runtime.toolchain.command(
            "Leash",
            *(self.main, "-c", str(file)),
            home=self.home,
            options=(*self.options, *self._runtime.options),
            version=self._runtime.version,
        )
        with (self.home / "server.log").open("w") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=log, text=True, start_new_session=True
            )

    def wait(self) -> None:
        """Wait until it answers. Raises ClusterError when it ends or does not."""
        wait_until(self._answers, f"the {self.name} to answer at {self.address}", START_SECONDS)

    def stop(self) -> None:
        """SIGTERM, and wait: a broker flushes and unregisters. A broker 5.3.3 takes 9 to 12 s, a 4.9.7 1.5 to 7."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self._end(signal.SIGKILL)
        shutil.rmtree(self.home / "tmp", ignore_errors=True)  # the native libraries it had unpacked

    def ask(self, code: int, body: bytes = b"", **ext: str) -> tuple[int, bytes]:
        """One request to this server: response code and body. Raises OSError."""
        return ask(self.address, code, body, tls=self._runtime.tls, **ext)

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            words = (self.home / "server.log").read_text(errors="replace")[-2000:]
            raise ClusterError(
                f"the {self.name} ended with {self._process.returncode} while starting:\n{words}"
            )
        try:
            self.ask(GET_ROUTE, topic=TEMPLATE_TOPIC)
        except OSError:
            return False
        return True

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            end(process, how)


class NameServer(Server):
    """A name server."""

    main = "org.apache.rocketmq.namesrv.NamesrvStartup"
    name = "name server"
    options = ("-Xmx256m", *SPARING, NO_TLS)

    def __init__(self, runtime: Runtime, home: Path) -> None:
        port = free_port(0)
        super().__init__(runtime, home, port, {"listenPort": port, "bindAddress": "127.0.0.1"})


class Broker(Server):
    """A master; `name` is its broker name. `heap` is a JVM option, `properties` go into its file."""

    main = "org.apache.rocketmq.broker.BrokerStartup"

    def __init__(
        self,
        runtime: Runtime,
        home: Path,
        name: str,
        name_server: str,
        properties: Mapping[str, object],
        heap: str = "-Xmx512m",
    ) -> None:
        port = free_port(0, -2, 1)  # the port itself, the former VIP channel, replication
        own = {
            "brokerClusterName": "DefaultCluster",
            "brokerName": name,
            "brokerId": 0,
            "brokerRole": "ASYNC_MASTER",
            "flushDiskType": "ASYNC_FLUSH",
            "namesrvAddr": name_server,
            "brokerIP1": "127.0.0.1",
            "brokerIP2": "127.0.0.1",
            "bindAddress": "127.0.0.1",  # 4.9.7 knows it not, and listens on every address
            "listenPort": port,
            "haListenPort": port + 1,
            "storePathRootDir": home / "store",
            "autoCreateTopicEnable": "true",
            "autoCreateSubscriptionGroup": "true",
            "mappedFileSizeCommitLog": 64 << 20,
            "mappedFileSizeConsumeQueue": 600_000,
            "diskMaxUsedSpaceRatio": 95,
            "enablePropertyFilter": "true",
            "registerNameServerPeriod": 10_000,
            # 5.3.3 writes 38 MB of an empty timer wheel every second: a quarter of a core for each broker
            "timerWheelEnable": "false",
            # a machine that does several things at once is slow, not overloaded: no SYSTEM_BUSY for that
            "waitTimeMillsInSendQueue": 10_000,
            "osPageCacheBusyTimeOutMills": 10_000,
        }
        super().__init__(runtime, home, port, {**own, **properties})
        self.name = name
        self.options = (
            *("-Xms256m", heap, "-XX:MaxDirectMemorySize=512m", *SPARING, NO_TLS),
            "-Drocketmq.broker.diskSpaceWarningLevelRatio=0.98",
            "-Drocketmq.broker.diskSpaceCleanForciblyRatio=0.97",
        )

    def wait(self) -> None:
        """Wait until it answers. Its routes follow within 10 s: `Cluster.wait_for_route`."""
        super().wait()
        # 5.3.3 often misses its registration at start and the next is 10 s away; a change of permission makes one.
        self.configure(brokerPermission=6)

    def configure(self, **properties: object) -> None:
        """Change its configuration as it runs, and have it register (a new `brokerPermission`: 6 is both ways)."""
        self.ask(
            UPDATE_BROKER_CONFIG, "".join(f"{key}={value}\n" for key, value in properties.items()).encode()
        )


def free_port(*offsets: int) -> int:
    """A port P with every P + offset free, below the range the system gives to outgoing connections.

    Processes of one test run choose from shares of their own: a server that is down keeps its port.
    """
    shares = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    share = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    size = PORTS // shares
    first = FIRST_PORT + share * size
    for _ in range(1000):
        port = random.randrange(first + 2, first + size - 1)
        with ExitStack() as held:
            try:
                for offset in offsets:
                    held.enter_context(socket.create_server(("", port + offset)))
            except OSError:
                continue
            return port
    raise ClusterError(f"no free ports between {first} and {first + size}")
