"""Canaries: secret, session and signature show up in nothing that people or programs may read."""

from __future__ import annotations

import asyncio
import html
import json
import logging
import pickle
import traceback
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote_plus, urlencode

import pytest

import jst_bridge
from jst_bridge.errors import TopError
from jst_bridge.top import JmsClient, TopSettings
from jst_bridge.top.parameters import Call, Secret
from tests.scripted import run
from tests.scripted_gateway import (
    SECRET,
    SESSION,
    Asked,
    Reply,
    banned,
    client,
    error,
    gateway,
    http,
    raw,
    silent,
    success,
)

PACKAGE = str(Path(jst_bridge.__file__).parent)
ODD_SESSION = 'CANARY "6100"/<&>+ 商'


async def echoing(asked: Asked, writer: asyncio.StreamWriter) -> None:
    """A platform that quotes all it was sent in every field of its refusal."""
    words = f"Invalid session {asked.fields.get('session')} sign {asked.fields['sign']} {SECRET} {asked.body.decode()}"
    said = {"code": 27, "msg": words, "sub_code": words, "sub_msg": html.escape(words), "request_id": words}
    await http(json.dumps({"error_response": said}).encode())(asked, writer)


def secrets_first(asked: Asked) -> dict[str, str]:
    """Only the beginning of an answer is ever quoted."""
    fields = asked.fields
    return {name: fields.pop(name) for name in ("session", "sign")} | fields


async def echoing_as_html(asked: Asked, writer: asyncio.StreamWriter) -> None:
    fields = secrets_first(asked)
    body = f"{html.escape(fields['session'])} {urlencode(fields)}".lower()
    await http(body.encode(), status="502 Bad Gateway")(asked, writer)


async def echoing_as_broken_json(asked: Asked, writer: asyncio.StreamWriter) -> None:
    await http(json.dumps(secrets_first(asked), ensure_ascii=False).encode()[:-1])(asked, writer)


async def echoing_as_no_http(asked: Asked, writer: asyncio.StreamWriter) -> None:
    await raw(f"HTTP/1.1 {asked.fields['sign']}{asked.fields.get('session')}\r\n\r\n".encode())(asked, writer)


FAILURES: dict[str, Reply] = {
    **{f"code {code}": error(code) for code in (8, 10, 11, 25, 27, 29, 31, 40)},
    "isp": error(15, "isp.x"),
    "isv": error(50, "isv.x"),
    "long ban": banned(999),
    "short ban": banned(2),
    "echo": echoing,
    "HTML echo": echoing_as_html,
    "JSON echo": echoing_as_broken_json,
    "no HTTP echo": echoing_as_no_http,
    "closed": raw(b""),
    "cut short": raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"),
    "silence": silent,
    "no gzip": http(b"x", headers="Content-Encoding: gzip\r\n"),
    "too large": http(b" " * 5_000_000),
    "not done": success(is_success=False),
    "no flag": success(),
}


@pytest.fixture
def records(caplog: pytest.LogCaptureFixture) -> Iterator[list[logging.LogRecord]]:
    """Everything that is logged by anybody, the HTTP library's debugging included."""
    with caplog.at_level(logging.DEBUG):
        yield caplog.records


def leaks(text: str, asked: list[Asked]) -> list[str]:
    """The secrets found in a text, in any form in which they travel."""
    words = {SECRET, SESSION, ODD_SESSION, *(request.fields["sign"] for request in asked)}
    forms = {
        form for word in words for form in (word, quote_plus(word), html.escape(word), json.dumps(word)[1:-1])
    }
    return [form for form in forms if form.lower() in text.lower()]


