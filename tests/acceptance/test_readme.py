"""The README keeps its word: every command in it is run, on a store that a real broker filled."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import pytest

from tests.bridge_process import Installation
from tests.cluster import RunningCluster
from tests.traffic import Fact, traffic

pytestmark = pytest.mark.one_broker
ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FACTS = list(traffic(300))
REFUNDED = next(fact for fact in FACTS if "refund_id" in fact.content)
EXAMPLES = {"TID": REFUNDED.keys, "NICK": REFUNDED.seller, "2h": "9999d", "ID": "1"}
"""What stands in for the words of the README; the facts are some years old, and one message is unreadable."""
STILL_DEAD = 1
"""How `dead replay` ends when today's version cannot read all of them either."""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def commands() -> list[str]:
    lines = [line.partition("#")[0].strip() for block in blocks("sh") for line in block.splitlines()]
    return [line for line in lines if line.startswith("jst-bridge ")]


@pytest.fixture(scope="module")
def filled(cluster: RunningCluster, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """An installation whose store holds the facts."""
    topic, group = f"rmq_sys_jst_9{os.getpid()}", f"GID_readme_{os.getpid()}"
    installation = Installation(tmp_path_factory.mktemp("readme"), cluster.name_server, topic, group)
    unreadable = {"topic": topic, "tag": "taobao_trade_TradeCreate", "keys": "1", "body": '{"content":'}
    cluster.publish([*(fact.line(topic) for fact in FACTS), unreadable])
    assert installation.run("run", "--drain").code == 0
    return installation


@pytest.mark.parametrize("command", commands())
def test_each_command_of_the_readme_works(filled: Installation, command: str) -> None:
    words = [EXAMPLES.get(word, word) for word in shlex.split(command)[1:]]
    if words == ["run"]:
        with filled.start("run") as process:
            process.wait_for_log("reading rmq_sys_jst_")
            process.signal(signal.SIGTERM)
            outcome = process.wait()
    else:
        outcome = filled.run(*words)
    assert outcome.code == (STILL_DEAD if words[:2] == ["dead", "replay"] else 0), outcome.err
    assert outcome.out.strip()


def test_there_are_commands_to_try() -> None:
    assert len(commands()) > 8


def test_the_query_of_the_readme_answers(filled: Installation) -> None:
    (query,) = blocks("sql")
    assert filled.rows(query)


def test_the_configuration_of_the_readme_is_one(tmp_path: Path) -> None:
    from jst_bridge.settings import load

    (text,) = blocks("toml")
    assert tomllib.loads(text)["app"]["key"] == "12345678"
    secret = tmp_path / "app"
    secret.write_text("not-a-real-secret")
    file = tmp_path / "jst-bridge.toml"
    file.write_text(text.replace("/run/secrets/app", str(secret)))
    assert load(str(file), {}).source[0].system_topic == "rmq_sys_jst_12345678"


def test_the_client_alone_works_as_the_readme_shows(cluster: RunningCluster, topic: str, group: str) -> None:
    (snippet,) = blocks("python")
    snippet = snippet.replace("127.0.0.1:9876", cluster.name_server).replace("GID_x", group)
    snippet = snippet.replace("orders", topic)
    fact: Fact = FACTS[0]
    cluster.publish([fact.line(topic)])
    program = (
        "import asyncio\nasync def main():\n"
        + textwrap.indent(snippet.replace("print(", "raise SystemExit("), "    ")
        + "\nasyncio.run(main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program.replace("SystemExit(message", "SystemExit((message").replace("body)", "body))")],
        capture_output=True, text=True, timeout=60, check=False, cwd=ROOT,
    )  # fmt: skip
    assert fact.tag in done.stderr, done.stderr


@pytest.mark.timeout(300)
def test_the_example_shows_the_main_job_on_the_official_broker(
    cluster: RunningCluster, tmp_path: Path
) -> None:
    """`cluster` only for its reason to skip: the example starts servers of its own."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "real_broker.py"), "--keep", str(tmp_path)],
        capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "The database is" in done.stderr
    assert (tmp_path / "jst-bridge.db").exists()


def test_the_first_command_is_the_demo_and_the_second_runs_the_tests() -> None:
    """The demo itself is run by test_demo.py, and from a wheel by .ci/run; the tests run here."""
    first, second, *_ = blocks("sh")
    assert first.rstrip().endswith("&& .venv/bin/jst-bridge demo")
    assert second.rstrip().endswith("&& .venv/bin/python -m pytest")
