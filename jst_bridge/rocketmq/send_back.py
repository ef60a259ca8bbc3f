"""Giving a message back to the broker, to have it again later or as a dead letter (reference 2.10)."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import Final

from ..errors import ConfigurationError, CredentialsRefused, SourceError
from .client import Client
from .codes import Request, Response
from .message import MessageExt, MessageQueue
from .properties import encode_properties

__all__ = ["MAX_RECONSUME_TIMES", "SentBack", "send_back"]

MAX_RECONSUME_TIMES: Final = 16
"""Attempts after the first, unless the caller says otherwise: what every other client gives."""
TIMEOUT: Final = 5.0
_FIRST_LEVEL: Final = 3
"""The delay of the first retry, 10 s with a broker's default table; each later one takes the next level."""
_STORED: Final = (
    Response.SUCCESS,
    Response.FLUSH_DISK_TIMEOUT,
    Response.SLAVE_NOT_AVAILABLE,
    Response.FLUSH_SLAVE_TIMEOUT,
)


@dataclass(frozen=True, slots=True)
class SentBack:
    """What became of a message that was sent back."""

    topic: str
    """`%RETRY%<group>`, where it comes from next, or `%DLQ%<group>`."""
    resent: bool
    """The broker it came from did not take it back, so it was published to the retry topic anew."""

    @property
    def dead(self) -> bool:
        """Its attempts are used up: it is a dead letter, and no consumer of the group gets it again."""
        return self.topic.startswith("%DLQ%")


async def send_back(
    client: Client,
    group: str,
    message: MessageExt,
    queue: MessageQueue,
    *,
    delay_level: int = 0,
    max_reconsume_times: int = MAX_RECONSUME_TIMES,
) -> SentBack:
    """Have the broker of `queue`, which the message was pulled from, store it for a later attempt.

    `delay_level`: 1 to 18 of the broker's delay table; 0 lets the delay grow with the attempts; negative makes the
    message a dead letter at once. When its broker does not take it, a copy goes to the retry topic of any broker; after
    a timeout both may be stored, and the message then comes twice.

    Raises CredentialsRefused, ConfigurationError, and SourceError when neither way worked.
    """
    if max_reconsume_times < 1:
        # The broker compares: 0 and -1 would make a dead letter of every message.
        raise ConfigurationError(f"max_reconsume_times is at least 1, not {max_reconsume_times}")
    dead = delay_level < 0 or message.reconsume_times >= max_reconsume_times
    topic = f"%DLQ%{group}" if dead else f"%RETRY%{group}"
    try:
        await client.call(
            client.master(queue.broker),
            Request.CONSUMER_SEND_MSG_BACK,
            {
                "offset": str(message.physical_offset),
                "group": group,
                "delayLevel": str(delay_level),
                "originMsgId": message.properties.get("UNIQ_KEY", message.offset_message_id),
                "originTopic": message.visible_topic,
                "unitMode": "false",
                "maxReconsumeTimes": str(max_reconsume_times),
            },
            timeout=TIMEOUT,
        )
    except CredentialsRefused:
        raise
    except SourceError as refusal:
        if message.fault:  # what we hold is not its body
            raise
        level = delay_level or _FIRST_LEVEL + message.reconsume_times
        try:
            await _publish_again(client, group, message, level, dead=dead)
        except SourceError as error:
            raise SourceError(
                f"message {message.offset_message_id} could not be sent back ({refusal}), nor published to the "
                f"retry topic ({error})",
                remedy="leave it unsettled: it comes again",
            ) from error
        return SentBack(topic, resent=True)
    return SentBack(topic, resent=False)


async def _publish_again(client: Client, group: str, message: MessageExt, level: int, *, dead: bool) -> None:
    """What the Java client does when 36 fails: a send to the retry topic, where the broker counts the attempts."""
    retry_topic = f"%RETRY%{group}"
    properties = message.properties | {
        "ORIGIN_MESSAGE_ID": message.origin_message_id,
        "RETRY_TOPIC": client.namespace.wrap_topic(message.visible_topic),
        "WAIT": "true",
    }
    for name in ("TRAN_MSG", "RECONSUME_TIME", "MAX_RECONSUME_TIMES", "DELAY", "REAL_TOPIC", "REAL_QID"):
        properties.pop(name, None)
    if not dead:
        properties["DELAY"] = str(level)
    attempts = message.reconsume_times
    # 4.9 buries a message at its limit, 5.3 beyond it: so that both do what the caller was told, the limit is
    # clearly above or clearly below.
    limit = attempts if dead else attempts + 2
    queues = (client.routes.get(retry_topic) or await client.fetch_route(retry_topic)).write_queues()
    if not queues:
        raise SourceError(f"topic {retry_topic} has no queue that can be written")
    queue = random.choice(queues)
    await client.call(
        client.master(queue.broker),
        Request.SEND_MESSAGE_V2,
        {
            "a": group,
            "b": retry_topic,
            "c": "TBW102",
            "d": "1",
            "e": str(queue.queue_id),
            "f": "0",
            "g": str(message.born_timestamp or int(time.time() * 1000)),
            "h": str(message.flag),
            "i": encode_properties(properties).decode(),
            "j": str(attempts + 1),
            "k": "false",
            "l": str(limit),
            "m": "false",
        },
        message.body,
        timeout=TIMEOUT,
        accept=_STORED,
    )
