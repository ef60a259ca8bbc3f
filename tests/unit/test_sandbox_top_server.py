"""The sandbox's TOP gateway as a server: garbage, limits, stopping and coming back."""

from __future__ import annotations

import logging
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from urllib.parse import urlencode

import httpx2
import pytest

from jst_bridge.errors import ConfigurationError
from jst_bridge.sandbox.top import TopGateway
from tests.top_caller import ADD, FORM, GET, NICK, SESSION, call, code_of, http, ready, signed


@pytest.fixture
def gateway() -> Iterator[TopGateway]:
    with ready() as running:
        yield running


def test_garbage_never_ends_it(gateway: TopGateway, caplog: pytest.LogCaptureFixture) -> None:
    head = b"POST /router/rest HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n"
    garbage = (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)),
        b"GET " + b"/" * 70_000 + b" HTTP/1.1\r\n\r\n",
        b"BREW /router/rest HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /router/rest HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        head + b"Content-Length: -1\r\n\r\n",
        head + b"Content-Length: 100\r\n\r\nshort",
        head + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        head + b"Content-Length: 40\r\n\r\n" + b"%ff%fe=%zz&&&=&\x80\x81method=\xf0\x9f&".ljust(40, b"&"),
        head + b"Content-Length: 1201\r\n\r\n" + b"a=1&" * 300 + b"a",
    )
    with caplog.at_level(logging.DEBUG):
        for bytes_sent in garbage:
            with socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as connection:
                connection.sendall(bytes_sent)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65_536):
                    pass
    assert call(gateway, ADD, session=SESSION) == {"is_success": True}
    assert [record for record in caplog.records if record.name.startswith("uvicorn")] == []


@pytest.mark.parametrize(
    ("body", "kind", "code"),
    [
        (b"method=%ff%fe", FORM["Content-Type"], 47),
        (b"&".join(b"a%d=1" % number for number in range(300)), FORM["Content-Type"], 43),
        (b"--x", "multipart/form-data; boundary=x", 3),
        (b"{}", "application/json", 24),
    ],
)
def test_bodies_that_cannot_be_read_are_refused(
    gateway: TopGateway, body: bytes, kind: str, code: int
) -> None:
    assert code_of(http.post(gateway.url, content=body, headers={"Content-Type": kind})) == code


def test_a_request_has_a_largest_size(gateway: TopGateway) -> None:
    assert http.post(gateway.url, content=b"a=" + b"x" * (1 << 20), headers=FORM).status_code == 413
    assert call(gateway, ADD, session=SESSION) == {"is_success": True}


def test_it_listens_on_loopback_only(gateway: TopGateway) -> None:
    assert gateway.url.startswith("http://127.0.0.1:")
    with socket.socket() as other, pytest.raises(OSError, match="refused"):
        other.connect(("127.0.0.2", gateway.port))


def test_it_comes_back_on_its_port_with_what_it_knew(
    gateway: TopGateway, capfd: pytest.CaptureFixture[str]
) -> None:
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    threads = threading.active_count() - 1
    port = gateway.port
    call(gateway, ADD, session=SESSION)
    with httpx2.Client(trust_env=False) as client:
        client.post(gateway.url, content=urlencode(signed(gateway, GET, user_nick=NICK)), headers=FORM)
        gateway.stop()
        assert threading.active_count() == threads
        with pytest.raises(httpx2.TransportError):
            client.post(gateway.url, content=b"")
    gateway.start()
    assert (gateway.port, [seller.nick for seller in gateway.open_sellers()]) == (port, [NICK])
    assert call(gateway, GET, user_nick=NICK)["ons_user"]["user_nick"] == NICK
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert capfd.readouterr() == ("", "")


def test_what_keeps_it_from_starting_is_said(gateway: TopGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match=f"cannot listen on 127.0.0.1:{gateway.port}"):
        TopGateway(port=gateway.port).start()
    monkeypatch.delitem(sys.modules, "jst_bridge.sandbox.top.server")
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(ConfigurationError, match="uvicorn") as caught:
        TopGateway().start()
    assert caught.value.remedy == "pip install 'jst-bridge[sandbox]'"
