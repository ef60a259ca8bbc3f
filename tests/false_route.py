"""A name server that sends everybody to one broker address, for brokers that cannot be reached otherwise."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from jst_bridge.rocketmq.codes import FrameFlag, Request
from jst_bridge.rocketmq.frame import Frame, FrameReader, encode_frame

__all__ = ["routing_to"]


@contextmanager
def routing_to(broker_address: str, *, broker: str = "broker-x", queues: int = 4) -> Iterator[str]:
    """Run it on loopback; yields its own address. Retry topics it does not know."""
    data = {"brokerAddrs": {"0": broker_address}, "brokerName": broker, "cluster": "c"}
    of_topic = {"brokerName": broker, "perm": 6, "readQueueNums": queues, "writeQueueNums": queues}
    body = json.dumps({"brokerDatas": [data], "queueDatas": [of_topic], "brokerAddrTable": {}}).encode()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            reader = FrameReader()
            while data := self.request.recv(65536):
                for frame in reader.feed(data):
                    known = frame.code != Request.GET_ROUTEINFO_BY_TOPIC or "%" not in frame.ext["topic"]
                    answer = Frame(
                        0 if known else 17, frame.opaque, int(FrameFlag.RESPONSE), {}, body if known else b""
                    )
                    self.request.sendall(encode_frame(answer))

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield "{}:{}".format(*server.server_address)
        finally:
            server.shutdown()
            thread.join()
