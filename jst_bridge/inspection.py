"""Looking from outside: how far the group is, and whether every hop to the messages works.

Nothing here joins a consumer group or moves an offset.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

from .errors import BrokerRefused, CredentialsRefused, DecodeError, JstBridgeError, SourceError
from .ports import QueueKey
from .rocketmq import Client, ConsumerSettings, MessageQueue
from .rocketmq.codes import PullFlag, Request, Response
from .rocketmq.loosejson import decode_json
from .rocketmq.offsets import committed_offset, max_offset

__all__ = ["Hop", "QueueLag", "hops", "lags"]


@dataclass(frozen=True, slots=True)
class QueueLag:
    """One queue: where it ends, what the group committed, what the store holds. Offsets; None is unknown."""

    source: str
    system_topic: str
    broker: str
    queue_id: int
    end: int
    committed: int | None
    position: int | None
    instance: str = ""
    """In broadcasting, where nothing is committed and the position counts; '' in clustering."""

    @property
    def lag(self) -> int:
        """Messages that wait: where nothing was read yet, all of them."""
        reached = self.position if self.instance else self.committed
        return max(0, self.end - (reached or 0))


@dataclass(frozen=True, slots=True)
class Hop:
    """One step on the way to the messages, tried."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""
    exit_code: int = 0

    @classmethod
    def failed(cls, name: str, error: JstBridgeError, remedy: str = "") -> Hop:
        return cls(name, False, str(error), error.remedy or remedy, error.exit_code)


async def lags(
    source: str, settings: ConsumerSettings, positions: Mapping[QueueKey, int], *, instance: str = ""
) -> list[QueueLag]:
    """Every queue of the system topic, and of the group's retry topic when there is one. Raises SourceError.

    With an `instance`, that is in broadcasting, the positions of that one.
    """
    client = Client(settings.client)
    try:
        queues = await client.queues_of_group(settings.subscriptions, None if instance else settings.group)

        async def look(queue: MessageQueue) -> QueueLag:
            end = await max_offset(client, queue)
            committed = None if instance else await committed_offset(client, settings.group, queue)
            key = QueueKey(source, settings.group, instance, queue.broker, queue.topic, queue.queue_id)
            position = positions.get(key)
            return QueueLag(
                source, queue.topic, queue.broker, queue.queue_id, end, committed, position, instance
            )

        return list(await asyncio.gather(*(look(queue) for queue in queues)))
    finally:
        await client.close()


async def hops(source: str, settings: ConsumerSettings) -> AsyncIterator[Hop]:
    """Name servers, topic, then each broker of its route with credentials and group, in that order."""
    client = Client(settings.client)
    try:
        reached = False
        if client.name_servers.url:
            hop = await _address_server(client, source)
            yield hop
        for server in client.name_servers.known:
            hop = await _name_server(client, source, server)
            reached = reached or hop.ok
            yield hop
        if not reached:
            return
        for topic in settings.subscriptions:
            name = f"{source}: topic {topic}"
            try:
                route = await client.fetch_route(topic)
            except (SourceError, DecodeError) as error:
                yield Hop.failed(name, error)
                continue
            queues = route.read_queues()
            yield Hop(name, True, f"{len(queues)} queues on {', '.join(sorted(route.brokers))}")
            for broker in sorted({queue.broker for queue in queues}):
                first = next(queue for queue in queues if queue.broker == broker)
                async for hop in _broker(client, source, settings.group, first):
                    yield hop
    finally:
        await client.close()


async def _address_server(client: Client, source: str) -> Hop:
    name = f"{source}: address server {client.name_servers.url}"
    try:
        found = await client.name_servers.addresses()
    except SourceError as error:
        return Hop.failed(name, error)
    return Hop(name, True, f"names {'; '.join(found)}")


async def _name_server(client: Client, source: str, server: str) -> Hop:
    name = f"{source}: name server {server}"
    try:
        await client.call(server, Request.GET_BROKER_CLUSTER_INFO, {})
    except SourceError as error:
        return Hop.failed(
            name,
            error,
            "check name_servers, that it runs, and that this host may reach it (security group, VPC)",
        )
    return Hop(name, True, f"answers{_over_tls(client)}")


def _over_tls(client: Client) -> str:
    tls = client.settings.tls
    return "" if tls is None else " over TLS that nobody checks" if tls.insecure else " over TLS"


async def _look_at_the_end(client: Client, group: str, queue: MessageQueue, end: int) -> None:
    """A pull behind the last message, which nobody registers or waits for: it takes the permission to read.

    Raises CredentialsRefused. What else a broker answers to somebody who is no member means nothing.
    """
    with contextlib.suppress(BrokerRefused):
        await client.call_master(
            queue,
            Request.PULL_MESSAGE,
            {
                "consumerGroup": group,
                "queueOffset": str(end),
                "maxMsgNums": "1",
                "sysFlag": str(int(PullFlag.SUBSCRIPTION)),
                "commitOffset": "0",
                "suspendTimeoutMillis": "0",
                "subscription": "*",
                "subVersion": "0",
                "expressionType": "TAG",
            },
            accept=(Response.SUCCESS, Response.PULL_NOT_FOUND),
        )


async def _broker(client: Client, source: str, group: str, queue: MessageQueue) -> AsyncIterator[Hop]:
    address = client.master(queue.broker)
    advertised = client.advertised(address)
    mapped = "" if advertised == address else f", mapped from {advertised}"
    name = f"{source}: broker {queue.broker} at {address}{mapped}"
    try:
        await client.connection(address)
    except SourceError as error:
        yield Hop.failed(
            name,
            error,
            f"the entry for {advertised} in broker_address_map leads there: correct it"
            if mapped
            else "the name server advertises this address: make it reachable (brokerIP1, security group, VPC), or say "
            "in broker_address_map what to dial instead",
        )
        return
    yield Hop(name, True, f"accepts connections{_over_tls(client)}")
    name = f"{source}: group {group} on {queue.broker}"
    try:
        committed = await committed_offset(client, group, queue)
        end = await max_offset(client, queue)
        members = await client.call(
            address,
            Request.GET_CONSUMER_LIST_BY_GROUP,
            {"consumerGroup": group},
            accept=(Response.SUCCESS, Response.SYSTEM_ERROR),
        )
        refusal = client.refusal(members, address, Request.GET_CONSUMER_LIST_BY_GROUP)
        if isinstance(refusal, CredentialsRefused):
            raise refusal
        if client.settings.credentials is not None:
            await _look_at_the_end(client, group, queue, end)
    except (SourceError, DecodeError) as error:
        yield Hop.failed(name, error)
        return
    online = len(set(decode_json(members.body)["consumerIdList"])) if members.code == Response.SUCCESS else 0
    credentials = client.settings.credentials
    signed = (
        f"requests of {credentials.access_key} are accepted"
        if credentials
        else "unsigned requests are accepted"
    )
    where = (
        "nothing committed yet"
        if committed is None
        else f"committed {committed} of {end} on queue {queue.queue_id}"
    )
    yield Hop(name, True, f"{signed}; {online} members online; {where}")
