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
from collections.abc import Awaitable, Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from ..errors import (
    BrokerRefused,
    ConnectionFailed,
    CredentialsRefused,
    RequestTimeout,
    SourceError,
    TopicNotFound,
)
from .acl import CredentialFiles, Credentials, credentials_refused
from .brokers import Brokers
from .codes import Request, Response
from .connection import Connection
from .frame import Frame
from .link import Link
from .message import MessageQueue
from .name_servers import NameServers
from .namespace import Namespace
from .route import MASTER, Route, decode_cluster, decode_route
from .tls import Tls

__all__ = ["Client", "ClientSettings"]

log = logging.getLogger(__name__)

_GRACE: Final = 60.0
"""Seconds after its last use that a connection to a broker is closed which no route names any more."""
_serial = itertools.count()


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """How to reach a cluster. Timeouts in seconds."""

    name_servers: tuple[str, ...]
    """host:port each, or one http(s) URL of an address server."""
    credentials: Credentials | CredentialFiles | None = None
    tls: Tls | None = None
    """None is plaintext. Name servers and brokers alike."""
    namespace: Namespace = field(default_factory=Namespace)
    broker_address_map: Mapping[str, str] = field(default_factory=dict)
    """Address that brokers advertise (host:port, or host for every port) -> the one to dial instead."""
    connect_timeout: float = 3.0
    request_timeout: float = 3.0


RequestHandler = Callable[[Connection, Frame], None]


