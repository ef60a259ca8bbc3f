"""What consumer, producer and tools share: connections to servers, name servers, routes.

One connection per server and client, because a broker keeps registrations per channel (reference 1.9).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import random
import time
from collections.abc import Awaitable, Callable, Container, Iterable
from dataclasses import dataclass
from typing import Final

from ..errors import (
    BrokerRefused,
    ConnectionFailed,
    CredentialsRefused,
    RequestTimeout,
    SourceError,
    TopicNotFound,
)
from .acl import Credentials
from .codes import Request, Response
from .connection import Connection
from .frame import Frame
from .message import MessageQueue
from .route import MASTER, Route, decode_cluster, decode_route

__all__ = ["Client", "ClientSettings"]

log = logging.getLogger(__name__)

_BACKOFF_FIRST: Final = 0.05
_BACKOFF_LAST: Final = 0.5
"""Seconds. Short on purpose: a broker that is back should be read within a second."""
_AUTHENTICATION_REMARKS: Final = (
    "AclException", "check signature failed", "has no permission to access", "username cannot be null",
)  # fmt: skip
_serial = itertools.count()


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """How to reach a cluster. Timeouts in seconds."""

    name_servers: tuple[str, ...]
    credentials: Credentials | None = None
    connect_timeout: float = 3.0
    request_timeout: float = 3.0


RequestHandler = Callable[[Connection, Frame], None]


class Client:
    """Connections and routes of one client id. Nothing is opened before the first call."""

    def __init__(self, settings: ClientSettings) -> None:
        self.settings = settings
        self.routes: dict[str, Route] = {}
        """The last known route of each topic: kept when a name server forgets it (reference 4.16)."""
        self.brokers: dict[str, dict[int, str]] = {}
        """Broker name -> broker id -> address, of all routes."""
        self.on_broker_connected: Callable[[Connection], Awaitable[None]] | None = None
        """Awaited on each new connection to a broker before anyone else may use it."""
        self.handlers: dict[int, RequestHandler] = {}
        """What to do with requests of a broker, by code; others are refused with code 3."""
        self._links: dict[str, _Link] = {}
        self._closed = False
        self._name_server = 0
        self._unique = f"{os.getpid()}#{time.time_ns()}{next(_serial)}{random.randrange(1000):03}"
        self._local_host = ""

    @property
    def client_id(self) -> str:
        """`address@pid#unique`: never equal for two clients, or both would be given the same queues (4.2)."""
        return f"{self._local_host or '127.0.0.1'}@{self._unique}"

    async def close(self) -> None:
        """Close every connection; none is opened after that. Idempotent."""
        self._closed = True
        links, self._links = list(self._links.values()), {}
        await asyncio.gather(*(link.close() for link in links))

    # --- requests -----------------------------------------------------------------------------------

    async def call(
        self,
        address: str,
        code: Request,
        ext: dict[str, str] | None = None,
        body: bytes = b"",
        *,
        timeout: float | None = None,
        accept: Container[int] = (Response.SUCCESS,),
        on: Connection | None = None,
    ) -> Frame:
        """Send one request to a server, connecting first where needed, and return its answer.

        An answer with a code outside `accept` is raised: CredentialsRefused or BrokerRefused.
        Also raises ConnectionFailed and RequestTimeout.
        """
        connection = on or await self.connection(address)
        fields = ext if ext is not None else {}
        if self.settings.credentials is not None:
            self.settings.credentials.sign(fields, body)
        seconds = self.settings.request_timeout if timeout is None else timeout
        try:
            frame = await connection.request(code, fields, body, timeout=seconds)
        except RequestTimeout:
            # As the Java client does: a socket that swallows requests is replaced (reference 1.9).
            connection.abort(f"no answer to {code.name} within {seconds:g} s")
            raise
        if frame.code not in accept:
            raise self.refusal(frame, address, code)
        return frame

    def refusal(self, frame: Frame, address: str, request: Request) -> SourceError:
        """The error an answer stands for: keys and permissions apart from everything else."""
        remark = " ".join(frame.remark.split())
        if frame.code in (Response.SYSTEM_ERROR, Response.NO_PERMISSION):
            unknown_user = remark.startswith("User:") and "not found" in remark
            if unknown_user or any(mark in remark for mark in _AUTHENTICATION_REMARKS):
                credentials = self.settings.credentials
                who = f"access key {credentials.access_key}" if credentials else "an unsigned request"
                return CredentialsRefused(
                    f"{address} refused {request.name} by {who}: {remark} (code {frame.code})",
                    remedy="check app.key and app.secret, and the permissions of the key on topic and group",
                )
        return BrokerRefused(frame.code, remark, address, request.name)

    async def connection(self, address: str) -> Connection:
        """The connection to a server, opened (or re-opened) where needed. Raises ConnectionFailed."""
        if self._closed:
            raise ConnectionFailed(f"{address}: this client is closed")
        link = self._links.get(address)
        if link is None:
            link = self._links[address] = _Link(self, address)
        if link.connection is not None and not link.connection.closed:
            return link.connection
        return await link.open()

    def connected(self, address: str) -> bool:
        link = self._links.get(address)
        return link is not None and link.connection is not None and not link.connection.closed

    async def opened(self, connection: Connection) -> None:
        """Called by a link for each new connection."""
        if connection.address in self.settings.name_servers:
            # Once told it stays: another name server may be reached through another interface.
            self._local_host = self._local_host or connection.local_host
        elif self.on_broker_connected is not None:
            await self.on_broker_connected(connection)

    def dispatch(self, connection: Connection, frame: Frame) -> None:
        """A request that came from a server."""
        handler = self.handlers.get(frame.code)
        if handler is not None:
            handler(connection, frame)
        else:
            connection.respond(
                frame,
                Response.REQUEST_CODE_NOT_SUPPORTED,
                remark=f"request code {frame.code} is not supported",
            )

    # --- name servers -------------------------------------------------------------------------------

    async def ask_name_server(
        self,
        code: Request,
        ext: dict[str, str] | None = None,
        *,
        accept: Container[int] = (Response.SUCCESS,),
    ) -> Frame:
        """Ask the current name server, and the others in turn when it cannot answer.

        Raises ConnectionFailed naming them all when none does.
        """
        servers = self.settings.name_servers
        failures: list[str] = []
        for attempt in range(len(servers)):
            index = (self._name_server + attempt) % len(servers)
            try:
                frame = await self.call(servers[index], code, dict(ext or {}), accept=accept)
            except (ConnectionFailed, RequestTimeout) as error:
                failures.append(str(error))
            except BrokerRefused as error:
                if error.code != Response.SYSTEM_BUSY:
                    raise
                failures.append(str(error))
            else:
                self._name_server = index
                return frame
        raise ConnectionFailed(
            "no name server answered: " + "; ".join(failures),
            remedy="check name_servers, that they run, and that this host may reach them (security group, VPC)",
        )

    async def fetch_route(self, topic: str) -> Route:
        """Ask for the route of a topic and remember it. Raises TopicNotFound when no name server knows it."""
        servers = len(self.settings.name_servers)
        for _ in range(servers):
            frame = await self.ask_name_server(
                Request.GET_ROUTEINFO_BY_TOPIC,
                {"topic": topic, "acceptStandardJsonOnly": "true"},
                accept=(Response.SUCCESS, Response.TOPIC_NOT_EXIST),
            )
            if frame.code == Response.SUCCESS:
                route = decode_route(topic, frame.body)
                self.routes[topic] = route
                # Anew from all routes, so that a broker that was taken away is not dialled for ever.
                self.brokers = {
                    name: ids for known in self.routes.values() for name, ids in known.brokers.items()
                }
                return route
            # One that restarted knows nothing for a while; another one may.
            self._name_server = (self._name_server + 1) % servers
        raise TopicNotFound(
            f"the name server knows no topic {topic}",
            remedy="check system_topic (rmq_sys_jst_<app key>) and that message sync is enabled for the app",
        )

    async def queues_of_group(self, topics: Iterable[str], group: str) -> list[MessageQueue]:
        """The queues of these topics, and of the group's retry topic when there is one. Raises SourceError."""
        queues: list[MessageQueue] = []
        for topic in topics:
            queues += (await self.fetch_route(topic)).read_queues()
        with contextlib.suppress(TopicNotFound):  # nobody ever sent a message back
            queues += (await self.fetch_route(f"%RETRY%{group}")).read_queues()
        return queues

    async def fetch_cluster(self) -> dict[str, dict[int, str]]:
        """Every broker the name server knows: name -> id -> address."""
        return decode_cluster((await self.ask_name_server(Request.GET_BROKER_CLUSTER_INFO)).body)

    # --- brokers ------------------------------------------------------------------------------------

    def master(self, broker: str) -> str:
        """Address of a broker's master, else of any of its members. Raises ConnectionFailed when none is known."""
        return self.broker_address(broker, MASTER)

    def broker_address(self, broker: str, broker_id: int) -> str:
        """Address of one broker id, falling back to the master and then to any (reference 2.7.3)."""
        addresses = self.brokers.get(broker)
        if not addresses:
            raise ConnectionFailed(f"no route names an address of broker {broker}")
        return addresses.get(broker_id) or addresses.get(MASTER) or next(iter(addresses.values()))

    def addresses(self) -> list[str]:
        """Masters and slaves of every known route, in stable order."""
        return sorted({address for members in self.brokers.values() for address in members.values()})

    async def call_master(
        self, queue: MessageQueue, code: Request, ext: dict[str, str], *, accept: Container[int] = (0,)
    ) -> Frame:
        """A request about one queue, to the master of its broker."""
        ext |= {"topic": queue.topic, "queueId": str(queue.queue_id)}
        return await self.call(self.master(queue.broker), code, ext, accept=accept)


