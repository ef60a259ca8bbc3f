"""Real RocketMQ servers on loopback, to feed, to compare with, to stop and to kill.

`Cluster` starts a name server and a broker of its own; `RunningCluster` is what both that one and a cluster
somebody else runs can do.
"""

from __future__ import annotations

import shutil
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from tests.java.client import ClusterError, ProgressRow, RunningCluster, Sent, ask, wait_until
from tests.java.toolchain import ROCKETMQ_VERSION, ROCKETMQ_VERSIONS, Toolchain
from tests.servers import TEMPLATE_TOPIC, Broker, NameServer, Runtime, free_port

__all__ = [
    "ROCKETMQ_VERSION",
    "ROCKETMQ_VERSIONS",
    "Broker",
    "Cluster",
    "ClusterError",
    "ProgressRow",
    "RunningCluster",
    "Sent",
    "ask",
    "free_port",
    "wait_until",
]


class Cluster(RunningCluster):
    """A name server and a broker of RocketMQ in a scratch directory, to be stopped and killed at will.

    `version` is 5.3.3 or 4.9.7; `queues` is the queue count of topics created by a first send; `delay_levels`
    are RocketMQ's messageDelayLevel; `properties` go into the file of every broker. `server_options` are more
    JVM options of name server and brokers, `client_options` of the Java programs that speak to them, `files`
    texts to be put under the home of every server (`conf/plain_acl.yml`), and `tls` is how to ask servers that
    take TLS only. A context manager, or `start` and `stop`.
    """

    def __init__(
        self,
        toolchain: Toolchain,
        scratch: Path,
        *,
        version: str = ROCKETMQ_VERSION,
        queues: int = 8,
        delay_levels: str = "1s 1s 1s 2s 2s",
        properties: Mapping[str, object] | None = None,
        heap: str = "-Xmx512m",
        server_options: Sequence[str] = (),
        client_options: Sequence[str] = (),
        files: Mapping[str, str] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._runtime = Runtime(toolchain, version, server_options, files or {}, tls)
        self._heap = heap
        self._properties = {
            "defaultTopicQueueNums": queues,
            "messageDelayLevel": delay_levels,
            **(properties or {}),
        }
        self.name_server_process = NameServer(self._runtime, scratch / "namesrv")
        super().__init__(
            self.name_server_process.address,
            toolchain,
            scratch,
            version=version,
            queues=queues,
            client_options=client_options,
            tls=tls,
        )
        self.brokers: list[Broker] = []
        self._make_broker("broker-a")

    @property
    def broker(self) -> Broker:
        """The first broker, `broker-a`."""
        return self.brokers[0]

    @property
    def name_server_port(self) -> int:
        return self.name_server_process.port

    @property
    def broker_port(self) -> int:
        return self.broker.port

    @property
    def broker_address(self) -> str:
        """`127.0.0.1:port` of the first broker, whether it runs or not."""
        return self.broker.address

    def start(self) -> Self:
        """Start both servers and wait until clients can find the broker. Stops both when that fails."""
        try:
            for server in (self.name_server_process, self.broker):
                server.launch()
            self.name_server_process.wait()
            self.broker.wait()
            self._wait_for_broker(self.broker)
        except BaseException:
            self.stop()
            raise
        return self

    def __enter__(self) -> Self:
        return self.start()

    def add_broker(self, name: str = "broker-b", *, properties: Mapping[str, object] | None = None) -> Broker:
        """Start one more master, and wait until clients can find it. Topics come to it as they are created."""
        broker = self._make_broker(name, properties or {}).start()
        self._wait_for_broker(broker)
        return broker

    def start_name_server(self) -> None:
        """Start it and wait until it answers. Routes return when the brokers register, within 10 s."""
        self.name_server_process.start()

    def start_broker(self) -> None:
        """Start the first broker and wait until it answers and the name server has its route."""
        self.broker.start()
        self._wait_for_broker(self.broker)

    def stop_broker(self) -> None:
        """SIGTERM, and wait: the broker flushes and unregisters. 9 to 12 s with 5.3.3."""
        self.broker.stop()

    def kill_broker(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.broker.kill()

    def kill_name_server(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.name_server_process.kill()

    def stop(self) -> None:
        """Kill all servers and delete their data; tests that mind how servers stop say so themselves."""
        super().stop()
        for server in (*self.brokers, self.name_server_process):
            server.kill()
            shutil.rmtree(server.home, ignore_errors=True)

    def _make_broker(self, name: str, properties: Mapping[str, object] | None = None) -> Broker:
        whole = {**self._properties, **(properties or {})}
        broker = Broker(self._runtime, self._scratch / name, name, self.name_server, whole, self._heap)
        self.brokers.append(broker)
        return broker

    def _wait_for_broker(self, broker: Broker) -> None:
        def listed() -> bool:
            addresses = [data["brokerAddrs"] for data in self.wait_for_route(TEMPLATE_TOPIC)["brokerDatas"]]
            return {"0": broker.address} in addresses

        wait_until(listed, f"the route of {broker.name}", 60)
