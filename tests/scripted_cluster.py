"""A name server and brokers played by scripted peers, with queues in memory.

They behave like real ones until a test says otherwise with `Peer.on` and `Peer.once`.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from jst_bridge.rocketmq import ClientSettings, Consumer, ConsumerSettings, MessageExt, PulledBatch
from jst_bridge.rocketmq.codes import Request, Response
from jst_bridge.rocketmq.message import encode_message, pack_host
from tests.scripted import PATIENCE, Call, Channel, Handler, Peer, run

TOPIC, GROUP = "T", "GID_test"


@dataclass
class Queue:
    """One queue of the scripted brokers."""

    minimum: int = 0
    messages: list[MessageExt] = field(default_factory=list)
    committed: int | None = None
    commits: list[int] = field(default_factory=list)
    """Every offset ever committed, in order, by request 15 or with a pull."""
    parked: list[Call] = field(default_factory=list)

    @property
    def maximum(self) -> int:
        return self.minimum + len(self.messages)


class ScriptedCluster:
    """A name server and brokers that behave like real ones as long as the script says nothing else."""

    def __init__(self, queues: int = 1, brokers: int = 1) -> None:
        self.name_server = Peer()
        self.brokers = [Peer() for _ in range(brokers)]
        self.broker = self.brokers[0]
        self.topics = {TOPIC: queues}
        """Topic -> queues on each broker."""
        self.listed = list(range(brokers))
        """The brokers that routes name."""
        self.queues: dict[tuple[str, str, int], Queue] = defaultdict(Queue)
        """By broker name, topic and queue id."""
        self.members: list[str] | None = None
        """The member list to tell; None: those who sent a heartbeat. "me" stands for the client that asks."""
        self.name_server.on(Request.GET_ROUTEINFO_BY_TOPIC, self._route)
        for number, broker in enumerate(self.brokers):
            name = self.broker_name(number)
            broker.on(Request.HEART_BEAT, self._heartbeat)
            broker.on(Request.UNREGISTER_CLIENT, lambda call: call.answer())
            broker.on(Request.GET_CONSUMER_LIST_BY_GROUP, self._members)
            broker.on(Request.QUERY_CONSUMER_OFFSET, self._with_queue(name, _tell_committed))
            broker.on(Request.UPDATE_CONSUMER_OFFSET, self._with_queue(name, _commit))
            broker.on(Request.GET_MIN_OFFSET, self._with_queue(name, _tell_minimum))
            broker.on(Request.GET_MAX_OFFSET, self._with_queue(name, _tell_maximum))
            broker.on(Request.SEARCH_OFFSET_BY_TIMESTAMP, self._with_queue(name, _tell_offset_at))
            broker.on(Request.PULL_MESSAGE, self.serve_pull(number))
            broker.on_lost = self._forget

    @staticmethod
    def broker_name(number: int) -> str:
        return f"broker-{'abc'[number]}"

    async def __aenter__(self) -> ScriptedCluster:
        for peer in (self.name_server, *self.brokers):
            await peer.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        for peer in (self.name_server, *self.brokers):
            await peer.stop()

    def queue(self, queue_id: int = 0, topic: str = TOPIC, broker: int = 0) -> Queue:
        return self.queues[self.broker_name(broker), topic, queue_id]

    def publish(
        self, count: int = 1, queue_id: int = 0, *, tag: str = "A", broker: int = 0, size: int = 10
    ) -> None:
        """Store messages; parked pulls of the queue are answered with them."""
        queue = self.queue(queue_id, broker=broker)
        for _ in range(count):
            queue.messages.append(stored(queue.maximum, queue_id, tag=tag, size=size))
        parked, queue.parked = queue.parked, []
        for call in parked:
            _pull(queue, call)

    def serve_pull(self, broker: int = 0) -> Handler:
        """How pulls are answered as long as a test says nothing else."""
        return self._with_queue(self.broker_name(broker), _pull)

    def settings(self, **changes: Any) -> ConsumerSettings:
        fields: dict[str, Any] = {
            "client": ClientSettings((self.name_server.address,), request_timeout=1.0),
            "group": GROUP,
            "subscriptions": {TOPIC: "*"},
            "commit_period": 60.0,
        }
        return ConsumerSettings(**(fields | changes))

    def consumer(self, **changes: Any) -> Consumer:
        return Consumer(self.settings(**changes))

    def notify(self) -> None:
        for broker in self.brokers:
            broker.push(Request.NOTIFY_CONSUMER_IDS_CHANGED, {"consumerGroup": GROUP})

    def _route(self, call: Call) -> None:
        count = self.topics.get(call.ext["topic"])
        if count is None:
            call.answer(Response.TOPIC_NOT_EXIST, remark="No topic route info")
            return
        names = [self.broker_name(number) for number in self.listed]
        addresses = [self.brokers[number].address for number in self.listed]
        route = {
            "brokerDatas": [
                {"brokerName": name, "brokerAddrs": {"0": address}}
                for name, address in zip(names, addresses, strict=True)
            ],
            "queueDatas": [
                {"brokerName": name, "perm": 6, "readQueueNums": count, "writeQueueNums": count}
                for name in names
            ],
        }
        call.answer(body=json.dumps(route).encode())

    def _heartbeat(self, call: Call) -> None:
        call.channel.client_id = call.json()["clientID"]
        call.answer()

    def _members(self, call: Call) -> None:
        listed = self.members
        if listed is None:
            listed = [channel.client_id for channel in call.peer.channels if channel.client_id]
        ids = [call.channel.client_id if member == "me" else member for member in listed]
        call.answer(body=json.dumps({"consumerIdList": ids}).encode())

    def _with_queue(self, broker: str, handler: Callable[[Queue, Call], None]) -> Handler:
        return lambda call: handler(self.queues[broker, *call.queue], call)

    def _forget(self, channel: Channel) -> None:
        for queue in self.queues.values():
            queue.parked = [call for call in queue.parked if call.channel is not channel]


def stored(offset: int, queue_id: int = 0, *, tag: str = "A", size: int = 10) -> MessageExt:
    """A message as a broker stores it."""
    host = pack_host("127.0.0.1", 10911)
    properties = f"TAGS\x01{tag}\x02".encode() if tag else b""
    body = str(offset).encode().ljust(size)
    return MessageExt(TOPIC, body, properties, queue_id, offset, 1000 * offset, 1, 2, 0, 0, host, host)


async def receive(consumer: Consumer) -> list[PulledBatch]:
    """What arrives next, in good time."""
    async with asyncio.timeout(PATIENCE):
        return await consumer.receive()


async def receive_offsets(consumer: Consumer, count: int) -> list[int]:
    """Receive and settle until so many messages came; their offsets."""
    offsets: list[int] = []
    while len(offsets) < count:
        batches = await receive(consumer)
        offsets += [message.queue_offset for batch in batches for message in batch.messages]
        consumer.settle(batches)
    return offsets


async def pulled(cluster: ScriptedCluster, *queue_ids: int) -> None:
    """Wait until exactly these queues were pulled."""
    wanted = {(TOPIC, queue_id) for queue_id in queue_ids}
    await cluster.broker.until(
        lambda: wanted <= {call.queue for call in cluster.broker.told(Request.PULL_MESSAGE)}
    )
    assert {call.queue for call in cluster.broker.told(Request.PULL_MESSAGE)} == wanted


async def rebalanced(cluster: ScriptedCluster, rounds: int = 2) -> None:
    """Ask for a rebalance and wait until so many member lists were asked since: then one round is over."""
    asking = Request.GET_CONSUMER_LIST_BY_GROUP
    for _ in range(rounds):
        asked = len(cluster.broker.told(asking))
        cluster.notify()
        await cluster.broker.until_told(asking, asked + 1)


def pull_ext(queue: Queue, next_offset: int) -> dict[str, str]:
    """The fields of every pull answer (reference 2.7.3)."""
    return {
        "suggestWhichBrokerId": "0",
        "nextBeginOffset": str(next_offset),
        "minOffset": str(queue.minimum),
        "maxOffset": str(queue.maximum),
    }


def found(queue: Queue, messages: Iterable[MessageExt], call: Call) -> None:
    """Answer a pull with these messages."""
    messages = list(messages)
    body = b"".join(encode_message(message) for message in messages)
    call.answer(0, pull_ext(queue, messages[-1].queue_offset + 1), body, "FOUND")


def _pull(queue: Queue, call: Call) -> None:
    """A pull by the rules of reference 2.7.3; one without news is parked until `publish`."""
    offset = int(call.ext["queueOffset"])
    if int(call.ext["sysFlag"]) & 1:
        queue.committed = int(call.ext["commitOffset"])
        queue.commits.append(queue.committed)
    if offset < queue.minimum:
        call.answer(Response.PULL_OFFSET_MOVED, pull_ext(queue, queue.minimum), remark="OFFSET_TOO_SMALL")
    elif offset > queue.maximum:
        call.answer(
            Response.PULL_OFFSET_MOVED, pull_ext(queue, queue.maximum), remark="OFFSET_OVERFLOW_BADLY"
        )
    elif offset == queue.maximum:
        if int(call.ext["sysFlag"]) & 2:
            queue.parked.append(call)
        else:
            call.answer(Response.PULL_NOT_FOUND, pull_ext(queue, offset))
    else:
        first = offset - queue.minimum
        found(queue, queue.messages[first : first + int(call.ext["maxMsgNums"])], call)


def _tell_committed(queue: Queue, call: Call) -> None:
    if queue.committed is None:
        call.answer(Response.QUERY_NOT_FOUND)
    else:
        call.answer(ext={"offset": str(queue.committed)})


def _commit(queue: Queue, call: Call) -> None:
    queue.committed = int(call.ext["commitOffset"])
    queue.commits.append(queue.committed)
    call.answer()


def _tell_minimum(queue: Queue, call: Call) -> None:
    call.answer(ext={"offset": str(queue.minimum)})


def _tell_maximum(queue: Queue, call: Call) -> None:
    call.answer(ext={"offset": str(queue.maximum)})


def _tell_offset_at(queue: Queue, call: Call) -> None:
    wanted = int(call.ext["timestamp"])
    older = sum(message.store_timestamp < wanted for message in queue.messages)
    call.answer(ext={"offset": str(queue.minimum + older)})


Script = Callable[[ScriptedCluster, Consumer], Awaitable[None]]


def play(
    script: Script, *, before: Callable[[ScriptedCluster], None] | None = None, **settings: object
) -> None:
    """Start a consumer on a cluster of one queue, run the script, stop."""

    async def work() -> None:
        async with ScriptedCluster() as cluster:
            if before is not None:
                before(cluster)
            async with cluster.consumer(**settings) as consumer:
                await script(cluster, consumer)

    run(work())