class _Link:
    """The way to one server: its connection, and one shared attempt to open it, with backoff."""

    def __init__(self, client: Client, address: str) -> None:
        self._client = client
        self._address = address
        self._opening: asyncio.Task[Connection] | None = None
        self._failures = 0
        self._not_before = 0.0
        self.connection: Connection | None = None

    async def open(self) -> Connection:
        """All who wait share one attempt, so that a dead server is not dialled once per queue."""
        if self._opening is None or self._opening.done():
            self._opening = asyncio.create_task(self._attempt(), name=f"connect {self._address}")
            self._opening.add_done_callback(_retrieve)
        return await asyncio.shield(self._opening)

    async def _attempt(self) -> Connection:
        wait = self._not_before - time.monotonic()
        if wait > 0:
            await asyncio.sleep(wait)
        connection: Connection | None = None
        try:
            connection = await Connection.open(
                self._address, timeout=self._client.settings.connect_timeout, on_request=self._client.dispatch
            )
            await self._client.opened(connection)
        except BaseException:
            self._failures += 1
            pause = min(_BACKOFF_LAST, _BACKOFF_FIRST * 2.0 ** min(self._failures, 10))
            self._not_before = time.monotonic() + pause * random.uniform(0.5, 1.0)
            if connection is not None:
                connection.abort("it was given up while opening")
            raise
        self._failures = 0
        self.connection = connection
        return connection

    async def close(self) -> None:
        if self._opening is not None and not self._opening.done():
            self._opening.cancel()
            with contextlib.suppress(asyncio.CancelledError, SourceError):
                await self._opening
        if self.connection is not None:
            await self.connection.close()


def _retrieve(task: asyncio.Task[Connection]) -> None:
    """Everyone who waited may be gone: look at the outcome, so that asyncio does not complain."""
    if not task.cancelled():
        task.exception()