class Client:
    """Connections and routes of one client id. Nothing is opened before the first call."""

    def __init__(self, settings: ClientSettings) -> None:
        self.settings = settings
        self.namespace = settings.namespace
        """For names inside of bodies: those in the fields of requests are wrapped by `call`."""
        self.name_servers = NameServers(
            settings.name_servers, ca_file=settings.tls.ca_file if settings.tls else None
        )
        self.name_servers.on_change = self._disconnect
        self._brokers = Brokers(settings.broker_address_map)
        self.on_broker_connected: Callable[[Connection], Awaitable[None]] | None = None
        """Awaited on each new connection to a broker before anyone else may use it."""
        self.handlers: dict[int, RequestHandler] = {}
        """What to do with requests of a broker, by code; others are refused with code 3."""
        self._links: dict[str, Link] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = False
        self._name_server = 0
        self._unique = f"{os.getpid()}#{time.time_ns()}{next(_serial)}{random.randrange(1000):03}"
        self._local_host = ""

    @property
    def client_id(self) -> str:
        """`address@pid#unique`: never equal for two clients, or both would be given the same queues (4.2)."""
        return f"{self._local_host or '127.0.0.1'}@{self._unique}"

    @property
    def routes(self) -> dict[str, Route]:
        """The last known route of each topic, with the addresses to dial."""
        return self._brokers.routes

    @property
    def brokers(self) -> dict[str, dict[int, str]]:
        """Broker name -> broker id -> address, of all routes."""
        return self._brokers.table

    async def close(self) -> None:
        """Close every connection; none is opened after that. Idempotent."""
        self._closed = True
        self._disconnect(list(self._links))
        await self.name_servers.close()
        await asyncio.gather(*self._closing)

    def _disconnect(self, addresses: Iterable[str]) -> None:
        """Close these connections; whoever calls such a server again opens another."""
        for link in [self._links.pop(address) for address in addresses if address in self._links]:
            task = asyncio.create_task(link.close(), name="disconnect")
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def _disconnect_former(self) -> None:
        """Leave the servers that no route and no list of name servers names any more."""
        in_use = {*self._brokers.addresses(), *self.name_servers.known}
        unused_since = time.monotonic() - _GRACE
        self._disconnect(
            [
                address
                for address, link in self._links.items()
                if address not in in_use and link.used_at < unused_since
            ]
        )

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
        if self.namespace:
            fields = self.namespace.wrap_fields(code, fields)
        signer = self._sign(fields, body)
        seconds = self.settings.request_timeout if timeout is None else timeout
        frame = await self._ask(connection, code, fields, body, seconds)
        if frame.code == Response.GO_AWAY and on is None:
            # Refused unseen by a server that is about to stop or to shed load: safe to say again elsewhere.
            connection.retire()
            frame = await self._ask(await self.connection(address), code, fields, body, seconds)
        if frame.code not in accept:
            refusal = self.refusal(frame, address, code)
            if isinstance(refusal, CredentialsRefused) and signer != self._signer(fresh=True):
                # Somebody has renewed the keys meanwhile.
                return await self.call(address, code, ext, body, timeout=timeout, accept=accept, on=on)
            raise refusal
        return frame

    def _signer(self, *, fresh: bool = False) -> Credentials | None:
        credentials = self.settings.credentials
        return credentials.current(fresh=fresh) if credentials is not None else None

    def _sign(self, fields: dict[str, str], body: bytes) -> Credentials | None:
        signer = self._signer()
        if signer is not None:
            signer.sign(fields, body)
        return signer

    @staticmethod
    async def _ask(
        connection: Connection, code: Request, fields: dict[str, str], body: bytes, timeout: float
    ) -> Frame:
        asked_at = time.monotonic()
        try:
            return await connection.request(code, fields, body, timeout=timeout)
        except RequestTimeout:
            # As the Java client does, a socket that swallows requests is replaced (reference 1.9); one on which
            # anything else still arrives belongs to a server that is only slow.
            if connection.heard_at < asked_at:
                connection.abort(f"no answer to {code.name} within {timeout:g} s")
            raise

    def refusal(self, frame: Frame, address: str, request: Request) -> SourceError:
        """The error an answer stands for: keys and permissions apart from everything else."""
        remark = " ".join(frame.remark.split())
        return credentials_refused(frame, address, request, self._signer()) or BrokerRefused(
            frame.code, remark, address, request.name
        )

    async def connection(self, address: str) -> Connection:
        """The connection to a server, opened (or re-opened) where needed. Raises ConnectionFailed."""
        if self._closed:
            raise ConnectionFailed(f"{address}: this client is closed")
        link = self._links.get(address)
        if link is None:
            link = self._links[address] = Link(address, self._dial)
        link.used_at = time.monotonic()
        if link.connection is not None and link.connection.usable:
            return link.connection
        return await link.open()

    def connected(self, address: str) -> bool:
        link = self._links.get(address)
        return link is not None and link.connection is not None and link.connection.usable

    def broker_connections(self) -> list[Connection]:
        """Those in use now."""
        found = (link.connection for link in self._links.values())
        return [one for one in found if one and one.usable and one.address not in self.name_servers.known]

    def reconnect(self, address: str, reason: str) -> None:
        """Cut the connection to a server: what is pending fails with `reason`, the next request opens another."""
        link = self._links.get(address)
        if link is not None and link.connection is not None:
            link.connection.abort(reason)

    def poke(self, connection: Connection, code: Request, body: bytes) -> None:
        """Ask something whose answer is only wanted as a sign of life."""
        fields: dict[str, str] = {}
        self._sign(fields, body)
        connection.poke(code, fields, body)

    async def _dial(self, address: str) -> Connection:
        settings = self.settings
        connection = await Connection.open(
            address, timeout=settings.connect_timeout, on_request=self.dispatch, tls=settings.tls
        )
        try:
            await self._opened(connection)
        except BaseException:
            connection.abort("it was given up while opening")
            raise
        return connection

    async def _opened(self, connection: Connection) -> None:
        if connection.address in self.name_servers.known:
            # Once told it stays: another name server may be reached through another interface.
            self._local_host = self._local_host or connection.local_host
        elif self.on_broker_connected is not None:
            await self.on_broker_connected(connection)

    def dispatch(self, connection: Connection, frame: Frame) -> None:
        """A request that came from a server."""
        if self.namespace:
            frame.ext = self.namespace.unwrap_fields(frame.ext)
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
        servers = await self.name_servers.addresses()
        try:
            return await self._ask_in_turn(servers, code, ext, accept)
        except ConnectionFailed:
            if not await self.name_servers.renewed(servers):
                raise
        return await self._ask_in_turn(self.name_servers.known, code, ext, accept)

    async def _ask_in_turn(
        self, servers: tuple[str, ...], code: Request, ext: dict[str, str] | None, accept: Container[int]
    ) -> Frame:
        failures: list[SourceError] = []
        for attempt in range(len(servers)):
            index = (self._name_server + attempt) % len(servers)
            try:
                frame = await self.call(servers[index], code, dict(ext or {}), accept=accept)
            except (ConnectionFailed, RequestTimeout) as error:
                failures.append(error)
            except BrokerRefused as error:
                if error.code != Response.SYSTEM_BUSY:
                    raise
                failures.append(error)
            else:
                self._name_server = index
                return frame
        raise ConnectionFailed(
            "no name server answered: " + "; ".join(map(str, failures)),
            remedy=next((failure.remedy for failure in failures if failure.remedy), "")
            or "check name_servers, that they run, and that this host may reach them (security group, VPC)",
        )

    async def fetch_route(self, topic: str) -> Route:
        """Ask for the route of a topic and remember it. Raises TopicNotFound when no name server knows it."""
        servers = len(await self.name_servers.addresses())
        for _ in range(servers):
            frame = await self.ask_name_server(
                Request.GET_ROUTEINFO_BY_TOPIC,
                {"topic": topic, "acceptStandardJsonOnly": "true"},
                accept=(Response.SUCCESS, Response.TOPIC_NOT_EXIST),
            )
            if frame.code == Response.SUCCESS:
                route = decode_route(topic, frame.body)
                if route.queues or topic not in self.routes:
                    route = self._brokers.learn(route)
                    self._disconnect_former()
                    return route
            # One that restarted knows nothing for a while, or names no queue; another one may.
            self._name_server = (self._name_server + 1) % servers
        raise TopicNotFound(
            f"the name server knows no topic {topic}",
            remedy="check system_topic (rmq_sys_jst_<app key>) and that message sync is enabled for the app",
        )

    async def queues_of_group(self, topics: Iterable[str], group: str | None) -> list[MessageQueue]:
        """The queues of these topics, and of the group's retry topic when there is one. Raises SourceError.

        `group` is None in broadcasting, which retries nothing.
        """
        queues: list[MessageQueue] = []
        for topic in topics:
            queues += (await self.fetch_route(topic)).read_queues()
        if group is None:
            return queues
        with contextlib.suppress(TopicNotFound):  # nobody ever sent a message back
            queues += (await self.fetch_route(f"%RETRY%{group}")).read_queues()
        return queues

    async def fetch_cluster(self) -> dict[str, dict[int, str]]:
        """Every broker the name server knows: name -> id -> address."""
        cluster = decode_cluster((await self.ask_name_server(Request.GET_BROKER_CLUSTER_INFO)).body)
        return {name: self._brokers.dialled(addresses) for name, addresses in cluster.items()}

    # --- brokers ------------------------------------------------------------------------------------

    def master(self, broker: str) -> str:
        """Address of a broker's master, else of any of its members. Raises ConnectionFailed when none is known."""
        return self.broker_address(broker, MASTER)

    def broker_address(self, broker: str, broker_id: int) -> str:
        """Address of one broker id, falling back to the master and then to any (reference 2.7.3)."""
        return self._brokers.address(broker, broker_id)

    def addresses(self) -> list[str]:
        """Masters and slaves of every known route, in stable order."""
        return self._brokers.addresses()

    def advertised(self, address: str) -> str:
        """The address that the name server told for this one; they differ by `broker_address_map`."""
        return self._brokers.advertised.get(address, address)

    async def call_master(
        self, queue: MessageQueue, code: Request, ext: dict[str, str], *, accept: Container[int] = (0,)
    ) -> Frame:
        """A request about one queue, to the master of its broker."""
        ext |= {"topic": queue.topic, "queueId": str(queue.queue_id)}
        return await self.call(self.master(queue.broker), code, ext, accept=accept)
