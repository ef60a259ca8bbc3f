"""The proxy that cuts connections does what tests of faults rely on."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from socketserver import StreamRequestHandler, ThreadingTCPServer

import pytest

from tests.cluster import free_port, wait_until
from tests.cutting_proxy import CuttingProxy

PATIENCE = 5.0


class Parrot(ThreadingTCPServer):
    """Answers each line with the same line, and keeps what it heard."""

    daemon_threads = True

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.left = 0
        super().__init__(("127.0.0.1", 0), ParrotConversation)

    @property
    def port(self) -> int:
        return int(self.server_address[1])


class ParrotConversation(StreamRequestHandler):
    server: Parrot

    def handle(self) -> None:
        try:
            for line in self.rfile:
                self.server.heard.append(line)
                self.wfile.write(line)
        finally:
            self.server.left += 1


@pytest.fixture
def parrot() -> Iterator[Parrot]:
    with Parrot() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def proxy(parrot: Parrot) -> Iterator[CuttingProxy]:
    with CuttingProxy(parrot.port) as running:
        yield running


class Client:
    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE)

    def ask(self, line: bytes) -> bytes:
        """The answer, b'' when the connection is closed instead."""
        try:
            self.socket.sendall(line)
            return self.answer()
        except ConnectionError:
            return b""

    def answer(self) -> bytes:
        heard = b""
        while not heard.endswith(b"\n"):
            more = self.socket.recv(4096)
            if not more:
                return b""
            heard += more
        return heard

    def closed(self) -> bool:
        try:
            return self.socket.recv(1) == b""
        except ConnectionError:
            return True

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def test_bytes_pass_in_both_directions(proxy: CuttingProxy) -> None:
    with Client(proxy.port) as one, Client(proxy.port) as other:
        large = b"x" * 3_000_000 + b"\n"
        sender = threading.Thread(target=one.socket.sendall, args=(large,))
        sender.start()
        assert one.answer() == large
        sender.join()
        assert other.ask(b"hello\n") == b"hello\n"
        assert proxy.connections == 2
    wait_until(lambda: proxy.connections == 0, "the connections to end", PATIENCE)
    assert proxy.cuts == 0


def test_a_client_that_has_no_more_to_say_still_hears_the_rest(proxy: CuttingProxy) -> None:
    with Client(proxy.port) as client:
        client.socket.sendall(b"last words\n")
        client.socket.shutdown(socket.SHUT_WR)
        assert client.answer() == b"last words\n"
        assert client.closed()


def test_cut_now_closes_every_connection_and_lets_new_ones_through(
    proxy: CuttingProxy, parrot: Parrot
) -> None:
    with Client(proxy.port) as one, Client(proxy.port) as other:
        assert one.ask(b"1\n") == other.ask(b"1\n") == b"1\n"
        assert proxy.cut_now() == 2
        assert one.closed()
        assert other.closed()
        wait_until(lambda: parrot.left == 2, "the server to notice", PATIENCE)
        with Client(proxy.port) as late:
            assert late.ask(b"2\n") == b"2\n"
    assert proxy.cuts == 2


def test_a_forwarded_pattern_is_done_by_the_server_and_the_client_never_hears(
    proxy: CuttingProxy, parrot: Parrot
) -> None:
    with Client(proxy.port) as client:
        assert client.ask(b"BEGIN\n") == b"BEGIN\n"
        proxy.cut_after(b"COMMIT", forward=True)
        assert client.ask(b"INSERT\n") == b"INSERT\n"
        assert client.ask(b"COMMIT\n") == b""
    assert parrot.heard == [b"BEGIN\n", b"INSERT\n", b"COMMIT\n"]
    assert (proxy.cuts, proxy.armed) == (1, False)


def test_a_pattern_that_is_not_forwarded_never_reaches_the_server(
    proxy: CuttingProxy, parrot: Parrot
) -> None:
    with Client(proxy.port) as client:
        proxy.cut_after(b"COMMIT", forward=False)
        assert client.ask(b"INSERT\n") == b"INSERT\n"
        assert client.ask(b"COMMIT\n") == b""
    wait_until(lambda: parrot.left == 1, "the server to notice", PATIENCE)
    assert parrot.heard == [b"INSERT\n"]


def test_one_call_makes_one_cut(proxy: CuttingProxy) -> None:
    proxy.cut_after(b"COMMIT", forward=True)
    with Client(proxy.port) as first, Client(proxy.port) as second:
        assert first.ask(b"COMMIT\n") == b""
        assert second.ask(b"COMMIT\n") == b"COMMIT\n"
        proxy.cut_after(b"COMMIT", forward=False)
        assert second.ask(b"COMMIT\n") == b""
    assert proxy.cuts == 2


def test_a_pattern_is_found_in_pieces(proxy: CuttingProxy, parrot: Parrot) -> None:
    proxy.cut_after(b"COM\nMIT", forward=False)
    with Client(proxy.port) as client:
        assert client.ask(b"COM\n") == b"COM\n"
        assert client.ask(b"MIT\n") == b""
    assert parrot.heard == [b"COM\n"]


def test_what_was_said_before_the_call_does_not_count(proxy: CuttingProxy) -> None:
    with Client(proxy.port) as client:
        proxy.cut_after(b"NEVER SAID", forward=False)
        assert client.ask(b"COM\n") == b"COM\n"
        proxy.cut_after(b"COM\nMIT", forward=False)
        assert client.ask(b"MIT\n") == b"MIT\n"
    assert proxy.armed


def test_a_stalled_connection_stays_open_and_silent_until_it_is_resumed(
    proxy: CuttingProxy, parrot: Parrot
) -> None:
    with Client(proxy.port) as old:
        assert old.ask(b"1\n") == b"1\n"
        proxy.stall()
        with Client(proxy.port) as new:
            new.socket.sendall(b"2\n")
            old.socket.sendall(b"3\n")
            for client in (old, new):
                client.socket.settimeout(0.1)
                with pytest.raises(TimeoutError):
                    client.answer()
                client.socket.settimeout(PATIENCE)
            assert parrot.heard == [b"1\n"]
            proxy.resume()
            assert new.answer() == b"2\n"
            assert old.answer() == b"3\n"


def test_a_stalled_connection_can_be_cut(proxy: CuttingProxy, parrot: Parrot) -> None:
    with Client(proxy.port) as client:
        assert client.ask(b"1\n") == b"1\n"
        proxy.stall()
        client.socket.sendall(b"2\n")
        assert proxy.cut_now() == 1
        assert client.closed()
    proxy.resume()
    wait_until(lambda: parrot.left == 1, "the server to notice", PATIENCE)
    assert parrot.heard == [b"1\n"]


def test_a_server_that_does_not_run_closes_the_connection() -> None:
    with CuttingProxy(free_port(0)) as proxy, Client(proxy.port) as client:
        assert client.closed()
        assert proxy.connections == 0


@pytest.mark.parametrize("stalled", [False, True])
def test_closing_ends_connections_and_threads(parrot: Parrot, stalled: bool) -> None:
    before = set(threading.enumerate())
    with ExitStack() as clients:
        with CuttingProxy(parrot.port) as proxy:
            talking = [clients.enter_context(Client(proxy.port)) for _ in range(5)]
            assert all(client.ask(b"1\n") == b"1\n" for client in talking)
            if stalled:
                proxy.stall()
                talking[0].socket.sendall(b"2\n")
        assert [thread.name for thread in set(threading.enumerate()) - before if "proxy" in thread.name] == []
        assert all(client.closed() for client in talking)
        with pytest.raises(ConnectionRefusedError):
            Client(proxy.port)


def test_a_url_leads_through_the_proxy(proxy: CuttingProxy) -> None:
    through = proxy.url("mysql://jst:p%40ss@127.0.0.1:3306/bridge?charset=utf8mb4")
    assert through == f"mysql://jst:p%40ss@127.0.0.1:{proxy.port}/bridge?charset=utf8mb4"
