"""Connections, clients and name servers against a scripted peer."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json

import pytest

from jst_bridge.errors import (
    BrokerRefused,
    ConnectionFailed,
    CredentialsRefused,
    RequestTimeout,
    SourceError,
    TopicNotFound,
)
from jst_bridge.rocketmq import Client, ClientSettings, Credentials
from jst_bridge.rocketmq.codes import Request, Response
from jst_bridge.rocketmq.connection import Connection, parse_address
from tests.scripted import Call, Peer, peers, refusing, run, silent

ASK = Request.GET_MAX_OFFSET


def client_of(*servers: Peer, **changes: object) -> Client:
    settings = {"connect_timeout": 1.0, "request_timeout": 1.0} | changes
    return Client(ClientSettings(tuple(server.address for server in servers), **settings))  # type: ignore[arg-type]


async def open_connection(peer: Peer) -> Connection:
    return await Connection.open(peer.address, timeout=1.0, on_request=lambda connection, frame: None)


def test_answers_in_any_order_reach_their_own_requests() -> None:
    async def work() -> None:
        async with peers() as (server,):
            server.on(ASK, silent)
            connection = await open_connection(server)
            asked = [asyncio.create_task(connection.request(ASK, {"n": str(n)}, timeout=2)) for n in range(5)]
            await server.until_told(ASK, 5)
            for call in reversed(server.told(ASK)):
                call.answer(ext={"echo": call.ext["n"]})
            answers = await asyncio.gather(*asked)
            assert [answer.ext["echo"] for answer in answers] == ["0", "1", "2", "3", "4"]
            await connection.close()

    run(work())


def test_a_late_answer_is_dropped_and_the_connection_goes_on() -> None:
    async def work() -> None:
        async with peers() as (server,):
            connection = await open_connection(server)
            server.once(ASK, silent)
            with pytest.raises(RequestTimeout, match="did not answer GET_MAX_OFFSET within"):
                await connection.request(ASK, {}, timeout=0.02)
            server.told(ASK)[0].answer(ext={"which": "late"})
            server.on(ASK, lambda call: call.answer(ext={"which": "own"}))
            assert (await connection.request(ASK, {}, timeout=2)).ext == {"which": "own"}
            await connection.close()

    run(work())


def test_a_cancelled_request_leaves_the_connection_usable() -> None:
    async def work() -> None:
        async with peers() as (server,):
            server.once(ASK, silent)
            server.on(ASK, lambda call: call.answer())
            connection = await open_connection(server)
            asked = asyncio.create_task(connection.request(ASK, {}, timeout=5))
            await server.until_told(ASK)
            asked.cancel()
            server.told(ASK)[0].answer()
            assert (await connection.request(ASK, {}, timeout=2)).code == 0
            await connection.close()

    run(work())


def test_a_request_times_out_even_when_the_server_stopped_reading() -> None:
    async def work() -> None:
        async with peers() as (server,):
            connection = await open_connection(server)
            await server.until(lambda: server.channels)
            server.channels[0].pause_reading()
            for _ in range(2):  # the first fills the socket, the second has to wait for room
                with pytest.raises(RequestTimeout):
                    async with asyncio.timeout(2):
                        await connection.request(ASK, {}, bytes(12_000_000), timeout=0.1)
            connection.abort("enough")

    run(work())


def test_a_request_without_an_answer_in_time_closes_the_socket_and_the_next_opens_another() -> None:
    async def work() -> None:
        async with peers() as (server,):
            client = client_of(server, request_timeout=0.05)
            server.once(ASK, silent)
            server.on(ASK, lambda call: call.answer())
            with pytest.raises(RequestTimeout):
                await client.call(server.address, ASK)
            await server.until(lambda: not server.channels)
            assert (await client.call(server.address, ASK, timeout=1)).code == 0
            assert server.accepted == 2
            await client.close()

    run(work())


@pytest.mark.parametrize("garbage", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x00\x00\x00\x01x", b"\xff" * 40])
def test_garbage_closes_the_connection_and_the_client_connects_again(garbage: bytes) -> None:
    async def work() -> None:
        async with peers() as (server,):
            client = client_of(server)
            server.once(ASK, lambda call: call.channel.write(garbage))
            server.on(ASK, lambda call: call.answer())
            with pytest.raises(ConnectionFailed, match="no frame"):
                await client.call(server.address, ASK)
            assert (await client.call(server.address, ASK)).code == 0
            assert server.accepted == 2
            await client.close()

    run(work())


def test_a_connection_that_breaks_fails_what_is_pending_at_once() -> None:
    async def work() -> None:
        async with peers() as (server,):
            connection = await open_connection(server)
            server.on(ASK, lambda call: call.channel.cut())
            with pytest.raises(ConnectionFailed, match=server.address):
                await connection.request(ASK, {}, timeout=5)
            assert connection.closed
            with pytest.raises(ConnectionFailed):
                await connection.request(ASK, {}, timeout=5)

    run(work())


def test_a_server_that_does_not_listen_is_named() -> None:
    async def work() -> None:
        async with peers() as (server,):
            await server.stop()
            client = client_of(server)
            with pytest.raises(ConnectionFailed, match=f"cannot connect to {server.address}"):
                await client.call(server.address, ASK)
            await client.close()

    run(work())


@pytest.mark.parametrize("address", ["", "host", "host:", ":1", "host:x", "host:0", "host:65536", "[::1]"])
def test_an_address_without_host_or_port_is_refused(address: str) -> None:
    with pytest.raises(ConnectionFailed, match="not a server address"):
        parse_address(address)


def test_addresses_are_split() -> None:
    assert parse_address("a.b:10911") == ("a.b", 10911)
    assert parse_address("[::1]:1") == ("::1", 1)


def test_many_calls_at_once_share_one_connection() -> None:
    async def work() -> None:
        async with peers() as (server,):
            server.on(ASK, lambda call: call.answer())
            client = client_of(server)
            await asyncio.gather(*(client.call(server.address, ASK) for _ in range(20)))
            assert server.accepted == 1
            assert len({call.frame.opaque for call in server.calls}) == 20
            await client.close()

    run(work())


def test_a_request_of_the_server_that_nobody_handles_is_answered_with_code_3() -> None:
    async def work() -> None:
        async with peers() as (server,):
            server.on(ASK, lambda call: call.answer())
            client = client_of(server)
            await client.call(server.address, ASK)
            server.push(9999, oneway=True, opaque=1)
            server.push(9999, oneway=False, opaque=77)
            await server.until(lambda: server.replies)
            await client.call(server.address, ASK)
            (reply,) = server.replies
            assert (reply.code, reply.opaque) == (Response.REQUEST_CODE_NOT_SUPPORTED, 77)
            assert "9999" in reply.remark
            await client.close()

    run(work())


def test_answers_with_binary_headers_are_read() -> None:
    async def work() -> None:
        async with peers() as (server,):
            server.binary = True
            server.on(ASK, lambda call: call.answer(ext={"offset": "7"}, body=b"body", remark="FOUND"))
            client = client_of(server)
            answer = await client.call(server.address, ASK)
            assert (answer.ext, answer.body, answer.remark) == ({"offset": "7"}, b"body", "FOUND")
            await client.close()

    run(work())


def test_every_request_is_signed_over_its_fields_and_body() -> None:
    async def work() -> None:
        async with peers() as (server,):
            server.on(ASK, lambda call: call.answer())
            client = client_of(server, credentials=Credentials("key", "secret", channel="CLOUD"))
            await client.call(server.address, ASK, {"topic": "T"}, b"body")
            ext = dict(server.calls[0].ext)
            signature = ext.pop("Signature")
            assert ext == {"AccessKey": "key", "OnsChannel": "CLOUD", "topic": "T"}
            text = "".join(ext[name] for name in sorted(ext)).encode() + server.calls[0].frame.body
            assert base64.b64decode(signature) == hmac.new(b"secret", text, hashlib.sha1).digest()
            await client.close()

    run(work())


@pytest.mark.parametrize(
    ("code", "remark", "kind"),
    [
        (
            1,
            "org.apache.rocketmq.acl.common.AclException: Check signature failed for accessKey=x",
            CredentialsRefused,
        ),
        (
            1,
            "org.apache.rocketmq.acl.common.AclException: No default permission for topic:T",
            CredentialsRefused,
        ),
        (16, "check signature failed.", CredentialsRefused),
        (16, "username cannot be null.", CredentialsRefused),
        (16, "User:consumer01 is not found.", CredentialsRefused),
        (
            16,
            "User:c has no permission to access Topic:T from 127.0.0.1, no matched policies.",
            CredentialsRefused,
        ),
        (16, "the topic[T] pulling message is forbidden", BrokerRefused),
        (1, "java.lang.NullPointerException", BrokerRefused),
        (2, "[REJECTREQUEST] busy", BrokerRefused),
    ],
)
def test_refused_keys_are_told_from_other_refusals(code: int, remark: str, kind: type[SourceError]) -> None:
    async def work() -> None:
        async with peers() as (server,):
            server.on(ASK, refusing(code, remark))
            client = client_of(server, credentials=Credentials("the-key", "the-secret"))
            with pytest.raises(SourceError) as caught:
                await client.call(server.address, ASK)
            assert type(caught.value) is kind
            assert remark in str(caught.value)
            assert "the-secret" not in str(caught.value) + caught.value.remedy
            await client.close()

    run(work())


# --- name servers ---------------------------------------------------------------------------------------

ROUTE = {
    "brokerDatas": [{"brokerName": "b", "brokerAddrs": {"0": "127.0.0.1:1"}}],
    "queueDatas": [{"brokerName": "b", "perm": 6, "readQueueNums": 1, "writeQueueNums": 1}],
}


def knows(call: Call) -> None:
    call.answer(body=json.dumps(ROUTE).encode())


@pytest.mark.parametrize("first", ["dead", "busy", "silent", "ignorant"])
def test_another_name_server_is_asked_when_the_first_cannot_tell(first: str) -> None:
    async def work() -> None:
        async with peers(2) as (one, two):
            handlers = {"busy": refusing(2), "silent": silent, "ignorant": refusing(17), "dead": silent}
            one.on(Request.GET_ROUTEINFO_BY_TOPIC, handlers[first])
            if first == "dead":
                await one.stop()
            two.on(Request.GET_ROUTEINFO_BY_TOPIC, knows)
            client = client_of(one, two, request_timeout=0.1)
            assert (await client.fetch_route("T")).brokers == {"b": {0: "127.0.0.1:1"}}
            asked_before = len(one.calls)
            await client.fetch_route("T")
            assert len(one.calls) == asked_before  # it stays with the one that could tell
            await client.close()

    run(work())


def test_a_name_server_that_is_restarted_is_used_again() -> None:
    async def work() -> None:
        async with peers() as (server,):
            server.on(Request.GET_ROUTEINFO_BY_TOPIC, knows)
            client = client_of(server)
            await client.fetch_route("T")
            await server.stop()
            with pytest.raises(ConnectionFailed):
                await client.fetch_route("T")
            await server.start()
            await client.fetch_route("T")
            await client.close()

    run(work())


def test_when_no_name_server_answers_all_are_named() -> None:
    async def work() -> None:
        async with peers(2) as (one, two):
            await one.stop()
            two.on(Request.GET_ROUTEINFO_BY_TOPIC, refusing(2, "busy"))
            client = client_of(one, two)
            with pytest.raises(ConnectionFailed, match="no name server answered") as caught:
                await client.fetch_route("T")
            assert one.address in str(caught.value)
            assert two.address in str(caught.value)
            assert caught.value.remedy
            await client.close()

    run(work())


def test_a_topic_nobody_knows_is_not_found_and_a_route_known_before_is_kept() -> None:
    async def work() -> None:
        async with peers(2) as (one, two):
            for server in (one, two):
                server.on(Request.GET_ROUTEINFO_BY_TOPIC, refusing(17))
            one.once(Request.GET_ROUTEINFO_BY_TOPIC, knows)
            client = client_of(one, two)
            route = await client.fetch_route("T")
            with pytest.raises(TopicNotFound, match="knows no topic T"):
                await client.fetch_route("T")
            assert client.routes == {"T": route}
            assert client.master("b") == "127.0.0.1:1"
            assert two.calls
            await client.close()

    run(work())


def test_the_client_id_is_unique_and_does_not_change_once_it_was_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A second name server may be reached through another interface; the brokers know us by the first id."""
    hosts = iter(["10.0.0.1", "10.0.0.2"])
    monkeypatch.setattr(Connection, "local_host", property(lambda connection: next(hosts)))

    async def work() -> None:
        async with peers(2) as (one, two):
            for server in (one, two):
                server.on(ASK, lambda call: call.answer())
            client, other = client_of(one, two), client_of(one, two)
            assert client.client_id != other.client_id
            await client.call(one.address, ASK)
            told = client.client_id
            assert told.startswith("10.0.0.1@")
            await client.call(two.address, ASK)
            assert client.client_id == told
            await client.close()

    run(work())


def test_closing_twice_and_closing_while_connecting_leave_nothing_behind() -> None:
    async def work() -> None:
        async with peers() as (server,):
            server.on(ASK, silent)
            client = client_of(server)
            asked = asyncio.create_task(client.call(server.address, ASK))
            await server.until_told(ASK)
            await client.close()
            await client.close()
            with pytest.raises(ConnectionFailed):
                await asked
            await server.until(lambda: not server.channels)

    run(work())
