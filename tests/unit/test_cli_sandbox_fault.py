"""`jst-bridge sandbox fault`, against a cluster in a thread and against servers that are no sandbox."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from jst_bridge.cli import cli
from jst_bridge.errors import BrokerRefused, ConnectionFailed, TopicNotFound
from jst_bridge.rocketmq import Client, ClientSettings, Credentials
from jst_bridge.sandbox import sabotage
from jst_bridge.sandbox.rocketmq import Account, ClusterThread, SandboxSettings
from jst_bridge.sandbox.rocketmq.codes import CONTROL
from tests.cluster import wait_until
from tests.scripted import peers, refusing, run, silent

TOPIC = "rmq_sys_jst_1"
SECRET = "not-a-real-secret"


class Desk:
    """A configuration that points at a name server, and the command run with it."""

    def __init__(self, directory: Path, name_server: str, secret: str = SECRET) -> None:
        self.name_server = name_server
        self._config = directory / "sandbox.toml"
        self._config.write_text(
            f'[app]\nkey = "1"\nsecret = "{secret}"\ngateway = "http://127.0.0.1:1/router/rest"\n'
            f'[[source]]\ntype = "rocketmq"\nname_servers = ["{name_server}"]\ngroup = "GID_1"\n'
        )

    def fault(self, *words: str) -> Result:
        return CliRunner().invoke(cli, ["-c", str(self._config), "sandbox", "fault", *words])

    def route(self) -> list[str]:
        """What a client learns: the names of the brokers of the topic."""

        async def ask() -> list[str]:
            settings = ClientSettings(
                (self.name_server,), credentials=Credentials("1", SECRET), request_timeout=1
            )
            client = Client(settings)
            try:
                return sorted((await client.fetch_route(TOPIC)).brokers)
            finally:
                await client.close()

        return asyncio.run(ask())


@contextmanager
def sandbox(directory: Path) -> Iterator[Desk]:
    settings = SandboxSettings(topics={TOPIC: 2}, accounts=(Account("1", SECRET),))
    with ClusterThread(settings) as cluster:
        yield Desk(directory, cluster.name_server)


def test_a_fault_strikes_as_often_as_told_and_is_reported(tmp_path: Path) -> None:
    with sandbox(tmp_path) as desk:
        armed = desk.fault("refuse", "--request", "route", "--code", "1", "--times", "2")
        assert (armed.exit_code, armed.output) == (
            0, "refuse code=1: route, 2 times more\nStruck so far: 0.\n"
        )  # fmt: skip
        for _ in range(2):
            with pytest.raises(BrokerRefused):
                desk.route()
        assert desk.route() == ["broker-a"]
        assert desk.fault("report").output == "No fault waits.\nStruck so far: 2.\n"


def test_the_order_to_stop_is_obeyed_when_every_request_is_struck(tmp_path: Path) -> None:
    with sandbox(tmp_path) as desk:
        assert desk.fault("drop", "--times", "0").output.startswith(
            "drop: every request, until it is cleared"
        )
        with pytest.raises(ConnectionFailed):
            desk.route()
        assert desk.fault("clear").output.startswith("No fault waits.")
        assert desk.route() == ["broker-a"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("delay --request send", "delay seconds=1.0: send, once more"),
        ("silence --acted --every 50", "silence acted: every request, 1 in 50, once more"),
        ("redeliver --back 3 --request pull", "redeliver back=3: pull, once more"),
        ("no-route --empty --topic T", "no-route empty: every request of T, once more"),
        ("lose --request send-back", "lose: send-back, once more"),
        ("binary-header", "binary-header: every request, once more"),
    ],
)
def test_each_kind_takes_what_it_needs(tmp_path: Path, words: str, told: str) -> None:
    with sandbox(tmp_path) as desk:
        assert desk.fault(*words.split()).output.splitlines()[0] == told


def test_a_server_that_is_gone_comes_back(tmp_path: Path) -> None:
    with sandbox(tmp_path) as desk:
        assert desk.fault("outage", "--seconds", "0.5").output.startswith("The broker is gone for 0.5 s.")

        def there() -> bool:
            try:
                return desk.route() == ["broker-a"]
            except TopicNotFound:
                return False

        wait_until(lambda: not there(), "the broker to go", 10)
        wait_until(there, "the broker to come back", 10)


def test_connections_are_cut_once(tmp_path: Path) -> None:
    with sandbox(tmp_path) as desk:
        assert desk.fault("cut").output.startswith("All connections are cut.")
        assert desk.route() == ["broker-a"]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("drop --code 3", "--code means nothing for drop"),
        ("clear --seconds 3", "--seconds means nothing for clear"),
        ("clear --request pull", "--request means nothing for clear"),
        ("outage --times 3", "--times means nothing for outage"),
        ("redeliver --back 0", "0 is not in the range"),
        ("explode", "'explode' is not one of"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, words: str, complaint: str) -> None:
    outcome = Desk(tmp_path, "127.0.0.1:1").fault(*words.split())
    assert (outcome.exit_code, complaint in outcome.output) == (2, True), outcome.output


def test_the_sandbox_itself_refuses_what_makes_no_sense(tmp_path: Path) -> None:
    with sandbox(tmp_path) as desk:
        outcome = desk.fault("outage", "--seconds", "0")
        assert (outcome.exit_code, "more than 0" in outcome.output) == (78, True), outcome.output
        assert "remedy" not in outcome.output


def test_a_stranger_is_not_obeyed(tmp_path: Path) -> None:
    with sandbox(tmp_path) as desk:
        outcome = Desk(tmp_path, desk.name_server, "another").fault("clear")
        assert (outcome.exit_code, "refuses: check signature failed" in outcome.output) == (78, True)


@pytest.mark.parametrize("real", [refusing(3), silent], ids=["5.3", "4.9"])
def test_a_real_name_server_is_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, real: object
) -> None:
    monkeypatch.setattr(sabotage, "_PATIENCE", 0.3)

    async def work() -> None:
        async with peers() as (server,):
            server.on(CONTROL, real)  # type: ignore[arg-type]
            outcome = await asyncio.to_thread(Desk(tmp_path, server.address).fault, "report")
            assert (outcome.exit_code, "of no sandbox" in outcome.output) == (78, True), outcome.output

    run(work())


def test_nothing_there_is_an_error(tmp_path: Path) -> None:
    outcome = Desk(tmp_path, "127.0.0.1:1").fault("report")
    assert (outcome.exit_code, "cannot connect" in outcome.output) == (69, True)
