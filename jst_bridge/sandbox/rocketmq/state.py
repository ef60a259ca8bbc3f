"""What one broker knows and what it does with a message: stored at once, later, or among the dead."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Final

from jst_bridge.rocketmq.codes import Response
from jst_bridge.rocketmq.message import pack_host
from jst_bridge.rocketmq.properties import find_property

from .bodies import BrokerPlace
from .calls import Refusal
from .delays import Delays, Locks
from .faults import Faults
from .groups import GroupConfig, Groups
from .offsets import Offsets
from .records import Draft, unpack_record, with_properties
from .server import Channel
from .settings import SandboxSettings
from .store import INHERIT, READ, WRITE, Place, Queue, Store, StoreFull, Topic, legal_topic

__all__ = ["DELAY_TOPIC", "BrokerState", "is_system_topic"]

TEMPLATE_TOPIC: Final = "TBW102"
DELAY_TOPIC: Final = "SCHEDULE_TOPIC_XXXX"
RETRY_PREFIX: Final = "%RETRY%"
_SYSTEM_PREFIX: Final = "rmq_sys_"
_FAQ: Final = "\nSee https://rocketmq.apache.org/docs/bestPractice/06FAQ for further details."


class BrokerState:
    """Everything of one broker but its sockets."""

    def __init__(self, settings: SandboxSettings, place: BrokerPlace, faults: Faults) -> None:
        host, _, port = place.address.rpartition(":")
        self.settings = settings
        self.place = place
        self.faults = faults
        self.store = Store(max_bytes=settings.max_bytes, store_host=pack_host(host, int(port)))
        self.groups: Groups[Channel] = Groups(max_reconsume_times=settings.max_reconsume_times)
        self.offsets = Offsets()
        self.delays = Delays(settings.delay_levels)
        self.locks = Locks(settings.lock_lease)
        self.on_stored: Callable[[Queue], None] = lambda queue: None
        """Told of each queue that got a message while a pull waits for it."""
        self.on_delayed: Callable[[], None] = lambda: None
        """Told that a message waits for its time."""
        self._chance = random.Random(place.name)
        self.store.create(
            TEMPLATE_TOPIC, settings.default_queues, settings.default_queues, READ | WRITE | INHERIT
        )
        self.store.create(DELAY_TOPIC, len(settings.delay_levels), len(settings.delay_levels))
        for name, queues in settings.topics.items():
            self.store.create(name, queues, queues)

    # --- topics and groups -------------------------------------------------------------------------------

    def topic(self, name: str) -> Topic:
        """Refusal: code 17."""
        topic = self.store.topics.get(name)
        if topic is None:
            raise Refusal(Response.TOPIC_NOT_EXIST, f"topic[{name}] not exist, apply first please!{_FAQ}")
        return topic

    def queue(self, topic: Topic, queue_id: int) -> Queue | None:
        return topic.queues[queue_id] if 0 <= queue_id < len(topic.queues) else None

    def group(self, name: str) -> GroupConfig:
        """What is set for a group, created where that is allowed. Refusal: code 26."""
        config = self.groups.config(name, create=self.settings.auto_create_groups)
        if config is None:
            raise Refusal(
                Response.SUBSCRIPTION_GROUP_NOT_EXIST, f"subscription group [{name}] does not exist, {_FAQ}"
            )
        return config

    def create(self, name: str, queues: int) -> Topic:
        """The topic, made with so many queues where it is not there. Refusal: there are too many."""
        topic = self.store.topics.get(name)
        if topic is not None:
            return topic
        try:
            return self.store.create(name, queues, queues)
        except (StoreFull, ValueError) as error:
            raise Refusal(Response.SYSTEM_ERROR, str(error)) from None

    def retry_topic(self, group: str, config: GroupConfig) -> Topic:
        """Where the group's failed messages come again."""
        return self.create(f"{RETRY_PREFIX}{group}", config.retry_queues)

    def writable_topic(self, name: str, queues: int | str) -> Topic:
        """The topic of a send, made by it where that is allowed. Refusal: illegal, not there, the delay topic."""
        topic = self.store.topics.get(name)
        if topic is None:
            if not legal_topic(name):
                raise Refusal(self.illegal, f"the specified topic[{name}] contains illegal characters")
            if name.startswith(RETRY_PREFIX):
                return self.create(name, 1)
            if not self.settings.auto_create_topics:
                return self.topic(name)
            return self.create(name, max(1, min(int(queues), self.settings.default_queues)))
        if name == DELAY_TOPIC:
            raise Refusal(Response.NO_PERMISSION, f"sending message to topic[{name}] is forbidden.")
        return topic

    @property
    def illegal(self) -> int:
        """The code for what cannot be meant: a queue or a topic name that there cannot be (reference 1.10)."""
        return Response.INVALID_PARAMETER if self.settings.modern else Response.SYSTEM_ERROR

    def any_queue(self, topic: Topic) -> int:
        return self._chance.randrange(max(1, topic.write_queues))

    # --- messages ----------------------------------------------------------------------------------------

    def put(self, draft: Draft, level: int = 0) -> Place:
        """Store a message; with a delay level it reaches its topic when that is over."""
        if level > 0:
            return self._put_off(draft, self.delays.clamp(level))
        place = self.store.append(draft, int(time.time() * 1000))
        if place.queue.parked:
            self.on_stored(place.queue)
        return place

    def _put_off(self, draft: Draft, level: int) -> Place:
        properties = with_properties(
            draft.properties, DELAY=str(level), REAL_TOPIC=draft.topic, REAL_QID=str(draft.queue_id)
        )
        waiting = Draft(
            DELAY_TOPIC, level - 1, draft.body, properties, draft.born_at, draft.born_host, draft.flag,
            draft.sys_flag, draft.reconsume_times,
        )  # fmt: skip
        place = self.store.append(waiting, int(time.time() * 1000))
        self.delays.add(level, place.physical_offset, time.monotonic())
        self.on_delayed()
        return place

    def deliver_due(self) -> None:
        """Store the delayed messages whose time has come in their topics; expired ones are gone."""
        for physical in self.delays.due(time.monotonic()):
            record = self.store.view(physical)
            if record is None:
                continue
            draft = unpack_record(record)
            topic = self.store.topics.get(find_property(draft.properties, b"REAL_TOPIC\x01"))
            if topic is None:
                continue
            draft.topic = topic.name
            draft.queue_id = min(int(find_property(draft.properties, b"REAL_QID\x01")), len(topic.queues) - 1)
            self.put(draft)


def is_system_topic(name: str) -> bool:
    """Whether an administrator may not touch it: Jushita's own names begin like it (reference 2.15)."""
    return name in (TEMPLATE_TOPIC, DELAY_TOPIC) or name.startswith(_SYSTEM_PREFIX)
