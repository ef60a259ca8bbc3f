"""The jms methods: what they send, and what their answers may look like."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

import pytest

from jst_bridge.top import JmsClient, JmsSeller, OpenTopics, SellerGroup
from jst_bridge.top.errors import (
    Banned,
    BusinessRefused,
    InvalidArgument,
    MalformedAnswer,
    RequestRefused,
    ServiceUnavailable,
    SessionRefused,
    TopError,
    UnknownSeller,
)
from jst_bridge.top.parameters import BEIJING
from tests.scripted import run
from tests.scripted_gateway import (
    SESSION,
    Asked,
    Gateway,
    Reply,
    Watch,
    client,
    document,
    error,
    gateway,
    success,
)

Use = Callable[[JmsClient], Awaitable[Any]]
OPENED = datetime(2015, 1, 1, tzinfo=BEIJING)
RENEWED = datetime(2015, 5, 1, tzinfo=BEIJING)


def using(use: Use, *replies: Reply, **changes: Any) -> tuple[Any, list[dict[str, str]]]:
    """What a method returns, and the parameters of its requests beside the system's."""
    outcome: list[Any] = []

    async def work() -> None:
        async with gateway(*replies) as played, client(played.url, **changes) as top:
            outcome.append(await use(JmsClient(top)))
            outcome.append([own(asked) for asked in played.asked])

    run(work())
    return outcome[0], outcome[1]


def refusing(use: Use, *replies: Reply, **changes: Any) -> TopError:
    caught: list[TopError] = []

    async def attempt(jms: JmsClient) -> None:
        with pytest.raises(TopError) as failed:
            await use(jms)
        caught.append(failed.value)

    using(attempt, *replies, **changes)
    return caught[0]


def own(asked: Asked) -> dict[str, str]:
    system = {"app_key", "timestamp", "format", "v", "sign_method", "sign"}
    return {name: value for name, value in asked.fields.items() if name not in system}


METHODS: list[tuple[Use, dict[str, str]]] = [
    (lambda jms: jms.add_user(SESSION), {"method": "taobao.jushita.jms.user.add", "session": SESSION}),
    (
        lambda jms: jms.add_user(SESSION, ["taobao_trade_TradeBuyerPay", "taobao_refund_RefundCreated"]),
        {"method": "taobao.jushita.jms.user.add", "session": SESSION,
         "topic_names": "taobao_trade_TradeBuyerPay,taobao_refund_RefundCreated"},
    ),
    (lambda jms: jms.delete_user("商家17"), {"method": "taobao.jushita.jms.user.delete", "user_nick": "商家17"}),
    (
        lambda jms: jms.delete_group("vip1", ["a", "b"], platform="tbUIC"),
        {"method": "taobao.jushita.jms.group.delete", "group_name": "vip1", "nicks": "a,b", "user_platform": "tbUIC"},
    ),
    (lambda jms: jms.delete_group("vip1"), {"method": "taobao.jushita.jms.group.delete", "group_name": "vip1"}),
]  # fmt: skip


@pytest.mark.parametrize(("use", "parameters"), METHODS)
@pytest.mark.parametrize("flag", [True, "true", "TRUE", 1])
def test_a_success_is_confirmed(use: Use, parameters: dict[str, str], flag: object) -> None:
    done, asked = using(use, success(is_success=flag))
    assert (done.request_id, asked) == ("16ecoqo68zsa1", [parameters])


@pytest.mark.parametrize(("use", "parameters"), METHODS)
@pytest.mark.parametrize("flag", [False, "false", 0])
def test_a_flag_that_says_no_is_a_refusal_although_no_error_came(
    use: Use, parameters: dict[str, str], flag: object
) -> None:
    failure = refusing(use, success(is_success=flag))
    assert isinstance(failure, BusinessRefused)
    assert (failure.method, failure.request_id, failure.attempts) == (
        parameters["method"],
        "16ecoqo68zsa1",
        1,
    )
    assert failure.remedy


def test_an_answer_without_the_flag_confirms_nothing_and_is_asked_for_again() -> None:
    done, asked = using(
        lambda jms: jms.add_user(SESSION), success(), success(is_success=True, request_id=None)
    )
    assert (done.request_id, len(asked)) == ("", 2)
    assert isinstance(refusing(lambda jms: jms.add_user(SESSION), success(is_success="?")), MalformedAnswer)


@pytest.mark.parametrize("simplify", [False, True])
def test_what_the_platform_knows_of_a_seller(simplify: bool) -> None:
    seller = {
        "created": "2015-01-01 00:00:00", "is_valid": True, "modified": "2015-05-01 00:00:00",
        "user_id": 32123423, "user_nick": "testUser1",
    }  # fmt: skip
    reply = (
        document({"ons_user": seller, "request_id": "r"})
        if simplify
        else success(ons_user=seller, request_id="r")
    )
    known, asked = using(lambda jms: jms.get_user("testUser1"), reply, simplify=simplify)
    assert known == JmsSeller(
        nick="testUser1",
        user_id="32123423",
        is_valid=True,
        opened_at=OPENED,
        renewed_at=RENEWED,
        request_id="r",
    )
    assert asked[0]["user_nick"] == "testUser1"
    assert known.model_dump(mode="json")["opened_at"] == "2015-01-01T00:00:00+08:00"


