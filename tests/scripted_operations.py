"""The program's commands against a scripted cluster: a configuration, a store, and a call of the command line."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import closing
from pathlib import Path

from click.testing import CliRunner, Result

from jst_bridge.cli import cli
from jst_bridge.ports import Landing, Position, QueueKey
from jst_bridge.rocketmq.codes import Request
from jst_bridge.settings import Settings, load
from jst_bridge.store import open_reader, open_store
from tests.scripted import Call, refusing, run
from tests.scripted_cluster import GROUP, TOPIC, ScriptedCluster

__all__ = ["Desk", "key", "online", "play"]


def key(queue_id: int = 0, *, topic: str = TOPIC, instance: str = "") -> QueueKey:
    return QueueKey("rocketmq", GROUP, instance, "broker-a", topic, queue_id)


class Desk:
    """One configuration with a SQLite file, and the commands run with it."""

    def __init__(self, directory: Path, cluster: ScriptedCluster, **source: str) -> None:
        self.cluster = cluster
        self._config = directory / "jst-bridge.toml"
        self._store = f"sqlite:///{directory / 'bridge.db'}"
        keys = {"type": "rocketmq", "group": GROUP, "system_topic": TOPIC, **source}
        lines = [f"{name} = {json.dumps(value)}" for name, value in keys.items()]
        self._config.write_text(
            f'[app]\nkey = "12345678"\n[store]\nurl = "{self._store}"\n[[source]]\n'
            f'name_servers = ["{cluster.name_server.address}"]\n' + "\n".join(lines) + "\n"
        )

    async def call(self, *words: str, answer: str = "") -> Result:
        """Run a command beside the cluster, off a terminal; `answer` is what stdin holds."""
        arguments = [*words, "-c", str(self._config)]
        return await asyncio.to_thread(CliRunner().invoke, cli, arguments, input=answer)

    def settings(self) -> Settings:
        return load(str(self._config), {})

    def land(self, positions: Mapping[QueueKey, int]) -> None:
        """Put positions into the store."""
        with closing(open_store(self._store)) as store:
            store.open()
            store.land(Landing([], [], [Position(at, offset) for at, offset in positions.items()], []))

    def positions(self) -> dict[QueueKey, int]:
        with open_reader(self._store) as reader:
            return reader.all_positions()


def play(
    work: Callable[[Desk], Awaitable[None]],
    directory: Path,
    *,
    queues: int = 2,
    retry: bool = False,
    **source: str,
) -> None:
    """Run it with a cluster on which nobody is in the group."""

    async def whole() -> None:
        async with ScriptedCluster(queues) as cluster:
            if retry:
                cluster.topics[f"%RETRY%{GROUP}"] = 1
            cluster.broker.on(Request.GET_CONSUMER_CONNECTION_LIST, refusing(206, "not online"))
            cluster.broker.on(Request.GET_CONSUME_STATS, _no_stats)
            await work(Desk(directory, cluster, **source))

    run(whole())


def _no_stats(call: Call) -> None:
    call.answer(body=b'{"consumeTps":0.0,"offsetTable":{}}')


def online(desk: Desk, *client_ids: str, expression: str = "*", model: str = "CLUSTERING") -> None:
    """Members are in the group from now on."""
    connections = [
        {"clientAddr": f"10.0.0.{number}:4", "clientId": name, "language": "JAVA", "version": 479}
        for number, name in enumerate(client_ids)
    ]
    table = {TOPIC: {"subString": expression, "expressionType": "TAG"}}
    body = {"connectionSet": connections, "messageModel": model, "subscriptionTable": table}
    desk.cluster.broker.on(
        Request.GET_CONSUMER_CONNECTION_LIST, lambda call: call.answer(body=json.dumps(body).encode())
    )
