"""Every error of the reference, over a real socket: its type, exit code, one helpful line, how often it was tried."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from jst_bridge.errors import JstBridgeError, TopError
from jst_bridge.top import errors
from jst_bridge.top.errors import PlatformRefused, Refusal
from jst_bridge.top.refusals import Circumstances, refused
from tests.scripted import run
from tests.scripted_gateway import Watch, client, error, gateway

R, B, P, S = errors.RequestRefused, errors.BusinessRefused, errors.PermissionRefused, errors.SessionRefused
L, U, A, C = errors.CallLimited, errors.ServiceUnavailable, errors.AppRefused, errors.ClockSkewed
G, N = errors.SignatureRefused, errors.UnknownSeller

# code, sub_code, type, requests that one call costs
KNOWN: list[tuple[int, str, type[PlatformRefused], int]] = [
    *((code, "", R, 1) for code in (3, 9, 21, 22, 23, 32, 33, 34, 40, 41, 43, 47)),
    *((code, "", L, 4) for code in (4, 5, 6, 8)),
    (10, "", U, 4),
    *((code, "", P, 1) for code in (11, 12, 13, 42)),
    *((code, "", G, 1) for code in (24, 25)),
    *((code, "", S, 1) for code in (26, 27, 44, 53)),
    *((code, "", A, 1) for code in (28, 29)),
    *((code, "", C, 2) for code in (30, 31)),
    *((code, "", B, 1) for code in (0, 15, 50, *range(501, 509), 530, *range(550, 561), 600, 601, 670, 99)),
    *(
        (code, f"isp.{what}", U, 4)
        for code in (15, 50)
        for what in (
            "top-remote-connection-timeout", "top-remote-service-unavailable", "remote-service-error",
            "remote-service-timeout", "top-remote-connection-error", "service-error", "system-error",
            "unknown-error", "system-busy", "null-pointer-exception", "never-seen-before",
        )
    ),
    (15, "isp.call-limited", L, 4),
    (15, "ism.json-decode-error", U, 4),
    (15, "isv.trade-service-rejection", U, 4),
    (40, "isv.missing-parameter:search-none", R, 1),
    (50, "isv.invalid-parameter", B, 1),
    (15, "isv.trade-not-exist", B, 1),
    (15, "isv.user-not-exist:invalid-nick", N, 1),
    (15, "aop.something", B, 1),
    *(
        (11, f"isv.permission-{what}", P, 1)
        for what in ("api-package-limit", "api-package-empty", "api-package-not-allowed", "ip-whitelist-limit")
    ),
    *(
        (27, sub_code, S, 1)
        for sub_code in (
            "invalid-sessionkey", "session-expired", "session-not-exist", "session-is-blank",
            "sessionkey-not-generated-by-server", "isv.session-expired", "isv.invalid-access-token",
        )
    ),
    (15, "isv.session-expired", S, 1),
    (15, "isv.timestamp-limit-error", C, 2),
    (15, "isv.request-replay-error", C, 2),
]  # fmt: skip
EXIT_CODES = {R: 69, B: 69, N: 69, L: 75, U: 75, P: 77, S: 77, A: 77, G: 77, C: 78}


@pytest.mark.parametrize(("code", "sub_code", "kind", "requests"), KNOWN)
def test_each_error_has_its_type_exit_code_and_remedy(
    code: int, sub_code: str, kind: type[PlatformRefused], requests: int
) -> None:
    async def work() -> None:
        reply = error(code, sub_code, "Some &lt;Words&gt;", "非法参数&apos;")
        async with gateway(reply) as played, client(played.url) as top:
            with pytest.raises(PlatformRefused) as caught:
                await top.call("taobao.jushita.jms.user.get", user_nick="x")
            refusal = caught.value
            assert type(refusal) is kind
            assert refusal.exit_code == EXIT_CODES[kind]
            assert refusal.retriable is (kind in (L, U))
            assert (refusal.code, refusal.sub_code) == (code, sub_code)
            assert (refusal.msg, refusal.request_id) == ("Some <Words>", "rxvsf5lo4ufl")
            assert refusal.sub_msg == ("非法参数'")
            assert refusal.method == "taobao.jushita.jms.user.get"
            assert refusal.remedy
            assert "\n" not in refusal.remedy + str(refusal)
            assert len(played.asked) == refusal.attempts == requests

    run(work())


def test_remedies_of_different_causes_differ() -> None:
    causes = [
        (11, ""),
        (11, "isv.permission-ip-whitelist-limit"),
        (25, ""),
        (24, ""),
        (26, ""),
        (27, ""),
        (29, ""),
        (40, ""),
    ]
    remedies = [refused(Refusal("m", code, sub_code=sub), Circumstances()).remedy for code, sub in causes]
    assert len(set(remedies)) == len(causes)


def test_a_wrong_signature_shows_what_was_signed() -> None:
    async def work() -> None:
        async with gateway(error(25, msg="Invalid signature")) as played:
            for method, around in (("hmac-sha256", ""), ("md5", "***")):
                async with client(played.url, sign_method=method) as top:
                    with pytest.raises(errors.SignatureRefused) as caught:
                        await top.call("taobao.x.get", session="session-6100", nick="a+b 商")
                assert caught.value.signed == (
                    f"{around}app_key12345678formatjsonmethodtaobao.x.getnicka+b 商session***sign_method{method}"
                    f"timestamp2023-11-15 06:13:20v2.0{around}"
                )
                assert caught.value.signed in str(caught.value)

    run(work())


def test_the_words_of_a_refusal_are_one_readable_line() -> None:
    async def work() -> None:
        reply = error("15", "isv.x", "a\n\tb", "z" * 5000)
        async with gateway(reply) as played, client(played.url) as top:
            with pytest.raises(errors.BusinessRefused) as caught:
                await top.call("taobao.x.get")
            assert (caught.value.code, caught.value.msg, len(caught.value.sub_msg)) == (15, "a b", 500)
            assert str(caught.value).startswith("taobao.x.get was refused: a b (code 15) - isv.x: zzz")
            assert str(caught.value).endswith("[request rxvsf5lo4ufl]")

    run(work())


@pytest.mark.parametrize("code", [None, "x", [], {}, 10**30, True, "-1"])
def test_an_unreadable_code_is_a_refusal_all_the_same(code: object) -> None:
    async def work() -> None:
        async with gateway(error(code, msg="")) as played, client(played.url) as top:
            with pytest.raises(PlatformRefused, match="no reason given") as caught:
                await top.call("taobao.x.get")
            assert caught.value.code in (0, -1)

    run(work())


@pytest.mark.parametrize(
    ("ahead", "words"),
    [(4000, r"400\d s ahead of"), (-4000, r"399\d s behind"), (3, "the clock is not the cause")],
)
def test_a_wrong_clock_is_measured_and_explained(
    ahead: int, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        watch = Watch(1_700_000_000.0 + ahead)
        # The platform's clock reads 2023-11-14 22:13:20 UTC.
        date = "Date: Tue, 14 Nov 2023 22:13:20 GMT\r\n"
        reply = error(31, msg="Invalid timestamp", headers=date)
        async with gateway(reply) as played, client(played.url, watch) as top:
            with pytest.raises(errors.ClockSkewed, match=words) as caught:
                await top.call("taobao.x.get")
            assert caught.value.skew == pytest.approx(ahead, abs=2)
            assert top.clock_skew == pytest.approx(ahead, abs=2)
            first, second = (asked.fields["timestamp"] for asked in played.asked)
            assert first != second
        assert ("NTP" in caught.value.remedy) is (abs(ahead) > 600)

    run(work())
    mentioned = [record for record in caplog.records if "this machine's clock is" in record.getMessage()]
    assert len(mentioned) == (1 if abs(ahead) > 300 else 0)


def test_a_replayed_request_and_a_missing_date_are_explained() -> None:
    replay = refused(Refusal("m", 15, sub_code="isv.request-replay-error"), Circumstances(skew=0.0))
    assert "came twice" in replay.remedy
    assert "did not tell its own time" in str(refused(Refusal("m", 31), Circumstances()))


@pytest.mark.parametrize(
    ("code", "which", "scope"),
    [(7, "app-access", "app"), (7, "api-access", "api"), (7, "app-api-access", "api"), (7, "dynamic-access", "api"),
     (15, "app-access", "app")],
)  # fmt: skip
def test_a_ban_tells_its_scope_and_length(code: int, which: str, scope: str) -> None:
    refusal = Refusal(
        "m", code, sub_code=f"accesscontrol.limited-by-{which}-count", sub_msg="THIS Ban 31062 More Seconds"
    )
    ban = refused(refusal, Circumstances())
    assert isinstance(ban, errors.Banned)
    assert (ban.scope, ban.retry_after, ban.exit_code, ban.retriable) == (scope, 31062.0, 75, True)
    assert ("midnight" in ban.remedy) is (which == "app-access")


def test_a_ban_of_untold_length_and_scope_is_the_whole_apps() -> None:
    ban = refused(Refusal("m", 7, "App Call Limited"), Circumstances())
    assert isinstance(ban, errors.Banned)
    assert (ban.scope, ban.retry_after) == (errors.BanScope.APP, None)


def test_every_error_of_the_package_descends_from_one() -> None:
    kinds: list[Any] = [getattr(errors, name) for name in errors.__all__]
    raised = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Exception)]
    assert len(raised) == 18
    assert all(issubclass(kind, TopError) for kind in raised)
    assert issubclass(TopError, JstBridgeError)


def test_an_error_in_xml_is_understood_although_json_was_asked_for() -> None:
    async def work() -> None:
        from tests.scripted_gateway import http

        xml = (
            '<?xml version="1.0" encoding="utf-8" ?><error_response><args list="true"/><code>7</code>'
            "<msg>App Call Limited</msg><sub_code>accesscontrol.limited-by-app-api-access-count</sub_code>"
            "<sub_msg>This ban will last for 2 more seconds</sub_msg><request_id>abc</request_id></error_response>"
            "<!--top011-->"
        )
        async with gateway(http(xml.encode())) as played, client(played.url, attempts=1) as top:
            with pytest.raises(errors.Banned) as caught:
                await top.call("taobao.x.get")
            assert (caught.value.retry_after, caught.value.request_id) == (2.0, "abc")

    asyncio.run(work())
