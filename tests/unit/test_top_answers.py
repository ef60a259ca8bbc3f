"""What may come back instead of a clean answer: bytes from outside raise nothing but errors of ours."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import random
import ssl
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jst_bridge.errors import TopError
from jst_bridge.top.answers import HttpAnswer, clock_of, elements, read_answer, texts
from jst_bridge.top.errors import (
    GatewayTimeout,
    GatewayUnavailable,
    GatewayUnreachable,
    MalformedAnswer,
    Refusal,
)
from tests.scripted import run
from tests.scripted_gateway import Reply, Watch, client, document, gateway, http, raw, silent, success, zipped

METHOD = "taobao.jushita.jms.user.get"
ROOT = "jushita_jms_user_get_response"
PLAIN = b'{"jushita_jms_user_get_response":{"a":1}}'


def read(body: bytes | str, status: int = 200, *, simplify: bool = False) -> dict[str, object] | Refusal:
    data = body.encode() if isinstance(body, str) else body
    return read_answer(HttpAnswer(status, data), METHOD, simplify=simplify, hide=lambda text: text)


async def ask(*replies: Reply, method: str = METHOD, **changes: Any) -> dict[str, object]:
    async with gateway(*replies) as played, client(played.url, **changes) as top:
        return await top.call(method)


def test_odd_but_readable_json_is_read() -> None:
    assert read(b"\xef\xbb\xbf \r\n" + PLAIN + b"\n\0\0") == {"a": 1}
    assert read(b'{"%s":{"t":"a\tb\nc\x01","u":"\xff"}}' % ROOT.encode()) == {
        "t": "a\tb\nc\x01",
        "u": "\ufffd",
    }
    assert read(f'{{"{ROOT}":{{"t":["\\ud800x",{{"\\udc00":1}}],"e":"\\ud83d\\ude42"}}}}') == {
        "t": ["\ufffdx", {"\ufffd": 1}],
        "e": "🙂",
    }


def test_numbers_are_never_rounded() -> None:
    fields = read(f'{{"{ROOT}":{{"id":4130201825909791653,"price":12.10,"odd":[1e999,NaN,{"9" * 5000}]}}}}')
    assert isinstance(fields, dict)
    assert (fields["id"], fields["price"]) == (4130201825909791653, "12.10")
    assert fields["odd"] == ["1e999", "NaN", "9" * 5000]


def test_the_root_follows_from_the_method() -> None:
    assert read(f'{{"{ROOT}":null}}') == {}
    answer = HttpAnswer(200, b'{"tmall_item_get_response":{"a":1}}')
    assert read_answer(answer, "tmall.item.get", simplify=False, hide=str) == {"a": 1}


def test_both_forms_are_understood_when_the_short_one_was_asked_for() -> None:
    assert read('{"results":["a"],"request_id":"x"}', simplify=True) == {"results": ["a"], "request_id": "x"}
    assert read(PLAIN, simplify=True) == {"a": 1}
    assert isinstance(read('{"error_response":{"code":27}}', simplify=True), Refusal)


@pytest.mark.parametrize(
    "body",
    ["", "null", "[]", "1", '"x"', "{", '{"a":1}', '{"error_response":null}', '{"error_response":"x"}',
     f'{{"{ROOT}":[]}}', '{"other_response":{}}', "<html>busy</html>", PLAIN[:-3].decode(), "[" * 100_000],
)  # fmt: skip
def test_what_is_no_answer_to_this_call_is_malformed(body: str) -> None:
    with pytest.raises(MalformedAnswer) as caught:
        read(body)
    assert caught.value.remedy
    assert caught.value.exit_code == 69
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("body", ['{"error_response":null}', '{"other_response":{}}'])
def test_another_calls_answer_is_no_short_form(body: str) -> None:
    with pytest.raises(MalformedAnswer):
        read(body, simplify=True)


def test_an_error_response_counts_whatever_the_http_status() -> None:
    assert isinstance(read('{"error_response":{"code":27}}', 500), Refusal)


@pytest.mark.parametrize(
    ("status", "kind", "exit_code", "retriable"),
    [(302, MalformedAnswer, 69, False), (403, MalformedAnswer, 69, False), (404, MalformedAnswer, 69, False),
     (201, MalformedAnswer, 69, False), (408, GatewayUnavailable, 75, True), (429, GatewayUnavailable, 75, True),
     (502, GatewayUnavailable, 75, True), (504, GatewayUnavailable, 75, True)],
)  # fmt: skip
def test_another_http_status_is_not_the_platform(
    status: int, kind: type[TopError], exit_code: int, retriable: bool
) -> None:
    with pytest.raises(kind, match=f"HTTP {status}: <html> bad gateway") as caught:
        read("<html>\n bad gateway", status)
    assert (caught.value.exit_code, caught.value.retriable) == (exit_code, retriable)
    assert caught.value.remedy


def test_a_date_header_gives_the_gateways_time() -> None:
    def clock(date: str) -> float | None:
        return clock_of(HttpAnswer(200, b"", date))

    assert clock("Tue, 14 Nov 2023 22:13:20 GMT") == 1_700_000_000
    assert clock("Tue, 14 Nov 2023 22:13:20 -0000") == 1_700_000_000
    assert [
        clock(date) for date in ("", "soon", "Tue, 99 Nov 2023 22:13:20 GMT", "1 Jan 0000 00:00:00 +2400")
    ] == [None] * 4


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, []), ({}, []), ("", []), ({"order": None}, []), ({"order": []}, []), ({"order": [1, 2]}, [1, 2]),
     ({"order": {"name": "x"}}, [{"name": "x"}]), ([{"name": "x"}], [{"name": "x"}]), ({"name": "x"}, [{"name": "x"}]),
     ({"name": "x", "id": 1}, [{"name": "x", "id": 1}])],
)  # fmt: skip
def test_a_list_of_objects_comes_in_many_shapes(value: object, expected: list[object]) -> None:
    assert elements(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, ()), ({}, ()), ("", ()), ({"string": ["a", "b"]}, ("a", "b")), ({"string": "a"}, ("a",)),
     (["a", 7, None, ""], ("a", "7")), ("a", ("a",)), ({"string": None}, ())],
)  # fmt: skip
def test_a_list_of_strings_comes_in_many_shapes(value: object, expected: tuple[str, ...]) -> None:
    assert texts(value) == expected


# --- over a socket ----------------------------------------------------------------------------------


def test_a_compressed_answer_is_read() -> None:
    assert asyncio.run(ask(zipped(PLAIN))) == {"a": 1}


@pytest.mark.parametrize("how", [http, zipped])
def test_an_answer_has_a_largest_size(how: object) -> None:
    async def work() -> None:
        assert callable(how)
        with pytest.raises(MalformedAnswer, match="more than 100000 bytes") as caught:
            await ask(how(b" " * 50_000_000), answer_limit=100_000)
        assert caught.value.attempts == 1

    run(work())


BROKEN: dict[str, tuple[Reply, type[TopError]]] = {
    "closed": (raw(b""), GatewayUnreachable),
    "cut short": (raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"), GatewayUnreachable),
    "no HTTP": (raw(b"SSH-2.0-OpenSSH_9.9\r\n"), GatewayUnreachable),
    "no gzip": (http(b"plain", headers="Content-Encoding: gzip\r\n"), MalformedAnswer),
    "half a gzip": (http(gzip.compress(PLAIN)[:-12], headers="Content-Encoding: gzip\r\n"), MalformedAnswer),
    "HTML": (http(b"<html>502</html>", status="502 Bad Gateway"), GatewayUnavailable),
    "login page": (http(b"", status="302 Found", headers="Location: http://\xff:99999999/\r\n"), TopError),
    "truncated": (http(PLAIN[:-3]), MalformedAnswer),
    "silent": (silent, GatewayTimeout),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_answer_is_an_error_of_ours(name: str) -> None:
    async def work() -> None:
        reply, kind = BROKEN[name]
        with pytest.raises(kind) as caught:
            await ask(reply, read_timeout=0.1, attempts=1)
        assert caught.value.remedy
        assert caught.value.__context__ is None
        assert caught.value.__cause__ is None

    run(work())


def test_an_answer_that_drips_for_ever_ends_at_the_total_time_out() -> None:
    async def drip(asked: object, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while not writer.transport.is_closing():
            writer.write(b" ")
            await asyncio.sleep(0.01)

    async def work() -> None:
        with pytest.raises(GatewayTimeout, match=r"did not finish its answer within 0\.2 s"):
            await ask(drip, read_timeout=5.0, total_timeout=0.2, attempts=1)

    run(work())


def test_nobody_listens() -> None:
    async def work() -> None:
        async with gateway(silent) as played:
            pass
        watch = Watch()
        async with client(played.url, watch) as top:
            with pytest.raises(GatewayUnreachable, match=r"cannot connect to http://127\.0\.0\.1:") as caught:
                await top.call("taobao.trade.change")
        assert (caught.value.attempts, caught.value.may_have_acted, len(watch.slept)) == (4, False, 3)

    run(work())


def test_an_address_that_never_answers_is_given_up() -> None:
    async def work() -> None:
        # A listener whose queue is full: the kernel drops further connection requests.
        import socket

        with socket.socket() as deaf, socket.socket() as first, socket.socket() as second:
            deaf.bind(("127.0.0.1", 0))
            deaf.listen(0)
            for filler in (first, second):
                filler.setblocking(False)
                filler.connect_ex(deaf.getsockname())
            url = f"http://127.0.0.1:{deaf.getsockname()[1]}/"
            async with client(url, connect_timeout=0.1, attempts=1) as top:
                with pytest.raises(GatewayUnreachable, match=r"no connection within 0\.1 s"):
                    await top.call("taobao.x.get")

    run(work())


def test_a_gateway_that_speaks_no_tls_is_unreachable() -> None:
    async def work() -> None:
        async with gateway(raw(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as played:
            url = played.url.replace("http:", "https:")
            async with client(url, attempts=1) as top:
                with pytest.raises(GatewayUnreachable):
                    await top.call("taobao.x.get")

    run(work())


def test_nothing_follows_a_redirect() -> None:
    async def work() -> None:
        async with gateway(success()) as other:
            reply = http(b"", status="302 Found", headers=f"Location: {other.url}\r\n")
            with pytest.raises(MalformedAnswer, match="HTTP 302: nothing"):
                await ask(reply)
            assert other.asked == []

    run(work())


NAMES = st.sampled_from(["code", "msg", ROOT, "error_response"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner),
    max_leaves=8,
)  # fmt: skip
DOCUMENTS = JSON.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=80)


@given(DOCUMENTS, st.sampled_from([200, 302, 500]), st.booleans())
def test_any_body_gives_an_answer_or_an_error_of_ours(body: bytes, status: int, simplify: bool) -> None:
    with contextlib.suppress(TopError):
        assert isinstance(read(body, status, simplify=simplify), dict | Refusal)


def pieces(chance: random.Random) -> bytes:
    """Something that is nearly HTTP."""
    start = chance.choice([b"HTTP/1.1 200 OK", b"HTTP/1.1 302 Found", b"HTTP/9.9 \xff", b"", b"\x15\x03\x01"])
    names = [
        b"Content-Length",
        b"Transfer-Encoding",
        b"Content-Encoding",
        b"Location",
        b"Date",
        b"Set-Cookie",
        b"Content-Type",
    ]
    values = [
        b"5",
        b"-1",
        b"99999999999999999999",
        b"chunked",
        b"gzip",
        b"deflate, gzip",
        b"\xff\xfe",
        b"http://[",
        b"a=b;;=\x01",
        b"",
    ]
    head = b"".join(
        chance.choice(names) + b": " + chance.choice(values) + b"\r\n" for _ in range(chance.randrange(4))
    )
    body = chance.choice(
        [PLAIN, gzip.compress(PLAIN), chance.randbytes(40), b"5\r\nhello\r\n0\r\n\r\n", b"zz\r\n"]
    )
    return start + b"\r\n" + head + b"\r\n" + body


def test_any_bytes_on_the_socket_give_an_answer_or_an_error_of_ours() -> None:
    async def work() -> None:
        async with gateway(silent) as played, client(played.url, read_timeout=0.5, attempts=1) as top:
            for seed in range(400):
                played.replies[0] = raw(pieces(random.Random(seed)))
                with contextlib.suppress(TopError):
                    assert isinstance(await top.call(METHOD), dict), seed

    run(work())


def test_a_certificate_nobody_vouches_for_is_not_accepted() -> None:
    async def work() -> None:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(Path(__file__).parents[1] / "data/top/self-signed.pem")
        async with gateway(success(), tls=tls) as played, client(played.url) as top:
            with pytest.raises(GatewayUnreachable, match=r"cannot connect to https:.*certificate") as caught:
                await top.call(METHOD)
            assert (caught.value.retriable, caught.value.attempts, played.asked) == (False, 1, [])
            assert "in place of the gateway" in caught.value.remedy

    asyncio.run(work())  # the server's half of the failed handshake ends a little later


def test_a_front_ends_trouble_is_retried_until_the_platform_answers() -> None:
    async def work() -> None:
        html = http(b"<html>", status="502 Bad Gateway")
        assert await ask(html, raw(b""), http(PLAIN[:-3]), document({ROOT: {"ok": True}})) == {"ok": True}

    run(work())
