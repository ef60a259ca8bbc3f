"""What the sandbox's TOP gateway can be made to do wrong: when it strikes, how often, and what the client sees."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from urllib.parse import urlencode
from xml.etree import ElementTree

import httpx2
import pytest

from jst_bridge.sandbox.top import (
    Alter,
    Ban,
    Fault,
    Gzip,
    Page,
    Refuse,
    Reset,
    Slow,
    TopGateway,
    Truncate,
    Twist,
    WrongDate,
)
from jst_bridge.sandbox.top.answers import Oddity
from tests.cluster import wait_until
from tests.top_caller import (
    ADD,
    FORM,
    GET,
    GROUP_GET,
    NICK,
    SESSION,
    TOPICS,
    TOPICS_GET,
    call,
    control,
    http,
    post,
    ready,
    signed,
)

CODES = (
    *range(3, 14), 15, *range(21, 35), *range(40, 45), 47, 50, 53, *range(501, 509), 530, *range(550, 561), 600, 601,
    670,
)  # fmt: skip


@pytest.fixture
def gateway() -> Iterator[TopGateway]:
    with ready() as running:
        yield running


@pytest.fixture(scope="module")
def shared() -> Iterator[TopGateway]:
    """For a test with many parameters."""
    with ready() as running:
        yield running


def met(gateway: TopGateway, times: int, api: str = GET) -> list[int]:
    """The codes of so many calls, 0 for a success."""
    return [call(gateway, api, user_nick=NICK, nick=NICK).get("code", 0) for _ in range(times)]


# --- refusals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", CODES)
def test_every_code_can_be_provoked_in_every_form(shared: TopGateway, code: int) -> None:
    shared.inject(Refuse(code), times=3)
    plain = post(shared, signed(shared, GET, user_nick=NICK)).json()
    simple = post(shared, signed(shared, GET, user_nick=NICK, simplify="true")).json()
    xml = ElementTree.fromstring(post(shared, signed(shared, GET, user_nick=NICK, format="xml")).text)
    for document in (plain, simple):
        assert list(document) == ["error_response"]
        assert document["error_response"]["code"] == code
        assert document["error_response"]["msg"]
    assert (xml.tag, xml.findtext("code")) == ("error_response", str(code))
    assert xml.findtext("msg") == plain["error_response"]["msg"]
    assert met(shared, 1) == [0]


def test_a_refusal_can_be_worded(gateway: TopGateway) -> None:
    gateway.inject(Refuse(15, "isv.trade-not-exist"))
    gateway.inject(Refuse(40, "isv.missing-parameter:search-none", "无", "Missing required arguments:nicks"))
    assert call(gateway, GET, user_nick=NICK) == {
        "code": 15,
        "msg": "Remote service error",
        "sub_code": "isv.trade-not-exist",
    }
    worded = call(gateway, GET, user_nick=NICK)
    assert (worded["msg"], worded["sub_msg"]) == ("Missing required arguments:nicks", "无")


def test_faults_strike_the_named_method_the_named_number_of_times(gateway: TopGateway) -> None:
    gateway.inject(Refuse(15), method=GET, times=2)
    gateway.inject(Refuse(10), method=GET)
    assert met(gateway, 1, TOPICS_GET) == [0]
    assert met(gateway, 4) == [15, 15, 10, 0]
    gateway.inject(Refuse(8), times=None)
    assert met(gateway, 3) == [8, 8, 8]
    assert met(gateway, 2, TOPICS_GET) == [8, 8]
    gateway.clear_faults()
    assert met(gateway, 1) == [0]


def test_faults_can_strike_every_few_requests(gateway: TopGateway) -> None:
    gateway.inject(Refuse(15), times=2, every=3)
    assert met(gateway, 8) == [0, 0, 15, 0, 0, 15, 0, 0]


def test_a_wrong_request_is_refused_for_its_own_fault_first(gateway: TopGateway) -> None:
    gateway.inject(Refuse(15))
    assert call(gateway, GET, sign="A" * 64)["code"] == 25
    assert call(gateway, GET)["code"] == 40
    assert met(gateway, 2) == [15, 0]


@pytest.mark.parametrize("acted", [False, True])
def test_a_refused_call_may_have_acted_all_the_same(gateway: TopGateway, acted: bool) -> None:
    gateway.inject(Refuse(15, "isp.remote-service-timeout", acted=acted))
    assert call(gateway, ADD, session=SESSION)["sub_code"] == "isp.remote-service-timeout"
    assert len(gateway.open_sellers()) == gateway.count(ADD, acted=True) == int(acted)
    assert (gateway.requests()[0].outcome, gateway.requests()[0].acted) == ("15", acted)


@pytest.mark.parametrize("scope", ["app", "api", "app-api", "dynamic"])
def test_a_ban_names_its_seconds_and_its_scope(gateway: TopGateway, scope: str) -> None:
    control(gateway, "POST", "faults", {"fault": {"kind": "ban", "seconds": 31062, "scope": scope}})
    assert call(gateway, GET, user_nick=NICK) == {
        "code": 7,
        "msg": "App Call Limited",
        "sub_code": f"accesscontrol.limited-by-{scope}-access-count",
        "sub_msg": "This ban will last for 31062 more seconds",
    }
    assert met(gateway, 1) == [0]


def test_a_lasting_ban_ends_by_itself(gateway: TopGateway) -> None:
    gateway.inject(Ban(60, lasting=True), method=GET)
    assert met(gateway, 2) == [7, 7]
    assert met(gateway, 1, TOPICS_GET) == [0]
    gateway.shift_clock(50)
    left = int(call(gateway, GET, user_nick=NICK)["sub_msg"].split()[5])
    assert 1 <= left <= 10
    gateway.shift_clock(61)
    assert met(gateway, 1) == [0]


def test_a_success_can_report_a_failure(gateway: TopGateway) -> None:
    gateway.inject(Alter({"is_success": False}), method=ADD)
    gateway.inject(Alter({"result_code": "isp.system-error", "result_message": "x"}), method=TOPICS_GET)
    assert call(gateway, ADD, session=SESSION) == {"is_success": False}
    assert call(gateway, TOPICS_GET, nick=NICK)["result_code"] == "isp.system-error"


# --- the wire -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fault", "acted"), [(Reset(), 0), (Reset(acted=True), 1), (Reset(halfway=True), 1)])
def test_the_connection_is_reset(gateway: TopGateway, fault: Fault, acted: int) -> None:
    gateway.inject(fault)
    with pytest.raises((httpx2.ReadError, httpx2.RemoteProtocolError)):
        call(gateway, ADD, session=SESSION)
    assert len(gateway.open_sellers()) == gateway.count(ADD, acted=True) == acted
    assert gateway.requests()[0].outcome == "reset"
    assert call(gateway, ADD, session=SESSION) == {"is_success": True}


@pytest.mark.parametrize("acted", [False, True])
def test_the_front_end_answers_with_a_page(gateway: TopGateway, acted: bool) -> None:
    gateway.inject(Page(acted=acted))
    gateway.inject(Page(302, "", location="https://login.taobao.com/"))
    answer = post(gateway, signed(gateway, ADD, session=SESSION))
    assert (answer.status_code, answer.headers["content-type"]) == (502, "text/html")
    assert "<h1>502 Bad Gateway</h1>" in answer.text
    assert len(gateway.open_sellers()) == int(acted)
    moved = post(gateway, {})
    assert (moved.status_code, moved.headers["location"]) == (302, "https://login.taobao.com/")


@pytest.mark.parametrize("acted", [False, True])
def test_an_answer_comes_too_late(gateway: TopGateway, acted: bool) -> None:
    gateway.inject(Slow(300, acted=acted))
    with pytest.raises(httpx2.ReadTimeout):
        post(gateway, signed(gateway, ADD, session=SESSION), timeout=0.3)
    assert len(gateway.open_sellers()) == gateway.count(ADD, acted=True) == int(acted)
    gateway.inject(Slow(0.2))
    assert call(gateway, ADD, session=SESSION) == {"is_success": True}
    assert gateway.requests()[-1].seconds >= 0.2


def test_it_stops_while_an_answer_is_due(gateway: TopGateway) -> None:
    gateway.inject(Slow(300))
    failed: list[Exception] = []

    def ask() -> None:
        try:
            call(gateway, ADD, session=SESSION)
        except httpx2.TransportError as error:
            failed.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    wait_until(lambda: bool(gateway.requests()), "the request to arrive", 5)
    gateway.stop()
    asking.join(5)
    assert len(failed) == 1
    assert gateway.open_sellers() == ()


def test_the_document_is_cut(gateway: TopGateway) -> None:
    gateway.inject(Truncate())
    gateway.inject(Truncate(keep=0))
    whole = signed(gateway, GET, user_nick=NICK)
    half = post(gateway, whole)
    with pytest.raises(json.JSONDecodeError):
        half.json()
    assert half.text.startswith('{"jushita_jms')
    assert post(gateway, whole).content == b""


def test_the_answer_is_compressed_for_those_who_take_it(gateway: TopGateway) -> None:
    gateway.inject(Gzip(), times=None)
    form = urlencode(signed(gateway, GROUP_GET))
    plain = http.post(gateway.url, content=form, headers={**FORM, "Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    with http.stream(
        "POST", gateway.url, content=form, headers={**FORM, "Accept-Encoding": "gzip"}
    ) as zipped:
        assert zipped.headers["content-encoding"] == "gzip"
        sent = b"".join(zipped.iter_raw())
    assert list(json.loads(gzip.decompress(sent))) == ["jushita_jms_group_get_response"]
    gateway.clear_faults()
    gateway.inject(Gzip(broken=True))
    with pytest.raises(httpx2.DecodingError):
        call(gateway, GROUP_GET)


def test_the_date_can_be_wrong_alone_or_with_the_clock(gateway: TopGateway) -> None:
    def date() -> float:
        answer = post(gateway, signed(gateway, GROUP_GET))
        assert "error_response" not in answer.text
        return parsedate_to_datetime(answer.headers["date"]).timestamp()

    real = gateway.now
    gateway.inject(WrongDate(-7200))
    assert abs(date() - real + 7200) < 60
    assert abs(date() - real) < 60
    gateway.shift_clock(3600)
    assert abs(date() - real - 3600) < 60


# --- oddly written answers ----------------------------------------------------------------------------


def test_answers_are_typed_oddly(gateway: TopGateway) -> None:
    nick = "12345"
    session = gateway.add_seller(nick, user_id=2076226623).session
    call(gateway, ADD, session=session, topic_names=TOPICS[0])

    def twisted(api: str, *oddities: Oddity, **changes: str) -> str:
        gateway.inject(Twist(frozenset(oddities)))
        return post(gateway, signed(gateway, api, user_nick=nick, nick=nick, **changes)).text

    text = json.loads(twisted(GET, "numbers as text"))["jushita_jms_user_get_response"]["ons_user"]
    assert (text["user_id"], text["is_valid"]) == ("2076226623", "true")
    numbers = json.loads(twisted(GET, "text as numbers"))["jushita_jms_user_get_response"]["ons_user"]
    assert (numbers["user_nick"], numbers["user_id"]) == (12345, 2076226623)
    single = json.loads(twisted(TOPICS_GET, "single for list", "no request id"))
    assert single == {"jushita_jms_topics_get_response": {"results": {"string": TOPICS[0]}}}
    assert json.loads(twisted(TOPICS_GET, "single for list", simplify="true"))["results"] == TOPICS[0]
    assert (
        json.loads(twisted(GROUP_GET, "null for empty"))["jushita_jms_group_get_response"]["groups"] is None
    )
    assert (
        "groups" not in json.loads(twisted(GROUP_GET, "absent for empty"))["jushita_jms_group_get_response"]
    )
    raw = twisted(GET, "raw control characters")
    assert "\t" in raw
    with pytest.raises(json.JSONDecodeError):
        json.loads(raw)
    assert json.loads(raw, strict=False)["jushita_jms_user_get_response"]["remark"] == "tab\tand\nnew line"
    assert twisted(GET, "byte order mark").startswith("\ufeff{")
    gateway.inject(Refuse(50))
    assert "&apos;" in json.loads(twisted(GET, "html entities"))["error_response"]["sub_msg"]


def test_a_reset_leaves_the_page_to_the_next_request(gateway: TopGateway) -> None:
    gateway.inject(Page(503, "busy"))
    gateway.inject(Reset())
    with pytest.raises((httpx2.ReadError, httpx2.RemoteProtocolError)):
        call(gateway, GET, user_nick=NICK)
    assert post(gateway, {}).status_code == 503
    assert [asked.outcome for asked in gateway.requests()] == ["reset", "page"]


def test_faults_of_different_kinds_meet(gateway: TopGateway) -> None:
    gateway.inject(Refuse(27))
    gateway.inject(Twist(frozenset({"numbers as text"})))
    gateway.inject(Slow(0.1))
    assert call(gateway, GET, user_nick=NICK)["code"] == "27"
    assert gateway.requests()[0].seconds >= 0.1
    assert met(gateway, 1) == [0]


@pytest.mark.parametrize(
    ("fault", "options", "reason"),
    [
        (Refuse(15), {"method": "taobao.nothing"}, "no such method"),
        (Refuse(15), {"times": 0}, "count from 1"),
        (Refuse(15), {"every": 0}, "count from 1"),
    ],
)
def test_a_fault_that_could_never_strike_is_an_error(
    gateway: TopGateway, fault: Fault, options: dict[str, object], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        gateway.inject(fault, **options)  # type: ignore[arg-type]
