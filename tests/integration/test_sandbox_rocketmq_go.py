"""The sandbox's cluster serves rocketmq-client-go, which nobody here wrote either. Skipped where Go is not there."""

from __future__ import annotations

import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from jst_bridge.sandbox.rocketmq import ClusterThread, SandboxCluster, SandboxSettings
from jst_bridge.sandbox.rocketmq.offsets import Committed
from jst_bridge.sandbox.rocketmq.settings import Flavour
from tests.go.toolchain import go_client
from tests.java.client import flags, wait_until
from tests.java.toolchain import ToolMissing

TOPIC, GROUP, QUEUES = "rmq_sys_jst_1", "GID_go", 8
COUNT = 20_000
NICK = "shop"
ENVELOPE = json.dumps({"topic": "x", "user_nick": NICK, "content": json.dumps({"tid": 1})})


@pytest.fixture(scope="module")
def program() -> Path:
    try:
        return go_client()
    except ToolMissing as missing:
        pytest.skip(str(missing))


def lag(cluster: SandboxCluster) -> int:
    """Messages above the group's committed offsets."""
    state = cluster.broker.state
    committed = [state.offsets.stored(Committed(GROUP, TOPIC, number)) or 0 for number in range(QUEUES)]
    return sum(queue.maximum for queue in state.store.topics[TOPIC].queues) - sum(committed)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("flavour", ["4.9", "5.3"])
def test_the_go_client_produces_and_consumes_every_message(
    program: Path, tmp_path: Path, flavour: Flavour
) -> None:
    def words(name: str, sandbox: ClusterThread, *switches: str, **options: object) -> list[str]:
        where = {"name_server": sandbox.name_server, "topic": TOPIC, "messages": COUNT}
        return [str(program), name, *flags({**where, **options}), *switches]

    def run(*command: str, home: Path = tmp_path) -> Any:
        outcome = subprocess.run(
            command,
            env={**os.environ, "HOME": str(home)},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert outcome.returncode == 0, outcome.stderr
        return json.loads(outcome.stdout)

    with ClusterThread(SandboxSettings(flavour=flavour, topics={TOPIC: QUEUES})) as sandbox:
        assert run(*words("produce", sandbox, body=ENVELOPE)) == {"messages": COUNT}
        assert sandbox.call(lambda cluster: cluster.broker.state.store.stored) == COUNT

        command = words("consume", sandbox, "--linger", group=GROUP, timeout=150)
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            consumed = json.loads(process.stdout.readline() or "{}")
            assert (consumed["messages"], consumed["nick_bytes"]) == (COUNT, len(NICK) * COUNT)
            wait_until(lambda: sandbox.call(lag) == 0, "the Go consumer's commits", 60)
            process.stdin.close()

        def broadcast(number: int) -> Any:
            home = tmp_path / f"home{number}"  # an instance keeps its offsets there
            home.mkdir()
            consume = words("consume", sandbox, "--broadcasting", group="GID_broadcast", timeout=150)
            return run(*consume, home=home)

        with ThreadPoolExecutor() as pool:
            assert [told["messages"] for told in pool.map(broadcast, range(2))] == [COUNT, COUNT]
