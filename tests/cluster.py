"""Real RocketMQ servers on loopback, to feed, to compare with, to stop and to kill.

`Cluster` starts a name server and a broker of its own; `RunningCluster` is what both that one and a cluster
somebody else runs can do.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from tests.java.client import ClusterError, ProgressRow, RunningCluster, Sent, ask, end, wait_until
from tests.java.toolchain import Toolchain

__all__ = ["Cluster", "ClusterError", "ProgressRow", "RunningCluster", "Sent", "ask", "wait_until"]

START_SECONDS = 60.0
"""A broker needs 2 to 9 s to answer."""
TEMPLATE_TOPIC = "TBW102"
GET_ROUTE, UPDATE_BROKER_CONFIG = 105, 25


class Cluster(RunningCluster):
    """A name server and a broker of RocketMQ 5.3.3 in a scratch directory, to be stopped and killed at will.

    `queues` is the queue count of topics created by a first send; `delay_levels` are RocketMQ's
    messageDelayLevel; `properties` go into the broker's file. A context manager, or `start` and `stop`.
    """

    def __init__(
        self,
        toolchain: Toolchain,
        scratch: Path,
        *,
        queues: int = 8,
        delay_levels: str = "1s 1s 1s 2s 2s",
        properties: Mapping[str, object] | None = None,
        heap: str = "-Xmx512m",
    ) -> None:
        self.name_server_port = free_port(0)
        self.broker_port = free_port(0, -2, 1)  # the port itself, the former VIP channel, replication
        super().__init__(f"127.0.0.1:{self.name_server_port}", toolchain, scratch, queues=queues)
        self._heap = heap
        self._name_server: subprocess.Popen[str] | None = None
        self._broker: subprocess.Popen[str] | None = None
        self._broker_properties: dict[str, object] = {
            "brokerClusterName": "DefaultCluster",
            "brokerName": "broker-a",
            "brokerId": 0,
            "brokerRole": "ASYNC_MASTER",
            "flushDiskType": "ASYNC_FLUSH",
            "namesrvAddr": self.name_server,
            "brokerIP1": "127.0.0.1",
            "brokerIP2": "127.0.0.1",
            "bindAddress": "127.0.0.1",
            "listenPort": self.broker_port,
            "haListenPort": self.broker_port + 1,
            "storePathRootDir": scratch / "store",
            "autoCreateTopicEnable": "true",
            "autoCreateSubscriptionGroup": "true",
            "defaultTopicQueueNums": queues,
            "mappedFileSizeCommitLog": 64 << 20,
            "mappedFileSizeConsumeQueue": 600_000,
            "diskMaxUsedSpaceRatio": 95,
            "enablePropertyFilter": "true",
            "messageDelayLevel": delay_levels,
            "registerNameServerPeriod": 10_000,
            **(properties or {}),
        }

    @property
    def broker_address(self) -> str:
        """`127.0.0.1:port` of the broker, whether it runs or not."""
        return f"127.0.0.1:{self.broker_port}"

    def start(self) -> Self:
        """Start both servers and wait until clients can find the broker. Stops both when that fails."""
        try:
            self.start_name_server()
            self.start_broker()
        except BaseException:
            self.stop()
            raise
        return self

    def __enter__(self) -> Self:
        return self.start()

    def start_name_server(self) -> None:
        """Start it and wait until it answers. Routes return when the broker registers, within 10 s."""
        file = self._write_properties(
            "namesrv", {"listenPort": self.name_server_port, "bindAddress": "127.0.0.1"}
        )
        main = "org.apache.rocketmq.namesrv.NamesrvStartup"
        self._name_server = self._launch("namesrv", main, file, "-Xmx256m", "-XX:+UseSerialGC")
        self._wait_for_server(self._name_server, "namesrv", self.name_server)

    def start_broker(self) -> None:
        """Start it and wait until it answers and the name server has its route."""
        file = self._write_properties("broker", self._broker_properties)
        options = (
            *("-Xms256m", self._heap, "-XX:MaxDirectMemorySize=512m"),
            "-Drocketmq.broker.diskSpaceWarningLevelRatio=0.98",
            "-Drocketmq.broker.diskSpaceCleanForciblyRatio=0.97",
        )
        self._broker = self._launch("broker", "org.apache.rocketmq.broker.BrokerStartup", file, *options)
        self._wait_for_server(self._broker, "broker", self.broker_address)
        # The registration at start is often missed and the next is 10 s away; a change of permission makes one.
        ask(self.broker_address, UPDATE_BROKER_CONFIG, b"brokerPermission=6")
        self.wait_for_route(TEMPLATE_TOPIC)

    def stop_broker(self) -> None:
        """SIGTERM, and wait: the broker flushes and unregisters. 9 to 12 s."""
        self._end_server("_broker", signal.SIGTERM)

    def kill_broker(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self._end_server("_broker", signal.SIGKILL)

    def kill_name_server(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self._end_server("_name_server", signal.SIGKILL)

    def stop(self) -> None:
        """Kill both servers and delete their data; tests that mind how servers stop say so themselves."""
        super().stop()
        self.kill_broker()
        self.kill_name_server()
        shutil.rmtree(self._scratch / "store", ignore_errors=True)

    def _write_properties(self, server: str, properties: Mapping[str, object]) -> Path:
        file = self._scratch / f"{server}.properties"
        file.write_text("".join(f"{key}={value}\n" for key, value in properties.items()))
        return file

    def _launch(self, server: str, main: str, file: Path, *options: str) -> subprocess.Popen[str]:
        """Start a server on a leash: it ends when this process does, however that happens."""
        command = self._toolchain.command("Leash", main, "-c", str(file), home=self._scratch, options=options)
        with (self._scratch / f"{server}.log").open("w") as log:
            return subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=log, text=True, start_new_session=True
            )

    def _wait_for_server(self, process: subprocess.Popen[str], server: str, address: str) -> None:
        def answers() -> bool:
            if process.poll() is not None:
                words = (self._scratch / f"{server}.log").read_text(errors="replace")[-2000:]
                raise ClusterError(f"the {server} ended with {process.returncode} while starting:\n{words}")
            try:
                ask(address, GET_ROUTE, topic=TEMPLATE_TOPIC)
            except OSError:
                return False
            return True

        wait_until(answers, f"the {server} to answer at {address}", START_SECONDS)

    def _end_server(self, attribute: str, how: signal.Signals) -> None:
        process: subprocess.Popen[str] | None = getattr(self, attribute)
        if process is not None:
            setattr(self, attribute, None)
            end(process, how)


def free_port(*offsets: int) -> int:
    """A port P with every P + offset free, below the range the system gives to outgoing connections."""
    for _ in range(1000):
        port = random.randrange(20_000, 32_000)
        with contextlib.ExitStack() as held:
            try:
                for offset in offsets:
                    held.enter_context(socket.create_server(("", port + offset)))
            except OSError:
                continue
            return port
    raise ClusterError("no free ports between 20000 and 32000")
