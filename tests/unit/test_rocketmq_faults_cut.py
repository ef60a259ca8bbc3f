"""A conversation cut at every byte, and around every request: each time all messages arrive, in order, once."""

from __future__ import annotations

from functools import partial

import pytest

from jst_bridge.rocketmq.codes import Request
from tests.conversation import CONVERSATION, Nth, converse, side_by_side
from tests.scripted import Channel, run
from tests.scripted_cluster import ScriptedCluster


class Cut:
    """Lets so many bytes through, of all servers together, then closes the connection that the next one is for."""

    def __init__(self, after: int) -> None:
        self.sent = 0
        self._after = after
        self._done = False

    def __call__(self, channel: Channel, data: bytes) -> None:
        if not self._done and self.sent + len(data) > self._after:
            channel.send(data[: self._after - self.sent])
            channel.finish()
            self._done = True
        else:
            channel.send(data)
            self.sent += len(data)


@pytest.mark.slow
@pytest.mark.timeout(1000)
def test_cut_at_every_byte_that_a_server_sends_everything_arrives_in_order() -> None:
    async def work() -> None:
        whole = Cut(1 << 30)
        await converse(whole)
        assert whole.sent > 1000
        await side_by_side(partial(converse, Cut(place)) for place in range(whole.sent))

    run(work(), seconds=900)


def test_cut_after_any_request_was_done_everything_arrives_in_order() -> None:
    """The answer is lost: what was asked for may have happened, and the consumer cannot know."""

    async def work() -> None:
        whole = Nth(-1, Channel.send)
        await converse(whole)
        await side_by_side(
            partial(converse, Nth(number, lambda channel, data: channel.cut()))
            for number in range(whole.written)
        )

    run(work(), seconds=110)


@pytest.mark.parametrize("code", CONVERSATION)
def test_cut_before_a_request_was_done_everything_arrives_in_order(code: Request) -> None:
    def prepare(cluster: ScriptedCluster) -> None:
        for peer in (cluster.name_server, cluster.broker):
            peer.once(code, lambda call: call.channel.cut())

    run(converse(prepare=prepare))
