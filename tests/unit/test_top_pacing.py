"""Which bans the client obeys, how fast it goes, and what a cancelled call or a closed client leaves behind."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from jst_bridge.top import TopClient, TopSettings
from jst_bridge.top.errors import Banned, BanScope, GatewayUnreachable, Refusal, TopError
from jst_bridge.top.pacing import Bans, Clock, RateLimit
from tests.scripted import run
from tests.scripted_gateway import (
    APP_KEY,
    SECRET,
    Asked,
    Reply,
    Watch,
    banned,
    client,
    error,
    gateway,
    silent,
    success,
)

READ = "taobao.trade.fullinfo.get"
WRITE = "taobao.trade.memo.update"


async def failing(*replies: Reply, **changes: Any) -> tuple[TopError, int, list[float]]:
    """The error that ends a call, how many requests it cost, and the pauses between them."""
    watch = Watch()
    async with gateway(*replies) as played, client(played.url, watch, **changes) as top:
        with pytest.raises(TopError) as caught:
            await top.call(READ)
        return caught.value, len(played.asked), watch.slept


# --- bans -------------------------------------------------------------------------------------------


def test_a_short_ban_is_waited_out() -> None:
    async def work() -> None:
        watch = Watch()
        async with gateway(banned(60), success(ok=1)) as played, client(played.url, watch) as top:
            assert (await top.call(READ))["ok"] == 1
            assert watch.slept == [60.5]
            assert len(played.asked) == 2

    run(work())


def test_a_long_ban_is_an_error_at_once_and_nobody_asks_again_until_it_ends() -> None:
    async def work() -> None:
        watch = Watch()
        async with gateway(banned(31062, "app"), success()) as played, client(played.url, watch) as top:
            with pytest.raises(Banned) as caught:
                await top.call(READ)
            assert (caught.value.retry_after, caught.value.scope) == (31062.0, BanScope.APP)
            watch.now += 1000
            with pytest.raises(
                Banned, match=f"{WRITE} was refused.*still banned for 30062 s, not asked again"
            ) as caught:
                await top.call(WRITE)
            assert caught.value.retry_after == pytest.approx(30062)
            assert len(played.asked) == 1
            watch.now += 30_010
            await top.call(WRITE)  # what is left is short enough to be waited out
            assert watch.slept == [52.5]
            assert len(played.asked) == 2

    run(work())


def test_the_ban_of_one_method_leaves_the_others_free() -> None:
    async def work() -> None:
        watch = Watch()
        async with gateway(banned(600, "api"), success()) as played, client(played.url, watch) as top:
            with pytest.raises(Banned) as caught:
                await top.call(READ)
            assert caught.value.scope is BanScope.API
            await top.call(WRITE)
            with pytest.raises(Banned):
                await top.call(READ)
            assert [asked.fields["method"] for asked in played.asked] == [READ, WRITE]
            assert watch.slept == []

    run(work())


def test_a_ban_that_comes_back_ends_the_call_after_its_attempts() -> None:
    async def work() -> None:
        failure, requests, slept = await failing(banned(1))
        assert isinstance(failure, Banned)
        assert (requests, slept) == (4, [1.5, 1.5, 1.5])

    run(work())


def test_a_ban_of_untold_length_gets_a_length() -> None:
    async def work() -> None:
        failure, requests, slept = await failing(error(7), attempts=2)
        assert isinstance(failure, Banned)
        assert (failure.retry_after, requests, slept) == (60.0, 2, [60.5])

    run(work())


def test_a_shorter_ban_does_not_shorten_a_longer_one() -> None:
    async def work() -> None:
        watch = Watch()
        bans = Bans(60, watch.clock)
        for seconds in (50.0, 5.0):
            bans.record(Banned(Refusal("m", 7), scope=BanScope.APP, retry_after=seconds))
        bans.record(Banned(Refusal("m", 7), scope=BanScope.API, retry_after=55.0))
        assert not bans.free("m")
        await bans.wait("other")
        assert watch.slept == [50.5]
        await bans.wait("m")
        assert watch.slept == [50.5, 5.0]
        assert bans.free("m")

    run(work())


def test_calls_that_wait_for_their_turn_see_a_ban_that_came_meanwhile() -> None:
    async def work() -> None:
        watch = Watch()
        async with gateway(banned(600, "app"), success()) as played:
            async with client(played.url, watch, burst=1, calls_per_second=1.0, connections=1) as top:
                outcomes = await asyncio.gather(*(top.call(READ) for _ in range(5)), return_exceptions=True)
            assert [type(outcome) for outcome in outcomes] == [Banned] * 5
            assert len(played.asked) == 1

    run(work())


def test_a_call_that_holds_a_connection_sees_a_ban_too() -> None:
    async def work() -> None:
        release = asyncio.Event()

        async def late(asked: Asked, writer: asyncio.StreamWriter) -> None:
            await release.wait()
            await banned(600, "app")(asked, writer)

        async def turn(seconds: float) -> None:
            release.set()  # the second call waits for its turn, and the first is told of the ban
            await first

        clock = Clock(monotonic=lambda: 5.0, sleep=turn)
        async with gateway(late) as played:
            settings = TopSettings(APP_KEY, SECRET, played.url, burst=1)
            async with TopClient(settings, clock=clock) as top:

                async def swallowed() -> None:
                    with pytest.raises(Banned):
                        await top.call(READ)

                first = asyncio.create_task(swallowed())
                await played.until(lambda gateway: len(gateway.asked) == 1)
                with pytest.raises(Banned, match="not asked again"):
                    await top.call(READ)
            assert len(played.asked) == 1

    run(work())


# --- the rate limit ---------------------------------------------------------------------------------


def test_turns_are_spread_evenly_after_a_burst_and_saved_up_in_a_pause() -> None:
    async def work() -> None:
        watch, waited = Watch(0.0), []

        async def note(seconds: float) -> None:
            waited.append(round(seconds, 6))

        limit = RateLimit(10, 3, Clock(monotonic=lambda: watch.now, sleep=note))
        for _ in range(6):
            await limit.take()
        assert waited == [0.1, 0.2, 0.3]
        watch.now += 100
        for _ in range(4):
            await limit.take()
        assert waited == [0.1, 0.2, 0.3, 0.1]

    run(work())


def test_fifty_calls_at_once_obey_the_rate_limit() -> None:
    async def work() -> None:
        rate, burst = 200.0, 5
        async with gateway(success()) as played:
            settings = TopSettings(
                APP_KEY, SECRET, played.url, calls_per_second=rate, burst=burst, connections=8
            )
            starts: list[float] = []

            async def sleep(seconds: float) -> None:
                await asyncio.sleep(seconds)

            def timestamp() -> float:  # asked for when a call is signed, just before it is sent
                starts.append(asyncio.get_running_loop().time())
                return 1_700_000_000.0

            async with TopClient(settings, clock=Clock(time=timestamp, sleep=sleep)) as top:
                await asyncio.gather(*(top.call(READ) for _ in range(50)))
            assert len(played.asked) == 50
            assert 1 <= played.connections <= 8
            arrived = sorted(asked.at for asked in played.asked)
            # Calls can be late, never early: the n-th goes after n - burst intervals at the soonest.
            for number, at in enumerate(arrived):
                assert at - starts[0] >= (number - burst) / rate - 0.002

    run(work())


def test_more_calls_than_connections_wait_without_timing_out() -> None:
    async def work() -> None:
        async def slow(asked: Asked, writer: asyncio.StreamWriter) -> None:
            await asyncio.sleep(0.05)
            await success()(asked, writer)

        async with gateway(slow) as played:
            changes: dict[str, Any] = {
                "connections": 2,
                "read_timeout": 0.3,
                "total_timeout": 0.3,
                "attempts": 1,
                "burst": 100,
            }
            async with client(played.url, **changes) as top:
                await asyncio.gather(*(top.call(READ) for _ in range(20)))
            assert (len(played.asked), played.connections) == (20, 2)

    run(work())


# --- cancellation -----------------------------------------------------------------------------------


def test_a_cancelled_call_closes_its_connection_and_leaves_the_client_usable() -> None:
    async def work() -> None:
        async with gateway(silent, silent, success()) as played:
            async with client(played.url, connections=2) as top:
                calls = [asyncio.create_task(top.call(READ)) for _ in range(2)]
                await played.until(lambda gateway: len(gateway.asked) == 2)
                for call in calls:
                    call.cancel()
                outcomes = await asyncio.gather(*calls, return_exceptions=True)
                assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError] * 2
                await played.until(lambda gateway: gateway.open == 0)
                await asyncio.gather(*(top.call(READ) for _ in range(4)))
            await played.until(lambda gateway: gateway.open == 0)

    run(work())


def test_calls_that_are_cancelled_while_connecting_cost_no_connection() -> None:
    async def work() -> None:
        async with gateway(success()) as played, client(played.url, connections=1, burst=100) as top:
            for _ in range(5):
                call = asyncio.create_task(top.call(READ))
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                call.cancel()
                await asyncio.gather(call, return_exceptions=True)
            await top.call(READ)

    run(work())


def test_closing_the_client_ends_the_calls_in_flight_and_those_that_wait() -> None:
    async def work() -> None:
        async with gateway(silent) as played:
            async with client(played.url, connections=2, read_timeout=0.5, attempts=1, burst=9) as top:
                calls = [asyncio.create_task(top.call(READ)) for _ in range(4)]
                await played.until(lambda gateway: len(gateway.asked) == 2)
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            assert all(isinstance(outcome, TopError) for outcome in outcomes)
            assert [type(outcome) for outcome in outcomes[2:]] == [GatewayUnreachable] * 2
            assert len(played.asked) == 2

    run(work())
