"""The client and the commands against a gateway that checks what the platform checks, and fails as it fails."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from jst_bridge.cli import cli
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
from jst_bridge.store import Database, open_database
from jst_bridge.store.purge import purge, survey
from jst_bridge.store.sellers import Opened, Sellers
from jst_bridge.top import SIGN_METHODS, Clock, JmsClient, SignMethod, TopClient, TopSettings
from jst_bridge.top.errors import (
    AppRefused,
    Banned,
    BusinessRefused,
    GatewayTimeout,
    GatewayUnavailable,
    GatewayUnreachable,
    MalformedAnswer,
    ServiceUnavailable,
    TopError,
)
from tests.stores import landing, message, rows
from tests.top_caller import ADD, GET, KEY, NICK, SECRET, SESSION, TOPICS, ready

SIGNATURE = re.compile(r"\b(?:[0-9A-F]{64}|[0-9A-F]{32})\b")


async def hasty(seconds: float) -> None:
    await asyncio.sleep(min(seconds, 0.001))


@pytest.fixture
def gateway() -> Iterator[TopGateway]:
    with ready() as running:
        yield running


def asking(gateway: TopGateway, work: Callable[[JmsClient], Any], **settings: Any) -> Any:
    async def run() -> Any:
        chosen = TopSettings(KEY, SECRET, gateway=gateway.url, **settings)
        async with TopClient(chosen, clock=Clock(sleep=hasty)) as top:
            return await work(JmsClient(top))

    return asyncio.run(run())


# --- the client -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("simplify", [False, True], ids=["wrapped", "simplified"])
@pytest.mark.parametrize("sign_method", SIGN_METHODS)
def test_every_method_works_in_every_manner(
    gateway: TopGateway, sign_method: SignMethod, simplify: bool
) -> None:
    odd = "a+b c&d=e:测试😀"
    gateway.add_seller(odd, session="CANARY-odd")

    async def life(jms: JmsClient) -> None:
        assert await jms.get_user(odd) is None
        await jms.add_user("CANARY-odd", TOPICS)
        seller = await jms.get_user(odd)
        assert seller is not None
        assert (seller.nick, seller.is_valid) == (odd, True)
        assert seller.opened_at is not None
        assert set((await jms.get_topics(odd)).topics) == set(TOPICS)
        assert (await jms.add_group("普通组", [odd])).name == "普通组"
        assert [group.name for group in await jms.get_groups()] == ["普通组"]
        assert [group.name for group in await jms.get_groups(["普通组", "other"])] == ["普通组"]
        await jms.delete_group("普通组", [odd])
        await jms.delete_group("普通组")
        assert await jms.get_groups() == []
        await jms.delete_user(odd)
        assert gateway.open_sellers() == ()

    asking(gateway, life, sign_method=sign_method, simplify=simplify)


ODDITIES = ("wrapped", "simplified")
HARMLESS: list[Fault] = [
    Refuse(15),
    Refuse(10),
    Refuse(8),
    Refuse(50, sub_code="isp.remote-service-timeout", acted=True),
    Ban(1),
    Slow(0.05),
    Slow(0.05, acted=True),
    Reset(),
    Reset(acted=True),
    Reset(halfway=True),
    Page(502),
    Page(504, acted=True),
    Truncate(),
    Truncate(0),
    Gzip(),
    Gzip(broken=True),
    WrongDate(-550.0),
]
FATAL: list[tuple[Fault, type[TopError]]] = [
    (Refuse(25), AppRefused),
    (Refuse(50, sub_code="isv.trade-not-exist"), BusinessRefused),
    (Ban(31_062, scope="app"), Banned),
    (Refuse(15, sub_code="isp.system-error"), ServiceUnavailable),
    (Slow(5), GatewayTimeout),
    (Reset(), GatewayUnreachable),
    (Page(502), GatewayUnavailable),
    (Page(403), MalformedAnswer),
    (Page(302, location="http://example.com/"), MalformedAnswer),
    (Page(200, html="<html>log in</html>"), MalformedAnswer),
    (Truncate(), MalformedAnswer),
    (Gzip(broken=True), MalformedAnswer),
    (Alter({"is_success": False}), BusinessRefused),
]


@pytest.mark.parametrize("simplify", [False, True], ids=ODDITIES)
@pytest.mark.parametrize("fault", HARMLESS, ids=repr)
def test_a_fault_that_passes_is_outlived(gateway: TopGateway, fault: Fault, simplify: bool) -> None:
    gateway.inject(fault)
    asking(gateway, lambda jms: jms.add_user(SESSION), simplify=simplify)
    assert [seller.nick for seller in gateway.open_sellers()] == [NICK]
    assert 1 <= gateway.count(ADD) <= 2


@pytest.mark.parametrize("simplify", [False, True], ids=ODDITIES)
def test_every_oddity_of_an_answer_is_read(gateway: TopGateway, simplify: bool) -> None:
    from typing import get_args

    from jst_bridge.sandbox.top.answers import Oddity

    async def life(jms: JmsClient) -> None:
        await jms.add_user(SESSION)
        for oddity in get_args(Oddity):
            gateway.inject(Twist(frozenset({oddity})), times=2)
            seller = await jms.get_user(NICK)
            assert seller is not None, oddity
            assert seller.is_valid is True, oddity
            assert set((await jms.get_topics(NICK)).topics) == set(TOPICS), oddity
            gateway.clear_faults()

    asking(gateway, life, simplify=simplify)


@pytest.mark.parametrize(("fault", "error"), FATAL, ids=repr)
def test_a_fault_that_stays_has_its_type(gateway: TopGateway, fault: Fault, error: type[TopError]) -> None:
    gateway.inject(fault, times=None)
    with pytest.raises(error) as caught:
        asking(gateway, lambda jms: jms.add_user(SESSION), read_timeout=0.1)
    assert type(caught.value) is error or issubclass(type(caught.value), error)
    assert caught.value.remedy
    assert "CANARY" not in f"{caught.value}{caught.value.remedy}{caught.value!r}"
    assert gateway.count(ADD) == (4 if caught.value.retriable and not isinstance(caught.value, Banned) else 1)


# --- the commands ---------------------------------------------------------------------------------------

EXIT_CODES = {
    **dict.fromkeys((3, 9, 21, 22, 23, 32, 33, 34, 40, 41, 43, 47, 50), 69),
    **dict.fromkeys((501, 508, 530, 550, 560, 600, 601, 670), 69),
    **dict.fromkeys((4, 5, 6, 7, 8, 10, 15), 75),
    **dict.fromkeys((11, 12, 13, 24, 25, 26, 27, 28, 29, 42, 44, 53), 77),
    **dict.fromkeys((30, 31), 78),
}
SUB_CODES = {
    "isp.top-remote-connection-timeout": 75,
    "isp.call-limited": 75,
    "ism.anything": 75,
    "accesscontrol.limited-by-dynamic-access-count": 75,
    "isv.some-service-rejection": 75,
    "isv.missing-parameter:x": 69,
    "isv.user-not-exist:invalid-nick": 69,
    "isv.permission-ip-whitelist-limit": 77,
    "session-expired": 77,
    "isv.invalid-access-token": 77,
    "isv.timestamp-limit-error": 78,
    "isv.request-replay-error": 78,
    "aop.unknown": 69,
}
COMMANDS = (
    ("users", "add", "--nick", NICK, "--session-file", "session"),
    ("users", "get", NICK),
    ("users", "check"),
    ("users", "import", "sellers.csv"),
    ("users", "delete", NICK),
    ("topics", "get", NICK),
    ("seller-groups", "list"),
    ("seller-groups", "add", "vip", NICK),
    ("seller-groups", "delete", "vip", NICK),
)


class Office:
    """A directory with a configuration, a store that remembers a seller, and commands."""

    def __init__(self, directory: Path, gateway: TopGateway) -> None:
        self.directory = directory
        self.said: list[str] = []
        (directory / "jst-bridge.toml").write_text(
            f'[app]\nkey = "{KEY}"\nsecret = "{SECRET}"\ngateway = "{gateway.url}"\n'
        )
        (directory / "session").write_text(SESSION)
        (directory / "sellers.csv").write_text(
            f"nick,session,topics,group\n{NICK},{SESSION},,vip\n", encoding="utf-8"
        )
        with closing(Sellers(open_database(f"sqlite:///{directory}/jst-bridge.db"))) as sellers:
            sellers.require_usable()
            sellers.remember([Opened(NICK)])

    def run(self, *arguments: str, debug: bool = False) -> Result:
        files = {name: str(self.directory / name) for name in ("session", "sellers.csv")}
        words = [files.get(word, word) for word in arguments]
        config = ["-c", str(self.directory / "jst-bridge.toml"), *(["--debug"] if debug else [])]
        done = CliRunner(env={"COLUMNS": "200"}).invoke(cli, [*config, *words])
        self.said += [done.stdout, done.stderr]
        return done

    def assert_discreet(self) -> None:
        """Nothing that was said or written holds a secret, but for the files that the user wrote."""
        own = {"jst-bridge.toml", "session", "sellers.csv"}
        written = [path.read_bytes() for path in self.directory.iterdir() if path.name not in own]
        for text in (*self.said, *(content.decode("utf-8", "replace") for content in written)):
            assert "CANARY" not in text
            assert not SIGNATURE.search(text)


@pytest.fixture
def office(tmp_path: Path, gateway: TopGateway, monkeypatch: pytest.MonkeyPatch) -> Office:
    monkeypatch.setattr("jst_bridge.top.client.Clock", lambda: Clock(sleep=hasty))
    return Office(tmp_path, gateway)


def assert_clear(done: Result, code: int) -> None:
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.exit_code == code, done.stderr
    assert len(errors) == 1, done.stderr
    assert "\n  remedy: " in done.stderr
    assert "Traceback" not in done.stderr + done.stdout


def provoke(gateway: TopGateway, office: Office, code: int, fault: Fault) -> None:
    """Every command meets the fault: the first with this exit code, all of them without giving anything away."""
    gateway.inject(fault, times=None)
    assert_clear(office.run(*COMMANDS[0]), code)
    for command in COMMANDS[1:]:
        done = office.run(*command)
        assert done.exit_code in (1, code), (command, done.stderr)
        assert "Traceback" not in done.stderr + done.stdout
    assert gateway.open_sellers() == ()
    office.assert_discreet()


@pytest.mark.parametrize("code", EXIT_CODES)
def test_every_code_of_the_platform_has_its_exit_code_and_one_helpful_line(
    gateway: TopGateway, office: Office, code: int
) -> None:
    provoke(gateway, office, EXIT_CODES[code], Ban(120) if code == 7 else Refuse(code))


@pytest.mark.parametrize("sub_code", SUB_CODES)
def test_every_family_of_sub_codes_has_its_exit_code(
    gateway: TopGateway, office: Office, sub_code: str
) -> None:
    quoted = f"sign={SECRET} This ban will last for 120 more seconds"
    with_session = Refuse(50, sub_code=sub_code, sub_msg=f"session={SESSION} {quoted}")
    gateway.inject(with_session, method=ADD, times=None)
    provoke(gateway, office, SUB_CODES[sub_code], Refuse(50, sub_code=sub_code, sub_msg=quoted))


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Reset(), 69),
        (Page(502), 75),
        (Page(403), 69),
        (Page(302, location="/"), 69),
        (Truncate(), 69),
        (Gzip(broken=True), 69),
    ],
    ids=repr,
)
def test_every_fault_of_the_way_there_has_its_exit_code(
    gateway: TopGateway, office: Office, fault: Fault, code: int
) -> None:
    gateway.inject(fault, times=None)
    for command in COMMANDS[:2]:
        assert_clear(office.run(*command), code)
    office.assert_discreet()


def spoil_secret(gateway: TopGateway, office: Office) -> None:
    file = office.directory / "jst-bridge.toml"
    file.write_text(file.read_text().replace(SECRET, "CANARY-other"))


def spoil_key(gateway: TopGateway, office: Office) -> None:
    file = office.directory / "jst-bridge.toml"
    file.write_text(file.read_text().replace(KEY, "87654321"))


CAUSES: dict[str, tuple[Callable[[TopGateway, Office], object], int, str]] = {
    "a wrong secret": (spoil_secret, 77, "app.secret"),
    "a wrong key": (spoil_key, 77, "app.key"),
    "a wrong clock": (lambda gateway, office: gateway.shift_clock(3600), 78, "behind the gateway's"),
    "an ended session": (lambda gateway, office: gateway.expire(SESSION), 77, "authorise the app again"),
    "a missing permission": (lambda gateway, office: gateway.add_app(KEY, SECRET, methods=()), 77, "console"),
    "an old app": (
        lambda gateway, office: gateway.add_app(KEY, SECRET, sign_methods=["md5"]),
        77,
        "sign_method",
    ),
    "no gateway": (lambda gateway, office: gateway.stop(), 69, "app.gateway"),
}


@pytest.mark.parametrize("cause", CAUSES)
def test_the_usual_causes_are_named(gateway: TopGateway, office: Office, cause: str) -> None:
    spoil, code, hint = CAUSES[cause]
    spoil(gateway, office)
    done = office.run(*COMMANDS[0])
    assert_clear(done, code)
    assert hint in done.stderr
    assert "CANARY" not in office.run(*COMMANDS[0], debug=True).stderr
    office.assert_discreet()


def test_an_old_app_works_once_its_sign_method_is_configured(gateway: TopGateway, office: Office) -> None:
    gateway.add_app(KEY, SECRET, topics=TOPICS, sign_methods=["md5"])
    file = office.directory / "jst-bridge.toml"
    file.write_text(file.read_text() + 'sign_method = "md5"\n')
    assert office.run(*COMMANDS[0]).exit_code == 0


def test_the_commands_say_nothing_secret_when_all_is_well(gateway: TopGateway, office: Office) -> None:
    for command in COMMANDS:
        for extra in ((), ("--json",)):
            for debug in (False, True):
                office.run(*command, *extra, debug=debug)
    for command in (("users", "list"), ("users", "export"), ("users", "list", "--all", "--json")):
        assert office.run(*command).exit_code == 0
    office.assert_discreet()
    assert not any("HTTP Request" in text for text in office.said)  # the library's own line for each call
    assert gateway.count(GET) > 0


# --- what is remembered ---------------------------------------------------------------------------------


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with closing(open_database(database_url)) as opened:
        opened.open()
        yield opened


@pytest.fixture
def sellers(database: Database) -> Sellers:
    return Sellers(database)


def test_sellers_are_remembered_alike_on_every_database(sellers: Sellers, database: Database) -> None:
    many = [Opened(f"店{number:04}😀", str(number + 1), TOPICS, number % 2 == 0) for number in range(1200)]
    sellers.remember(many)
    sellers.put_into_group("大", [many[0].nick, many[1].nick, "nobody"])
    sellers.remember([Opened(many[0].nick, "7")])
    first, second, *_ = sellers.all()
    assert (first.user_id, first.topics, first.seller_group, first.is_valid) == ("7", (), "大", None)
    assert (second.topics, second.is_valid, second.deleted_at) == (TOPICS, False, None)
    assert len(sellers.all()) == 1200
    sellers.mark_checked([(first.nick, False)])
    sellers.dissolve("大", [second.nick])
    sellers.dissolve("no such group")
    assert [(row.seller_group, row.is_valid) for row in sellers.all()[:2]] == [("大", False), ("", False)]
    assert sellers.mark_deleted(first.nick) is True
    assert sellers.mark_deleted(first.nick) is False
    assert len(sellers.all()) == 1199
    assert len(sellers.all(deleted=True)) == 1200
    sellers.remember([Opened(first.nick, "8")])
    again = sellers.all()[0]
    assert (again.user_id, again.seller_group, again.deleted_at) == ("8", "", None)


def test_the_newest_message_of_a_seller_is_found(sellers: Sellers, database_url: str) -> None:
    from jst_bridge.store import open_store

    with closing(open_store(database_url)) as store:
        store.open()
        store.land(landing(*(message(f"m{n}", seller="one", published_at=1000 + n) for n in range(5))))
    found = sellers.activity(["one", "two"])
    assert found["one"].published_at == 1004
    assert found["one"].landed_at is not None
    assert (found["two"].published_at, found["two"].landed_at) == (None, None)


def test_a_purge_forgets_the_seller_and_finds_messages_by_its_id(
    sellers: Sellers, database: Database, database_url: str
) -> None:
    from jst_bridge.store import open_store

    sellers.remember([Opened("one", "42"), Opened("One", "43")])
    with closing(open_store(database_url)) as store:
        store.open()
        store.land(landing(message("m", seller="", user_id="42")))
    purge(database, "one", before=1)
    assert len(sellers.all()) == 2
    assert survey(database, "one").deleted["sellers"] == 1
    done = purge(database, "one")
    assert (done.deleted["sellers"], done.deleted["messages"]) == (1, 1)
    assert [row.nick for row in sellers.all()] == ["One"]
    assert rows(database, "SELECT nick FROM v_sellers") == [("One",)]
