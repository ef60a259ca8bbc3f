"""Name servers by list, by DNS name and by address server; brokers behind other addresses; connections left."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from jst_bridge.errors import ConfigurationError, ConnectionFailed
from jst_bridge.rocketmq import Client, ClientSettings, name_servers
from jst_bridge.rocketmq import client as client_module
from jst_bridge.rocketmq.brokers import reachable
from jst_bridge.rocketmq.codes import Request
from jst_bridge.rocketmq.name_servers import NameServers, parse_list
from tests.scripted import Call, Peer, peers, run

ROUTE = Request.GET_ROUTEINFO_BY_TOPIC
CLUSTER = Request.GET_BROKER_CLUSTER_INFO
NOWHERE = "127.0.0.1:1"


class AddressServer:
    """Answers every GET with the same text, and counts them."""

    def __init__(self) -> None:
        self.text = ""
        self.status = "200 OK"
        self.asked = 0
        self.url = ""

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            self.asked += 1
            head = f"HTTP/1.1 {self.status}\r\nConnection: close\r\nContent-Length: {len(self.text)}\r\n\r\n"
            writer.write((head + self.text).encode())
            await writer.drain()
        writer.close()


@asynccontextmanager
async def address_server() -> AsyncIterator[AddressServer]:
    made = AddressServer()
    server = await asyncio.start_server(made.answer, "127.0.0.1", 0)
    made.url = "http://{}:{}/rocketmq/nsaddr".format(*server.sockets[0].getsockname())
    async with server:
        yield made


def client_of(*servers: str, **changes: Any) -> Client:
    return Client(ClientSettings(servers, connect_timeout=1.0, request_timeout=1.0, **changes))


def routing_to(**brokers: str) -> Callable[[Call], None]:
    """A handler that answers every route with these brokers, four queues each."""
    route = {
        "brokerDatas": [{"brokerName": name, "brokerAddrs": {"0": at}} for name, at in brokers.items()],
        "queueDatas": [
            {"brokerName": name, "perm": 6, "readQueueNums": 4, "writeQueueNums": 4} for name in brokers
        ],
    }
    return lambda call: call.answer(body=json.dumps(route).encode())


def with_peers(count: int, work: Callable[..., Coroutine[Any, Any, None]]) -> None:
    async def whole() -> None:
        async with peers(count) as made:
            await work(*made)

    run(whole())


def test_the_list_of_an_address_server_is_used() -> None:
    async def work(first: Peer, second: Peer) -> None:
        for peer in (first, second):
            peer.on(CLUSTER, lambda call: call.answer(body=b'{"brokerAddrTable":{}}'))
        async with address_server() as server:
            server.text = f"  {first.address};{second.address};\nsomething else\n"
            client = client_of(server.url)
            await client.fetch_cluster()
            await client.fetch_cluster()
            assert client.name_servers.known == (first.address, second.address)
            assert (server.asked, len(first.told(CLUSTER))) == (1, 2)
            await client.close()

    with_peers(2, work)


def test_an_address_server_is_asked_again_when_no_name_server_answers() -> None:
    async def work(peer: Peer) -> None:
        peer.on(CLUSTER, lambda call: call.answer(body=b'{"brokerAddrTable":{}}'))
        async with address_server() as server:
            server.text = NOWHERE
            client = client_of(server.url)
            with pytest.raises(ConnectionFailed, match="no name server answered"):
                await client.fetch_cluster()
            server.text = peer.address
            client.name_servers._asked_at = float("-inf")  # a good while later
            await client.fetch_cluster()
            assert client.name_servers.known == (peer.address,)
            await client.close()

    with_peers(1, work)


def test_who_waits_for_a_connection_that_is_given_up_is_told_and_not_cancelled() -> None:
    async def work(peer: Peer) -> None:
        client = client_of(peer.address)
        with pytest.raises(ConnectionFailed, match="cannot connect"):
            await client.call(NOWHERE, CLUSTER)
        waiting = asyncio.create_task(client.call(NOWHERE, CLUSTER))  # backs off first
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        client._disconnect([NOWHERE])
        with pytest.raises(ConnectionFailed, match="was left before it was reached"):
            await waiting
        await client.close()

    with_peers(1, work)


def test_a_stale_list_is_renewed_in_the_background_and_a_name_server_that_left_is_closed() -> None:
    async def work(first: Peer, second: Peer) -> None:
        for peer in (first, second):
            peer.on(CLUSTER, lambda call: call.answer(body=b'{"brokerAddrTable":{}}'))
        async with address_server() as server:
            server.text = first.address
            client = client_of(server.url)
            await client.fetch_cluster()
            server.text = second.address
            client.name_servers._asked_at -= name_servers.REFRESH_PERIOD
            await client.fetch_cluster()
            await first.until(lambda: not first.channels)
            await client.fetch_cluster()
            assert len(second.told(CLUSTER)) == 1
            await client.close()

    with_peers(2, work)


@pytest.mark.parametrize(
    ("text", "status"),
    [("", "200 OK"), ("<html>login</html>", "200 OK"), ("mq:9876", "503 Busy"), ("x" * 70_000, "200 OK")],
)
def test_an_address_server_that_talks_nonsense_changes_nothing(text: str, status: str) -> None:
    async def work(peer: Peer) -> None:
        peer.on(CLUSTER, lambda call: call.answer(body=b'{"brokerAddrTable":{}}'))
        async with address_server() as server:
            server.text, server.status = text, status
            client = client_of(server.url)
            with pytest.raises(ConnectionFailed, match=server.url) as caught:
                await client.fetch_cluster()
            assert "name_servers" in caught.value.remedy
            server.text, server.status = peer.address, "200 OK"
            await client.fetch_cluster()
            server.text, server.status = text, status
            client.name_servers._asked_at = float("-inf")
            assert not await client.name_servers.renewed(client.name_servers.known)
            assert client.name_servers.known == (peer.address,)
            await client.fetch_cluster()
            await client.close()

    with_peers(1, work)


def test_an_address_server_that_is_silent_or_away_fails_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(name_servers, "TIMEOUT", 0.1)
    over = asyncio.Event()

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await over.wait()
        writer.close()

    async def work() -> None:
        server = await asyncio.start_server(hold, "127.0.0.1", 0)
        async with server:
            for port in (server.sockets[0].getsockname()[1], 1):
                client = client_of(f"http://127.0.0.1:{port}/nsaddr")
                with pytest.raises(ConnectionFailed, match=f"127.0.0.1:{port}/nsaddr"):
                    await client.fetch_cluster()
                await client.close()
            over.set()

    run(work())


def test_a_list_is_its_first_line() -> None:
    assert parse_list("u", "a:1; [::1]:2 ;a:1\nb:3") == ("a:1", "[::1]:2")
    for text in ("", " \n", "a", "a:b", "a:1;b"):
        with pytest.raises(ConnectionFailed, match="u answered"):
            parse_list("u", text)


def test_a_url_stands_alone() -> None:
    for configured in ((), ("http://a/b", "c:1")):
        with pytest.raises(ConfigurationError):
            NameServers(configured)


def test_a_name_is_resolved_again_at_each_connect_and_every_address_is_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def work(peer: Peer) -> None:
        port = int(peer.address.rpartition(":")[2])
        lists = [["127.0.0.2", "127.0.0.1"], ["127.0.0.1"]]
        resolved: list[str] = []

        async def getaddrinfo(host: str, port: int, **_: object) -> list[tuple[Any, ...]]:
            resolved.append(host)
            return [
                (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
                for address in lists[min(len(resolved), len(lists)) - 1]
            ]

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
        peer.on(CLUSTER, lambda call: call.answer(body=b'{"brokerAddrTable":{}}'))
        client = client_of(f"mq.example.com:{port}")
        await client.fetch_cluster()
        peer.cut()
        await peer.until(lambda: not peer.channels)
        await asyncio.sleep(0)
        with contextlib.suppress(ConnectionFailed):  # the cut may be met only now
            await client.fetch_cluster()
        await client.fetch_cluster()
        assert resolved == ["mq.example.com"] * 2
        await client.close()

    with_peers(1, work)


@pytest.mark.parametrize(
    ("advertised", "table", "dialled"),
    [
        ("10.0.0.5:10911", {}, "10.0.0.5:10911"),
        ("10.0.0.5:10911", {"10.0.0.5:10911": "mq:1"}, "mq:1"),
        ("10.0.0.5:10911", {"10.0.0.5": "mq"}, "mq:10911"),
        ("10.0.0.5:10911", {"10.0.0.5": "mq:1"}, "mq:1"),
        ("10.0.0.5:10911", {"10.0.0.5:10912": "mq:1", "10.0.0.5": "other"}, "other:10911"),
        ("[fe80::1]:10911", {"[fe80::1]": "[::1]"}, "[::1]:10911"),
    ],
)
def test_an_advertised_address_is_dialled_as_the_map_says(
    advertised: str, table: dict[str, str], dialled: str
) -> None:
    assert reachable(advertised, table) == dialled


def test_brokers_are_reached_at_mapped_addresses_and_the_advertised_one_is_remembered() -> None:
    async def work(name_server: Peer, broker: Peer) -> None:
        name_server.on(ROUTE, routing_to(a="10.255.255.1:10911"))
        broker.on(Request.GET_MAX_OFFSET, lambda call: call.answer(ext={"offset": "3"}))
        client = client_of(name_server.address, broker_address_map={"10.255.255.1:10911": broker.address})
        await client.fetch_route("T")
        assert client.addresses() == [broker.address]
        assert client.advertised(broker.address) == "10.255.255.1:10911"
        await client.call(client.master("a"), Request.GET_MAX_OFFSET)
        await client.close()

    with_peers(2, work)


def test_a_broker_that_no_route_names_is_left_after_a_while_and_dialled_again_when_it_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def work(name_server: Peer, one: Peer, other: Peer) -> None:
        for broker in (one, other):
            broker.on(Request.GET_MAX_OFFSET, lambda call: call.answer(ext={"offset": "3"}))
        both = routing_to(a=one.address, b=other.address)
        name_server.on(ROUTE, both)
        client = client_of(name_server.address)
        await client.fetch_route("T")
        for name in ("a", "b"):
            await client.call(client.master(name), Request.GET_MAX_OFFSET)
        name_server.on(ROUTE, routing_to(a=one.address))
        await client.fetch_route("T")
        assert client.addresses() == [one.address]
        assert client.connected(other.address), "what is on the way to it still ends"
        assert client.master("b") == other.address
        monkeypatch.setattr(client_module, "_GRACE", 0.0)
        await client.fetch_route("T")
        await other.until(lambda: not other.channels)
        assert client.connected(one.address)
        assert not client.connected(other.address)
        name_server.on(ROUTE, both)
        await client.fetch_route("T")
        await client.call(client.master("b"), Request.GET_MAX_OFFSET)
        assert other.accepted == 2
        await client.close()

    with_peers(3, work)
