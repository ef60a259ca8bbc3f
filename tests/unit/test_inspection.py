"""What `check --connect` says about the way to a broker."""

from __future__ import annotations

import asyncio

from jst_bridge.inspection import Hop, hops
from jst_bridge.rocketmq import ClientSettings, ConsumerSettings, Credentials
from jst_bridge.rocketmq.codes import Request
from tests.false_route import routing_to
from tests.scripted import Peer, peers, refusing

ADVERTISED = "127.0.0.1:1"


async def looked(settings: ClientSettings) -> list[Hop]:
    return [hop async for hop in hops("s", ConsumerSettings(settings, "GID_x", {"T": "*"}))]


def willing(broker: Peer) -> None:
    for code in (Request.QUERY_CONSUMER_OFFSET, Request.GET_MAX_OFFSET):
        broker.on(code, lambda call: call.answer(ext={"offset": "3"}))
    broker.on(Request.GET_CONSUMER_LIST_BY_GROUP, lambda call: call.answer(body=b'{"consumerIdList":["a"]}'))
    broker.on(Request.PULL_MESSAGE, refusing(24, "the consumer's group info not exist"))


def test_an_advertised_address_that_cannot_be_reached_names_the_setting_that_helps() -> None:
    with routing_to(ADVERTISED) as name_server:
        *_, broker = asyncio.run(looked(ClientSettings((name_server,))))
        assert (broker.ok, broker.exit_code) == (False, 69)
        assert ADVERTISED in broker.name
        assert "broker_address_map" in broker.remedy
        table = {ADVERTISED: "127.0.0.1:2"}
        *_, mapped = asyncio.run(looked(ClientSettings((name_server,), broker_address_map=table)))
        assert not mapped.ok
        assert f"at 127.0.0.1:2, mapped from {ADVERTISED}" in mapped.name
        assert f"the entry for {ADVERTISED} in broker_address_map" in mapped.remedy


def test_a_mapped_broker_is_reached_and_the_key_is_named() -> None:
    async def work(name_server: str) -> list[Hop]:
        async with peers() as (broker,):
            willing(broker)
            return await looked(
                ClientSettings(
                    (name_server,),
                    Credentials("key", "secret"),
                    broker_address_map={ADVERTISED: broker.address},
                )
            )

    with routing_to(ADVERTISED) as name_server:
        found = asyncio.run(work(name_server))
    assert all(hop.ok for hop in found), found
    assert f"mapped from {ADVERTISED}" in found[-2].name
    assert "requests of key are accepted; 1 members online; committed 3 of 3" in found[-1].detail


def test_a_key_that_may_not_read_the_topic_is_found_out_without_joining() -> None:
    async def work(name_server: str) -> list[Hop]:
        async with peers() as (broker,):
            willing(broker)
            broker.on(
                Request.PULL_MESSAGE,
                refusing(
                    16, "User:key has no permission to access Topic:T from 127.0.0.1, no matched policies."
                ),
            )
            found = await looked(
                ClientSettings(
                    (name_server,),
                    Credentials("key", "secret"),
                    broker_address_map={ADVERTISED: broker.address},
                )
            )
            assert not broker.told(Request.HEART_BEAT)
            (pull,) = broker.told(Request.PULL_MESSAGE)
            assert pull.ext["sysFlag"] == "4", "neither commits nor waits"
            return found

    with routing_to(ADVERTISED) as name_server:
        *_, last = asyncio.run(work(name_server))
    assert (last.ok, last.exit_code) == (False, 77)
    assert "access key key, which lacks Sub on topic T" in last.detail
