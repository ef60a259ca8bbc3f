"""`jst-bridge demo` and `jst-bridge sandbox` as a newcomer runs them: no Java, no server, no account."""

from __future__ import annotations

import json
import os
import pty
import random
import re
import shlex
import signal
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from jst_bridge.store import open_database
from tests.cluster import wait_until
from tests.stores import rows

pytestmark = pytest.mark.timeout(300)
INTERRUPTS = int(os.environ.get("JST_TEST_INTERRUPTS", "4"))
JST = [sys.executable, "-m", "jst_bridge"]
TOLD = "import os, sys; from jst_bridge.__main__ import main; os.close(int(sys.argv.pop(1))); main()"
"""The same, and whoever reads the pipe of that number learns that the interpreter has started."""
BARE = {name: value for name, value in os.environ.items() if name not in ("HOME", "TERM", "COLUMNS")}


def jst(*arguments: str, at: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*JST, *arguments],
        cwd=at,
        env=BARE,
        text=True,
        capture_output=True,
        timeout=110,
        check=False,
        **options,
    )


@contextmanager
def program(*arguments: str, at: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [*JST, *arguments], cwd=at, env=BARE, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        preexec_fn=obey_interrupts,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def obey_interrupts() -> None:
    """A shell in the background has its children ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Where a short demo left its things, and what it printed into a pipe."""
    place = tmp_path_factory.mktemp("demo")
    outcome = jst("demo", "--seconds", "4", "--rate", "150", at=place)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    return place, outcome.stdout


def test_the_demo_shows_sellers_numbers_and_an_order_with_a_refund(shown: tuple[Path, str]) -> None:
    place, said = shown
    assert re.search(r"^seller +messages +paid +shipped +finished +refunded +lag$", said, re.MULTILINE)
    table = re.findall(r"^\S+旗舰店\d +([\d,]+) .* (\d+)$", said, re.MULTILINE)
    assert len(table) == 3
    assert sum(int(messages.replace(",", "")) for messages, _ in table) == 600
    assert {lag for _, lag in table} == {"0"}
    assert "RefundSuccess" in said
    assert "jst-bridge-demo/jst-bridge.db" in said
    assert "\x1b" not in said
    assert rows(
        open_database(f"sqlite:///{place / 'jst-bridge-demo' / 'jst-bridge.db'}"),
        "SELECT count(*) FROM messages",
    ) == [(600,)]


def test_its_own_sentences_fit_80_columns(shown: tuple[Path, str]) -> None:
    _, said = shown
    assert [line for line in said.splitlines() if width(line) > 80] == []


def test_what_it_says_to_try_next_works(shown: tuple[Path, str]) -> None:
    place, said = shown
    ((there, *_), commands) = (
        re.findall(r"^  cd (.*)$", said, re.M),
        re.findall(r"^  jst-bridge (.*)$", said, re.M),
    )
    assert len(commands) == 3
    for command in commands:
        outcome = jst(*shlex.split(command), at=place / there)
        assert (outcome.returncode, bool(outcome.stdout)) == (0, True), (command, outcome.stderr)


def test_a_directory_that_is_there_is_left_alone(shown: tuple[Path, str]) -> None:
    place, _ = shown
    outcome = jst("demo", "--directory", "jst-bridge-demo", at=place)
    assert outcome.returncode == 78
    assert "overwrites nothing" in outcome.stderr


@pytest.mark.parametrize("moment", ["starting", "signing up", "landing"])
def test_ctrl_c_leaves_a_clean_terminal_and_no_process(tmp_path: Path, moment: str) -> None:
    marks = {"starting": "A platform", "signing up": "users import", "landing": "finished"}
    interrupt(tmp_path, ["demo"], marks[moment], 0, {130})


@pytest.mark.parametrize("number", range(INTERRUPTS))
def test_ctrl_c_at_any_moment(tmp_path: Path, number: int) -> None:
    """From the first line of the program on; the interpreter's own start is not ours."""
    dice = random.Random(number)
    if dice.random() < 0.7:
        interrupt(tmp_path, ["demo", "--seconds", "3"], None, dice.uniform(0, 9), {130, 0})
    else:
        interrupt(tmp_path, ["sandbox", "--write", "w.toml"], None, dice.uniform(0, 3), {130, 0})


def interrupt(place: Path, words: list[str], mark: str | None, seconds: float, codes: set[int]) -> None:
    """Ctrl-C on a terminal, so many seconds after `mark` was shown (None: after the start)."""
    ours, theirs = pty.openpty()
    started, starting = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-c", TOLD, str(starting), *words], cwd=place, pass_fds=(starting,),
        env={**BARE, "TERM": "xterm", "COLUMNS": "80"}, stdin=theirs, stdout=theirs, stderr=theirs,
        preexec_fn=obey_interrupts, start_new_session=True,
    ) as process, ThreadPoolExecutor(1) as pool:  # fmt: skip
        os.close(theirs)
        os.close(starting)
        with open(started, "rb") as pipe:
            pipe.read()
        begin = read_until(ours, mark) if mark is not None else ""
        rest = pool.submit(read_until, ours, None)  # a terminal that nobody reads stops who writes to it
        offspring = []
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            offspring = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(signal.SIGINT)
        code = process.wait(60)
        said = begin + rest.result(20)
        assert code in codes, said[-2000:]
    os.close(ours)
    assert said.count("\x1b[?25l") == said.count("\x1b[?25h"), "the cursor is shown again"
    assert "Traceback" not in said
    assert "error" not in said, said[-2000:]
    wait_until(lambda: not any(map(alive, offspring)), "what it started to be gone", 20)


