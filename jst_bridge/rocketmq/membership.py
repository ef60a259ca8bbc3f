"""Belonging to a consumer group: heartbeats, the member list, leaving (reference 2.2, 2.3, 2.4)."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from typing import Final

import msgspec

from ..errors import CredentialsRefused, DecodeError, SourceError
from .client import Client
from .codes import Request, Response
from .connection import Connection
from .loosejson import decode_json
from .subscription import Subscription

__all__ = ["CONSUME_FROM", "Membership"]

log = logging.getLogger(__name__)

CONSUME_FROM: Final = {
    "first": "CONSUME_FROM_FIRST_OFFSET",
    "last": "CONSUME_FROM_LAST_OFFSET",
    "time": "CONSUME_FROM_TIMESTAMP",
}


class Membership:
    """One client's place in one consumer group, on every broker it knows."""

    def __init__(
        self,
        client: Client,
        group: str,
        subscriptions: Iterable[Subscription],
        consume_from: str,
        mode: str = "clustering",
    ) -> None:
        self._client = client
        self.group = group
        self._subscriptions = list(subscriptions)
        self._consume_from = CONSUME_FROM[consume_from]
        self._model = mode.upper()
        self.heard: dict[str, float] = {}
        """Address -> when that broker last took a heartbeat, in monotonic seconds."""
        self._mute: set[str] = set()
        """Brokers that did not list members when they were asked last: told once."""
        client.on_broker_connected = self.announce

    def _heartbeat(self) -> bytes:
        namespace = self._client.namespace
        return msgspec.json.encode(
            {
                "clientID": self._client.client_id,
                "consumerDataSet": [
                    {
                        "consumeFromWhere": self._consume_from,
                        "consumeType": "CONSUME_PASSIVELY",
                        "groupName": namespace.wrap_group(self.group),
                        "messageModel": self._model,
                        "subscriptionDataSet": [
                            entry.as_heartbeat(namespace) for entry in self._subscriptions
                        ],
                        "unitMode": False,
                    }
                ],
                "producerDataSet": [],
            }
        )

    async def announce(self, connection: Connection) -> None:
        """The heartbeat on a new connection, before anything else goes over it: else pulls answer 24."""
        await self._client.call(connection.address, Request.HEART_BEAT, {}, self._heartbeat(), on=connection)
        self.heard[connection.address] = time.monotonic()

    def poke(self, connection: Connection) -> None:
        """A heartbeat nobody waits for: does the broker at the other end still live?"""
        self._client.poke(connection, Request.HEART_BEAT, self._heartbeat())

    async def heartbeat(self) -> dict[str, SourceError]:
        """Tell every known broker that this member lives. Returns the failures by address, empty when all is well."""
        body = self._heartbeat()

        async def beat(address: str) -> tuple[str, SourceError | None]:
            try:
                if not self._client.connected(address):
                    await self._client.connection(address)  # announces itself
                else:
                    await self._client.call(address, Request.HEART_BEAT, {}, body)
            except SourceError as error:
                return address, error
            self.heard[address] = time.monotonic()
            return address, None

        outcomes = await asyncio.gather(*(beat(address) for address in self._client.addresses()))
        return {address: error for address, error in outcomes if error is not None}

    async def members(self, brokers: Iterable[str]) -> set[str] | None:
        """Client ids of the group, from the first of these brokers that answers; None when none could say.

        A set: after a silent connection a broker lists the same client twice.
        """
        for broker in brokers:
            try:
                frame = await self._client.call(
                    self._client.master(broker),
                    Request.GET_CONSUMER_LIST_BY_GROUP,
                    {"consumerGroup": self.group},
                    accept=(Response.SUCCESS, Response.SYSTEM_ERROR),
                )
                self._mute.discard(broker)
                if frame.code == Response.SUCCESS:
                    return {str(member) for member in decode_json(frame.body)["consumerIdList"]}
                refusal = self._client.refusal(
                    frame, self._client.master(broker), Request.GET_CONSUMER_LIST_BY_GROUP
                )
                if isinstance(refusal, CredentialsRefused):
                    raise refusal
                log.debug("broker %s lists no member of %s: %s", broker, self.group, frame.remark)
            except CredentialsRefused:
                raise
            except (SourceError, DecodeError) as error:
                level = logging.DEBUG if broker in self._mute else logging.WARNING
                log.log(level, "broker %s did not list the members of %s: %s", broker, self.group, error)
                self._mute.add(broker)
            except (KeyError, TypeError):
                log.warning("broker %s answered a member list without consumerIdList", broker)
        return None

    async def leave(self) -> None:
        """Unregister from every broker that is connected, so that the others take over at once."""

        async def unregister(address: str) -> None:
            try:
                await self._client.call(
                    address,
                    Request.UNREGISTER_CLIENT,
                    {"clientID": self._client.client_id, "consumerGroup": self.group},
                )
            except SourceError as error:
                # The broker notices the closed socket anyway.
                log.debug("unregistering at %s failed: %s", address, error)

        connected = [address for address in self._client.addresses() if self._client.connected(address)]
        await asyncio.gather(*(unregister(address) for address in connected))
