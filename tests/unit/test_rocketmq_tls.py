"""TLS to scripted peers: who is trusted, who is not, and what is said about it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from jst_bridge.errors import (
    ConfigurationError,
    ConnectionFailed,
    CredentialsRefused,
    RequestTimeout,
    SourceError,
    TlsFailed,
)
from jst_bridge.rocketmq import Client, ClientSettings
from jst_bridge.rocketmq.codes import Request
from jst_bridge.rocketmq.tls import Tls
from tests.certificates import Authority
from tests.scripted import Channel, Peer, run

ASK = Request.GET_MAX_OFFSET


class TlsPeer(Peer):
    """A scripted peer behind TLS."""

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__()
        self.asked_for: list[str | None] = []
        """Server names of the handshakes (SNI)."""
        context.sni_callback = lambda _, name, __: self.asked_for.append(name)
        self._context = context

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Channel(self), "127.0.0.1", 0, ssl=self._context)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"


@asynccontextmanager
async def tls_peer(context: ssl.SSLContext) -> AsyncIterator[TlsPeer]:
    peer = TlsPeer(context)
    peer.on(ASK, lambda call: call.answer())
    await peer.start()
    # A client that turns away in the middle of a handshake is what these tests are about.
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    try:
        yield peer
    finally:
        await peer.stop()


async def refusal(address: str, tls: Tls | None, *, timeout: float = 2.0) -> SourceError:
    """The error of one request."""
    client = Client(ClientSettings((address,), tls=tls, connect_timeout=timeout, request_timeout=timeout))
    try:
        await client.call(address, ASK)
    except SourceError as error:
        return error
    finally:
        await client.close()
    raise AssertionError("it was answered")


def served(context: ssl.SSLContext, work: Callable[[TlsPeer], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with tls_peer(context) as peer:
            await work(peer)

    run(whole())


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def test_a_server_whose_ca_is_named_is_trusted(authority: Authority) -> None:
    async def work(peer: TlsPeer) -> None:
        client = Client(ClientSettings((peer.address,), tls=Tls(ca_file=authority.ca_file)))
        assert (await client.call(peer.address, ASK)).code == 0
        await client.close()

    served(authority.server_context(authority.issue("127.0.0.1")), work)


def test_the_server_name_is_asked_for_and_looked_for_in_the_certificate(authority: Authority) -> None:
    async def work(peer: TlsPeer) -> None:
        tls = Tls(ca_file=authority.ca_file, server_name="mq.example.com")
        client = Client(ClientSettings((peer.address,), tls=tls))
        assert (await client.call(peer.address, ASK)).code == 0
        assert peer.asked_for == ["mq.example.com"]
        await client.close()

    served(authority.server_context(authority.issue("mq.example.com")), work)


def test_a_certificate_of_another_ca_is_refused(authority: Authority, tmp_path: Path) -> None:
    other = Authority(tmp_path, "other")

    async def work(peer: TlsPeer) -> None:
        error = await refusal(peer.address, Tls(ca_file=other.ca_file))
        assert isinstance(error, TlsFailed)
        assert f"{peer.address}: its certificate is not signed by a CA in {other.ca_file}" in str(error)
        assert "tls.ca_file" in error.remedy
        assert (error.exit_code, error.retriable) == (69, False)
        system = await refusal(peer.address, Tls())
        assert "a CA that this system trusts" in str(system)

    served(authority.server_context(authority.issue("127.0.0.1")), work)


def test_a_certificate_for_another_host_is_refused(authority: Authority) -> None:
    async def work(peer: TlsPeer) -> None:
        error = await refusal(peer.address, Tls(ca_file=authority.ca_file))
        assert isinstance(error, TlsFailed)
        assert "for another host" in str(error)
        assert "tls.server_name" in error.remedy

    served(authority.server_context(authority.issue("elsewhere.example.com")), work)


def test_an_expired_certificate_is_refused(authority: Authority) -> None:
    async def work(peer: TlsPeer) -> None:
        error = await refusal(peer.address, Tls(ca_file=authority.ca_file))
        assert isinstance(error, TlsFailed)
        assert "not valid now" in str(error)
        assert "clock" in error.remedy

    served(authority.server_context(authority.issue("127.0.0.1", expired=True)), work)


def test_insecure_takes_any_certificate(authority: Authority) -> None:
    async def work(peer: TlsPeer) -> None:
        client = Client(ClientSettings((peer.address,), tls=Tls(insecure=True)))
        assert (await client.call(peer.address, ASK)).code == 0
        await client.close()

    served(authority.server_context(authority.issue("elsewhere.example.com", expired=True)), work)


def test_a_client_certificate_is_shown_where_the_server_wants_one(authority: Authority) -> None:
    server = authority.issue("127.0.0.1")
    mine = authority.issue("bridge.example.com", name="client", password="canary-password")

    async def work(peer: TlsPeer) -> None:
        tls = Tls(authority.ca_file, mine.cert_file, mine.key_file, "canary-password")
        client = Client(ClientSettings((peer.address,), tls=tls))
        assert (await client.call(peer.address, ASK)).code == 0
        await client.close()
        assert "canary" not in repr(tls)
        # This server closes without an alert, so it can only be guessed.
        error = await refusal(peer.address, Tls(ca_file=authority.ca_file))
        assert isinstance(error, ConnectionFailed)
        assert "tls.cert_file" in error.remedy

    served(authority.server_context(server, wants_client=True), work)


def test_an_alert_about_the_client_certificate_is_exit_77(authority: Authority) -> None:
    context = authority.server_context(authority.issue("127.0.0.1"), wants_client=True)

    def turn_away(listening: socket.socket) -> None:
        """Under TLS 1.3 the client believes the handshake done, and meets the alert when it reads."""
        for _ in range(2):
            server = context.wrap_socket(
                listening.accept()[0], server_side=True, do_handshake_on_connect=False
            )
            with contextlib.suppress(ssl.SSLError):
                server.do_handshake()
            with socket.socket(fileno=server.detach()) as bare:
                while bare.recv(4096):
                    pass

    async def work() -> None:
        other = Authority(authority.ca_file.parent, "other").issue("x", name="client")
        with socket.create_server(("127.0.0.1", 0)) as listening:
            served = asyncio.create_task(asyncio.to_thread(turn_away, listening))
            address = "{}:{}".format(*listening.getsockname())
            missing = await refusal(address, Tls(ca_file=authority.ca_file))
            strange = await refusal(address, Tls(authority.ca_file, other.cert_file, other.key_file))
            await served
        for error in (missing, strange):
            assert isinstance(error, CredentialsRefused), error
            assert error.exit_code == 77
            assert "tls.cert_file" in error.remedy
        assert f"{address} refused a client without certificate" in str(missing)
        assert f"refused the client certificate {other.cert_file}" in str(strange)

    run(work())


def test_a_plaintext_server_is_told_from_a_dead_one(authority: Authority) -> None:
    async def close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.close()

    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"\0\0\0\x20 this is no TLS, whatever it is")
        writer.close()

    async def work() -> None:
        tls = Tls(ca_file=authority.ca_file)
        for behaviour in (close, babble):
            server = await asyncio.start_server(behaviour, "127.0.0.1", 0)
            async with server:
                error = await refusal("{}:{}".format(*server.sockets[0].getsockname()), tls)
            assert isinstance(error, TlsFailed), error
            assert "does not speak TLS" in str(error)
            assert "remove" in error.remedy
        dead = await refusal("{}:{}".format(*server_address), tls)
        assert type(dead) is ConnectionFailed
        assert "cannot connect" in str(dead)

    server_address = ("127.0.0.1", 1)
    run(work())


def test_a_server_that_never_shakes_hands_costs_the_connect_timeout(authority: Authority) -> None:
    over = asyncio.Event()

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await over.wait()
        writer.close()

    async def work() -> None:
        server = await asyncio.start_server(hold, "127.0.0.1", 0)
        async with server:
            address = "{}:{}".format(*server.sockets[0].getsockname())
            error = await refusal(address, Tls(ca_file=authority.ca_file), timeout=0.1)
            over.set()
        assert "did not accept a connection with TLS within 0.1 s" in str(error)

    run(work())


def test_a_server_that_takes_tls_only_is_recognised_without_it(authority: Authority) -> None:
    async def work(peer: TlsPeer) -> None:
        error = await refusal(peer.address, None)
        assert isinstance(error, ConnectionFailed)
        assert not isinstance(error, RequestTimeout)
        assert "[source.tls]" in error.remedy

    served(authority.server_context(authority.issue("127.0.0.1")), work)


def test_an_untrusted_server_is_not_dialled_hot(authority: Authority, tmp_path: Path) -> None:
    other = Authority(tmp_path, "other")

    async def work(peer: TlsPeer) -> None:
        client = Client(ClientSettings((peer.address,), tls=Tls(ca_file=other.ca_file), connect_timeout=2))
        with pytest.raises(TlsFailed):
            await client.call(peer.address, ASK)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                await client.call(peer.address, ASK)
        assert len(peer.asked_for) <= 1
        await client.close()

    served(authority.server_context(authority.issue("127.0.0.1")), work)


def test_a_file_that_cannot_be_used_is_a_configuration_error(authority: Authority, tmp_path: Path) -> None:
    mine = authority.issue("a", name="mine", password="canary")
    other = authority.issue("b", name="theirs")
    junk = tmp_path / "junk"
    junk.write_text("junk")
    for tls, word in [
        (Tls(ca_file=junk), "ca_file"),
        (Tls(ca_file=tmp_path / "missing"), "ca_file"),
        (Tls(authority.ca_file, mine.cert_file, other.key_file), "key_file"),
        (Tls(authority.ca_file, mine.cert_file, mine.key_file), "key_password"),
        (Tls(authority.ca_file, mine.cert_file, mine.key_file, "wrong"), "key_password"),
    ]:
        with pytest.raises(ConfigurationError) as caught:
            tls.context()
        assert word in f"{caught.value} {caught.value.remedy}"
        assert "canary" not in str(caught.value)


def test_a_renewed_file_counts_for_the_next_connection(authority: Authority, tmp_path: Path) -> None:
    tls = Tls(ca_file=authority.ca_file)
    before = tls.context()
    assert tls.context() is before
    renewed = Authority(tmp_path, "renewed")
    authority.ca_file.write_bytes(renewed.ca_file.read_bytes() + b"\n")
    assert tls.context() is not before