def test_messages_flow_for_sellers_that_were_added_until_they_are_deleted(tmp_path: Path) -> None:
    file, roster = tmp_path / "world.toml", tmp_path / "world.sellers.csv"
    database = open_database(f"sqlite:///{tmp_path / 'jst-bridge.db'}")
    with program("sandbox", "--write", str(file), "--sellers", "2", at=tmp_path) as sandbox:
        wait_until(roster.exists, "the sandbox to write its files", 60)
        refused = jst("-c", str(file), "sandbox", "traffic", "--count", "5", at=tmp_path)
        assert (refused.returncode, "no seller is open" in refused.stderr) == (78, True)
        assert jst("-c", str(file), "users", "import", str(roster), at=tmp_path).returncode == 0
        first, second = [line.split(",")[0] for line in roster.read_text().splitlines()[1:]]
        assert set(traffic(file, tmp_path)["sellers"]) == {first, second}
        assert jst("-c", str(file), "users", "delete", first, at=tmp_path).returncode == 0
        told = traffic(file, tmp_path)
        assert set(told["sellers"]) == {second}
        assert jst("-c", str(file), "run", "--drain", at=tmp_path).returncode == 0
        landed = dict(rows(database, "SELECT seller, count(*) FROM messages GROUP BY seller"))
        assert landed.keys() == {first, second}
        assert landed[second] > told["sellers"][second]
        sandbox.send_signal(signal.SIGINT)
        assert sandbox.wait(30) == 0


def traffic(file: Path, at: Path) -> dict[str, Any]:
    outcome = jst("-c", str(file), "sandbox", "traffic", "--burst", "--count", "300", "--seed", "3", at=at)
    assert outcome.returncode == 0, outcome.stderr
    told: dict[str, Any] = json.loads(outcome.stdout)
    return told


def test_traffic_goes_to_sandboxes_only(tmp_path: Path) -> None:
    config = tmp_path / "real.toml"
    config.write_text('[app]\nkey = "1"\nsecret = "s"\n[[source]]\ntype = "rocketmq"\n'
                      'name_servers = ["127.0.0.1:9"]\ngroup = "G"\n')  # fmt: skip
    outcome = jst("-c", str(config), "sandbox", "traffic", "--count", "1", at=tmp_path)
    assert (outcome.returncode, "no sandbox on this machine" in outcome.stderr) == (78, True)


def test_a_file_that_no_sandbox_wrote_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "jst-bridge.toml"
    file.write_text("[app]\n")
    outcome = jst("sandbox", "--write", str(file), at=tmp_path)
    assert (outcome.returncode, file.read_text()) == (78, "[app]\n")


def alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def read_until(terminal: int, mark: str | None) -> str:
    """What the terminal shows until `mark` was seen, or with None until it is closed."""
    said = b""
    while mark is None or mark.encode() not in said:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # closed on the other side
            break
        if not part:
            break
        said += part
    return said.decode(errors="replace")


def width(line: str) -> int:
    """Columns, of which Chinese characters take two."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in line)
