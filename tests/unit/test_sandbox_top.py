"""The sandbox's TOP gateway, asked over real sockets: its checks, its state, its answers, its limits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from xml.etree import ElementTree

import pytest
from hypothesis import example, given
from hypothesis import settings as bounds
from hypothesis import strategies as st

from jst_bridge.sandbox.top import TopGateway, signature
from tests.top_caller import (
    ADD,
    DELETE,
    FORM,
    GET,
    GROUP_ADD,
    GROUP_DELETE,
    GROUP_GET,
    KEY,
    NICK,
    SECRET,
    SESSION,
    TOPICS,
    TOPICS_GET,
    call,
    code_of,
    control,
    http,
    post,
    ready,
    signed,
)

VECTORS = json.loads((Path(__file__).parents[1] / "data/top/signatures.json").read_text("utf-8"))


@pytest.fixture
def gateway() -> Iterator[TopGateway]:
    with ready() as running:
        yield running


@pytest.fixture(scope="module")
def shared() -> Iterator[TopGateway]:
    """For a property test: its examples share one gateway."""
    with ready() as running:
        yield running


# --- the signature ------------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["id"])
def test_a_known_request_gets_its_known_signature(vector: dict[str, Any]) -> None:
    assert signature(vector["parameters"], vector["secret"], vector["sign_method"]) == vector["sign"]


@pytest.mark.parametrize("split", ["form", "query", "get", "both"])
def test_known_requests_are_accepted_however_they_are_sent(gateway: TopGateway, split: str) -> None:
    gateway.add_app(KEY, "helloworld", topics=TOPICS)
    gateway.add_seller("known", session="test")
    gateway.shift_clock(datetime(2016, 1, 1, 4, tzinfo=UTC).timestamp() - datetime.now(UTC).timestamp())
    accepted = []
    for vector in VECTORS:
        parameters = {**vector["parameters"], "sign": vector["sign"]}
        if not parameters["method"].startswith("taobao.jushita.jms."):
            continue
        query = {
            name: value
            for name, value in parameters.items()
            if split in ("query", "get") or (split == "both" and name in ("sign", "method", "app_key", "v"))
        }
        form = {name: value for name, value in parameters.items() if name not in query}
        verb = "GET" if split == "get" else "POST"
        body = urlencode(form) if form else None
        answer = http.request(
            verb, gateway.url, params=query or None, content=body, headers=FORM if body else None
        )
        assert "error_response" not in answer.text
        accepted.append(vector["id"])
    assert accepted == ["V3", "V4", "V5", "V6", "V7", "V8"]


@pytest.mark.parametrize("sign_method", ["md5", "hmac", "hmac-sha256"])
def test_a_changed_value_or_another_secret_is_an_invalid_signature(
    gateway: TopGateway, sign_method: str
) -> None:
    good = signed(gateway, GET, user_nick=NICK, sign_method=sign_method)
    assert "error_response" not in post(gateway, good).text
    for bad in (
        good | {"user_nick": NICK + " "},
        good | {"extra": "1"},
        good | {"sign": good["sign"].lower()},
        good | {"sign": "签"},
    ):
        assert post(gateway, bad).json()["error_response"]["code"] == 25
    gateway.add_app(KEY, "another")
    assert post(gateway, good).json()["error_response"]["code"] == 25


def test_an_old_app_may_lack_a_sign_method(gateway: TopGateway) -> None:
    gateway.add_app(KEY, SECRET, sign_methods=["md5"])
    assert call(gateway, GET, user_nick=NICK)["code"] == 25
    assert "code" not in call(gateway, GET, user_nick=NICK, sign_method="md5")


@bounds(max_examples=40)
@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=32))
@example("a+b c&d=e:测试%2B#🙂👩‍👧")
def test_every_character_arrives_as_it_was_signed(shared: TopGateway, name: str) -> None:
    if not name.strip() or "," in name or name.startswith("default"):
        return
    assert call(shared, GROUP_ADD, group_name=name, user_nicks="a")["group_name"] == name
    assert call(shared, GROUP_GET, group_names=name)["groups"] == {"msg_group_d_o": [{"name": name}]}
    assert call(shared, GROUP_DELETE, group_name=name) == {"is_success": True}


# --- the checks ---------------------------------------------------------------------------------------


def test_the_checks_come_in_the_platforms_order(gateway: TopGateway) -> None:
    gateway.add_app(KEY, SECRET, topics=TOPICS, methods=[GET])
    wrong: dict[str, str | None] = {
        "format": "yaml",
        "sign_method": None,
        "app_key": None,
        "sign": None,
        "method": None,
        "timestamp": None,
        "v": None,
        "topic_names": ",".join(["x"] * 21),
    }
    met = [http.put(gateway.url, content=urlencode(signed(gateway, ADD, **wrong)), headers=FORM)]
    mended: tuple[dict[str, str | None], ...] = (
        {}, {"format": "json"}, {"sign_method": "rsa"}, {"sign_method": "md5"}, {"app_key": "999"}, {"sign": "A" * 32},
        {"method": "taobao.nothing.get"}, {"timestamp": "2016-01-01"}, {"timestamp": "2016-01-01 12:00:00"},
        {"timestamp": str(int(gateway.now * 1000))}, {"v": "two"}, {"v": "3.0"}, {"v": "2.0"}, {"app_key": KEY},
        {"method": ADD},
    )  # fmt: skip
    for mending in mended:
        wrong |= mending
        met.append(post(gateway, signed(gateway, ADD, **wrong)))
    del wrong["sign"]
    for session in (None, "nobody's", SESSION):
        met.append(post(gateway, signed(gateway, ADD, **wrong, session=session)))
    gateway.add_app(KEY, SECRET, topics=TOPICS)
    met.append(post(gateway, signed(gateway, ADD, **wrong, session=SESSION)))
    wrong["topic_names"] = "taobao_unknown"
    met.append(post(gateway, signed(gateway, ADD, **wrong, session=SESSION)))
    assert [code_of(answer) for answer in met] == [
        9,
        23,
        24,
        25,
        28,
        24,
        21,
        30,
        31,
        31,
        32,
        33,
        34,
        29,
        22,
        25,
        26,
        27,
        11,
        41,
        50,
    ]


@pytest.mark.parametrize(("off", "code"), [(-610, 31), (-590, 0), (590, 0), (610, 31)])
def test_ten_minutes_are_tolerated_either_way(gateway: TopGateway, off: int, code: int) -> None:
    """Ten seconds off the limit: a timestamp has whole seconds, and a busy machine takes its time between."""
    request = signed(gateway, GET, user_nick=NICK)
    gateway.shift_clock(-off)
    assert post(gateway, request).json().get("error_response", {"code": 0})["code"] == code


def test_a_session_is_valid_for_its_app_and_time_only(gateway: TopGateway) -> None:
    gateway.add_app("other", SECRET)
    elsewhere = gateway.add_seller(NICK, app_key="other").session
    refused = {
        "nobody's": ("Invalid session", "invalid-sessionkey"),
        elsewhere: ("Invalid session", "sessionkey-not-generated-by-server"),
        SESSION: ("Invalid session:session-expired", "session-expired"),
    }
    gateway.expire(SESSION)
    for method in (ADD, GET):
        for session, (msg, sub_code) in refused.items():
            answer = call(gateway, method, session=session, user_nick=NICK)
            assert (answer["code"], answer["msg"], answer["sub_code"]) == (27, msg, sub_code)
    assert call(gateway, ADD) == {"code": 26, "msg": "Missing session"}


@pytest.mark.parametrize(
    ("method", "arguments", "code"),
    [
        (GET, {}, 40),
        (GET, {"user_nick": " "}, 40),
        (DELETE, {}, 40),
        (TOPICS_GET, {"user_nick": NICK}, 40),
        (GROUP_ADD, {"group_name": "vip"}, 40),
        (GROUP_ADD, {"group_name": "v" * 33, "user_nicks": "a"}, 41),
        (GROUP_ADD, {"group_name": "vip", "user_nicks": "a,,b"}, 41),
        (GROUP_ADD, {"group_name": "vip", "user_nicks": "a", "user_platform": "ebay"}, 41),
        (GROUP_ADD, {"group_name": "default1", "user_nicks": "a"}, 50),
        (GROUP_GET, {"page_no": "0"}, 41),
        (GROUP_GET, {"group_names": ",".join("abcdefghijklmnopqrstu")}, 41),
    ],
)
def test_arguments_are_checked(
    gateway: TopGateway, method: str, arguments: dict[str, str], code: int
) -> None:
    assert call(gateway, method, **arguments)["code"] == code


# --- sellers and groups -------------------------------------------------------------------------------


def test_a_seller_is_opened_renewed_and_deleted(gateway: TopGateway) -> None:
    assert call(gateway, ADD, session=SESSION) == {"is_success": True}
    assert call(gateway, TOPICS_GET, nick=NICK) == {"results": {"string": list(TOPICS)}}
    first = call(gateway, GET, user_nick=NICK)["ons_user"]
    assert (first["user_nick"], first["is_valid"], first["created"]) == (NICK, True, first["modified"])
    gateway.shift_clock(60)
    assert call(gateway, ADD, session=SESSION, topic_names=TOPICS[0]) == {"is_success": True}
    assert call(gateway, TOPICS_GET, nick=NICK) == {"results": {"string": [TOPICS[0]]}}
    second = call(gateway, GET, user_nick=NICK)["ons_user"]
    assert second == first | {"modified": second["modified"]}
    assert second["modified"] > first["modified"]
    assert [(seller.nick, seller.topics) for seller in gateway.open_sellers()] == [(NICK, TOPICS[:1])]
    assert call(gateway, DELETE, user_nick=NICK) == {"is_success": True}
    assert gateway.open_sellers() == ()
    assert call(gateway, GET, user_nick=NICK) == {}


def test_a_seller_is_invalid_once_no_session_lives(gateway: TopGateway) -> None:
    call(gateway, ADD, session=SESSION)
    gateway.expire(SESSION)
    assert call(gateway, GET, user_nick=NICK)["ons_user"]["is_valid"] is False
    gateway.add_seller(NICK, valid_for=100)
    assert call(gateway, GET, user_nick=NICK)["ons_user"]["is_valid"] is True
    assert gateway.open_sellers()[0].is_valid
    gateway.shift_clock(101)
    assert call(gateway, GET, user_nick=NICK)["ons_user"]["is_valid"] is False
    assert not gateway.open_sellers()[0].is_valid


def test_how_unknown_sellers_are_answered_can_be_chosen() -> None:
    answers = {}
    for unknown in ("quiet", "empty", "refused"):
        with TopGateway(unknown=unknown) as gateway:
            gateway.add_app(KEY, SECRET)
            answers[unknown] = [
                call(gateway, GET, user_nick="x"),
                call(gateway, TOPICS_GET, nick="x"),
                call(gateway, DELETE, user_nick="x"),
                call(gateway, GROUP_DELETE, group_name="x"),
            ]
    assert answers["quiet"] == [{}, {}, {"is_success": True}, {"is_success": True}]
    assert answers["empty"] == [
        {"ons_user": {}},
        {"results": {}},
        {"is_success": False},
        {"is_success": False},
    ]
    refused = {"code": 50, "msg": "Remote service error", "sub_code": "isv.user-not-exist:invalid-nick"}
    assert answers["refused"] == [refused] * 4


def test_seller_groups_are_kept_and_paged(gateway: TopGateway) -> None:
    for number in range(5):
        added = call(gateway, GROUP_ADD, group_name=f"vip{number}", user_nicks="a,b", user_platform="tbUIC")
        assert added["group_name"] == f"vip{number}"
    assert gateway.groups()["vip0"] == {"a", "b"}
    call(gateway, GROUP_DELETE, group_name="vip0", nicks="a")
    assert gateway.groups()["vip0"] == {"b"}
    page = call(gateway, GROUP_GET, page_no="2", page_size="2")
    assert page == {"groups": {"msg_group_d_o": [{"name": "vip2"}, {"name": "vip3"}]}, "total_results": 5}
    assert call(gateway, GROUP_GET, page_no="9") == {"groups": {}, "total_results": 5}
    call(gateway, GROUP_DELETE, group_name="vip0")
    assert "vip0" not in gateway.groups()


# --- the shapes of answers ----------------------------------------------------------------------------


def test_simplify_takes_the_wrappers_away(gateway: TopGateway) -> None:
    call(gateway, ADD, session=SESSION)
    simple = post(gateway, signed(gateway, TOPICS_GET, nick=NICK, simplify="true")).json()
    assert simple.pop("request_id")
    assert simple == {"results": list(TOPICS)}
    error = post(gateway, signed(gateway, TOPICS_GET, simplify="true")).json()
    assert error["error_response"]["sub_code"] == "isv.missing-parameter:nick"


@pytest.mark.parametrize("form", ["xml", None])
def test_xml_is_the_default(gateway: TopGateway, form: str | None) -> None:
    nick = "a<b>&'\"店"
    session = gateway.add_seller(nick).session
    added = post(gateway, signed(gateway, ADD, session=session, format=form, simplify="true"))
    assert added.headers["content-type"] == "text/xml;charset=UTF-8"
    assert ElementTree.fromstring(added.text).findtext("is_success") == "true"
    user = ElementTree.fromstring(post(gateway, signed(gateway, GET, user_nick=nick, format=form)).text)
    assert (user.tag, user.findtext("ons_user/user_nick")) == ("jushita_jms_user_get_response", nick)
    topics = ElementTree.fromstring(post(gateway, signed(gateway, TOPICS_GET, nick=nick, format=form)).text)
    assert [each.text for each in topics.findall("results/string")] == list(TOPICS)
    error = ElementTree.fromstring(post(gateway, signed(gateway, GET, format=form)).text)
    assert (error.tag, error.findtext("code")) == ("error_response", "40")


# --- what it remembers, and what it keeps to itself ---------------------------------------------------


def test_requests_are_counted_and_remembered_without_secrets() -> None:
    with TopGateway(remembered=3) as gateway:
        gateway.add_app(KEY, SECRET, topics=TOPICS)
        seller = gateway.add_seller(NICK, session=SESSION)
        call(gateway, ADD, session=SESSION, topic_names=TOPICS[0])
        call(gateway, ADD, session=SESSION, topic_names="unsubscribed")
        call(gateway, GET, user_nick=NICK)
        for number in range(3):
            call(gateway, f"taobao.made.up{number}")
        assert (gateway.count(), gateway.count("other"), gateway.count(GET)) == (6, 3, 1)
        assert (gateway.count(ADD, seller=NICK), gateway.count(ADD, seller=NICK, acted=True)) == (2, 1)
        assert [asked.method for asked in gateway.requests()] == [f"taobao.made.up{n}" for n in range(3)]
        assert gateway.requests(GET) == []
        gateway.forget_requests()
        call(gateway, ADD, session=SESSION, topic_names="unsubscribed")
        (asked,) = gateway.requests()
        assert (asked.outcome, asked.sub_code, asked.acted) == ("50", "isv.invalid-parameter", False)
        assert (asked.seller, asked.parameters["topic_names"]) == (NICK, "unsubscribed")
        told = [repr(gateway), repr(seller), repr(asked), str(asked.parameters)]
        told += [control(gateway, "GET", path).text for path in ("state", "requests")]
        assert not [text for text in told if "CANARY" in text or gateway.token in text or "'sign'" in text]


def test_the_control_endpoints_do_what_the_methods_do() -> None:
    with TopGateway() as gateway:
        app = {"key": KEY, "secret": SECRET, "topics": list(TOPICS)}
        assert control(gateway, "POST", "apps", app).json() == {"key": KEY}
        seller = control(gateway, "POST", "sellers", {"nick": NICK}).json()
        assert call(gateway, ADD, session=seller["session"]) == {"is_success": True}
        fault = {"kind": "twist", "oddities": ["numbers as text"]}
        injected = {"fault": fault, "method": GET, "times": 2}
        assert control(gateway, "POST", "faults", injected).status_code == 200
        assert call(gateway, GET, user_nick=NICK)["ons_user"]["is_valid"] == "true"
        state = control(gateway, "GET", "state").json()
        assert state["counts"] == {ADD: 1, GET: 1}
        assert state["faults"] == [{**fault, "method": GET, "times": 1, "every": 1}]
        assert state["open_sellers"][KEY][0]["nick"] == NICK
        control(gateway, "DELETE", "faults")
        assert call(gateway, GET, user_nick=NICK)["ons_user"]["is_valid"] is True
        assert [asked["outcome"] for asked in control(gateway, "GET", "requests").json()] == ["success"] * 3
        control(gateway, "DELETE", "requests")
        assert gateway.count() == 0
        control(gateway, "POST", "clock", {"shift": 3600})
        assert gateway.now > datetime.now(UTC).timestamp() + 3500


def test_the_control_endpoints_want_the_token_and_good_documents(gateway: TopGateway) -> None:
    for authorization in ("", "Bearer", "Bearer \xe4", f"Bearer {gateway.token}x"):
        for path in ("state", "nothing"):
            refused = http.get(
                f"{gateway.control_url}/{path}", headers={b"Authorization": authorization.encode("latin-1")}
            )
            assert refused.status_code == 401
    assert control(gateway, "GET", "nothing").status_code == 404
    assert control(gateway, "POST", "state").status_code == 404
    bad: list[tuple[str, object]] = [
        ("apps", {"key": "k", "secret": "CANARY", "topic": []}),
        ("apps", {"key": "k", "secret": "CANARY", "sign_methods": ["rsa"]}),
        ("sellers", {"nick": "a\nb", "session": "CANARY"}),
        ("sellers", {"nick": "b", "session": "CANARY", "app_key": "none"}),
        ("faults", {"fault": {"kind": "refuse", "code": "CANARY"}}),
        ("faults", {"fault": {"kind": "refuse", "code": 15, "colour": 1}}),
        ("faults", {"fault": {"kind": "slow", "seconds": 1e9}}),
        ("faults", {"fault": {"kind": "gzip"}, "method": "taobao.nothing"}),
        ("faults", {"fault": {"kind": "gzip"}, "times": 0}),
        ("clock", []),
    ]
    for path, document in bad:
        refused = control(gateway, "POST", path, document)
        assert refused.status_code == 422, document
        assert "CANARY" not in refused.text
    assert "no such method" in control(gateway, "POST", "faults", bad[7][1]).text
