"""Onboarding as an ISV does it: the whole program, a gateway, a broker; and an import that is killed in the middle."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import click
import psutil
import pytest

from jst_bridge.cli import cli
from jst_bridge.sandbox.top import Ban, Refuse, Seller, Slow, TopGateway
from jst_bridge.settings import load
from tests.bridge_process import Installation, Outcome
from tests.cluster import RunningCluster, wait_until
from tests.top_caller import ADD, KEY, SECRET, TOPICS
from tests.traffic import traffic

PAGE = (Path(__file__).parents[2] / "docs" / "onboarding.md").read_text(encoding="utf-8")
ROWS = int(os.environ.get("JST_TEST_IMPORT_ROWS", "600"))
SIGNATURE = re.compile(r"\b(?:[0-9A-F]{64}|[0-9A-F]{32})\b")
REFUSED = "taobao_item_ItemAdd"
"""A message type that the app does not subscribe."""


@pytest.fixture
def gateway() -> Iterator[TopGateway]:
    with TopGateway() as running:
        running.add_app(KEY, SECRET, topics=TOPICS)
        yield running


def installed(
    directory: Path, gateway: TopGateway, name_server: str = "127.0.0.1:1", topic: str = "t"
) -> Installation:
    environ = {"JST_APP__GATEWAY": gateway.url, "JST_APP__SECRET": SECRET}
    return Installation(directory, name_server, topic, f"GID_{topic[-20:]}", environ=environ)


# --- the page -------------------------------------------------------------------------------------------


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


@pytest.mark.one_broker
def test_the_page_walks_a_seller_to_its_first_message(
    cluster: RunningCluster, topic: str, gateway: TopGateway, tmp_path: Path
) -> None:
    installation = installed(tmp_path, gateway, cluster.name_server, topic)
    facts = list(traffic(60))
    nick = facts[0].seller
    (tmp_path / "session.txt").write_text(gateway.add_seller(nick).session + "\n")
    others = [gateway.add_seller(f"{nick}{number}") for number in range(3)]
    lines = [f"{seller.nick},{seller.session},{' '.join(TOPICS)},vip" for seller in others]
    (tmp_path / "sellers.csv").write_text("\n".join(["nick,session,topics,group", *lines]), encoding="gbk")
    stands_for = {"NICK": nick, **{name: str(tmp_path / name) for name in ("session.txt", "sellers.csv")}}
    commands = [line for block in blocks("sh") for line in block.splitlines() if line.strip()]
    assert len(commands) > 15
    for command in commands:
        program, *words = shlex.split(command)
        assert program == "jst-bridge"
        if words[0] == "run":
            cluster.publish(fact.line(topic) for fact in facts)
        done = installation.run(*(stands_for.get(word, word) for word in words))
        assert done.code == 0, (command, done.err)
        assert "CANARY" not in done.out + done.err
        if words[0] == "messages":
            assert nick[:6] in done.out  # the rest may be on the next line
        if words == ["users", "list"]:
            assert "never" not in done.out
    assert {seller.nick for seller in gateway.open_sellers()} == {seller.nick for seller in others}
    assert installation.rows("SELECT count(*) FROM sellers") == [(3,)]


def test_the_configuration_of_the_page_is_one(tmp_path: Path) -> None:
    (text,) = blocks("toml")
    (tmp_path / "secret").write_text("not-a-real-secret")
    file = tmp_path / "jst-bridge.toml"
    file.write_text(text.replace("/run/secrets/jst-bridge-app", str(tmp_path / "secret")))
    assert load(str(file), {}).app.gateway.startswith("https://")


def test_what_the_page_speaks_of_exists() -> None:
    named = re.findall(r"(?:jst-bridge |`)(users|topics|seller-groups) ([a-z]+)", PAGE)
    assert len(named) > 12
    with click.Context(cli) as context:
        for first, second in named:
            group = cli.get_command(context, first)
            assert isinstance(group, click.Group)
            assert second in group.commands


# --- the process list -----------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["add", "import"])
def test_no_secret_is_in_the_process_list(tmp_path: Path, gateway: TopGateway, command: str) -> None:
    installation = installed(tmp_path, gateway)
    seller = gateway.add_seller("店", session="CANARY-session")
    (tmp_path / "in.csv").write_text(f"nick,session\n店,{seller.session}\n", encoding="utf-8")
    (tmp_path / "session").write_text(seller.session)
    words = {
        "add": ("users", "add", "--nick", "店", "--session-file", str(tmp_path / "session")),
        "import": ("users", "import", str(tmp_path / "in.csv")),
    }
    gateway.inject(Slow(3))
    with installation.start(*words[command]) as process:
        wait_until(lambda: gateway.count(ADD) == 1, "the call", 30)
        whole = psutil.Process(process.process.pid)
        for one in (whole, *whole.children(recursive=True)):
            assert "CANARY" not in " ".join((*one.cmdline(), one.name()))
        assert process.wait().code == 0


# --- the import -----------------------------------------------------------------------------------------


class Terminal:
    """`users import` on a terminal of its own."""

    def __init__(self, installation: Installation, *arguments: str) -> None:
        self._master, slave = os.openpty()
        self.process = subprocess.Popen(
            installation.command(*arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=slave,
            env={**installation.environ, "TERM": "xterm", "COLUMNS": "80"},
            start_new_session=True,
        )
        os.close(slave)
        self._said = bytearray()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                piece = os.read(self._master, 65_536)
            except OSError:  # the other end is closed
                return
            if not piece:
                return
            self._said += piece

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        self._reader.join(5)
        os.close(self._master)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def wait(self, seconds: float) -> Outcome:
        out, _ = self.process.communicate(timeout=seconds)
        self._reader.join(5)
        return Outcome(self.process.returncode, out.decode(), self.said)

    @property
    def said(self) -> str:
        return self._said.decode("utf-8", "replace")


def file_of(directory: Path, gateway: TopGateway) -> tuple[Path, list[Seller], dict[str, str]]:
    """An input with good rows, and 2 % bad ones: nick -> a word of the reason."""
    sellers: list[Seller] = []
    bad: dict[str, str] = {}
    lines = ["nick,session,topics,group"]
    for number in range(ROWS):
        nick, session = f"沐微霜豆{number:05}店", f"CANARY-{number:050}"
        kind = number // 50 % 4 if number % 50 == 7 else None
        if kind not in (1, 2):
            seller = gateway.add_seller(nick, session=session)
            if kind is None:
                sellers.append(seller)
            elif kind == 3:
                gateway.expire(session)
        if kind is not None:
            bad[nick] = ("isv.invalid-parameter", "session is empty", "Invalid session", "session-expired")[
                kind
            ]
        shown = "" if kind == 1 else session
        topics = REFUSED if kind == 0 else ""
        lines.append(f"{nick},{shown},{topics},{'vip' if number < 50 else ''}")
    file = directory / "sellers.csv"
    file.write_text("\n".join(lines), encoding="utf-8-sig")
    return file, sellers, bad


@pytest.mark.timeout(900)
def test_an_import_that_is_killed_and_begun_again_adds_every_good_seller(
    tmp_path: Path, gateway: TopGateway
) -> None:
    installation = installed(tmp_path, gateway)
    file, sellers, bad = file_of(tmp_path, gateway)
    command = ("users", "import", str(file), "--rate", "1000")
    gateway.inject(Refuse(15), method=ADD, times=None, every=50)
    gateway.inject(Refuse(50, sub_code="isp.system-error"), times=None, every=173)
    said = []
    for part in (4, 2):
        with Terminal(installation, *command) as import_:
            wait_until(lambda: gateway.count(ADD, acted=True) > ROWS // part, "a part of the rows", 300)  # noqa: B023
            if part == 4:
                gateway.inject(Ban(2, lasting=True))
                wait_until(lambda: gateway.count(ADD, acted=True) > ROWS // 3, "the end of the ban", 300)
            import_.kill()
            said.append(import_.said)
    with Terminal(installation, *command) as import_:
        done = import_.wait(600)
    assert done.code == 1, done.err
    assert all(f"/{ROWS}" in text for text in (*said, done.err)), "progress is shown"

    valid = {seller.nick for seller in gateway.open_sellers() if seller.is_valid}
    assert valid == {seller.nick for seller in sellers}
    added = Counter({seller.nick: gateway.count(ADD, seller=seller.nick, acted=True) for seller in sellers})
    assert added.total() - len(sellers) <= 2, "at most one extra add per kill"
    assert installation.rows("SELECT count(*) FROM sellers WHERE is_valid = 1") == [(len(sellers),)]
    early = {f"沐微霜豆{number:05}店" for number in range(50)} - bad.keys()
    assert gateway.groups() == {"vip": frozenset(early)}

    with (tmp_path / "sellers.result.csv").open(encoding="utf-8-sig", newline="") as stream:
        results = {row["nick"]: row for row in csv.DictReader(stream)}
    assert len(results) == ROWS
    assert {nick for nick, row in results.items() if row["result"] in ("failed", "bad row")} == bad.keys()
    for nick, reason in bad.items():
        assert reason in results[nick]["reason"]
    written = [path for path in tmp_path.iterdir() if path not in (file, installation.config)]
    texts = [path.read_bytes().decode("utf-8", "replace") for path in written]
    for text in (*texts, *said, done.out, done.err):
        assert "CANARY" not in text
        assert not SIGNATURE.search(text)


def test_an_interrupted_import_says_how_to_go_on(tmp_path: Path, gateway: TopGateway) -> None:
    installation = installed(tmp_path, gateway)
    sellers = [gateway.add_seller(f"店{number}") for number in range(20)]
    file = tmp_path / "in.csv"
    file.write_text(
        "nick,session\n" + "".join(f"{seller.nick},{seller.session}\n" for seller in sellers),
        encoding="utf-8",
    )
    gateway.inject(Slow(0.3), times=None)
    with installation.start("users", "import", str(file)) as process:
        wait_until(lambda: gateway.count(ADD, acted=True) >= 3, "some rows", 30)
        process.signal(signal.SIGINT)
        outcome = process.wait()
    assert outcome.code == 130
    assert "the same command goes on" in outcome.err
    assert "not tried" in (tmp_path / "in.result.csv").read_text(encoding="utf-8-sig")
    gateway.clear_faults()
    again = installation.run("users", "import", str(file), "--json")
    assert again.code == 0, again.err
    results: list[dict[str, Any]] = [json.loads(line) for line in again.out.splitlines()]
    assert {row["result"] for row in results} == {"added", "added before"}
    assert gateway.count(ADD, acted=True) <= 21