def everything_of(failure: BaseException) -> str:
    """All that a log, a report or an error tracker may take from an exception: frames' local variables too."""
    told = [
        str(failure),
        repr(failure),
        repr(vars(failure)),
        repr(failure.args),
        repr(failure.__notes__) if hasattr(failure, "__notes__") else "",
    ]
    told += traceback.format_exception(failure)
    own = traceback.TracebackException.from_exception(failure, capture_locals=True)
    for frame in own.stack:
        if frame.filename.startswith(PACKAGE):
            told += list((frame.locals or {}).values())
    for chained in (failure.__cause__, failure.__context__):
        if chained is not None:
            told.append(everything_of(chained))
    return "\n".join(told)


@pytest.mark.parametrize("name", FAILURES)
@pytest.mark.parametrize("session", [SESSION, ODD_SESSION])
def test_no_failure_shows_a_secret(name: str, session: str, records: list[logging.LogRecord]) -> None:
    async def work() -> None:
        async with gateway(FAILURES[name]) as played, client(played.url, read_timeout=0.1, attempts=2) as top:
            for method in ("hmac-sha256", "md5"):
                async with client(played.url, read_timeout=0.1, attempts=2, sign_method=method) as other:
                    failure = await failing(JmsClient(other), session)
                    assert leaks(everything_of(failure), played.asked) == []
                    assert leaks(repr(JmsClient(other)) + repr(other) + repr(vars(other)), played.asked) == []
            assert repr(top)
            said = "\n".join(f"{record.getMessage()} {record.args!r}" for record in records)
            assert leaks(said, played.asked) == []
            assert len(played.asked) >= 2

    run(work())


async def failing(jms: JmsClient, session: str) -> TopError:
    with pytest.raises(TopError) as caught:
        await jms.add_user(session)
    assert isinstance(caught.value, TopError)
    assert caught.value.remedy
    return caught.value


def test_the_canaries_would_be_seen() -> None:
    assert leaks(f"x {SESSION.lower()} y", [])
    assert leaks(quote_plus(ODD_SESSION), [])

    def careless(session: str) -> None:
        raise ValueError("jst_bridge")

    with pytest.raises(ValueError, match="jst_bridge") as caught:
        careless(SESSION)
    told = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    assert any(SESSION in value for frame in told.stack for value in (frame.locals or {}).values())


def test_a_masked_refusal_still_says_what_happened() -> None:
    async def work() -> None:
        async with gateway(echoing) as played, client(played.url) as top:
            failure = await failing(JmsClient(top), SESSION)
            assert "Invalid session *** sign *** ***" in str(failure)

    run(work())


def test_values_that_hold_secrets_do_not_show_them() -> None:
    settings = TopSettings("1", SECRET)
    call = Call.of("taobao.x.get", {}, Secret(SESSION))
    signed = call.signed(settings, 0.0)
    assert leaks(f"{settings!r} {call!r} {signed!r} {Secret(SESSION)!r}", []) == []
    assert signed.hide("nothing") == "nothing"


def test_a_short_session_does_not_mask_half_of_every_sentence() -> None:
    signed = Call.of("taobao.x.get", {}, Secret("a")).signed(TopSettings("1", "b"), 0.0)
    assert signed.hide("a banana") == "a banana"
    assert "session***" in signed.shown()


def test_errors_survive_a_pickle_without_secrets() -> None:
    async def work() -> None:
        async with gateway(error(10)) as played, client(played.url, attempts=1) as top:
            failure = await failing(JmsClient(top), SESSION)
            assert leaks(repr(pickle.dumps(vars(failure))), played.asked) == []

    run(work())


def test_wrong_arguments_show_no_session(records: list[logging.LogRecord]) -> None:
    async def work() -> None:
        async with gateway(success()) as played, client(played.url) as top:
            with pytest.raises(TopError) as caught:
                await JmsClient(top).add_user(SESSION, [])
            assert leaks(everything_of(caught.value), []) == []
            with pytest.raises(TopError) as caught:
                await top.call("taobao.x.get", session=SESSION, sign="x")
            assert leaks(everything_of(caught.value), []) == []
            assert played.asked == []

    run(work())
    assert leaks("\n".join(record.getMessage() for record in records), []) == []
