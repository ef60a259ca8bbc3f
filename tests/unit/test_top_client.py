"""How the client calls: what it sends, what it tries again, what it leaves behind."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from jst_bridge.top.errors import (
    BusinessRefused,
    CallLimited,
    GatewayTimeout,
    GatewayUnavailable,
    GatewayUnreachable,
    InvalidArgument,
    Refusal,
    ServiceUnavailable,
    TopError,
)
from jst_bridge.top.pacing import Clock
from tests.scripted import run
from tests.scripted_gateway import (
    APP_KEY,
    SESSION,
    Reply,
    Watch,
    client,
    error,
    gateway,
    http,
    raw,
    silent,
    success,
)

READ = "taobao.trade.fullinfo.get"
WRITE = "taobao.trade.memo.update"
IDEMPOTENT_WRITE = "taobao.jushita.jms.user.add"


async def failing(method: str, *replies: Reply, **changes: Any) -> tuple[TopError, int, list[float]]:
    """The error that ends a call, how many requests it cost, and the pauses between them."""
    watch = Watch()
    async with gateway(*replies) as played, client(played.url, watch, **changes) as top:
        with pytest.raises(TopError) as caught:
            await top.call(method)
        return caught.value, len(played.asked), watch.slept


# --- the request ------------------------------------------------------------------------------------


def test_a_call_is_one_signed_form_post() -> None:
    async def work() -> None:
        async with gateway(success(a=1)) as played, client(played.url) as top:
            assert await top.call(
                READ, session=SESSION, tid=2918000000000000001, fields=["tid", "oid"], memo="", x=None
            ) == {
                "a": 1,
                "request_id": "16ecoqo68zsa1",
            }
            (asked,) = played.asked
            assert asked.head.startswith("POST /router/rest HTTP/1.1\r\n")
            head = asked.head.lower()
            assert "content-type: application/x-www-form-urlencoded;charset=utf-8" in head
            assert "accept-encoding: gzip\r\n" in head
            fields = asked.fields
            assert len(fields.pop("sign")) == 64
            assert fields == {
                "method": READ, "app_key": APP_KEY, "session": SESSION, "timestamp": "2023-11-15 06:13:20",
                "format": "json", "v": "2.0", "sign_method": "hmac-sha256", "tid": "2918000000000000001",
                "fields": "tid,oid",
            }  # fmt: skip

    run(work())


def test_the_short_form_is_asked_for_when_wanted() -> None:
    async def work() -> None:
        short = http(b'{"is_success":true}')
        async with gateway(short) as played, client(played.url, simplify=True, sign_method="md5") as top:
            assert await top.call(IDEMPOTENT_WRITE, target_app_key="1") == {"is_success": True}
            fields = played.asked[0].fields
            assert (fields["simplify"], fields["sign_method"], fields["target_app_key"]) == (
                "true",
                "md5",
                "1",
            )

    run(work())


def test_calls_one_after_the_other_share_a_connection() -> None:
    async def work() -> None:
        async with gateway(success(), error(15, "isv.x"), success()) as played, client(played.url) as top:
            await top.call(READ)
            with pytest.raises(BusinessRefused):
                await top.call(READ)
            await top.call(READ)
            assert played.connections == 1

    run(work())


def test_a_proxy_of_the_environment_is_not_used_for_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        async with gateway(raw(b"")) as proxy, gateway(success()) as played:
            monkeypatch.setenv("HTTP_PROXY", proxy.url)
            async with client(played.url) as top:
                await top.call(READ)
            async with client("http://gateway.invalid/router/rest", attempts=1) as top:
                with pytest.raises(GatewayUnreachable):
                    await top.call(READ)
            assert (len(played.asked), proxy.connections) == (1, 1)

    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    run(work())


def test_importing_the_package_opens_nothing_and_loads_no_http_library() -> None:
    script = (
        "import sys\n"
        "import jst_bridge.top\n"
        "jst_bridge.top.TopClient(jst_bridge.top.TopSettings('1', 'secret'))\n"
        "print(sorted({'httpx2', 'httpcore2', 'jst_bridge.settings', 'jst_bridge.ports'} & set(sys.modules)))"
    )
    shown = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert shown.stdout == "[]\n"


def test_a_client_that_was_closed_calls_no_more() -> None:
    async def work() -> None:
        async with gateway(success()) as played:
            top = client(played.url)
            await top.close()
            await top.close()
            with pytest.raises(GatewayUnreachable, match="closed") as caught:
                await top.call(READ)
            assert not caught.value.retriable

    run(work())


# --- what is tried again ----------------------------------------------------------------------------


@pytest.mark.parametrize("method", [READ, WRITE, IDEMPOTENT_WRITE])
def test_the_platforms_own_trouble_is_tried_again_with_growing_pauses(method: str) -> None:
    async def work() -> None:
        failure, requests, slept = await failing(method, error(15, "isp.system-busy"))
        assert isinstance(failure, ServiceUnavailable)
        assert (requests, failure.attempts, slept) == (4, 4, [0.5, 1.0, 2.0])
        assert str(failure).endswith("(tried 4 times)")

    run(work())


@pytest.mark.parametrize(
    ("code", "sub_code"), [(8, ""), (4, ""), (15, "isp.call-limited"), (15, "isv.item-service-rejection")]
)
def test_where_load_is_the_cause_the_pauses_are_longer(code: int, sub_code: str) -> None:
    async def work() -> None:
        _, _, slept = await failing(WRITE, error(code, sub_code))
        assert slept == [2.0, 4.0, 8.0]

    run(work())


def test_pauses_have_jitter_and_a_ceiling() -> None:
    async def work() -> None:
        _, requests, slept = await failing(READ, error(8), attempts=8)
        assert (requests, slept[-1]) == (8, 30.0)

    run(work())
    low = Clock(uniform=lambda low, high: low)
    from jst_bridge.top.pacing import backoff

    assert backoff(CallLimited(Refusal("m", 8)), 1, low) == 1.0


LOST: dict[str, tuple[Reply, type[TopError]]] = {
    "silence": (silent, GatewayTimeout),
    "broken connection": (raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"), GatewayUnreachable),
    "502": (http(b"<html>", status="502 Bad Gateway"), GatewayUnavailable),
    "isp time-out": (error(15, "isp.remote-service-timeout"), ServiceUnavailable),
}


@pytest.mark.parametrize("name", LOST)
@pytest.mark.parametrize(("method", "requests"), [(READ, 2), (WRITE, 1), (IDEMPOTENT_WRITE, 2)])
def test_after_a_lost_answer_only_what_may_be_done_twice_is_tried_again(
    name: str, method: str, requests: int
) -> None:
    async def work() -> None:
        reply, kind = LOST[name]
        failure, sent, _ = await failing(method, reply, read_timeout=0.1, attempts=2)
        assert isinstance(failure, kind)
        assert failure.may_have_acted
        assert sent == failure.attempts == requests

    run(work())


def test_each_attempt_carries_its_own_time_and_signature() -> None:
    async def work() -> None:
        watch = Watch()
        async with gateway(error(8), error(8), success()) as played, client(played.url, watch) as top:
            await top.call(READ)
            assert len({asked.fields["timestamp"] for asked in played.asked}) == 3
            assert len({asked.fields["sign"] for asked in played.asked}) == 3

    run(work())


def test_retries_are_logged_without_traceback(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        async with gateway(error(15, "isp.x"), success()) as played, client(played.url) as top:
            await top.call(READ)

    with caplog.at_level("INFO", "jst_bridge"):
        run(work())
    (line,) = [record.getMessage() for record in caplog.records if record.name.startswith("jst_bridge")]
    assert line.startswith(
        f"{READ}: attempt 1 failed, the next in 0.5 s: {READ} was refused: Some Words (code 15) - isp.x"
    )


def test_a_mistake_of_the_caller_costs_no_request() -> None:
    async def work() -> None:
        async with gateway(success()) as played, client(played.url) as top:
            with pytest.raises(InvalidArgument) as caught:
                await top.call(READ, sign="x")
            assert (caught.value.exit_code, caught.value.retriable) == (2, False)
            assert played.asked == []

    run(work())
