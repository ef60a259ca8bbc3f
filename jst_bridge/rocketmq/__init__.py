"""A RocketMQ 4.x/5.x remoting client for asyncio. Knows nothing of Taobao; usable alone."""

from .acl import Credentials
from .assignment import Hole, PulledBatch
from .browsing import Browsed, browse
from .client import Client, ClientSettings
from .consumer import Consumer
from .health import BrokerHealth, Health, QueueHealth, QueueProgress
from .message import MessageExt, MessageQueue
from .producer import Producer, SendResult
from .send_back import SentBack
from .settings import ConsumerSettings

__all__ = [
    "BrokerHealth",
    "Browsed",
    "Client",
    "ClientSettings",
    "Consumer",
    "ConsumerSettings",
    "Credentials",
    "Health",
    "Hole",
    "MessageExt",
    "MessageQueue",
    "Producer",
    "PulledBatch",
    "QueueHealth",
    "QueueProgress",
    "SendResult",
    "SentBack",
    "browse",
]
