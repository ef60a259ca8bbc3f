"""A second implementation agrees with the gateway and with our client: what they sign is the same, and is accepted.

The first is py-taobao-open, a public TOP client (MIT) that nobody here wrote: it signs with md5 only, writes its
timestamp in epoch milliseconds, and sends system parameters in the query and the rest in the form. No client on
PyPI signs with hmac-sha256, so the second is the openssl command, fed with a document that is put together here.
"""

from __future__ import annotations

import http.client
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from taobao_open import appinfo
from taobao_open.api.base import RestApi, TopException
from taobao_open.api.base import sign as signed_by_the_sdk

from jst_bridge.sandbox.top import TopGateway, signature
from jst_bridge.top import SIGN_METHODS, SignMethod, sign
from tests.top_caller import (
    ADD,
    DELETE,
    GET,
    GROUP_ADD,
    GROUP_GET,
    KEY,
    NICK,
    SECRET,
    SESSION,
    TOPICS,
    TOPICS_GET,
    call,
    ready,
    signed,
)

# The SDK leaves its connections to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

UGLY = "a+b c&d=e:测试%2B#🙂"
CALLS: list[tuple[str, dict[str, str], str | None]] = [
    (ADD, {"topic_names": ",".join(TOPICS)}, SESSION),
    (ADD, {}, SESSION),
    (GET, {"user_nick": NICK}, None),
    (TOPICS_GET, {"nick": NICK}, SESSION),
    (GROUP_ADD, {"group_name": UGLY, "user_nicks": f"{NICK},小店"}, None),
    (GROUP_GET, {"group_names": UGLY, "page_no": "1", "page_size": "40"}, None),
    (DELETE, {"user_nick": NICK}, None),
]


@pytest.fixture
def gateway() -> Iterator[TopGateway]:
    with ready() as running:
        yield running


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """The parameters of each request that the standard library's HTTP client sends."""
    requests: list[dict[str, str]] = []
    send = http.client.HTTPConnection.request

    def request(self: http.client.HTTPConnection, method: str, url: str, **options: Any) -> None:
        pairs = parse_qsl(urlsplit(url).query, True) + parse_qsl(options["body"], True)
        requests.append(dict(pairs))
        send(self, method, url, **options)

    monkeypatch.setattr(http.client.HTTPConnection, "request", request)
    return requests


def ask_with_the_sdk(
    gateway: TopGateway, api: str, arguments: dict[str, str], session: str | None, secret: str = SECRET
) -> dict[str, Any]:
    """Its calls are objects whose attributes are the arguments; it wants one class for each method."""
    kind = type("Call", (RestApi,), {"getapiname": lambda self: api})
    request = kind("127.0.0.1", gateway.port)
    request.set_app_info(appinfo(KEY, secret))
    for name, value in arguments.items():
        setattr(request, name, value)
    answer: dict[str, Any] = request.getResponse(session, timeout=10)
    return answer


def test_a_public_sdk_is_accepted_and_signs_as_we_do(gateway: TopGateway, sent: list[dict[str, str]]) -> None:
    answers = [ask_with_the_sdk(gateway, *each) for each in CALLS]
    assert [next(iter(answer)) for answer in answers] == [
        api.removeprefix("taobao.").replace(".", "_") + "_response" for api, _, _ in CALLS
    ]
    assert answers[2]["jushita_jms_user_get_response"]["ons_user"]["user_nick"] == NICK
    assert answers[5]["jushita_jms_group_get_response"]["groups"] == {"msg_group_d_o": [{"name": UGLY}]}
    assert len(sent) == len(CALLS)
    for request in sent:
        assert request["sign_method"] == "md5"
        assert request["sign"] == sign(request, SECRET, "md5") == signature(request, SECRET, "md5")


def test_a_public_sdk_reads_the_gateways_errors(gateway: TopGateway) -> None:
    with pytest.raises(TopException) as wrong_secret:
        ask_with_the_sdk(gateway, GET, {"user_nick": NICK}, None, secret="another")
    assert (wrong_secret.value.errorcode, wrong_secret.value.message) == (25, "Invalid signature")
    with pytest.raises(TopException) as no_session:
        ask_with_the_sdk(gateway, ADD, {}, "nobody's")
    assert (no_session.value.errorcode, no_session.value.subcode) == (27, "invalid-sessionkey")
    assert no_session.value.application_host == "sandbox"


@pytest.mark.parametrize(("api", "arguments", "session"), CALLS)
def test_a_public_sdk_signs_our_parameters_as_we_do(
    gateway: TopGateway, api: str, arguments: dict[str, str], session: str | None
) -> None:
    request = signed(gateway, api, **arguments, session=session, sign_method="md5", sign=None)
    assert signed_by_the_sdk(SECRET, request) == sign(request, SECRET, "md5")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
@pytest.mark.parametrize("sign_method", SIGN_METHODS)
def test_openssl_signs_as_we_do(gateway: TopGateway, sign_method: SignMethod) -> None:
    request = signed(gateway, GROUP_ADD, group_name=UGLY, user_nicks=NICK, sign_method=sign_method, sign=None)
    document = "".join(name + request[name] for name in sorted(request))
    options = {
        "md5": ["-md5"],
        "hmac": ["-md5", "-hmac", SECRET],
        "hmac-sha256": ["-sha256", "-hmac", SECRET],
    }[sign_method]
    if sign_method == "md5":
        document = SECRET + document + SECRET
    told = subprocess.run(
        ["openssl", "dgst", "-r", *options], input=document.encode(), capture_output=True, check=True
    )
    by_openssl = told.stdout.split()[0].decode().upper()
    assert by_openssl == sign(request, SECRET, sign_method) == signature(request, SECRET, sign_method)
    accepted = call(
        gateway,
        GROUP_ADD,
        **{name: value for name, value in request.items() if name != "method"},
        sign=by_openssl,
    )
    assert accepted["group_name"] == UGLY