@pytest.mark.parametrize(
    ("ons_user", "expected"),
    [
        (
            {"user_nick": "N", "user_id": "0032", "is_valid": "false"},
            {"nick": "N", "user_id": "32", "is_valid": False},
        ),
        ({"user_id": 2**70, "is_valid": "maybe", "created": "soon"}, {"nick": "n", "user_id": str(2**70)}),
        ({"user_id": -1, "modified": 5, "is_valid": None}, {"nick": "n"}),
        ([{"user_nick": "N"}], {"nick": "N"}),
        ({"ons_user": {"user_nick": "N"}}, {"nick": "N"}),
        ({"is_valid": True, "topics": {"string": ["x"]}}, {"nick": "n", "is_valid": True}),
    ],
)
def test_oddly_typed_sellers_are_read(ons_user: object, expected: dict[str, object]) -> None:
    known, _ = using(lambda jms: jms.get_user("n"), success(ons_user=ons_user, request_id=7))
    assert known == JmsSeller(**({"request_id": "7"} | expected))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "reply",
    [success(), success(ons_user=None), success(ons_user={}), success(ons_user=[]), success(ons_user="x"),
     success(ons_user={"user_nick": None, "user_id": ""}), error(50, "isv.invalid-parameter"),
     error(15, "isv.user-not-exist:invalid-nick"), error(15, "isv.user-not-exist"),
     error(15, "isv.ons-user-not-found")],
)  # fmt: skip
def test_an_unknown_seller_is_none(reply: Reply) -> None:
    assert using(lambda jms: jms.get_user("n"), reply)[0] is None


@pytest.mark.parametrize(
    ("reply", "kind"),
    [(error(15, "isv.something-else"), BusinessRefused), (error(50, ""), BusinessRefused),
     (error(41, "isv.invalid-parameter"), RequestRefused), (error(27, "session-expired"), SessionRefused)],
)  # fmt: skip
def test_other_refusals_do_not_make_a_seller_unknown(reply: Reply, kind: type[TopError]) -> None:
    assert isinstance(refusing(lambda jms: jms.get_user("n"), reply), kind)


def test_deleting_an_unknown_seller_says_so() -> None:
    failure = refusing(lambda jms: jms.delete_user("n"), error(15, "isv.user-not-exist:invalid-nick"))
    assert isinstance(failure, UnknownSeller)


@pytest.mark.parametrize("code", [{}, {"result_code": None}, {"result_code": "0"}, {"result_code": 200},
                                  {"result_code": "SUCCESS"}])  # fmt: skip
@pytest.mark.parametrize(
    ("results", "topics"),
    [({"string": ["a", "b"]}, ("a", "b")), (["a"], ("a",)), ({"string": "a"}, ("a",)), ({}, ()), (None, ())],
)
def test_the_open_topics_of_a_seller(
    code: dict[str, object], results: object, topics: tuple[str, ...]
) -> None:
    found, asked = using(lambda jms: jms.get_topics("n"), success(results=results, **code))
    assert found == OpenTopics(nick="n", topics=topics, request_id="16ecoqo68zsa1")
    assert asked == [{"method": "taobao.jushita.jms.topics.get", "nick": "n"}]


@pytest.mark.parametrize(
    ("code", "kind", "attempts"),
    [("isp.system-error", ServiceUnavailable, 4), ("isv.no-permission", BusinessRefused, 1),
     ("500", BusinessRefused, 1),
     ("isv.user-not-exist:invalid-nick", UnknownSeller, 1), ("accesscontrol.limited-by-api-access-count", Banned, 4)],
)  # fmt: skip
def test_a_failure_within_a_success_answer_is_a_failure(
    code: str, kind: type[TopError], attempts: int
) -> None:
    reply = success(result_code=code, result_message="系统错误", results={"string": ["a"]})
    failure = refusing(lambda jms: jms.get_topics("n"), reply)
    assert type(failure) is kind
    assert failure.attempts == attempts
    assert "系统错误" in str(failure)


def test_a_seller_group_is_made() -> None:
    group, asked = using(
        lambda jms: jms.add_group("vip1", ["a", "b"], platform="icbu"),
        success(group_name="vip1", created="2015-01-01 00:00:00"),
    )
    assert group == SellerGroup(name="vip1", created_at=OPENED, request_id="16ecoqo68zsa1")
    assert asked == [
        {
            "method": "taobao.jushita.jms.group.add",
            "group_name": "vip1",
            "user_nicks": "a,b",
            "user_platform": "icbu",
        }
    ]
    assert using(lambda jms: jms.add_group("vip1", ["a"]), success())[0].name == "vip1"
    refused = refusing(lambda jms: jms.add_group("vip1", ["a"]), success(is_success=False))
    assert isinstance(refused, BusinessRefused)


