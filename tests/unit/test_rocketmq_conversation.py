"""What our consumer says, beside what the official clients were heard to say to a real 5.3.3 cluster.

Taken from captured conversations: the order in which request codes first appear from start to the first offset
flush and from there to the end, and the ext fields of each.
"""

from __future__ import annotations

import asyncio

from jst_bridge.rocketmq.codes import Request
from tests.scripted import run
from tests.scripted_cluster import ScriptedCluster, receive_offsets

JAVA_AND_GO_START = [
    Request.GET_ROUTEINFO_BY_TOPIC,
    Request.HEART_BEAT,
    Request.GET_CONSUMER_LIST_BY_GROUP,
    Request.QUERY_CONSUMER_OFFSET,
    Request.PULL_MESSAGE,
    Request.UPDATE_CONSUMER_OFFSET,
]
JAVA_STOP = [Request.UPDATE_CONSUMER_OFFSET, Request.UNREGISTER_CLIENT]
FIELDS_OF_BOTH = {
    Request.GET_ROUTEINFO_BY_TOPIC: {"topic"},
    Request.HEART_BEAT: set(),
    Request.GET_CONSUMER_LIST_BY_GROUP: {"consumerGroup"},
    Request.QUERY_CONSUMER_OFFSET: {"consumerGroup", "queueId", "topic"},
    Request.PULL_MESSAGE: {
        *("consumerGroup", "topic", "queueId", "queueOffset", "maxMsgNums", "sysFlag", "commitOffset"),
        *("suspendTimeoutMillis", "subVersion", "expressionType"),
    },
    Request.UPDATE_CONSUMER_OFFSET: {"consumerGroup", "topic", "queueId", "commitOffset"},
    Request.UNREGISTER_CLIENT: {"clientID", "consumerGroup"},
}
OURS = {
    Request.GET_ROUTEINFO_BY_TOPIC: {"acceptStandardJsonOnly"},  # strict JSON whatever the version number
    Request.QUERY_CONSUMER_OFFSET: {"setZeroIfNotFound"},  # 5.x then says when nothing is stored
    Request.PULL_MESSAGE: {"subscription"},  # Go sends the field, too, but empty
}


def test_it_says_what_the_official_clients_say_in_their_order() -> None:
    async def work() -> None:
        async with ScriptedCluster(queues=2) as cluster:
            cluster.publish(4)
            async with cluster.consumer() as consumer:
                await receive_offsets(consumer, 4)
                async with asyncio.timeout(5):
                    await consumer.commit()
                began = len(cluster.broker.calls)
            calls = [*cluster.name_server.calls, *cluster.broker.calls]
            asked = {Request(call.code) for call in calls}
            order = list(
                dict.fromkeys(Request(call.code) for call in calls if call.code in JAVA_AND_GO_START)
            )
            assert order == JAVA_AND_GO_START
            stop = list(dict.fromkeys(Request(call.code) for call in cluster.broker.calls[began:]))
            assert stop in (JAVA_STOP, JAVA_STOP[1:])  # a commit only of what is not acknowledged yet
            assert asked - set(FIELDS_OF_BOTH) <= {
                Request.GET_MIN_OFFSET
            }  # start_from first: never 0 unasked
            for call in calls:
                code = Request(call.code)
                if code in FIELDS_OF_BOTH:
                    assert set(call.ext) == FIELDS_OF_BOTH[code] | OURS.get(code, set()), code.name

    run(work())
