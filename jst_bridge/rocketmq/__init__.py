"""A RocketMQ 4.x/5.x remoting client for asyncio. Knows nothing of Taobao; usable alone."""

from .acl import Credentials
from .assignment import Hole, PulledBatch
from .client import Client, ClientSettings
from .consumer import Consumer, ConsumerSettings, QueueProgress
from .message import MessageExt, MessageQueue
from .producer import Producer, SendResult

__all__ = [
    "Client",
    "ClientSettings",
    "Consumer",
    "ConsumerSettings",
    "Credentials",
    "Hole",
    "MessageExt",
    "MessageQueue",
    "Producer",
    "PulledBatch",
    "QueueProgress",
    "SendResult",
]