@pytest.mark.parametrize(
    "groups",
    [{"msg_group_d_o": [{"name": "vip1"}]}, {"msg_group_do": {"name": "vip1"}}, [{"name": "vip1"}], {"name": "vip1"},
     {"string": ["vip1"]}],
)  # fmt: skip
def test_seller_groups_come_in_many_shapes(groups: object) -> None:
    found, asked = using(lambda jms: jms.get_groups(), success(groups=groups, total_results="1"))
    assert found == [SellerGroup(name="vip1")]
    assert asked == [{"method": "taobao.jushita.jms.group.get", "page_no": "1", "page_size": "40"}]


@pytest.mark.parametrize("fields", [{}, {"groups": {}}, {"groups": None, "total_results": 0}])
def test_no_seller_groups_are_an_empty_list(fields: dict[str, object]) -> None:
    assert using(lambda jms: jms.get_groups(), success(**fields))[0] == []


def test_a_group_without_a_name_is_malformed() -> None:
    assert isinstance(refusing(lambda jms: jms.get_groups(), success(groups=[{"id": 1}])), MalformedAnswer)


def paged(count: int, *, total: bool) -> Reply:
    """A platform that holds `count` groups and pages them."""

    async def reply(asked: Asked, writer: Any) -> None:
        size, page = int(asked.fields["page_size"]), int(asked.fields["page_no"])
        names = [f"g{n}" for n in range(count)][(page - 1) * size : page * size]
        said = {"total_results": count} if total else {}
        await success(groups={"msg_group_d_o": [{"name": name} for name in names]}, **said)(asked, writer)

    return reply


@pytest.mark.parametrize("total", [True, False])
@pytest.mark.parametrize(("count", "pages"), [(39, 1), (41, 2), (100, 3)])
def test_every_page_of_the_groups_is_fetched(count: int, pages: int, total: bool) -> None:
    found, asked = using(lambda jms: jms.get_groups(), paged(count, total=total))
    assert [group.name for group in found] == [f"g{n}" for n in range(count)]
    assert len(asked) == pages


def test_a_platform_that_ignores_the_page_number_is_not_asked_for_ever() -> None:
    page = success(groups=[{"name": f"g{n}"} for n in range(40)], total_results=1000)
    found, asked = using(lambda jms: jms.get_groups(), page)
    assert (len(found), len(asked)) == (40, 2)


def test_many_names_are_asked_for_twenty_at_a_time() -> None:
    names = [f"g{n}" for n in range(45)]

    async def named(asked: Asked, writer: Any) -> None:
        await success(groups=[{"name": name} for name in asked.fields["group_names"].split(",")])(
            asked, writer
        )

    found, asked = using(lambda jms: jms.get_groups(names), named)
    assert [group.name for group in found] == names
    assert [len(request["group_names"].split(",")) for request in asked] == [20, 20, 5]
    assert using(lambda jms: jms.get_groups([]), named) == ([], [])


@pytest.mark.parametrize(
    "use",
    [
        lambda jms: jms.add_user(""),
        lambda jms: jms.add_user(SESSION, []),
        lambda jms: jms.add_user(SESSION, "taobao_trade_TradeBuyerPay"),
        lambda jms: jms.add_user(SESSION, [f"t{n}" for n in range(21)]),
        lambda jms: jms.add_user(SESSION, ["a,b"]),
        lambda jms: jms.add_user(SESSION, [" "]),
        lambda jms: jms.get_user(""),
        lambda jms: jms.delete_user(" "),
        lambda jms: jms.get_topics("\ud800"),
        lambda jms: jms.add_group("vip1", []),
        lambda jms: jms.add_group("default1", ["a"]),
        lambda jms: jms.add_group("g" * 33, ["a"]),
        lambda jms: jms.delete_group("", ["a"]),
        lambda jms: jms.delete_group("vip1", []),
        lambda jms: jms.get_groups("vip1"),
    ],
)
def test_arguments_the_platform_would_misread_are_refused_here(use: Use) -> None:
    async def work() -> None:
        async with gateway(success(is_success=True)) as played, client(played.url) as top:
            with pytest.raises(InvalidArgument) as caught:
                await use(JmsClient(top))
            assert SESSION not in str(caught.value)
            assert played.asked == []

    run(work())


def test_a_lost_answer_is_asked_for_again() -> None:
    async def work() -> None:
        watch = Watch()
        replies: list[Reply] = [error(10), success(is_success=True)]
        played: Gateway
        async with gateway(*replies) as played, client(played.url, watch) as top:
            await JmsClient(top).add_user(SESSION, ["t"])
            assert len(played.asked) == 2

    run(work())
